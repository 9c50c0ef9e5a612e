"""One lattice for several patterns of one material.

A single pattern knows its lattice well in the detector plane and less well along the beam; other orientations know it
otherwise. The hypotheses of all patterns of a group are brought to one basis, and their metrics are averaged with the
inverse of their covariances as weights: what one orientation leaves open another one fixes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numba import njit, prange

from gpuediff.lattices import basis
from gpuediff.lattices.indexing import Indexed
from gpuediff.lattices.reduction import PAIRS, factor
from gpuediff.settings import Settings, within

_FINALISTS = 3  # references that are followed to the end


class Consensus(Settings):
    """How the patterns of a group are brought together."""

    references: Annotated[int, within(1, 1000)] = 30  # hypotheses, the best of a group, that are tried as its lattice
    deviations: Annotated[float, within(1, 20)] = 4.0  # standard, by which numbers of one metric may differ
    scale_noise: Annotated[float, within(0, 0.1)] = 3e-3  # relative, of the pixel size from pattern to pattern
    rounds: Annotated[int, within(1, 20)] = 4  # of matching all patterns to the average, and averaging again
    rival_weight: Annotated[float, within(0.1, 1000)] = 10.0  # score by which a worse hypothesis weighs 1/e


@dataclass(frozen=True, eq=False)
class Pooled:
    """Lattices of m groups; nan where no pattern of a group has a lattice.

    Parameters
    ----------
    lattice : array, shape (m, 3, 3), float64
        Rows of the direct lattice, Å: shortest vectors, shortest first, the first along x and the second in the xy
        plane.
    metric : array, shape (m, 6), float64
        Of a reciprocal basis, Å⁻², in the order of `gpuediff.lattices.reduction.PAIRS`.
    covariance : array, shape (m, 6, 6), float64
        Of the metric, Å⁻⁴.
    support : array, shape (m,), int64
        Patterns that agree with the lattice.
    indexed : array, shape (m,), int64
        Patterns that have a lattice at all.
    score : array, shape (m,), float64
        Sum over the patterns that agree of weight x probability of the deviation; at most `support`.
    hypothesis : array, shape (n,), int64
        Which of each pattern's hypotheses agrees with the lattice of its group; -1 where none does.
    change : array, shape (n, 3, 3), int64
        The reciprocal basis of the group in terms of that hypothesis's rows, determinant ±1; 0 where there is none.
    """

    lattice: np.ndarray
    metric: np.ndarray
    covariance: np.ndarray
    support: np.ndarray
    indexed: np.ndarray
    score: np.ndarray
    hypothesis: np.ndarray
    change: np.ndarray

    def __len__(self) -> int:
        return len(self.support)


def pooled(indexed: Indexed, group: np.ndarray, count: int, settings: Consensus | None = None) -> Pooled:
    """Find the lattice that most patterns of each group agree on.

    Parameters
    ----------
    indexed : Indexed
        n patterns.
    group : array, shape (n,), integers
        Group of every pattern, 0 .. count - 1.
    count : int
        Number of groups m.
    settings : Consensus, optional

    Returns
    -------
    Pooled

    Raises
    ------
    ValueError
        If there is not one group for each pattern, or a group is not in 0 .. count - 1.
    """
    settings = settings or Consensus()
    group = np.asarray(group)
    if group.shape != (len(indexed),):
        raise ValueError(f"group: expected one for each of {len(indexed)} patterns, got shape {group.shape}")
    if len(group) and not 0 <= group.min() <= group.max() < count:
        raise ValueError(f"group: expected numbers in 0 .. {count - 1}, got {group.min()} .. {group.max()}")
    members = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[members], np.arange(count + 1)).astype(np.int64)
    metric, covariance, lattice = np.empty((count, 6)), np.empty((count, 6, 6)), np.empty((count, 3, 3))
    support, there, score = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
    hypothesis, change = np.full(len(indexed), -1), np.zeros((len(indexed), 3, 3), np.int64)
    _pool_all(
        indexed.basis,
        indexed.covariance,
        indexed.score,
        members,
        starts,
        settings.references,
        settings.deviations,
        settings.scale_noise,
        settings.rounds,
        settings.rival_weight,
        lattice,
        metric,
        covariance,
        support,
        there,
        score,
        hypothesis,
        change,
    )
    return Pooled(lattice, metric, covariance, support, there, score, hypothesis, change)


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _pool_all(
    bases, covariances, scores, members, starts, references, deviations, scale_noise, rounds, rival_weight,
    lattice, metric, covariance, support, there, score, hypothesis, change,
):  # fmt: skip
    for g in prange(len(starts) - 1):
        own = members[starts[g] : starts[g + 1]]
        lattice[g], metric[g], covariance[g] = np.nan, np.nan, np.nan
        support[g], there[g], score[g] = _pool(
            bases[own], covariances[own], scores[own], references, deviations, scale_noise, rounds, rival_weight,
            lattice[g], metric[g], covariance[g],
        )  # fmt: skip
        if support[g] > 0:
            # Of the average itself: it may have left one behind that took part in it.
            support[g] = _assign_members(
                bases[own], covariances[own], scores[own], deviations, scale_noise, rival_weight, metric[g],
                covariance[g], own, hypothesis, change,
            )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _pool(
    bases, covariances, scores, references, deviations, scale_noise, rounds, rival_weight, lattice, metric, covariance
):
    """Pool one group; fill `lattice`, `metric`, `covariance`; return support, patterns with a lattice, score."""
    n, h = scores.shape
    there = 0
    rank = np.full(n * h, np.inf)
    for p in range(n):
        there += np.isfinite(scores[p, 0])
        for k in range(h):
            if np.isfinite(scores[p, k]):
                # Before all others the first hypotheses, the best determined ones first.
                rank[p * h + k] = 1e6 * k - scores[p, k]
    if there == 0:
        return 0, 0, 0.0
    order = np.argsort(rank, kind="mergesort")
    # A pattern alone has nothing to agree with but itself.
    tried = min(references, int(np.isfinite(rank).sum())) if n > 1 else 1
    merit = np.zeros(tried)
    numbers, spread = np.empty(6), np.empty((6, 6))
    for t in range(tried if n > 1 else 0):
        p, k = order[t] // h, order[t] % h
        _metric(bases[p, k], covariances[p, k], np.eye(3), scale_noise, numbers, spread)
        merit[t], _ = _average(bases, covariances, scores, deviations, scale_noise, rival_weight, numbers, spread)
    best, best_support = -1.0, 0
    rows, found = np.zeros((3, 3)), np.empty((3, 3))
    for t in np.argsort(-merit, kind="mergesort")[:_FINALISTS]:
        p, k = order[t] // h, order[t] % h
        _metric(bases[p, k], covariances[p, k], np.eye(3), scale_noise, numbers, spread)
        total, agree = 1.0, 1
        for _ in range(rounds if n > 1 else 0):
            total, agree = _average(bases, covariances, scores, deviations, scale_noise, rival_weight, numbers, spread)
            if agree == 0:
                break
        if agree > 0 and total > best + 1e-9 and factor(numbers, rows) and _direct(rows, found):
            best, best_support = total, agree
            lattice[:] = found
            covariance[:] = spread
            metric[:] = numbers
    return best_support, there, max(best, 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _average(bases, covariances, scores, deviations, scale_noise, rival_weight, numbers, spread):
    """Match every pattern to a metric, and replace it by the weighted average; return score and support."""
    weight, moment = np.zeros((6, 6)), np.zeros(6)
    own, own_spread, change = np.empty(6), np.empty((6, 6)), np.empty((3, 3))
    total, support = 0.0, 0
    for p in range(len(scores)):
        merit, k = _agreeing(
            bases[p], covariances[p], scores[p], deviations, scale_noise, rival_weight, numbers, spread, change
        )
        if k < 0:
            continue
        _metric(bases[p, k], covariances[p, k], change, scale_noise, own, own_spread)
        inverse = np.linalg.inv(own_spread)
        weight += merit * inverse
        moment += merit * (inverse @ own)
        total += merit
        support += 1
    if support:
        spread[:] = np.linalg.inv(weight)
        numbers[:] = spread @ moment
    return total, support


@njit(cache=True, nogil=True, error_model="numpy")
def _agreeing(bases, covariances, scores, deviations, scale_noise, rival_weight, numbers, spread, change):
    """Find the hypothesis of one pattern that agrees best with a metric; fill `change`; return merit and place."""
    best, best_k = 0.0, -1
    trial = np.empty((3, 3))
    for k in range(len(scores)):
        if not np.isfinite(scores[k]):
            continue
        square = _match(bases[k], covariances[k], numbers, spread, deviations, scale_noise, trial)
        merit = math.exp((scores[k] - scores[0]) / rival_weight - square / 12)
        if square < 6 * deviations**2 and merit > best:
            best, best_k = merit, k
            change[:] = trial
    return best, best_k


@njit(cache=True, nogil=True, error_model="numpy")
def _assign_members(
    bases, covariances, scores, deviations, scale_noise, rival_weight, numbers, spread, members, hypothesis, change
):
    """Write down which hypothesis of each pattern agrees with the lattice, and in which basis; return how many."""
    trial, support = np.empty((3, 3)), 0
    for p in range(len(members)):
        _, k = _agreeing(
            bases[p], covariances[p], scores[p], deviations, scale_noise, rival_weight, numbers, spread, trial
        )
        hypothesis[members[p]] = k
        if k >= 0:
            support += 1
            for i in range(3):
                for j in range(3):
                    change[members[p], i, j] = int(trial[i, j])
    return support


@njit(cache=True, nogil=True, error_model="numpy")
def _metric(rows, covariance, change, scale_noise, numbers, spread):
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
    _metric(rows, covariance, change, scale_noise, own, own_spread)
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


@njit(cache=True, nogil=True, error_model="numpy")
def _direct(rows, lattice):
    """Fill the direct lattice of a reciprocal basis, its shortest vectors in standard position."""
    inverse, change, numbers = np.empty((3, 3)), np.empty((3, 3)), np.empty(6)
    if basis.invert(rows, inverse) == 0:
        return False
    direct = inverse.T.copy()
    if not basis.shorten(direct, change):
        return False
    for e in range(6):
        i, j = PAIRS[e]
        numbers[e] = (direct[i] * direct[j]).sum()
    standard = np.zeros((3, 3))
    if not factor(numbers, standard):
        return False
    lattice[:] = standard
    return True
