"""Reduced cells, metrics and their covariances, and whether two measured lattices are one.

A metric is six numbers in the order of `PAIRS`: a·a, b·b, c·c, b·c, a·c, a·b, in Å². A change of basis acts on them
linearly, so that a covariance follows it exactly; everything that is said about measured lattices is said in metrics.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from gpuediff.lattices.basis import determinant, shorten

PAIRS = np.array([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)])
TOLERANCE = 1e-5  # of the squared mean edge: what differs by less is equal for the reduction
_FLAT = 1e-6  # volume over the product of the edges of a reduced cell; at least 0.7 for any three-dimensional lattice
_STEPS = 100  # the reduction of a cell that is already the shortest needs less than ten
_SHORT = np.array(
    [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    + [v for v in itertools.product((1, 0, -1), repeat=3) if sum(map(abs, v)) > 1 and v > (0, 0, 0)],
    dtype=np.int64,
)


@dataclass(frozen=True, eq=False)
class ReducedBases:
    """Reduced bases and how they came about.

    Parameters
    ----------
    basis : array, shape (n, 3, 3), float64
        Rows a, b, c in Å, in the orientation and of the handedness of what was reduced; NaN where it was no lattice.
    transformation : array, shape (n, 3, 3), int64
        `basis = transformation @ given`, determinant 1; 0 where it was no lattice.
    valid : array, shape (n,), bool
        False where the given rows are not finite, or span no three-dimensional lattice.
    """

    basis: np.ndarray
    transformation: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True, eq=False)
class Equivalences:
    """How well the second lattices match the first.

    Parameters
    ----------
    transformation : array, shape (n, 3, 3), int64
        Rows of the second lattice's basis that match those of the first, determinant 1; 0 where none do.
    misfit : array, shape (n,), float64
        Strain between the lattices: the Frobenius norm of the Green-Lagrange strain that takes the first to the
        transformed second; infinite where it is above the tolerance for every transformation.
    """

    transformation: np.ndarray
    misfit: np.ndarray


def reduced(basis: np.ndarray, *, tolerance: float = TOLERANCE) -> ReducedBases:
    """Reduce bases to the Niggli cell.

    Minkowski reduction first, which cannot fail to end, then the conditions that make the cell unique (I. Krivy and
    B. Gruber, Acta Cryst. A 32, 297, 1976) with a tolerance as R. Grosse-Kunstleve et al., Acta Cryst. A 60, 1, 2004.
    The edges are the shortest ones within the tolerance whether or not the latter agree with each other.

    Parameters
    ----------
    basis : array, shape (n, 3, 3)
        Rows a, b, c in Å.
    tolerance : float, optional
        Two squared lengths or scalar products are equal within this part of the squared mean edge V^(2/3).

    Returns
    -------
    ReducedBases

    Raises
    ------
    ValueError
        If `basis` has another shape. Rows that span no lattice are no error: they are marked.
    """
    given = checked("basis", basis, (3, 3))
    result = ReducedBases(np.empty_like(given), np.empty(given.shape, np.int64), np.empty(len(given), np.bool_))
    _reduce(given, float(tolerance), result.basis, result.transformation, result.valid)
    return result


def metrics(basis: np.ndarray) -> np.ndarray:
    """Return the metrics of bases (n, 3, 3), Å: array of shape (n, 6), Å², in the order of `PAIRS`."""
    rows = checked("basis", basis, (3, 3))
    return np.einsum("nki,nki->nk", rows[:, PAIRS[:, 0]], rows[:, PAIRS[:, 1]])


def bases_of(metric: np.ndarray) -> np.ndarray:
    """Return rows of bases, lower triangular, that have these metrics, (n, 6): array of shape (n, 3, 3), float64.

    NaN where a metric is not positive definite.
    """
    given = checked("metric", metric, (6,))
    rows = np.empty((len(given), 3, 3))
    _factor_all(given, rows)
    return rows


def metric_covariances(basis: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Carry covariances of bases over to their metrics, to first order.

    Parameters
    ----------
    basis : array, shape (n, 3, 3)
        Rows a, b, c in Å.
    covariance : array, shape (n, 9, 9)
        Of the entries a_x, a_y, a_z, b_x, ..., in Å².

    Returns
    -------
    array, shape (n, 6, 6), float64
        In Å⁴.

    Raises
    ------
    ValueError
        If a shape is another.
    """
    rows = checked("basis", basis, (3, 3))
    spread = checked("covariance", covariance, (9, 9), len(rows))
    slope = np.zeros((len(rows), 6, 3, 3))
    for k, (i, j) in enumerate(PAIRS):
        slope[:, k, i] += rows[:, j]
        slope[:, k, j] += rows[:, i]
    flat = slope.reshape(-1, 6, 9)
    return flat @ spread @ flat.transpose(0, 2, 1)


