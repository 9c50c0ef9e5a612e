"""Conventional cells fitted to metrics, brought to the standard of the labels, with standard uncertainties.

Compiled, for `gpuediff.lattices.bravais`; types are numbers in the order of `gpuediff.lattices.holohedries.TYPES`. The
standard is that of pymatgen's conventional standard cell.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from gpuediff.lattices.basis import determinant
from gpuediff.lattices.reduction import metric_change


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def fit_cells(
    metric, covariance, setting, reduction, conventional, free, pattern, numbers, parameters, uncertainties, out
):
    """Fit the cell of each type in its setting to each metric of a reduced cell; the last three arguments are filled.

    `setting` (n, 14) says which rows of `conventional` and `free` (see `holohedries.Holohedries`) are taken, `pattern`
    (14, 6, 6) how a conventional metric is made of its free numbers, `numbers` (14,) how many these are, `reduction`
    (n, 3, 3) how the reduced basis was made of the given one.
    """
    for n in prange(len(metric)):
        _fit_types(
            metric[n],
            covariance[n],
            setting[n],
            reduction[n],
            conventional,
            free,
            pattern,
            numbers,
            parameters[n],
            uncertainties[n],
            out[n],
        )


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_types(
    metric, covariance, setting, reduction, conventional, free, pattern, numbers, parameters, uncertainties, out
):
    parameters[:], uncertainties[:], out[:] = np.nan, np.nan, 0
    lower, spread, change = np.empty((6, 6)), np.empty((6, 6)), np.empty((6, 6))
    fitted, standard, turn, rows = np.empty(6), np.empty(6), np.empty((3, 3)), np.empty((3, 3))
    for t in range(len(numbers)):
        m = setting[t]
        if m < 0 or not cholesky(covariance, 6, lower):
            continue
        if not _fit_one(metric, lower, free[m], pattern[t], numbers[t], fitted, spread):
            continue
        turn[:] = 0.0
        _standardise(t, fitted, turn)
        metric_change(turn, change)
        for i in range(6):
            standard[i] = 0.0
            for k in range(6):
                standard[i] += change[i, k] * fitted[k]
        _parameters(standard, change, spread, parameters[t], uncertainties[t])
        for i in range(3):
            for j in range(3):
                rows[i, j] = 0.0
                for k in range(3):
                    rows[i, j] += turn[i, k] * conventional[m, k, j]
        for i in range(3):
            for j in range(3):
                value = 0.0
                for k in range(3):
                    value += rows[i, k] * reduction[k, j]
                out[t, i, j] = int(np.rint(value))


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_one(metric, lower, free, pattern, number, fitted, spread):
    """Fit the free numbers of a type; fill its conventional metric and the covariance of that. False if degenerate."""
    white, target = np.empty((6, 6)), np.empty(6)
    for i in range(6):
        target[i] = metric[i]
        for k in range(i):
            target[i] -= lower[i, k] * target[k]
        target[i] /= lower[i, i]
        for c in range(number):
            white[i, c] = free[i, c]
            for k in range(i):
                white[i, c] -= lower[i, k] * white[k, c]
            white[i, c] /= lower[i, i]
    normal, root = np.zeros((6, 6)), np.empty((6, 6))
    for c in range(number):
        for d in range(c + 1):
            for i in range(6):
                normal[c, d] += white[i, c] * white[i, d]
    if not cholesky(normal, number, root):
        return False
    # half = root⁻¹ patternᵀ, so that halfᵀ half is the covariance; likewise for the right-hand side.
    half, side = np.zeros((6, 6)), np.empty(6)
    for c in range(number):
        side[c] = 0.0
        for i in range(6):
            side[c] += white[i, c] * target[i]
            half[c, i] = pattern[i, c]
        for d in range(c):
            side[c] -= root[c, d] * side[d]
            for i in range(6):
                half[c, i] -= root[c, d] * half[d, i]
        side[c] /= root[c, c]
        for i in range(6):
            half[c, i] /= root[c, c]
    for i in range(6):
        fitted[i] = 0.0
        for c in range(number):
            fitted[i] += half[c, i] * side[c]
        for j in range(6):
            spread[i, j] = 0.0
            for c in range(number):
                spread[i, j] += half[c, i] * half[c, j]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _standardise(kind, metric, turn):
    """Fill `turn` with rows that make the standard one of the equivalent conventional cells; determinant 1."""
    if kind == 0:
        _standardise_triclinic(metric, turn)
    elif kind <= 2:
        _shorten_monoclinic(metric, kind == 2, turn)
    else:
        order = np.arange(3)
        if kind <= 6:
            for i, j in ((0, 1), (1, 2), (0, 1)):
                if metric[order[i]] > metric[order[j]] and (kind != 4 or j == 1):
                    order[i], order[j] = order[j], order[i]
        for i in range(3):
            turn[i, order[i]] = 1.0
        if determinant(turn) < 0:
            turn[2] *= -1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _standardise_triclinic(metric, turn):
    """Make of the Niggli cell what pymatgen does: c reduced by its projections, then the signs of the vectors."""
    aa, bb, cc, bc, ac, ab = metric
    # This is all that the LLL algorithm changes in a Niggli cell. It can lengthen c.
    k = np.rint((bc - ab * ac / aa) / (bb - ab * ab / aa))
    cc += k * k * bb - 2 * k * bc
    bc -= k * bb
    ac -= k * ab
    m = np.rint(ac / aa)
    cc += m * m * aa - 2 * m * ac
    ac -= m * aa
    bc -= m * ab
    # Signs of b*·c*, a*·c*, a*·b*
    x = 1.0 if ab * ac >= aa * bc else -1.0
    y = 1.0 if ab * bc >= bb * ac else -1.0
    z = 1.0 if ac * bc >= cc * ab else -1.0
    alike = x * y * z
    turn[0, 0], turn[1, 1] = 1.0, alike * z
    turn[2, 0], turn[2, 1], turn[2, 2] = -m * alike * y, -k * alike * y, alike * y
    if y * z < 0:
        turn *= -1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _shorten_monoclinic(metric, centred, turn):
    """Take the shortest a and c; in a centred cell the shortest a that is centred with b, and the shortest c to it."""
    aa, cc, ac = metric[0], metric[2], metric[4]
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    for _ in range(100):
        if aa > cc:
            aa, cc = cc, aa
            p, q = q, p
        k = np.rint(ac / aa)
        if not abs(k) > 0:
            break
        q = q - k * p
        cc += k * k * aa - 2 * k * ac
        ac -= k * aa
    if ac > 0:
        q = -q
    if centred:
        # With p and q at an obtuse angle, p + q is the third shortest. The centred one is odd in a and even in c.
        if q[1] % 2 == 0:
            p, q = q, p
        elif p[1] % 2 != 0:
            p, q = p + q, -p
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = p[0], p[1], q[0], q[1]
    turn[1, 1] = np.sign(p[0] * q[1] - p[1] * q[0])


@njit(cache=True, nogil=True, error_model="numpy")
def _parameters(metric, change, covariance, parameters, uncertainties):
    """Fill lengths (Å) and angles (degrees), and their standard uncertainties; `change` made the metric."""
    slope = np.zeros((6, 6))
    for i in range(3):
        parameters[i] = math.sqrt(metric[i])
        slope[i, i] = 0.5 / parameters[i]
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        edges = parameters[j] * parameters[k]
        cosine = metric[3 + i] / edges
        parameters[3 + i] = math.degrees(math.acos(cosine))
        per_cosine = -math.degrees(1 / math.sqrt(1 - cosine * cosine))
        slope[3 + i, 3 + i] = per_cosine / edges
        slope[3 + i, j] = -0.5 * per_cosine * cosine / metric[j]
        slope[3 + i, k] = -0.5 * per_cosine * cosine / metric[k]
    row = np.empty(6)
    for i in range(6):
        for k in range(6):
            row[k] = 0.0
            for j in range(6):
                row[k] += slope[i, j] * change[j, k]
        variance = 0.0
        for j in range(6):
            for k in range(6):
                variance += row[j] * covariance[j, k] * row[k]
        # Rounding can make the variance of what a type fixes negative.
        uncertainties[i] = math.sqrt(max(variance, 0.0))


@njit(cache=True, nogil=True, error_model="numpy")
def cholesky(matrix, n, lower):
    """Fill the lower triangle of `lower`, from that of `matrix`; return False if it is not positive definite."""
    for i in range(n):
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            if i == j:
                if not (value > 0 and value < np.inf):
                    return False
                lower[i, i] = math.sqrt(value)
            else:
                lower[i, j] = value / lower[j, j]
    return True
