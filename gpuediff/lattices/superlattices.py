"""Lattices with more points than one that was found, and the weight of points that are mostly weak.

Superstructure reflections, and those that a centring nearly forbids, are weaker than others, and few of them are seen.
Counted like all others they would make the right lattice less probable than the one without them, which explains
nearly as many peaks with half the points. So peaks of a weaker class of points are given a share of their own.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuediff.lattices import basis, orienting
from gpuediff.lattices.joint import PEAKS_MIN, looseness, takes_part
from gpuediff.lattices.reduction import factor, metric_change
from gpuediff.lattices.search import OUTLIERS

_WEAKER = 3.0  # logarithm of the number of ways in which a lattice can have a weaker class


@njit(cache=True, nogil=True, error_model="numpy")
def finer(patterns, noise, wavelength, fit, metric, covariance, known):
    """Look for a lattice with two or three times as many points, on which more peaks lie; return whether there is one.

    The peaks on the lattice stay where they are; what counts is whether the others lie on the points in between, which
    are weak if so many of them are not seen. Fills `metric`, `covariance`, and `known` with its rows in every pattern.
    """
    root = np.zeros((3, 3))
    if not factor(fit.metric, root):
        return False
    loose = looseness(root, fit.covariance)
    n = len(fit.score)
    off = np.zeros(len(fit.on), np.bool_)
    number, stray = 0, 0
    for p in range(n):
        if takes_part(fit, slice(patterns.starts[p], patterns.starts[p + 1]), p):
            for k in range(patterns.starts[p], patterns.starts[p + 1]):
                off[k] = not fit.on[k]
                number += fit.on[k]
                stray += off[k]
    best, chosen, ratio = 0.0, np.zeros((3, 3)), np.empty(stray)
    hkl, on, one = np.empty((1, 3)), np.empty(1, np.bool_), np.empty(1)
    change, inverse, place = np.zeros((3, 3)), np.empty((3, 3)), np.empty((1, 2))
    for index in (2, 3):
        for kind in range(index * index + index + 1):
            _hermite(index, kind, change)
            basis.invert(change, inverse)
            step = inverse.T.copy()
            m, there = 0, 0
            for p in range(n):
                if fit.score[p] == -np.inf:
                    continue
                rows = step @ fit.rows[p]
                for k in range(patterns.starts[p], patterns.starts[p + 1]):
                    if off[k]:
                        place[0] = (patterns.places[k] - fit.shift[p]) / fit.scale[p]
                        orienting.score(
                            place,
                            patterns.expected[k : k + 1],
                            1,
                            rows,
                            noise,
                            loose,
                            wavelength,
                            orienting.LAYERS,
                            hkl,
                            on,
                            one,
                        )
                        ratio[m] = one[0] * index / (index - 1)
                        there += on[0]
                        m += 1
            if there < PEAKS_MIN:
                continue
            share = there / (number + there)
            value = number * math.log(1 - share) - 0.5 * math.log(number + there) - _WEAKER
            for j in range(m):
                value += math.log(1 + (1 - OUTLIERS) * share * ratio[j] / OUTLIERS)
            if value > best:
                best = value
                chosen[:] = step
    if best == 0:
        return False
    jacobian = np.empty((6, 6))
    metric_change(chosen, jacobian)
    metric[:] = jacobian @ fit.metric
    covariance[:] = jacobian @ fit.covariance @ jacobian.T
    for p in range(n):
        known[p] = chosen @ fit.rows[p] if fit.score[p] > 0 else np.full((3, 3), np.nan)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _hermite(index, kind, change):
    """Fill `change` with one of the index² + index + 1 sublattices of a prime index, in Hermite normal form."""
    change[:] = np.eye(3)
    if kind < index * index:
        change[0, 2], change[1, 2], change[2, 2] = kind % index, kind // index, index
    elif kind < index * index + index:
        change[0, 1], change[1, 1] = kind - index * index, index
    else:
        change[0, 0] = index


@njit(cache=True, nogil=True, error_model="numpy")
def weaker_classes(patterns, fit):
    """What the score gains if part of the lattice points are weak: those that a coarser lattice does without.

    A lattice whose superstructure reflections are mostly too weak to be seen would else lose against the lattice
    without them, which explains nearly as many peaks by fewer points.
    """
    best = 0.0
    taken = np.zeros(len(fit.on), np.bool_)
    number, plain = 0, 0.0
    for p in range(len(fit.score)):
        own = slice(patterns.starts[p], patterns.starts[p + 1])
        if takes_part(fit, own, p):
            for k in range(patterns.starts[p], patterns.starts[p + 1]):
                taken[k] = True
                number += 1
                plain += math.log(OUTLIERS + (1 - OUTLIERS) * fit.ratio[k])
    if number == 0:
        return 0.0
    for index in (2, 3):
        for h in range(index):
            for k in range(index):
                for l in range(index):
                    first = h if h > 0 else (k if k > 0 else l)
                    if first != 1:
                        continue
                    count = 0
                    for p in range(len(fit.on)):
                        if taken[p] and fit.on[p]:
                            hkl = fit.hkl[p]
                            count += (h * hkl[0] + k * hkl[1] + l * hkl[2]) % index != 0
                    share = max(count, 0.5) / number  # of the peaks on the weaker class
                    if share > 0.5 * (index - 1) / index:
                        continue  # not weaker enough to pay
                    value = -np.inf
                    for _ in range(3):
                        weak, strong, value = 0.0, 0.0, 0.0
                        for p in range(len(fit.on)):
                            if not taken[p]:
                                continue
                            hkl = fit.hkl[p]
                            is_weak = fit.on[p] and (h * hkl[0] + k * hkl[1] + l * hkl[2]) % index != 0
                            weight = share * index / (index - 1) if is_weak else (1 - share) * index
                            on = (1 - OUTLIERS) * weight * fit.ratio[p]
                            value += math.log(OUTLIERS + on)
                            if is_weak:
                                weak += on / (OUTLIERS + on)
                            else:
                                strong += on / (OUTLIERS + on)
                        share = min(max(weak / max(weak + strong, 1e-9), 1e-3), (index - 1) / index)
                    best = max(best, value - plain - 0.5 * math.log(number) - _WEAKER)
    return best
