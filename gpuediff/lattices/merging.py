"""Which symmetry operations relate reflections of equal strength: what the metric of a lattice leaves open.

A trigonal and a hexagonal crystal can have one metric, and so have the classes m-3 and m-3m; only intensities tell
them apart. Reflections of all patterns of a group are merged in three dimensions, and for each operation of a crystal
system's holohedry the merged strengths of reflections that it relates are compared, as POINTLESS does with X-ray data
(Evans, Acta Cryst. D 67, 282, 2011). Friedel's law is taken to hold.

Dynamical strengths of equivalent reflections differ at other excitation errors, so what is compared is
log(strength + OFFSET), freed of its trend with |q| and excitation error. That of one reflection in two patterns is
taken to correlate by CORRELATION, and strengths of different reflections not at all, unless an operation relates them.

A lattice can be laid upon itself in several ways, of which a crystal of lower symmetry tells apart some. So the
patterns are added one after the other in the orientation, among those of the holohedry, in which their strengths agree
best with what has been merged, and once more with all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from gpuediff.lattices.basis import determinant, invert
from gpuediff.lattices.operations import tables_of
from gpuediff.lattices.pooling import Pooled
from gpuediff.lattices.reduction import factor
from gpuediff.lattices.reflections import Q_MAX, REACH, brightness, reflections_of_pattern
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch
from gpuediff.settings import CrystalSystem

# Å⁻¹, largest excitation errors: far from the sphere strengths are known nearly as well as near to it.
S_MIN, S_MAX = 0.01, 0.05
REFLECTIONS_MAX = 150  # of a pattern, about: large cells have enough of them nearer to the sphere
OFFSET = 0.1  # of the mean strength, before the logarithm is taken
DETECTABLE = 0.3  # of the mean strength: where weaker ones would not be seen, that nothing is seen tells nothing
CLIP = 2.5  # standard deviations, beyond which a value tells no more
SLOPE_WEIGHT = 3.0  # with which the slopes of the trend are held at zero
CORRELATION = 0.5  # of one reflection's values in two patterns
SWEEPS = 2  # in which every pattern is laid upon all others, after the first
DISTORTION = 0.1  # of a metric, relative, beyond which an operation is none of the lattice


@dataclass(frozen=True, eq=False)
class Merged:
    """How equal the strengths are of reflections that each operation of a system relates; NaN where nothing tells.

    Parameters
    ----------
    evidence : array, shape (m, operations), float64
        Natural logarithm of how much more probable the values are if the operation is one of the crystal's; a sum over
        the pairs of reflections that it relates.
    correlation : array, shape (m, operations), float64
        Of the values of such pairs, as a share of 1; few pairs shrink it.
    contrast : array, shape (m, operations), float64
        Natural logarithm of how much less probable the values are if a pattern is turned by the operation against all
        others, a sum over the patterns: about 0 for an operation of the crystal's, below for others. NaN for fewer
        than two patterns.
    pairs : array, shape (m, operations), int64
        Of reflections that were near the Ewald sphere, both of them, in any pattern.
    repeated : array, shape (m,), float64
        Correlation of values of one reflection in different patterns: how far values can be trusted at all.
    repeats : array, shape (m,), int64
        Reflections of a pattern that are also in another one, for all patterns.
    """

    evidence: np.ndarray
    correlation: np.ndarray
    contrast: np.ndarray
    pairs: np.ndarray
    repeated: np.ndarray
    repeats: np.ndarray


def merged(
    peaks: PeakBatch,
    members: np.ndarray,
    group: np.ndarray,
    found: Pooled,
    transformations: Mapping[CrystalSystem, np.ndarray],
    *,
    wavelength: float,
) -> dict[CrystalSystem, Merged]:
    """Compare reflections of groups of patterns that operations of crystal systems relate.

    Neither the number of threads nor, but for patterns of exactly equal weight, their order makes a difference.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns.
    members : array, shape (k,), int64
        Pattern of every member of a group.
    group : array, shape (k,), int64
        Its group, rising.
    found : Pooled
        Lattices of m groups.
    transformations : mapping of crystal system to array, shape (m, 3, 3), integers
        Rows of the system's conventional basis in terms of the basis dual to that of `found.metric`; 0 where there is
        none.
    wavelength : float
        Å.

    Returns
    -------
    dict of crystal system to Merged
        Columns in the order of `gpuediff.lattices.operations.OPERATIONS`.
    """
    systems = tuple(transformations)
    tables = tables_of(systems)
    m, s, most = len(found), len(systems), int(tables.width.max(initial=0))
    changes = np.array([transformations[system] for system in systems], dtype=np.float64).reshape(s, m, 3, 3)
    numbers = np.full((m, s, most, 3), np.nan)
    pairs, repeated = np.zeros((m, s, most), np.int64), np.full((m, s), np.nan)
    repeats = np.zeros((m, s), np.int64)
    _merge_groups(
        np.ascontiguousarray(peaks.qx, dtype=np.float64),
        np.ascontiguousarray(peaks.qy, dtype=np.float64),
        np.ascontiguousarray(peaks.intensity, dtype=np.float64),
        peaks.offsets,
        members,
        np.searchsorted(group, np.arange(m + 1)),
        found.rows,
        found.centre,
        found.scale,
        found.noise,
        found.metric,
        changes,
        tables,
        wavelength,
        numbers,
        pairs,
        repeated,
        repeats,
    )
    return {
        system: Merged(
            evidence=numbers[:, k, : tables.width[k], 0],
            correlation=numbers[:, k, : tables.width[k], 1],
            contrast=numbers[:, k, : tables.width[k], 2],
            pairs=pairs[:, k, : tables.width[k]],
            repeated=repeated[:, k],
            repeats=repeats[:, k],
        )
        for k, system in enumerate(systems)
    }


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _merge_groups(
    qx, qy, intensity, offsets, members, starts, rows, centre, scale, noise, metric, changes,
    tables, wavelength, numbers, pairs, repeated, repeats,
):  # fmt: skip
    for g in prange(len(starts) - 1):
        root = np.empty((3, 3))
        if not (np.isfinite(metric[g, 0]) and factor(metric[g], root)):
            continue
        room = 256
        hkl, values = np.empty((room, 3)), np.empty((room, 3))
        first = np.zeros(starts[g + 1] - starts[g] + 1, np.int64)
        patterns, n = 0, 0
        for m in range(starts[g], starts[g + 1]):
            if not np.isfinite(rows[m, 0, 0]):
                continue
            own = slice(offsets[members[m]], offsets[members[m] + 1])
            places = np.stack((qx[own] - centre[m, 0], qy[own] - centre[m, 1]), axis=1) / scale[m]
            more, logs = _values_of_pattern(places, intensity[own], rows[m], wavelength, REACH * noise[g])
            while n + len(more) > room:
                room *= 2
                hkl, values = _longer(hkl, n, room), _longer(values, n, room)
            hkl[n : n + len(more)], values[n : n + len(more)] = more, logs
            n += len(more)
            patterns += 1
            first[patterns] = n
        if n == 0:
            continue
        hkl, first = hkl[:n], first[: patterns + 1]
        value = _without_trend(values[:n])
        inverse = np.empty((3, 3))
        invert(root, inverse)
        for s in range(len(changes)):
            twin = tables.twin[s]
            if twin >= 0 and np.all(changes[twin, g] == changes[s, g]):
                numbers[g, s], pairs[g, s] = numbers[g, twin], pairs[g, twin]
                repeated[g, s], repeats[g, s] = repeated[g, twin], repeats[g, twin]
                continue
            if tables.width[s] == 0 or determinant(changes[s, g]) == 0:
                continue
            rotations = tables.rotations[s, : tables.turns[s]]
            repeated[g, s], repeats[g, s] = _compare(
                np.rint(hkl @ changes[s, g].T).astype(np.int64), value, first, rotations,
                _symmetries(changes[s, g], inverse, rotations), tables.operation[s], tables.relative[s],
                numbers[g, s, : tables.width[s]], pairs[g, s, : tables.width[s]],
            )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _longer(rows, used, room):
    longer = np.empty((room, rows.shape[1]))
    longer[:used] = rows[:used]
    return longer


@njit(cache=True, nogil=True, error_model="numpy")
def _values_of_pattern(places, intensity, rows, wavelength, reach):
    """Indices (n, 3) of what tells something; log(strength + OFFSET), log |q| and that of the excitation error (n, 3).

    A strength is a multiple of the mean of the reflections that have a peak.
    """
    density = abs(determinant(rows)) / (2 * math.pi * Q_MAX**2)
    s_max = min(S_MAX, max(S_MIN, REFLECTIONS_MAX * density))
    hkl, square, s, peak = reflections_of_pattern(places, rows, wavelength, reach, s_max)
    weakest = np.inf
    for p in range(len(places)):
        if intensity[p] > 0 and places[p, 0] ** 2 + places[p, 1] ** 2 > DIRECT_BEAM_RADIUS**2:
            weakest = min(weakest, intensity[p])
    values = np.empty((len(hkl), 3))
    total, number = 0.0, 0
    for r in range(len(hkl)):
        spread, steep = brightness(square[r], s[r])
        values[r, 0], values[r, 1], values[r, 2] = spread * steep, math.log(steep), math.log(spread)
        if peak[r] >= 0:
            total += intensity[peak[r]] * values[r, 0]
            number += 1
    n = 0
    for r in range(len(hkl) if total > 0 else 0):
        unit = values[r, 0] * number / total
        if peak[r] >= 0 or weakest * unit < DETECTABLE:
            strength = intensity[peak[r]] * unit if peak[r] >= 0 else 0.0
            hkl[n] = hkl[r]
            values[n, 0], values[n, 1], values[n, 2] = math.log(strength + OFFSET), values[r, 1], values[r, 2]
            n += 1
    return hkl[:n], values[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def _without_trend(values):
    """Values of all patterns, freed of their trend with the other two columns, in standard deviations."""
    normal, side = np.zeros((3, 3)), np.zeros(3)
    middle = np.array([values[:, 1].mean(), values[:, 2].mean()])
    row = np.ones(3)
    for r in range(len(values)):
        row[1], row[2] = values[r, 1] - middle[0], values[r, 2] - middle[1]
        for i in range(3):
            side[i] += row[i] * values[r, 0]
            for j in range(3):
                normal[i, j] += row[i] * row[j]
    normal[1, 1] += SLOPE_WEIGHT
    normal[2, 2] += SLOPE_WEIGHT
    slope = np.linalg.solve(normal, side)
    left = values[:, 0] - slope[0] - slope[1] * (values[:, 1] - middle[0]) - slope[2] * (values[:, 2] - middle[1])
    deviation = math.sqrt((left * left).mean())
    return np.minimum(np.maximum(left / max(deviation, 1e-9), -CLIP), CLIP)


@njit(cache=True, nogil=True, error_model="numpy")
def _symmetries(change, inverse, rotations):
    """Which rotations bring the lattice of a conventional cell upon itself."""
    rows = change @ inverse.T
    metric = rows @ rows.T
    back = np.empty((3, 3))
    invert(change, back)
    allowed = np.zeros(len(rotations), np.bool_)
    for e in range(len(rotations)):
        turn = rotations[e].astype(np.float64)
        steps = change.T @ turn @ back.T
        turned = turn.T @ metric @ turn
        allowed[e] = True
        for i in range(3):
            for j in range(3):
                off = abs(turned[i, j] - metric[i, j]) / math.sqrt(metric[i, i] * metric[j, j])
                if abs(steps[i, j] - np.rint(steps[i, j])) > 1e-6 or off > DISTORTION:
                    allowed[e] = False
    return allowed


@njit(cache=True, nogil=True, error_model="numpy")
def _compare(hkl, value, first, rotations, allowed, operation, relative, numbers, pairs):
    """Merge one group in one system and fill `numbers` (operations, 3) and `pairs`; return repeated and repeats."""
    if allowed.sum() < 2:
        return np.nan, 0
    patterns = len(first) - 1
    laid = allowed.copy()
    if patterns == 1:
        laid[1:] = False  # upon nothing
    place, box, shape, unique = _places(hkl, rotations, laid)
    sums, counts = np.zeros(len(unique)), np.zeros(len(unique), np.int64)
    setting, fits = _lay_upon_each_other(value, first, place, laid, sums, counts)
    repeated, repeats = np.nan, 0
    if patterns > 1:
        _contrast(fits, setting, allowed, relative, numbers[:, 2])
        repeated, repeats = _repeated(value, first, place, setting, sums, counts)
    _pair(unique, box, shape, rotations, allowed, operation, sums, counts, numbers, pairs)
    return repeated, repeats


@njit(cache=True, nogil=True, error_model="numpy")
def _turned(h, k, l, turn):
    """Turn indices; of a reflection and its Friedel mate, that one which is taken for both."""
    x = h * turn[0, 0] + k * turn[1, 0] + l * turn[2, 0]
    y = h * turn[0, 1] + k * turn[1, 1] + l * turn[2, 1]
    z = h * turn[0, 2] + k * turn[1, 2] + l * turn[2, 2]
    if x < 0 or (x == 0 and (y < 0 or (y == 0 and z < 0))):
        return -x, -y, -z
    return x, y, z


@njit(cache=True, nogil=True, error_model="numpy")
def _places(hkl, rotations, allowed):
    """Number the reflections that any rotation makes: (n, rotations); and what finds a number by its indices."""
    n, turns = len(hkl), len(rotations)
    limit = np.zeros(3, np.int64)
    for e in range(turns):
        for r in range(n if allowed[e] else 0):
            x, y, z = _turned(hkl[r, 0], hkl[r, 1], hkl[r, 2], rotations[e])
            limit[0], limit[1], limit[2] = max(limit[0], x), max(limit[1], abs(y)), max(limit[2], abs(z))
    shape = np.array([limit[0] + 1, 2 * limit[1] + 1, 2 * limit[2] + 1])
    box = np.full(shape[0] * shape[1] * shape[2], -1, np.int32)
    place = np.full((turns, n), -1, np.int32)
    unique, count = np.empty((n * int(allowed.sum()), 3), np.int64), 0
    for e in range(turns):
        for r in range(n if allowed[e] else 0):
            x, y, z = _turned(hkl[r, 0], hkl[r, 1], hkl[r, 2], rotations[e])
            at = (x * shape[1] + y + limit[1]) * shape[2] + z + limit[2]
            if box[at] < 0:
                unique[count, 0], unique[count, 1], unique[count, 2] = x, y, z
                box[at] = count
                count += 1
            place[e, r] = box[at]
    return place, box, shape, unique[:count]


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(most):
    """Of n merged values: what makes their sum the expected value of one more, -ln of its deviation, 1 / 2 variance."""
    weights = np.zeros((most + 1, 3))
    for n in range(1, most + 1):
        share = CORRELATION / (1 + (n - 1) * CORRELATION)
        variance = 1 - CORRELATION * n * share
        weights[n, 0], weights[n, 1], weights[n, 2] = share, -0.5 * math.log(variance), 0.5 / variance
    return weights


@njit(cache=True, nogil=True, error_model="numpy")
def _fit(value, place, sums, counts, weights):
    """Logarithm of how much more probable the values of a pattern are, given what is merged where they are laid."""
    total = 0.0
    for r in range(len(value)):
        n = counts[place[r]]
        if n > 0:
            off = value[r] - weights[n, 0] * sums[place[r]]
            total += weights[n, 1] - off * off * weights[n, 2] + 0.5 * value[r] * value[r]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _add(value, place, sign, sums, counts):
    for r in range(len(value)):
        sums[place[r]] += sign * value[r]
        counts[place[r]] += sign


@njit(cache=True, nogil=True, error_model="numpy")
def _lay_upon_each_other(value, first, place, allowed, sums, counts):
    """Merge the patterns, that of most weight first, each by the rotation that suits best.

    Returns these rotations (patterns,), and how well each pattern suited all others by every rotation.
    """
    patterns = len(first) - 1
    weights = _weights(2 * patterns)  # a reflection and its Friedel mate may be in one pattern
    weight = np.array([-(value[first[p] : first[p + 1]] ** 2).sum() for p in range(patterns)])
    setting, fits = np.full(patterns, -1), np.full((patterns, len(allowed)), -np.inf)
    order = np.argsort(weight, kind="mergesort")
    for sweep in range(SWEEPS):
        for p in order:
            own = slice(first[p], first[p + 1])
            if sweep > 0:
                _add(value[own], place[setting[p], own], -1, sums, counts)
            best = -np.inf
            for e in range(len(allowed)):
                if allowed[e]:
                    fits[p, e] = _fit(value[own], place[e, own], sums, counts, weights)
                    if fits[p, e] > best + 1e-9:
                        best, setting[p] = fits[p, e], e
            _add(value[own], place[setting[p], own], 1, sums, counts)
    return setting, fits


@njit(cache=True, nogil=True, error_model="numpy")
def _contrast(fits, setting, allowed, relative, contrast):
    """Fill in how much worse, or better, patterns suit the others when an operation turns them, on the average."""
    for o in range(len(contrast)):
        total, known = 0.0, False
        for p in range(len(setting)):
            others, number = 0.0, 0
            for e in range(len(allowed)):
                if allowed[e] and relative[e, setting[p]] == o:
                    others += fits[p, e]
                    number += 1
            if number > 0:
                total += others / number - fits[p, setting[p]]
                known = True
        contrast[o] = total if known else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _repeated(value, first, place, setting, sums, counts):
    """Correlation of what patterns have in common with all others, and how much that is."""
    product, square, repeats = 0.0, 1.0, 0
    for p in range(len(setting)):
        own = slice(first[p], first[p + 1])
        mine = place[setting[p], own]
        _add(value[own], mine, -1, sums, counts)
        for r in range(len(mine)):
            n = counts[mine[r]]
            if n > 0:
                one, mean = value[first[p] + r], sums[mine[r]] / n
                repeats += 1
                product += one * mean
                square += 0.5 * (one * one + mean * mean)
        _add(value[own], mine, 1, sums, counts)
    return (product / square if repeats > 0 else np.nan), repeats


@njit(cache=True, nogil=True, error_model="numpy")
def _pair(unique, box, shape, rotations, allowed, operation, sums, counts, numbers, pairs):
    """Compare each merged reflection with those that an operation makes of it, every pair once."""
    operations = len(pairs)
    evidence, product, square = np.zeros(operations), np.zeros(operations), np.ones(operations)
    partner = np.empty(len(rotations), np.int64)
    low_y, low_z = shape[1] // 2, shape[2] // 2
    for i in range(len(unique)):
        if counts[i] == 0:
            continue
        one = sums[i] / counts[i]
        own = CORRELATION + (1 - CORRELATION) / counts[i]
        for e in range(len(rotations)):
            o = operation[e]
            partner[e] = -1
            if o < 0 or not allowed[e]:
                continue
            x, y, z = _turned(unique[i, 0], unique[i, 1], unique[i, 2], rotations[e])
            if x >= shape[0] or abs(y) > low_y or abs(z) > low_z:
                continue
            j = box[(x * shape[1] + y + low_y) * shape[2] + z + low_z]
            if j <= i or counts[j] == 0:
                continue
            partner[e] = j
            if np.any((partner[:e] == j) & (operation[:e] == o)):
                continue
            other = sums[j] / counts[j]
            theirs = CORRELATION + (1 - CORRELATION) / counts[j]
            a, b = one / math.sqrt(own), other / math.sqrt(theirs)
            r = CORRELATION / math.sqrt(own * theirs)
            evidence[o] -= 0.5 * math.log(1 - r * r) + (r * r * (a * a + b * b) - 2 * r * a * b) / (2 * (1 - r * r))
            # What is averaged over more patterns counts for more.
            weight = 2 / (own + theirs)
            product[o] += weight * one * other
            square[o] += weight * 0.5 * (one * one + other * other)
            pairs[o] += 1
    for o in range(operations):
        if pairs[o] > 0:
            numbers[o, 0], numbers[o, 1] = evidence[o], product[o] / square[o]
