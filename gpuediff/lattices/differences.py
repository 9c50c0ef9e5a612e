"""What the differences between the peaks of one pattern tell before any lattice is known.

Every difference of two reflections is a reciprocal-lattice vector too, and the short ones come again and again. So
they give, in this order, the noise of the positions (how closely equal differences agree), the place of the direct
beam (a peak equals a difference of two others, but for the shift), and a few short vectors, each the mean of many.

Compiled for one pattern at a time; positions are in Å⁻¹, float64, shape (peaks, 2).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

#: Å⁻¹. Two differences farther apart than this are never compared: more than 3 standard deviations of their distance
#: at a noise of 0.005 Å⁻¹, and a fraction of the distance of neighbouring reflections up to cells of 1000 Å³.
REACH = 0.03
#: Å⁻¹. Longer differences are not compared: there are ever more of them, and ever fewer come twice.
LENGTH_MAX = 1.5
#: Å⁻¹. No lattice of a crystal that a Bloch-wave simulation can take has a vector shorter than 1 / 50 Å.
LENGTH_MIN = 0.02
#: Equal differences that are needed before a shift of the centre is believed.
AGREEMENTS_MIN = 6

_BINS = 30  # of squared distance, in equal ratios from _FINEST**2 to REACH**2
_FINEST = 1e-5  # Å⁻¹
_NOISES = 18  # tried, in equal ratios up to REACH / 4
_SHIFTS_MAX = 400
_COMPARED_MAX = 500  # differences, the shortest, from which the noise is taken


@njit(cache=True, nogil=True, error_model="numpy")
def differences(places):
    """All differences of two places, (pairs, 2), with their lengths, shortest first; those too long are left out."""
    n = len(places)
    vectors = np.empty((n * (n - 1) // 2, 2))
    length = np.empty(len(vectors))
    count = 0
    for i in range(n):
        for j in range(i):
            x, y = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
            size = math.sqrt(x * x + y * y)
            if LENGTH_MIN <= size <= LENGTH_MAX:
                vectors[count, 0], vectors[count, 1], length[count] = x, y, size
                count += 1
    order = np.argsort(length[:count], kind="mergesort")
    return vectors[order], length[order]


@njit(cache=True, nogil=True, error_model="numpy")
def position_noise(vectors, length, floor):
    """Standard deviation of a peak's position along one axis, Å⁻¹, from how closely equal differences agree.

    The distances of pairs of differences are a mixture: of equal ones, distributed as Rayleigh with twice the noise
    (four peaks take part), and of chance, distributed evenly over the disc. The noise with the largest likelihood
    is taken, not below `floor`.
    """
    counts = np.zeros(_BINS)
    low, high = math.log(_FINEST**2), math.log(REACH**2)
    compared = min(len(vectors), _COMPARED_MAX)
    for i in range(compared):
        for j in range(i + 1, compared):
            if length[j] > length[i] + REACH:
                break
            cross = vectors[i, 0] * vectors[j, 0] + vectors[i, 1] * vectors[j, 1]
            sign = 1.0 if cross >= 0 else -1.0
            x, y = vectors[i, 0] - sign * vectors[j, 0], vectors[i, 1] - sign * vectors[j, 1]
            square = x * x + y * y
            if square < REACH**2:
                place = (math.log(max(square, _FINEST**2)) - low) / (high - low)
                counts[min(int(place * _BINS), _BINS - 1)] += 1
    total = counts.sum()
    if total < 3:
        return floor
    edges = np.exp(low + (high - low) * np.arange(_BINS + 1) / _BINS)
    edges[0] = 0.0
    chance = (edges[1:] - edges[:-1]) / REACH**2
    best, best_likelihood = floor, -np.inf
    equal = np.empty(_BINS)
    step = (math.log(REACH / 4) - math.log(floor)) / (_NOISES - 1)
    for k in range(_NOISES):
        noise = floor * math.exp(step * k)
        scale = 2 * (2 * noise) ** 2
        whole = 1 - math.exp(-(REACH**2) / scale)
        for b in range(_BINS):
            equal[b] = (math.exp(-edges[b] / scale) - math.exp(-edges[b + 1] / scale)) / whole
        share = 0.3
        for _ in range(8):
            taken = 0.0
            for b in range(_BINS):
                if counts[b] > 0:
                    taken += counts[b] * share * equal[b] / (share * equal[b] + (1 - share) * chance[b])
            share = min(max(taken / total, 1e-4), 1 - 1e-4)
        likelihood = 0.0
        for b in range(_BINS):
            if counts[b] > 0:
                likelihood += counts[b] * math.log(share * equal[b] + (1 - share) * chance[b])
        if likelihood > best_likelihood:
            best, best_likelihood = noise, likelihood
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def centre_shift(places, vectors, length, noise, shift_max):
    """Where the direct beam is, (2,): the shift by which most peaks differ from a difference of two others.

    Zero where no shift up to `shift_max` stands out.
    """
    shift = np.zeros(2)
    found = np.empty((_SHIFTS_MAX, 2))
    count = 0
    for p in range(len(places)):
        x, y = places[p]
        size = math.sqrt(x * x + y * y)
        first = np.searchsorted(length, size - shift_max)
        for j in range(first, len(vectors)):
            if length[j] > size + shift_max or count == _SHIFTS_MAX:
                break
            sign = 1.0 if x * vectors[j, 0] + y * vectors[j, 1] >= 0 else -1.0
            dx, dy = x - sign * vectors[j, 0], y - sign * vectors[j, 1]
            if dx * dx + dy * dy < shift_max * shift_max:
                found[count, 0], found[count, 1] = dx, dy
                count += 1
    radius = 2.5 * noise * math.sqrt(3.0)
    best, best_count = -1, 0
    for i in range(count):
        near = 0
        for j in range(count):
            x, y = found[i, 0] - found[j, 0], found[i, 1] - found[j, 1]
            near += x * x + y * y < radius * radius
        if near > best_count:
            best, best_count = i, near
    if best_count < AGREEMENTS_MIN + 3 * count * min(1.0, (radius / shift_max) ** 2):
        return shift
    shift[:] = found[best]
    for _ in range(3):
        sx, sy, near = 0.0, 0.0, 0
        for j in range(count):
            x, y = found[j, 0] - shift[0], found[j, 1] - shift[1]
            if x * x + y * y < radius * radius:
                sx += found[j, 0]
                sy += found[j, 1]
                near += 1
        if near:
            shift[0], shift[1] = sx / near, sy / near
    return shift


@njit(cache=True, nogil=True, error_model="numpy")
def clusters(vectors, length, tolerance, wanted):
    """The differences that come most often, (up to `wanted`, 2), best first.

    Of two that come equally often the shorter is better; v and -v count as one.
    """
    used = np.zeros(len(vectors), np.bool_)
    mean = np.empty((wanted, 2))
    merit = np.full(wanted, -1.0)
    for i in range(len(vectors)):
        if used[i]:
            continue
        sx, sy, count = vectors[i, 0], vectors[i, 1], 1
        for j in range(i + 1, len(vectors)):
            if length[j] > length[i] + 2 * tolerance:
                break
            if used[j]:
                continue
            mx, my = sx / count, sy / count
            sign = 1.0 if mx * vectors[j, 0] + my * vectors[j, 1] >= 0 else -1.0
            x, y = mx - sign * vectors[j, 0], my - sign * vectors[j, 1]
            if x * x + y * y < tolerance * tolerance:
                used[j] = True
                sx += sign * vectors[j, 0]
                sy += sign * vectors[j, 1]
                count += 1
        value = count * math.exp(-length[i])
        worst = np.argmin(merit)
        if value > merit[worst]:
            merit[worst] = value
            mean[worst, 0], mean[worst, 1] = sx / count, sy / count
    order = np.argsort(-merit, kind="mergesort")
    filled = int((merit > 0).sum())
    return mean[order[:filled]]
