"""How a lattice that is known lies in a pattern; compiled, one pattern at a time.

Two peaks and two vectors of the lattice of the same lengths and angle give an orientation; of the many that are tried
the one counts that puts most peaks onto lattice points near the Ewald sphere. Even a pattern of four peaks, far too few
to find a lattice in, says clearly whether it is of a given one.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuediff.lattices import basis
from gpuediff.lattices.refinement import _T_NORM, DEGREES
from gpuediff.lattices.search import OUTLIERS, RADII

#: Logarithm of the number of orientations that can be told apart, which a score must pay for.
ORIENTATIONS = 14.0
VECTORS = 1500  # of the lattice, the shortest, that peaks are compared with
SEEDS = 7  # peaks near the direct beam, whose pairs are tried
_SEED_RADIUS = 0.05  # Å⁻¹; nearer peaks have no good angle
_SINE_MIN = 0.25  # of the angle between two seeds
_DEVIATIONS = 2.5  # standard, by which lengths and angles may differ
_TRIED = 14  # peaks that an orientation is first tried on
_REACH = 2.0  # times the mean uncertainty of a lattice, which that of one of its vectors hardly exceeds
_BUDGET = 400  # orientations that are tried at most
_COMPLETE, _CONFIRM = 0.85, 20  # a share of peaks after which only so many more orientations are tried
_KEPT = 4  # orientations that are tried on all peaks
_TIE = 1e-9  # by which a score must be better: rounding must not choose between an orientation and its mirror image
LAYERS = 5  # places along the beam, where lattice points are sought
_HEIGHTS = np.array([0.0, 0.012, -0.012, 0.025, -0.025])  # Å⁻¹ beside the Ewald sphere, where lattice points are sought
PAIR_LOOSENESS = 0.02  # relative, by which an orientation from two peaks may be off


@njit(cache=True, nogil=True, error_model="numpy")
def shortest_vectors(rows, vectors):
    """Fill `vectors` (n, 3) with indices of the shortest vectors of a lattice, both signs; return how many."""
    inverse = np.empty((3, 3))
    volume = abs(basis.invert(rows, inverse))
    limit = (0.75 / math.pi * 0.9 * len(vectors) * volume) ** (1 / 3)
    bound = np.empty(3, np.int64)
    for i in range(3):
        bound[i] = int(limit * math.sqrt((inverse[:, i] ** 2).sum()))
    room = len(vectors)
    square = np.empty(room)
    n = 0
    for h in range(-bound[0], bound[0] + 1):
        for k in range(-bound[1], bound[1] + 1):
            for l in range(-bound[2], bound[2] + 1):
                size = 0.0
                for c in range(3):
                    size += (h * rows[0, c] + k * rows[1, c] + l * rows[2, c]) ** 2
                if 0 < size < limit * limit and n < room:
                    vectors[n, 0], vectors[n, 1], vectors[n, 2] = h, k, l
                    square[n] = size
                    n += 1
    vectors[:n] = vectors[:n][np.argsort(square[:n], kind="mergesort")]
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def score(places, expected, count, rows, noise, looseness, wavelength, heights, hkl, on, ratio):
    """Logarithm of how much more probable the first `count` peaks are on a lattice than at random places.

    `rows` (3, 3) are its reciprocal basis in the frame of the detector; positions are off by `noise` (Å⁻¹) and by
    `looseness` times |q|. Fills `hkl` (peaks, 3) and `on` (peaks,), and `ratio`
    (peaks,) with the probability of each peak on the lattice over that by chance.
    """
    inverse = np.empty((3, 3))
    volume = abs(basis.invert(rows, inverse))
    total, product = 0.0, 1.0
    for p in range(count):
        x, y = places[p, 0], places[p, 1]
        square = x * x + y * y
        width2 = noise * noise + looseness * looseness * square
        error2 = expected[p] ** 2 + looseness * looseness * square
        gain = volume * _T_NORM / (2 * math.pi * width2 * math.sqrt(error2))
        best = 0.0
        on[p] = False
        sphere = 0.5 * wavelength * square
        for t in range(heights):
            z = sphere + _HEIGHTS[t]
            h = np.rint(x * inverse[0, 0] + y * inverse[1, 0] + z * inverse[2, 0])
            k = np.rint(x * inverse[0, 1] + y * inverse[1, 1] + z * inverse[2, 1])
            l = np.rint(x * inverse[0, 2] + y * inverse[1, 2] + z * inverse[2, 2])
            if h == 0 and k == 0 and l == 0:
                continue
            gx = h * rows[0, 0] + k * rows[1, 0] + l * rows[2, 0]
            gy = h * rows[0, 1] + k * rows[1, 1] + l * rows[2, 1]
            r2 = ((gx - x) ** 2 + (gy - y) ** 2) / width2
            if r2 > RADII * RADII:
                continue
            s = h * rows[0, 2] + k * rows[1, 2] + l * rows[2, 2] - sphere
            tail = 1 + s * s / (DEGREES * error2)
            density = gain * math.exp(-0.5 * r2) / (tail * tail * tail)  # Student's t, (DEGREES + 1) / 2 = 3
            if density > best:
                best = density
                on[p] = True
                hkl[p, 0], hkl[p, 1], hkl[p, 2] = h, k, l
        ratio[p] = best
        product *= OUTLIERS + (1 - OUTLIERS) * best
        if product > 1e200 or product < 1e-200:
            total += math.log(product)
            product = 1.0
    return total + math.log(product)


@njit(cache=True, nogil=True, error_model="numpy")
def orient(places, expected, root, vectors, lengths, tolerance, noise, scale_noise, looseness, wavelength, rows):
    """Find the orientation of a lattice in which it explains a pattern best; fill `rows`; return the score.

    Parameters
    ----------
    places, expected : (peaks, 2) Å⁻¹ from the direct beam, strongest first, and expected excitation errors
    root : (3, 3), a reciprocal basis of the lattice in any orientation
    vectors, lengths : (n, 3) in that frame, shortest first, and (n,); Å⁻¹
    tolerance : (n,), standard uncertainty of the lengths
    noise, looseness : as for `score`
    scale_noise : relative error of the pixel size
    """
    peaks = len(places)
    q = np.empty((peaks, 3))
    size = np.empty(peaks)
    for p in range(peaks):
        q[p, :2] = places[p]
        flat = places[p, 0] ** 2 + places[p, 1] ** 2
        q[p, 2] = 0.5 * wavelength * flat
        size[p] = math.sqrt(flat + q[p, 2] ** 2)
    order = np.argsort(size, kind="mergesort")
    seeds = np.empty(SEEDS, np.int64)
    n = 0
    for p in order:
        if n < SEEDS and size[p] > _SEED_RADIUS:
            seeds[n] = p
            n += 1
    kept, kept_score = np.empty((_KEPT, 3, 3)), np.full(_KEPT, -np.inf)
    hkl, on, ratio = np.empty((peaks, 3)), np.empty(peaks, np.bool_), np.empty(peaks)
    tried = min(peaks, _TRIED)
    frame_q, frame_g, turned = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    budget = _BUDGET
    looseness = max(looseness, PAIR_LOOSENESS)
    for rank in range(1, 2 * n):
        for i in range(max(0, rank - n + 1), (rank + 1) // 2):
            j = rank - i
            if j >= n or i == j or budget == 0:
                continue
            first, second = q[seeds[i]], q[seeds[j]]
            size_i, size_j = size[seeds[i]], size[seeds[j]]
            cosine = (first * second).sum() / (size_i * size_j)
            if 1 - cosine * cosine < _SINE_MIN**2:
                continue
            _frame(first, second, size_i, size_j, frame_q)
            error_i = expected[seeds[i]] * abs(first[2]) / size_i
            error_j = expected[seeds[j]] * abs(second[2]) / size_j
            spread_i = noise * noise + (scale_noise * size_i) ** 2 + error_i * error_i
            spread_j = noise * noise + (scale_noise * size_j) ** 2 + error_j * error_j
            # An angle between two vectors that are off by these parts across.
            across = (noise * noise + expected[seeds[i]] ** 2 / 4) / size_i**2
            across += (noise * noise + expected[seeds[j]] ** 2 / 4) / size_j**2 + looseness * looseness
            angle, wide = math.acos(cosine), _DEVIATIONS * math.sqrt(across)
            low = math.cos(min(angle + wide, math.pi))
            high = math.cos(max(angle - wide, 0.0))
            reach_i = _DEVIATIONS * math.sqrt(spread_i + (_REACH * looseness * size_i) ** 2)
            reach_j = _DEVIATIONS * math.sqrt(spread_j + (_REACH * looseness * size_j) ** 2)
            from_j, to_j = np.searchsorted(lengths, size_j - reach_j), np.searchsorted(lengths, size_j + reach_j)
            for a in range(np.searchsorted(lengths, size_i - reach_i), np.searchsorted(lengths, size_i + reach_i)):
                off = lengths[a] - size_i
                if off * off > _DEVIATIONS**2 * (spread_i + tolerance[a] ** 2):
                    continue
                for b in range(from_j, to_j):
                    other = (
                        vectors[a, 0] * vectors[b, 0] + vectors[a, 1] * vectors[b, 1] + vectors[a, 2] * vectors[b, 2]
                    ) / (lengths[a] * lengths[b])
                    if other < low or other > high or abs(other) > 0.999:
                        continue
                    off = lengths[b] - size_j
                    if off * off > _DEVIATIONS**2 * (spread_j + tolerance[b] ** 2):
                        continue
                    if budget == 0:
                        break
                    budget -= 1
                    _frame(vectors[a], vectors[b], lengths[a], lengths[b], frame_g)
                    for c in range(3):
                        for d in range(3):
                            turned[c, d] = 0.0
                            for e in range(3):
                                along = (
                                    root[c, 0] * frame_g[e, 0] + root[c, 1] * frame_g[e, 1] + root[c, 2] * frame_g[e, 2]
                                )
                                turned[c, d] += along * frame_q[e, d]
                    value = score(places, expected, tried, turned, noise, looseness, wavelength, 1, hkl, on, ratio)
                    if value <= kept_score[_KEPT - 1] + _TIE:
                        continue
                    place = _KEPT - 1
                    while place > 0 and kept_score[place - 1] < value - _TIE:
                        kept_score[place] = kept_score[place - 1]
                        kept[place] = kept[place - 1]
                        place -= 1
                    kept_score[place] = value
                    kept[place] = turned
                    if place == 0 and on[:tried].sum() >= _COMPLETE * tried:
                        budget = min(budget, _CONFIRM)
    best = -np.inf
    for t in range(_KEPT):
        if kept_score[t] == -np.inf:
            break
        value = score(places, expected, peaks, kept[t], noise, looseness, wavelength, LAYERS, hkl, on, ratio)
        if value > best + _TIE:
            best = value
            rows[:] = kept[t]
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def _frame(first, second, first_size, second_size, frame):
    """Fill the rows of a right-handed frame: the bisector of two directions, their difference, and their normal."""
    plus, minus = 0.0, 0.0
    for c in range(3):
        u, v = first[c] / first_size, second[c] / second_size
        frame[0, c], frame[1, c] = u + v, u - v
        plus += frame[0, c] ** 2
        minus += frame[1, c] ** 2
    for c in range(3):
        frame[0, c] /= math.sqrt(plus)
        frame[1, c] /= math.sqrt(minus)
    for c in range(3):
        d, e = (c + 1) % 3, (c + 2) % 3
        frame[2, c] = frame[0, d] * frame[1, e] - frame[0, e] * frame[1, d]
