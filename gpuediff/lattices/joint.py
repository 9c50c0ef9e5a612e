"""One lattice fitted to the peaks of all patterns of a group.

`gpuediff.lattices.consensus` compares lattices that patterns found each by itself; a pattern of few peaks finds none,
and a weak one the wrong one. Here the peaks themselves decide: each candidate is laid into every pattern
(`gpuediff.lattices.orienting`), and the metric is fitted to all peaks together with an orientation, a centre and a
pixel size for every pattern. The candidate that makes the peaks most probable is the lattice of the group.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from gpuediff.lattices import basis, orienting, refinement
from gpuediff.lattices.reduction import PAIRS, factor
from gpuediff.lattices.reflections import oriented

_LOOSEST = 0.06  # relative, by which a candidate's vectors may be off
_TIGHTEST = 1e-3
UNEXPLAINED = math.log(0.05)  # weight of a pattern that is of no lattice, or of another one
PEAKS_MIN = 3  # on the lattice, for a pattern to be of it
#: Relative errors that positions are allowed while orientations are only roughly known.
_TIGHTENING = (orienting.PAIR_LOOSENESS, 0.008, 0.003)
_SPREAD_MIN, _SPREAD_MAX = 0.5, 8.0
_STRAY = 0.25  # relative, of a candidate's volume, by which a fit may change it
_STEP_MAX = 0.1  # of the mean of the metric's diagonal, in one step
_STEPS = 2  # of the fit between two assignments
_SCALE_NOISE = 0.01  # relative, of the pixel size from pattern to pattern, before it is known
CENTRE_NOISE = 3e-3  # Å⁻¹, of a direct beam
NOISE_MIN = 2e-4  # Å⁻¹, of a position
_LOCAL = 6  # numbers of a pattern: orientation, centre, pixel size


class Patterns(NamedTuple):
    """The peaks of a group, strongest first in each pattern, places from the direct beam."""

    places: np.ndarray  # (peaks, 2) Å⁻¹
    expected: np.ndarray  # (peaks,) excitation errors, Å⁻¹
    starts: np.ndarray  # (patterns + 1,)


class Fit(NamedTuple):
    """A lattice and how it lies in every pattern."""

    metric: np.ndarray  # (6,)
    covariance: np.ndarray  # (6, 6)
    rows: np.ndarray  # (patterns, 3, 3)
    shift: np.ndarray  # (patterns, 2)
    scale: np.ndarray  # (patterns,)
    spread: np.ndarray  # (patterns,) of the excitation errors, over what is expected of them
    score: np.ndarray  # (patterns,)
    hkl: np.ndarray  # (peaks, 3)
    on: np.ndarray  # (peaks,)
    ratio: np.ndarray  # (peaks,) of probability on the lattice to that by chance


@njit(cache=True, nogil=True, error_model="numpy")
def room(patterns, peaks):
    """Make room for a fit."""
    return Fit(
        np.zeros(6),
        np.zeros((6, 6)),
        np.zeros((patterns, 3, 3)),
        np.zeros((patterns, 2)),
        np.ones(patterns),
        np.ones(patterns),
        np.full(patterns, -np.inf),
        np.zeros((peaks, 3)),
        np.zeros(peaks, np.bool_),
        np.zeros(peaks),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def looseness(root, covariance):
    """Relative uncertainty of the vectors of a lattice: root mean square of the strain that its covariance allows."""
    inverse = np.empty((3, 3))
    if basis.invert(root, inverse) == 0:
        return _LOOSEST
    strain = np.empty((9, 6))
    for e in range(6):
        i, j = PAIRS[e]
        for c in range(3):
            for d in range(3):
                # dL = dG L⁻ᵀ / 2 moves the vectors, L⁻¹ dL is the strain.
                value = inverse[c, i] * inverse[d, j]
                if i != j:
                    value += inverse[c, j] * inverse[d, i]
                strain[3 * c + d, e] = 0.5 * value
    total = 0.0
    for k in range(9):
        total += (strain[k] * (covariance @ strain[k])).sum()
    return min(max(math.sqrt(total / 3), _TIGHTEST), _LOOSEST)


@njit(cache=True, nogil=True, error_model="numpy")
def fit_group(patterns, known, noise, wavelength, metric, covariance, passes, fit):
    """Fit one candidate, (6,) and (6, 6), to a group; fill `fit`; return (score, noise).

    `known` (patterns, 3, 3) are the bases that patterns have found themselves, in terms of that of the metric; nan
    where one is to be found.
    """
    fit.metric[:], fit.covariance[:] = metric, covariance
    fit.score[:] = -np.inf
    fit.shift[:] = 0.0
    fit.scale[:] = 1.0
    fit.spread[:] = 1.0
    n = len(patterns.starts) - 1
    root = np.zeros((3, 3))
    indices = np.empty((orienting.VECTORS, 3))
    scale_noise = _SCALE_NOISE
    loose = np.empty(n)
    for turn in range(passes):
        if not factor(fit.metric, root):
            return -np.inf, noise
        uncertainty = looseness(root, fit.covariance)
        is_searched = np.zeros(n, np.bool_)
        count = 0
        for p in range(n):
            own = slice(patterns.starts[p], patterns.starts[p + 1])
            loose[p] = uncertainty
            if turn == 0 and np.isfinite(known[p, 0, 0]):
                # Indices by the basis that the pattern itself has found, which is exact in the detector plane.
                fit.rows[p], loose[p], fit.score[p] = known[p], _TIGHTEST, 0.0
                _assign_one(patterns, noise, loose[p], wavelength, fit, p)
                fit.rows[p] = oriented(root, known[p])
                loose[p] = uncertainty
                continue
            if turn > 0 and takes_part(fit, own, p):
                continue
            if count == 0:
                count = orienting.shortest_vectors(root, indices)
                vectors = indices[:count] @ root
                lengths, tolerance = np.empty(count), np.empty(count)
                _lengths(indices[:count], fit.metric, fit.covariance, lengths, tolerance)
            moved = (patterns.places[own] - fit.shift[p]) / fit.scale[p]
            fit.score[p] = orienting.orient(
                moved, patterns.expected[own], root, vectors, lengths, tolerance, noise, scale_noise, uncertainty,
                wavelength, fit.rows[p],
            )  # fmt: skip
            is_searched[p] = True
            loose[p] = max(_TIGHTENING[0], uncertainty)
            _assign_one(patterns, noise, loose[p], wavelength, fit, p)
        estimate = noise
        for stage in range(len(_TIGHTENING)):
            for _ in range(_STEPS):
                estimate = _refine(patterns, noise, loose, scale_noise, wavelength, root, fit)
                if estimate < 0:
                    return -np.inf, noise
            uncertainty = looseness(root, fit.covariance)
            for p in range(n):
                floor = _TIGHTENING[stage + 1] if is_searched[p] and stage + 1 < len(_TIGHTENING) else 0.0
                loose[p] = max(floor, uncertainty)
                _assign_one(patterns, noise, loose[p], wavelength, fit, p)
        noise, scale_noise = estimate, _scale_noise(patterns, fit)
    if not factor(metric, root):
        return -np.inf, noise
    volume = basis.determinant(root)
    # A fit that leaves its candidate behind has given the peaks indices by which no lattice is determined.
    if not (factor(fit.metric, root) and abs(basis.determinant(root) / volume - 1) < _STRAY):
        return -np.inf, noise
    total = 0.0
    for p in range(n):
        total += max(fit.score[p], UNEXPLAINED)
    return total, noise


@njit(cache=True, nogil=True, error_model="numpy")
def _scale_noise(patterns, fit):
    """How much the pixel size varies from pattern to pattern, relative, as far as the group can tell."""
    squares, count = 2 * 0.25 * _SCALE_NOISE**2, 2
    for p in range(len(fit.score)):
        if takes_part(fit, slice(patterns.starts[p], patterns.starts[p + 1]), p):
            squares += (fit.scale[p] - 1) ** 2
            count += 1
    return math.sqrt(squares / count)


@njit(cache=True, nogil=True, error_model="numpy")
def _lengths(indices, metric, covariance, lengths, tolerance):
    for v in range(len(indices)):
        weights = np.empty(6)
        square = 0.0
        for e in range(6):
            i, j = PAIRS[e]
            weights[e] = indices[v, i] * indices[v, j] * (1.0 if i == j else 2.0)
            square += weights[e] * metric[e]
        lengths[v] = math.sqrt(max(square, 1e-12))
        tolerance[v] = min(
            0.5 * math.sqrt(max((weights * (covariance @ weights)).sum(), 0.0)) / lengths[v], 0.1 * lengths[v]
        )


@njit(cache=True, nogil=True, error_model="numpy")
def _assign_one(patterns, noise, loose, wavelength, fit, p):
    """Give the peaks of a pattern their indices, and the pattern its score."""
    if fit.score[p] == -np.inf:
        return
    own = slice(patterns.starts[p], patterns.starts[p + 1])
    moved = (patterns.places[own] - fit.shift[p]) / fit.scale[p]
    value = orienting.score(
        moved, patterns.expected[own], len(moved), fit.rows[p], noise, loose, wavelength, orienting.LAYERS,
        fit.hkl[own], fit.on[own], fit.ratio[own],
    )  # fmt: skip
    fit.score[p] = value - orienting.ORIENTATIONS


@njit(cache=True, nogil=True, error_model="numpy")
def takes_part(fit, own, p):
    """Whether pattern p, whose peaks are `own`, is of the lattice."""
    return fit.score[p] > 0 and fit.on[own].sum() >= PEAKS_MIN


@njit(cache=True, nogil=True, error_model="numpy")
def _refine(patterns, noise, loose, scale_noise, wavelength, root, fit):
    """One step of least squares for the metric with orientation, centre and pixel size of every pattern eliminated.

    The metric has a weak prior (its own covariance of before would count the peaks twice). Returns the noise of the
    positions, negative where the peaks do not fix the lattice.
    """
    n = len(fit.score)
    normal, right = np.zeros((6, 6)), np.zeros(6)
    inner = np.empty((n, _LOCAL, _LOCAL))
    mixed = np.empty((n, _LOCAL, 6))
    rest = np.empty((n, _LOCAL))
    taken = np.zeros(n, np.bool_)
    inverse = np.empty((3, 3))
    if basis.invert(root, inverse) == 0:
        return -1.0
    slopes = np.zeros((6, 3, 3))  # of the rows of the root
    for e in range(6):
        i, j = PAIRS[e]
        for c in range(3):
            slopes[e, i, c] += 0.5 * inverse[c, j]
            if i != j:
                slopes[e, j, c] += 0.5 * inverse[c, i]
    jacobian, local = np.empty((3, 6)), np.empty((3, _LOCAL))
    value, weight = np.empty(3), np.empty(3)
    turn = np.empty((3, 3))
    squares, number = 0.0, 0.0
    for p in range(n):
        own = slice(patterns.starts[p], patterns.starts[p + 1])
        taken[p] = takes_part(fit, own, p)
        if not taken[p]:
            continue
        # rows = root · turn
        turn[:] = inverse @ fit.rows[p]
        heights, trusted = 2.0, 2.0  # as if two heights had been as expected
        a, b, r = np.zeros((_LOCAL, _LOCAL)), np.zeros((_LOCAL, 6)), np.zeros(_LOCAL)
        for k in range(3):
            a[k, k] = 1e-2
        a[3, 3] = a[4, 4] = 1 / CENTRE_NOISE**2
        a[5, 5] = 1 / scale_noise**2
        r[3], r[4], r[5] = -fit.shift[p, 0] * a[3, 3], -fit.shift[p, 1] * a[4, 4], (1 - fit.scale[p]) * a[5, 5]
        for k in range(patterns.starts[p], patterns.starts[p + 1]):
            if not fit.on[k]:
                continue
            g = np.zeros(3)
            for c in range(3):
                for i in range(3):
                    g[c] += fit.hkl[k, i] * fit.rows[p, i, c]
            value[0] = patterns.places[k, 0] - fit.shift[p, 0] - fit.scale[p] * g[0]
            value[1] = patterns.places[k, 1] - fit.shift[p, 1] - fit.scale[p] * g[1]
            flat = g[0] ** 2 + g[1] ** 2
            value[2] = 0.5 * wavelength * flat - g[2]
            squares += value[0] ** 2 + value[1] ** 2
            number += 2
            weight[0] = weight[1] = 1 / (noise**2 + loose[p] ** 2 * flat)
            # Peaks of wrong indices must not pull: Student's t, as for the excitation errors.
            far = (value[0] ** 2 + value[1] ** 2) * weight[0]
            weight[0] = weight[1] = weight[0] * (refinement.DEGREES + 2) / (refinement.DEGREES + far)
            s = value[2] / patterns.expected[k]
            trust = 1 - patterns.expected[k] / (1.0001 * refinement.S_CEILING)
            weight[2] = trust * (refinement.DEGREES + 1) / (refinement.DEGREES + s * s) / patterns.expected[k] ** 2
            for e in range(6):
                d = np.zeros(3)
                for c in range(3):
                    along = 0.0
                    for i in range(3):
                        along += fit.hkl[k, i] * slopes[e, i, c]
                    for m in range(3):
                        d[m] += along * turn[c, m]
                jacobian[0, e], jacobian[1, e] = fit.scale[p] * d[0], fit.scale[p] * d[1]
                jacobian[2, e] = d[2] - wavelength * (g[0] * d[0] + g[1] * d[1])
            local[:] = 0.0
            for axis in range(3):
                d0 = g[2] if axis == 1 else (-g[1] if axis == 2 else 0.0)
                d1 = -g[2] if axis == 0 else (g[0] if axis == 2 else 0.0)
                d2 = g[1] if axis == 0 else (-g[0] if axis == 1 else 0.0)
                local[0, axis], local[1, axis] = fit.scale[p] * d0, fit.scale[p] * d1
                local[2, axis] = d2 - wavelength * (g[0] * d0 + g[1] * d1)
            local[0, 3] = local[1, 4] = 1.0
            local[0, 5], local[1, 5] = g[0], g[1]
            for o in range(3):
                for i in range(_LOCAL):
                    if local[o, i] == 0:
                        continue
                    w = weight[o] * local[o, i]
                    r[i] += w * value[o]
                    for j in range(_LOCAL):
                        a[i, j] += w * local[o, j]
                    for e in range(6):
                        b[i, e] += w * jacobian[o, e]
                for e in range(6):
                    w = weight[o] * jacobian[o, e]
                    right[e] += w * value[o]
                    for f in range(6):
                        normal[e, f] += w * jacobian[o, f]
        # Of a pattern the mean excitation error is its own, see `refinement.SCALE_SPREAD`.
        fit.spread[p] = min(max(fit.spread[p] * math.sqrt(heights / trusted), _SPREAD_MIN), _SPREAD_MAX)
        if not _invert(a, inner[p]):
            return -1.0
        mixed[p] = b
        rest[p] = r
        solved = inner[p] @ b
        normal -= b.T @ solved
        right -= solved.T @ r
    if number == 0:
        return -1.0
    size = (fit.metric[0] + fit.metric[1] + fit.metric[2]) / 3
    for e in range(6):
        normal[e, e] += 1 / (0.3 * size) ** 2
    if not _invert(normal, fit.covariance):
        return -1.0
    step = fit.covariance @ right
    step *= min(1.0, _STEP_MAX * size / max(np.abs(step).max(), 1e-30))
    moved = root.copy()
    for e in range(6):
        moved += step[e] * slopes[e]
    count = 0.0
    for p in range(n):
        turn[:] = inverse @ fit.rows[p]
        if not taken[p]:
            fit.rows[p] = moved @ turn  # it may take part in the end
            continue
        count += 1
        own_step = inner[p] @ (rest[p] - mixed[p] @ step)
        fit.rows[p] = moved @ turn @ _rotation(own_step[:3])
        fit.shift[p] += own_step[3:5]
        fit.scale[p] += own_step[5]
    for e in range(6):
        i, j = PAIRS[e]
        fit.metric[e] = (moved[i] * moved[j]).sum()
    # The same rows for all: the root in standard position may have turned by the strain.
    root[:] = moved
    # Heights alone tell the size of the lattice badly: it is that at which the pixel sizes are right on the average.
    size = 0.0
    for p in range(n):
        size += fit.scale[p] / count if taken[p] else 0.0
    for p in range(n):
        fit.rows[p] *= size
        if taken[p]:
            fit.scale[p] /= size
    root *= size
    fit.metric[:] *= size * size
    freedom = number - 5 * count - 6
    if freedom > 6:
        noise = min(2 * noise, max(NOISE_MIN, math.sqrt(squares / freedom)))
    return noise


@njit(cache=True, nogil=True, error_model="numpy")
def _invert(m, inverse):
    """Fill the inverse of a symmetric positive matrix; return whether it is one."""
    n = len(m)
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            value = m[i, j]
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            if i == j:
                if not value > 1e-12 * m[i, i]:
                    return False
                lower[i, i] = math.sqrt(value)
            else:
                lower[i, j] = value / lower[j, j]
    for column in range(n):
        for i in range(n):
            value = 1.0 if i == column else 0.0
            for k in range(i):
                value -= lower[i, k] * inverse[k, column]
            inverse[i, column] = value / lower[i, i]
        for i in range(n - 1, -1, -1):
            value = inverse[i, column]
            for k in range(i + 1, n):
                value -= lower[k, i] * inverse[k, column]
            inverse[i, column] = value / lower[i, i]
    return np.isfinite(inverse).all()


@njit(cache=True, nogil=True, error_model="numpy")
def _rotation(vector):
    """Rotation by a vector's length about its direction, to act on rows from the right."""
    angle = math.sqrt((vector * vector).sum())
    out = np.eye(3)
    if angle < 1e-12:
        return out
    x, y, z = vector / angle
    c, s = math.cos(angle), math.sin(angle)
    t = 1 - c
    out[0, 0], out[0, 1], out[0, 2] = t * x * x + c, t * x * y + s * z, t * x * z - s * y
    out[1, 0], out[1, 1], out[1, 2] = t * x * y - s * z, t * y * y + c, t * y * z + s * x
    out[2, 0], out[2, 1], out[2, 2] = t * x * z + s * y, t * y * z - s * x, t * z * z + c
    return out