def metric_changes(transformation: np.ndarray) -> np.ndarray:
    """Return what changes of basis do to metrics.

    Parameters
    ----------
    transformation : array, shape (n, 3, 3)
        New rows in terms of the old ones.

    Returns
    -------
    array, shape (n, 6, 6), float64
        S with `new = S @ old` for metrics, and `S @ covariance @ S.T` for their covariances.
    """
    rows = checked("transformation", transformation, (3, 3))
    changes = np.empty((len(rows), 6, 6))
    for n in range(len(rows)):
        metric_change(rows[n], changes[n])
    return changes


def equivalent(metric_1: np.ndarray, metric_2: np.ndarray, tolerance: float) -> Equivalences:
    """Match the second lattices with the first, both given in cells that are reduced or nearly so.

    Every basis of the second whose vectors have indices -1, 0, 1 is tried: enough to go from one cell of shortest
    edges to any other (B. Gruber, Acta Cryst. A 29, 433, 1973). A metric does not tell a lattice from its mirror image.

    Parameters
    ----------
    metric_1, metric_2 : array, shape (n, 6), or one of them (6,)
        In Å², in the order of `PAIRS`.
    tolerance : float
        The largest strain (`Equivalences.misfit`) between equivalent lattices, 0 to 0.5.

    Returns
    -------
    Equivalences

    Raises
    ------
    ValueError
        If the shapes do not fit each other, or the tolerance is out of range.
    """
    if not 0 <= tolerance < 0.5:
        raise ValueError(f"tolerance = {tolerance:g}: a strain between lattices must be >= 0 and < 0.5")
    shapes = [np.shape(metric) for metric in (metric_1, metric_2)]
    n = max((shape[0] for shape in shapes if len(shape) == 2), default=1)
    both = [
        checked(name, np.broadcast_to(metric, (n, 6)) if np.shape(metric) == (6,) else metric, (6,), n)
        for name, metric in (("metric_1", metric_1), ("metric_2", metric_2))
    ]
    result = Equivalences(np.empty((n, 3, 3), np.int64), np.empty(n))
    _match(both[0], both[1], float(tolerance), _SHORT, result.transformation, result.misfit)
    return result


def checked(name: str, values: np.ndarray, shape: tuple[int, ...], length: int | None = None) -> np.ndarray:
    """Return an argument as float64 in C order, or raise ValueError if it is not n times `shape`."""
    array = np.ascontiguousarray(values, dtype=np.float64)
    wanted = ", ".join(["n" if length is None else str(length), *map(str, shape)])
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or length not in (None, len(array)):
        raise ValueError(f"{name} has the shape {array.shape}: it must have the shape ({wanted})")
    return array


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _reduce(given, tolerance, basis, transformation, valid):
    for n in prange(len(given)):
        valid[n] = _reduce_one(given[n], tolerance, basis[n], transformation[n])


@njit(cache=True, nogil=True, error_model="numpy")
def _reduce_one(given, tolerance, rows, transformation):
    rows[:] = given
    change = np.empty((3, 3))
    valid = reduce_rows(rows, change, tolerance)
    for i in range(3):
        for j in range(3):
            transformation[i, j] = int(change[i, j]) if valid else 0
    if not valid:
        rows[:] = np.nan
    return valid


