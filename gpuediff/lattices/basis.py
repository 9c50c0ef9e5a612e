"""Bases of one three-dimensional lattice: shortest vectors, and whether two bases are of one lattice.

Compiled for one basis at a time, rows are the vectors, float64. What is here does not know whether the lattice is
direct or reciprocal.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def determinant(m):
    """Determinant of a (3, 3) matrix."""
    return (
        m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
        - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
        + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
    )


@njit(cache=True, nogil=True, error_model="numpy")
def invert(m, inverse):
    """Fill `inverse`; return the determinant, 0 where there is no inverse."""
    det = determinant(m)
    if det == 0 or not np.isfinite(det):
        return 0.0
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        for c in range(3):
            d, e = (c + 1) % 3, (c + 2) % 3
            inverse[c, i] = (m[j, d] * m[k, e] - m[j, e] * m[k, d]) / det
    return det


@njit(cache=True, nogil=True, error_model="numpy")
def shorten(rows, change):
    """Reduce a basis in place to its shortest vectors, shortest first (Semaev, LNCS 2146, 181, 2001).

    `change` (3, 3) is filled with the integers that make the new rows from the old ones. Returns False where the rows
    span no lattice.
    """
    change[:] = 0.0
    for i in range(3):
        change[i, i] = 1.0
    for _ in range(200):
        for i in (0, 1, 0):
            if (rows[i] ** 2).sum() > (rows[i + 1] ** 2).sum():
                for c in range(3):
                    rows[i, c], rows[i + 1, c] = rows[i + 1, c], rows[i, c]
                    change[i, c], change[i + 1, c] = change[i + 1, c], change[i, c]
        n0, n1, n2 = (rows[0] ** 2).sum(), (rows[1] ** 2).sum(), (rows[2] ** 2).sum()
        g01 = (rows[0] * rows[1]).sum()
        if not n0 > 0:
            return False
        k = np.rint(g01 / n0)
        if k != 0:
            rows[1] -= k * rows[0]
            change[1] -= k * change[0]
            continue
        g02, g12 = (rows[0] * rows[2]).sum(), (rows[1] * rows[2]).sum()
        area = n0 * n1 - g01 * g01
        if not area > 1e-12 * n0 * n1:
            return False
        x0, y0 = np.rint((g02 * n1 - g12 * g01) / area), np.rint((g12 * n0 - g02 * g01) / area)
        best, bx, by = n2 * (1 - 1e-12), 0.0, 0.0
        for dx in range(-1, 2):
            for dy in range(-1, 2):
                x, y = x0 + dx, y0 + dy
                size = n2 - 2 * x * g02 - 2 * y * g12 + x * x * n0 + 2 * x * y * g01 + y * y * n1
                if size < best:
                    best, bx, by = size, x, y
        if bx == 0 and by == 0:
            return True
        rows[2] -= bx * rows[0] + by * rows[1]
        change[2] -= bx * change[0] + by * change[1]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def same_lattice(first, second, tolerance):
    """Whether two bases are of one lattice: each row of one is a sum of rows of the other, within `tolerance`."""
    inverse = np.empty((3, 3))
    if invert(second, inverse) == 0:
        return False
    steps = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            value = first[i, 0] * inverse[0, j] + first[i, 1] * inverse[1, j] + first[i, 2] * inverse[2, j]
            steps[i, j] = np.rint(value)
            if abs(value - steps[i, j]) > tolerance:
                return False
    return abs(determinant(steps)) == 1
