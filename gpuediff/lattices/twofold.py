"""Two-fold axes of lattices, and how surely each is one.

A two-fold axis is a lattice vector t = [uvw] that is perpendicular to a lattice plane (hkl) with u h + v k + w l = 1 or
2 (Y. Le Page, J. Appl. Cryst. 15, 255, 1982). The angle δ between t and the normal of the plane is zero then; a
measured lattice has a small one. The axes and their δ tell the holohedry: none in a triclinic lattice, 1 in a
monoclinic one, 3 in an orthorhombic or rhombohedral, 5 in a tetragonal, 7 in a hexagonal, 9 in a cubic.

In a reduced cell only 81 pairs can be axes, those whose rotation has entries -1, 0, 1 (A. A. Lebedev et al., Acta
Cryst. D 62, 83, 2006), so they are listed once. That t is along the normal says that its scalar product with two
vectors of the plane vanishes: two linear conditions on the metric, and so a chi-squared without approximation.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from gpuediff.lattices.basis import invert
from gpuediff.lattices.reduction import PAIRS, checked, metric_covariances, metrics


def _list_pairs() -> tuple[np.ndarray, np.ndarray]:
    """List the [uvw], first index not 0 positive, and the (hkl) of all two-fold rotations with entries -1, 0, 1."""
    indices = np.array([v for v in itertools.product((2, 1, 0, -1, -2), repeat=3) if math.gcd(*v) == 1])
    half = indices[[tuple(v) > (0, 0, 0) for v in indices]]
    half = half[np.lexsort((np.arange(len(half)), (half**2).sum(axis=1)))]
    products = half @ indices.T
    rotations = 2 * half[:, None, :, None] * indices[None, :, None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        rotations = rotations / products[:, :, None, None] - np.eye(3)
        integer = (np.abs(rotations) <= 1) & (rotations == np.rint(rotations))
    axis, plane = np.nonzero(np.isin(products, (1, 2)) & integer.all(axis=(2, 3)))
    return half[axis], indices[plane]


def _list_conditions() -> np.ndarray:
    """List the two rows for each pair whose product with a metric is p·t for two vectors p of the plane."""
    vectors = np.array(list(itertools.product((0, 1, -1, 2, -2), repeat=3)))
    conditions = np.zeros((len(AXES), 2, 6))
    for n, (axis, plane) in enumerate(zip(AXES, PLANES, strict=True)):
        within = vectors[vectors @ plane == 0]
        within = within[np.argsort((within**2).sum(axis=1), kind="stable")][1:]
        second = next(v for v in within if np.cross(within[0], v).any())
        for m, vector in enumerate((within[0], second)):
            for k, (i, j) in enumerate(PAIRS):
                conditions[n, m, k] = vector[i] * axis[j] + (vector[j] * axis[i] if i != j else 0)
    return conditions


AXES, PLANES = _list_pairs()  # (81, 3) int64, [uvw] rising in u² + v² + w²
ROTATIONS = 2 * AXES[:, :, None] * PLANES[:, None, :] // (AXES * PLANES).sum(axis=1)[:, None, None] - np.eye(
    3, dtype=int
)
CONDITIONS = _list_conditions()  # (81, 2, 6): CONDITIONS[n] @ metric is zero where pair n is an axis
_DIRECTION = np.concatenate([[0], np.cumsum(np.any(np.diff(AXES, axis=0) != 0, axis=1))])  # which of the [uvw]
DIRECTIONS = int(_DIRECTION[-1]) + 1  # 37: a [uvw] can be paired with several planes
_EQUAL = 1e-6  # degrees, and a part of a length


@dataclass(frozen=True, eq=False)
class TwoFoldAxes:
    """The k likeliest two-fold axes of each lattice, those of smallest δ first, of equal δ the shortest first.

    Parameters
    ----------
    delta : array, shape (n, k), float64
        Angle between [uvw] and the normal of (hkl), degrees; of the planes for one [uvw] the best is taken.
    direction : array, shape (n, k, 3), float64
        Unit vectors along [uvw], in the frame of the basis.
    length : array, shape (n, k), float64
        Of [uvw], Å.
    deviation : array, shape (n, k), float64
        δ in its standard uncertainty, by its own direction: the square is a chi-squared of 2 degrees of freedom where
        the lattice has the axis. NaN where no covariance was given, or it is not positive definite.
    pair : array, shape (n, k), int64
        Where [uvw] and (hkl) stand in `AXES` and `PLANES`; -1, and NaN above, where the basis spans no lattice.
    """

    delta: np.ndarray
    direction: np.ndarray
    length: np.ndarray
    deviation: np.ndarray
    pair: np.ndarray


def twofold_axes(basis: np.ndarray, covariance: np.ndarray | None = None, *, k: int = 14) -> TwoFoldAxes:
    """Find the two-fold axes of lattices.

    Parameters
    ----------
    basis : array, shape (n, 3, 3)
        Rows of reduced cells, Å (`gpuediff.lattices.reduction.reduced`). In other cells axes are overlooked.
    covariance : array, shape (n, 9, 9) or (n, 6, 6), optional
        Of the entries of the basis (a_x, a_y, a_z, b_x, ...), Å², or of the metric, Å⁴.
    k : int, optional
        How many axes are returned, at most 37.

    Returns
    -------
    TwoFoldAxes

    Raises
    ------
    ValueError
        If a shape is wrong, or k out of range.
    """
    rows = checked("basis", basis, (3, 3))
    if not 1 <= k <= DIRECTIONS:
        raise ValueError(f"k = {k}: at least 1 and at most {DIRECTIONS} axes can be asked for")
    n = len(rows)
    if covariance is None:
        spread = np.full((n, 6, 6), np.nan)
    elif np.shape(covariance)[1:] == (9, 9):
        spread = metric_covariances(rows, covariance)
    else:
        spread = checked("covariance", covariance, (6, 6), n)
    found = TwoFoldAxes(
        np.empty((n, k)), np.empty((n, k, 3)), np.empty((n, k)), np.empty((n, k)), np.empty((n, k), np.int64)
    )
    _find(rows, metrics(rows), spread, found.delta, found.direction, found.length, found.deviation, found.pair)
    return found


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _find(basis, metric, covariance, delta, direction, length, deviation, pair):
    for n in prange(len(basis)):
        _find_with_deviations(
            basis[n], metric[n], covariance[n], delta[n], direction[n], length[n], deviation[n], pair[n]
        )


@njit(cache=True, nogil=True, error_model="numpy")
def _find_with_deviations(rows, metric, covariance, delta, direction, length, deviation, pair):
    if _find_in_one(rows, delta, direction, length, pair):
        for m in range(len(delta)):
            deviation[m] = math.sqrt(chi_squared(CONDITIONS[pair[m]], metric, covariance))
    else:
        delta[:], direction[:], length[:], deviation[:], pair[:] = np.nan, np.nan, np.nan, np.nan, -1


@njit(cache=True, nogil=True, error_model="numpy")
def _find_in_one(rows, delta, direction, length, pair):
    inverse = np.empty((3, 3))
    if not abs(invert(rows, inverse)) > 0:
        return False
    angles, best = np.full(DIRECTIONS, np.inf), np.empty(DIRECTIONS, np.int64)
    vectors, lengths = np.empty((DIRECTIONS, 3)), np.empty(DIRECTIONS)
    for n in range(len(AXES)):
        m = _DIRECTION[n]
        for c in range(3):
            vectors[m, c] = AXES[n, 0] * rows[0, c] + AXES[n, 1] * rows[1, c] + AXES[n, 2] * rows[2, c]
        x, y, z = vectors[m]
        r, s, t = inverse[0], inverse[1], inverse[2]
        h, k, l = PLANES[n]
        nx, ny, nz = h * r[0] + k * r[1] + l * r[2], h * s[0] + k * s[1] + l * s[2], h * t[0] + k * t[1] + l * t[2]
        # The arc cosine of the scalar product would lose half of the digits at small angles.
        sine = math.sqrt((y * nz - z * ny) ** 2 + (z * nx - x * nz) ** 2 + (x * ny - y * nx) ** 2)
        angle = math.degrees(math.atan2(sine, x * nx + y * ny + z * nz))
        lengths[m] = math.sqrt(x * x + y * y + z * z)
        if angle < angles[m]:
            angles[m], best[m] = angle, n
    # Rounded, so that the last digits do not decide the order of axes that are equal by symmetry.
    rounded = np.rint(angles / _EQUAL)
    kept = 0
    for m in range(DIRECTIONS):
        place = kept
        while place > 0:
            before = _DIRECTION[pair[place - 1]]
            if rounded[before] < rounded[m]:
                break
            if rounded[before] == rounded[m] and lengths[before] <= lengths[m] * (1 + _EQUAL):
                break
            if place < len(pair):
                pair[place] = pair[place - 1]
            place -= 1
        if place < len(pair):
            pair[place] = best[m]
            kept = min(kept + 1, len(pair))
    for n in range(len(pair)):
        m = _DIRECTION[pair[n]]
        delta[n], length[n] = angles[m], lengths[m]
        for c in range(3):
            direction[n, c] = vectors[m, c] / lengths[m]
    return np.isfinite(delta[-1])


@njit(cache=True, nogil=True, error_model="numpy")
def chi_squared(conditions, metric, covariance):
    """Return how far two linear conditions (2, 6) on a metric are from being met; NaN if the covariance is not one."""
    first = second = a = b = c = 0.0
    for k in range(6):
        first += conditions[0, k] * metric[k]
        second += conditions[1, k] * metric[k]
        x = y = 0.0
        for m in range(6):
            x += covariance[k, m] * conditions[0, m]
            y += covariance[k, m] * conditions[1, m]
        a += conditions[0, k] * x
        b += conditions[0, k] * y
        c += conditions[1, k] * y
    if not (a > 0 and a * c > b * b):
        return np.nan
    return first * first / a + (second - b / a * first) ** 2 / (c - b / a * b)