@njit(cache=True, nogil=True, error_model="numpy")
def reduce_rows(rows, change, tolerance):
    """Reduce one basis in place, and fill `change` with its transformation; return False if it spans no lattice."""
    if not shorten(rows, change):
        return False
    edges = 1.0
    for i in range(3):
        edges *= math.sqrt(rows[i, 0] ** 2 + rows[i, 1] ** 2 + rows[i, 2] ** 2)
    volume = abs(determinant(rows))
    if not volume > _FLAT * edges or not np.isfinite(volume):
        return False
    _make_unique(rows, change, tolerance * volume ** (2 / 3))
    if determinant(change) < 0:
        rows *= -1.0
        change *= -1.0
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _make_unique(rows, change, equal):
    """Go on from shortest edges to the Niggli cell; the names are those of Krivy and Gruber."""
    for _ in range(_STEPS):
        aa, bb, cc = _dot(rows, 0, 0), _dot(rows, 1, 1), _dot(rows, 2, 2)
        xi, eta, zeta = 2 * _dot(rows, 1, 2), 2 * _dot(rows, 0, 2), 2 * _dot(rows, 0, 1)
        if aa > bb + equal or (abs(aa - bb) <= equal and abs(xi) > abs(eta) + equal):
            _swap(rows, change, 0)
            continue
        if bb > cc + equal or (abs(bb - cc) <= equal and abs(eta) > abs(zeta) + equal):
            _swap(rows, change, 1)
            continue
        _make_signs_equal(rows, change, equal)
        xi, eta, zeta = 2 * _dot(rows, 1, 2), 2 * _dot(rows, 0, 2), 2 * _dot(rows, 0, 1)
        if _exceeds(xi, bb, eta, zeta, equal):
            _add(rows, change, 2, 1, -np.sign(xi))
        elif _exceeds(eta, aa, xi, zeta, equal):
            _add(rows, change, 2, 0, -np.sign(eta))
        elif _exceeds(zeta, aa, xi, eta, equal):
            _add(rows, change, 1, 0, -np.sign(zeta))
        else:
            total = xi + eta + zeta + aa + bb
            if not (total < -equal or (abs(total) <= equal and 2 * (aa + eta) + zeta > equal)):
                return
            _add(rows, change, 2, 0, 1.0)
            _add(rows, change, 2, 1, 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _exceeds(product, edge, second, third, equal):
    """Whether twice a scalar product is beyond the edge, or on it with the other two on the wrong side."""
    if abs(product) > edge + equal:
        return True
    if abs(product - edge) <= equal:
        return 2 * second < third - equal
    return abs(product + edge) <= equal and third < -equal


@njit(cache=True, nogil=True, error_model="numpy")
def _make_signs_equal(rows, change, equal):
    """Make all angles acute, or none."""
    negative, zero = 0, -1
    signs = np.ones(3)
    for k in range(3):
        product = _dot(rows, (k + 1) % 3, (k + 2) % 3)
        if abs(2 * product) <= equal:
            signs[k], zero = 0.0, k
        elif product < 0:
            signs[k] = -1.0
            negative += 1
    acute = zero < 0 and negative % 2 == 0
    # Vector k turns round where its own product has to keep its sign while the other two change theirs.
    for k in range(3):
        signs[k] = 1.0 if (signs[k] > 0 if acute else signs[k] <= 0) else -1.0
    if signs[0] * signs[1] * signs[2] < 0:
        signs[zero] *= -1.0  # without an angle of 90° the number of changes is even
    for k in range(3):
        if signs[k] < 0:
            rows[k] *= -1.0
            change[k] *= -1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _dot(rows, i, j):
    return rows[i, 0] * rows[j, 0] + rows[i, 1] * rows[j, 1] + rows[i, 2] * rows[j, 2]


@njit(cache=True, nogil=True, error_model="numpy")
def _swap(rows, change, i):
    for c in range(3):
        rows[i, c], rows[i + 1, c] = rows[i + 1, c], rows[i, c]
        change[i, c], change[i + 1, c] = change[i + 1, c], change[i, c]


@njit(cache=True, nogil=True, error_model="numpy")
def _add(rows, change, to, what, times):
    for c in range(3):
        rows[to, c] += times * rows[what, c]
        change[to, c] += times * change[what, c]


@njit(cache=True, nogil=True, error_model="numpy")
def metric_change(rows, change):
    """Fill `change` (6, 6), which makes a metric that of the new vectors `rows` (3, 3)."""
    for k in range(6):
        i, j = PAIRS[k]
        for m in range(6):
            p, q = PAIRS[m]
            change[k, m] = rows[i, p] * rows[j, q]
            if p != q:
                change[k, m] += rows[i, q] * rows[j, p]


@njit(cache=True, nogil=True, error_model="numpy")
def factor(metric, lower):
    """Fill `lower` with the Cholesky factor of a metric, rows of a basis that has it; False where there is none."""
    lower[:] = 0.0
    lower[0, 0] = math.sqrt(metric[0])
    lower[1, 0], lower[2, 0] = metric[5] / lower[0, 0], metric[4] / lower[0, 0]
    lower[1, 1] = math.sqrt(metric[1] - lower[1, 0] ** 2)
    lower[2, 1] = (metric[3] - lower[2, 0] * lower[1, 0]) / lower[1, 1]
    lower[2, 2] = math.sqrt(metric[2] - lower[2, 0] ** 2 - lower[2, 1] ** 2)
    return lower[2, 2] > 0 and np.isfinite(lower[2, 2])


@njit(cache=True, nogil=True, error_model="numpy")
def _factor_all(metric, rows):
    for n in range(len(metric)):
        if not factor(metric[n], rows[n]):
            rows[n, :] = np.nan


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _match(first, second, tolerance, short, transformation, misfit):
    for n in prange(len(first)):
        misfit[n] = _match_one(first[n], second[n], tolerance, short, transformation[n])


@njit(cache=True, nogil=True, error_model="numpy")
def _match_one(first, second, tolerance, short, best_rows):
    best_rows[:] = 0
    best = np.inf
    lower = np.empty((3, 3))
    if not factor(first, lower):
        return best
    number = len(short)
    products = np.empty((number, number))
    for m in range(number):
        x, y, z = short[m]
        u = x * second[0] + y * second[5] + z * second[4]
        v = x * second[5] + y * second[1] + z * second[3]
        w = x * second[4] + y * second[3] + z * second[2]
        for k in range(m + 1):
            products[m, k] = products[k, m] = u * short[k, 0] + v * short[k, 1] + w * short[k, 2]
    # No component u·E·v of a strain is larger than its norm times |u| |v|. The slack is for rounding.
    most = 2 * tolerance + 1e-12
    room_bc = most * math.sqrt(first[1] * first[2])
    room_ac = most * math.sqrt(first[0] * first[2])
    room_ab = most * math.sqrt(first[0] * first[1])
    difference = np.empty((3, 3))
    for i in range(number):
        difference[0, 0] = products[i, i] - first[0]
        if not abs(difference[0, 0]) <= most * first[0]:
            continue
        for j in range(number):
            difference[1, 1] = products[j, j] - first[1]
            if not abs(difference[1, 1]) <= most * first[1]:
                continue
            for k in range(number):
                difference[2, 2] = products[k, k] - first[2]
                if not abs(difference[2, 2]) <= most * first[2]:
                    continue
                det = (
                    short[i, 0] * (short[j, 1] * short[k, 2] - short[j, 2] * short[k, 1])
                    - short[i, 1] * (short[j, 0] * short[k, 2] - short[j, 2] * short[k, 0])
                    + short[i, 2] * (short[j, 0] * short[k, 1] - short[j, 1] * short[k, 0])
                )
                if abs(det) != 1:
                    continue
                for signs in range(4):
                    s, t = 1 - 2 * (signs & 1), 1 - (signs & 2)
                    bc = s * t * products[j, k] - first[3]
                    ac = t * products[i, k] - first[4]
                    ab = s * products[i, j] - first[5]
                    if not (abs(bc) <= room_bc and abs(ac) <= room_ac and abs(ab) <= room_ab):
                        continue
                    difference[1, 2] = difference[2, 1] = bc
                    difference[0, 2] = difference[2, 0] = ac
                    difference[0, 1] = difference[1, 0] = ab
                    strain = _strain(difference, lower)
                    # Of matrices that differ by a symmetry of the lattice the first is kept, whatever the rounding.
                    if strain <= tolerance + 1e-12 and strain < best - 1e-9:
                        best = strain
                        right = det * s * t
                        for c in range(3):
                            best_rows[0, c] = right * short[i, c]
                            best_rows[1, c] = right * s * short[j, c]
                            best_rows[2, c] = right * t * short[k, c]
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def _strain(difference, lower):
    """Frobenius norm of half the difference of two metrics, in the Cartesian frame of the first."""
    half, whole = np.empty((3, 3)), np.empty((3, 3))
    for c in range(3):
        for i in range(3):
            value = difference[i, c]
            for k in range(i):
                value -= lower[i, k] * half[k, c]
            half[i, c] = value / lower[i, i]
    total = 0.0
    for i in range(3):
        for c in range(3):
            value = half[i, c]
            for k in range(c):
                value -= lower[c, k] * whole[i, k]
            whole[i, c] = value / lower[c, c]
            total += whole[i, c] ** 2
    return 0.5 * math.sqrt(total)
