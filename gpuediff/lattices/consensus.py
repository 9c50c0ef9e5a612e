"""Lattices that several patterns of one material agree on, each having found its own.

A single pattern knows its lattice well in the detector plane and less well along the beam; other orientations know it
otherwise. The hypotheses of all patterns of a group are brought to one basis, and their metrics are averaged with the
inverse of their covariances as weights: what one orientation leaves open another one fixes. These are candidates;
`gpuediff.lattices.joint` lets the peaks decide among them. Compiled, one group at a time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from gpuediff.lattices import basis
from gpuediff.lattices.reduction import PAIRS


class Limits(NamedTuple):
    """What `gpuediff.lattices.pooling.Pooling` says, as compiled code takes it."""

    references: int
    candidates: int
    deviations: float
    scale_noise: float
    rounds: int
    rival_weight: float


@njit(cache=True, nogil=True, error_model="numpy")
def candidates(bases, covariances, scores, limits, metric, covariance):
    """Fill `metric` (wanted, 6) and `covariance` with the lattices that most patterns agree on, the best first.

    No two of them agree with each other. `bases` (patterns, hypotheses, 3, 3), `covariances` and `scores` are those of
    `Indexed`. Returns how many there are.
    """
    n, h = scores.shape
    rank = np.full(n * h, np.inf)
    for p in range(n):
        for k in range(h):
            if np.isfinite(scores[p, k]):
                # Before all others the first hypotheses, the best determined ones first.
                rank[p * h + k] = 1e6 * k - scores[p, k]
    order = np.argsort(rank, kind="mergesort")
    tried = min(limits.references, int(np.isfinite(rank).sum()))
    merit, numbers, spread = np.zeros(tried), np.empty((tried, 6)), np.empty((tried, 6, 6))
    for t in range(tried):
        p, k = order[t] // h, order[t] % h
        metric_of(bases[p, k], covariances[p, k], np.eye(3), limits.scale_noise, numbers[t], spread[t])
        merit[t] = average(bases, covariances, scores, limits, numbers[t], spread[t])
    found, change = 0, np.empty((3, 3))
    for t in np.argsort(-merit, kind="mergesort"):
        p, k = order[t] // h, order[t] % h
        is_known = False
        for f in range(found):
            square = _match(
                bases[p, k], covariances[p, k], metric[f], covariance[f], limits.deviations, limits.scale_noise, change
            )
            is_known |= square < 6 * limits.deviations**2
        if is_known or found == len(metric):
            continue
        metric[found], covariance[found] = numbers[t], spread[t]
        for _ in range(limits.rounds):
            average(bases, covariances, scores, limits, metric[found], covariance[found])
        found += 1
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def average(bases, covariances, scores, limits, numbers, spread):
    """Match every pattern to a metric, and replace it by the weighted average if any agrees; return the score."""
    weight, moment = np.zeros((6, 6)), np.zeros(6)
    own, own_spread, change = np.empty(6), np.empty((6, 6)), np.empty((3, 3))
    total = 0.0
    for p in range(len(scores)):
        merit, k = agreeing(bases[p], covariances[p], scores[p], limits, numbers, spread, change)
        if k < 0:
            continue
        metric_of(bases[p, k], covariances[p, k], change, limits.scale_noise, own, own_spread)
        inverse = np.linalg.inv(own_spread)
        weight += merit * inverse
        moment += merit * (inverse @ own)
        total += merit
    if total > 0:
        spread[:] = np.linalg.inv(weight)
        numbers[:] = spread @ moment
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def agreeing(bases, covariances, scores, limits, numbers, spread, change):
    """Find the hypothesis of one pattern that agrees best with a metric; fill `change`; return merit and place."""
    best, best_k = 0.0, -1
    trial = np.empty((3, 3))
    for k in range(len(scores)):
        if not np.isfinite(scores[k]):
            continue
        square = _match(bases[k], covariances[k], numbers, spread, limits.deviations, limits.scale_noise, trial)
        merit = math.exp((scores[k] - scores[0]) / limits.rival_weight - square / 12)
        if square < 6 * limits.deviations**2 and merit > best:
            best, best_k = merit, k
            change[:] = trial
    return best, best_k


@njit(cache=True, nogil=True, error_model="numpy")
def metric_of(rows, covariance, change, scale_noise, numbers, spread):
    """Metric of `change` times a basis, and its covariance; the noise of the heights is taken out of the mean."""
    new = change @ rows
    gradient = np.zeros((6, 3))
    spread[:] = 0.0
    for c in range(3):
        own = change @ covariance[c] @ change.T
        gradient[:] = 0.0
        for e in range(6):
            i, j = PAIRS[e]
            gradient[e, i] += new[j, c]
            gradient[e, j] += new[i, c]
        spread += gradient @ own @ gradient.T
        for e in range(6):
            i, j = PAIRS[e]
            if c == 0:
                numbers[e] = 0.0
            numbers[e] += new[i, c] * new[j, c] - own[i, j]
            for f in range(6):  # products of errors, which the gradient does not know
                k, l = PAIRS[f]
                spread[e, f] += own[i, k] * own[j, l] + own[i, l] * own[j, k]
    for e in range(6):
        for f in range(6):
            spread[e, f] += 4 * scale_noise**2 * numbers[e] * numbers[f]
    size = (numbers[0] + numbers[1] + numbers[2]) / 3
    for e in range(6):
        spread[e, e] += (1e-4 * size) ** 2  # so that exact in-plane places leave it invertible


@njit(cache=True, nogil=True, error_model="numpy")
def _match(rows, covariance, numbers, spread, deviations, scale_noise, change):
    """Bring a basis to a metric; fill `change`; return the sum of squared deviations, inf where nothing fits."""
    steps = np.empty((13, 3))
    count = 0
    for a in range(2):
        for b in range(-1, 2):
            for c in range(-1, 2):
                if a > 0 or b > 0 or (b == 0 and a == 0 and c > 0):
                    steps[count, 0], steps[count, 1], steps[count, 2] = a, b, c
                    count += 1
    square, noise = np.empty(13), np.empty(13)
    for s in range(13):
        square[s], noise[s] = _product(rows, covariance, steps[s], steps[s], scale_noise)
    best = np.inf
    trial = np.empty((3, 3))
    own, own_spread, off = np.empty(6), np.empty((6, 6)), np.empty(6)
    limit = deviations * deviations
    for i in range(13):
        if (square[i] - numbers[0]) ** 2 > limit * (noise[i] + spread[0, 0]):
            continue
        for j in range(13):
            if j == i or (square[j] - numbers[1]) ** 2 > limit * (noise[j] + spread[1, 1]):
                continue
            g01, v01 = _product(rows, covariance, steps[i], steps[j], scale_noise)
            for sign_j in (1.0, -1.0):
                if (sign_j * g01 - numbers[5]) ** 2 > limit * (v01 + spread[5, 5]):
                    continue
                for k in range(13):
                    if k in (i, j) or (square[k] - numbers[2]) ** 2 > limit * (noise[k] + spread[2, 2]):
                        continue
                    g02, v02 = _product(rows, covariance, steps[i], steps[k], scale_noise)
                    g12, v12 = _product(rows, covariance, steps[j], steps[k], scale_noise)
                    for sign_k in (1.0, -1.0):
                        if (sign_k * g02 - numbers[4]) ** 2 > limit * (v02 + spread[4, 4]):
                            continue
                        if (sign_j * sign_k * g12 - numbers[3]) ** 2 > limit * (v12 + spread[3, 3]):
                            continue
                        trial[0], trial[1], trial[2] = steps[i], sign_j * steps[j], sign_k * steps[k]
                        if abs(basis.determinant(trial)) != 1:
                            continue
                        value = (square[i] - numbers[0]) ** 2 / (noise[i] + spread[0, 0])
                        value += (square[j] - numbers[1]) ** 2 / (noise[j] + spread[1, 1])
                        value += (square[k] - numbers[2]) ** 2 / (noise[k] + spread[2, 2])
                        value += (sign_j * g01 - numbers[5]) ** 2 / (v01 + spread[5, 5])
                        value += (sign_k * g02 - numbers[4]) ** 2 / (v02 + spread[4, 4])
                        value += (sign_j * sign_k * g12 - numbers[3]) ** 2 / (v12 + spread[3, 3])
                        if value < best:
                            best = value
                            change[:] = trial
    if best == np.inf:
        return best
    # Without correlations, to choose among equivalent bases; with them, to judge the one that was chosen.
    metric_of(rows, covariance, change, scale_noise, own, own_spread)
    off[:] = own - numbers
    return off @ np.linalg.solve(own_spread + spread, off)


@njit(cache=True, nogil=True, error_model="numpy")
def _product(rows, covariance, first, second, scale_noise):
    """Scalar product of two lattice vectors and its variance."""
    value, variance = 0.0, 0.0
    for c in range(3):
        x, y = 0.0, 0.0
        xx, yy, xy = 0.0, 0.0, 0.0
        for i in range(3):
            x += first[i] * rows[i, c]
            y += second[i] * rows[i, c]
            for j in range(3):
                xx += first[i] * first[j] * covariance[c, i, j]
                yy += second[i] * second[j] * covariance[c, i, j]
                xy += first[i] * second[j] * covariance[c, i, j]
        value += x * y - xy
        variance += x * x * yy + y * y * xx + 2 * x * y * xy + xx * yy + xy * xy
    return value, variance + (2 * scale_noise * value) ** 2 + 1e-12
