"""The settings in which reduced cells are of one of the 14 Bravais types.

They come from the sets of two-fold axes that are closed under multiplication and that are all axes of the metrics that
have them: a holohedry in one setting, and by the index of its axes one Bravais type. A set fixes a linear space of
metrics, and rows of a conventional basis up to what only lengths can decide.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from gpuediff.lattices.reduction import metric_changes
from gpuediff.lattices.twofold import AXES, CONDITIONS, PLANES, ROTATIONS

TYPES = ("aP", "mP", "mC", "oP", "oC", "oI", "oF", "tP", "tI", "hR", "hP", "cP", "cI", "cF")  # Pearson's symbols
_COUNTS = {"triclinic": 1, "monoclinic": 2, "orthorhombic": 4, "tetragonal": 2}
_COUNTS |= {"rhombohedral": 1, "hexagonal": 1, "cubic": 3}
SYSTEMS = tuple(system for system, types in _COUNTS.items() for _ in range(types))  # of lattices
# The free numbers of a conventional metric, and where they go: aa, bb, cc, bc, ac, ab.
_FREE_OF = {
    "triclinic": np.eye(6),
    "monoclinic": np.eye(6)[[0, 1, 2, 4]],
    "orthorhombic": np.eye(6)[:3],
    "tetragonal": np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]),
    "hexagonal": np.array([[1, 1, 0, 0, 0, -0.5], [0, 0, 1, 0, 0, 0]]),
    "cubic": np.array([[1, 1, 1, 0, 0, 0]]),
}
_FREE_OF["rhombohedral"] = _FREE_OF["hexagonal"]
# What is zero in it.
_ZERO = {
    "triclinic": np.zeros((0, 6)),
    "monoclinic": np.eye(6)[[3, 5]],
    "orthorhombic": np.eye(6)[3:],
    "tetragonal": np.vstack([[1, -1, 0, 0, 0, 0], np.eye(6)[3:]]),
    "hexagonal": np.vstack([[1, -1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 2], np.eye(6)[[3, 4]]]),
    "cubic": np.vstack([[1, -1, 0, 0, 0, 0], [0, 1, -1, 0, 0, 0], np.eye(6)[3:]]),
}
_ZERO["rhombohedral"] = _ZERO["hexagonal"]
DEGREES_OF_FREEDOM = np.array([len(_ZERO[system]) for system in SYSTEMS])  # of the chi-squared of each type
FREE = np.zeros((len(TYPES), 6, 6))
for _t, _system in enumerate(SYSTEMS):
    FREE[_t, :, : len(_FREE_OF[_system])] = _FREE_OF[_system].T


@dataclass(frozen=True, eq=False)
class Holohedries:
    """The ways in which a reduced cell can be a lattice of a Bravais type, those of one type together.

    Parameters
    ----------
    first : array, shape (15,), int64
        The settings of type t are `first[t]` to `first[t + 1] - 1`.
    conventional : array, shape (m, 3, 3), float64
        Rows of a conventional basis in the reduced one, right-handed.
    axes : array, shape (m, 9), int64
        The two-fold axes, as they stand in `twofold.AXES`, filled up with -1.
    conditions : array, shape (m, 5, 6), float64
        What has to be zero: the first rows times the metric of the reduced cell, as many as the type has conditions.
    free : array, shape (m, 6, 6), float64
        The metric of the reduced cell, from the free numbers of the conventional metric, which have the first columns.
    """

    first: np.ndarray
    conventional: np.ndarray
    axes: np.ndarray
    conditions: np.ndarray
    free: np.ndarray


@cache
def holohedries() -> Holohedries:
    """List the settings of all types; takes a fraction of a second at the first call."""
    found: list[list[tuple[np.ndarray, list[int]]]] = [[] for _ in TYPES]
    found[0].append((np.eye(3), []))
    for axes in _sets_of_axes():
        name, rows = _conventional_basis(axes)
        found[TYPES.index(name)].append((rows, axes))
    first = np.cumsum([0, *map(len, found)])
    every = list(itertools.chain(*found))
    conventional = np.array([rows for rows, _ in every], dtype=np.float64)
    conditions, free = np.zeros((len(every), 5, 6)), np.zeros((len(every), 6, 6))
    there, back = metric_changes(conventional), metric_changes(np.linalg.inv(conventional))
    for t, system in enumerate(SYSTEMS):
        of_type = slice(first[t], first[t + 1])
        conditions[of_type, : len(_ZERO[system])] = _ZERO[system] @ there[of_type]
        free[of_type, :, : len(_FREE_OF[system])] = back[of_type] @ _FREE_OF[system].T
    padded = np.array([axes + [-1] * (9 - len(axes)) for _, axes in every])
    return Holohedries(first, conventional, padded, conditions, free)


def _sets_of_axes() -> list[list[int]]:
    """List the sets of two-fold axes that are all those of some lattice."""
    products = ROTATIONS[:, None] @ ROTATIONS[None]
    place = {rotation.tobytes(): n for n, rotation in enumerate(ROTATIONS)}
    product = [[place.get(p.tobytes(), -1) for p in row] for row in products]
    turned = [[place.get(p.tobytes(), -1) for p in row] for row in products @ ROTATIONS[:, None]]

    def closed(axes: frozenset[int]) -> frozenset[int] | None:
        """Add all products and conjugates that are two-fold; None where an axis would not be among the 81."""
        known, new = set(axes), list(axes)
        while new:
            i = new.pop()
            for j in list(known):
                for n in (turned[i][j], turned[j][i], product[i][j]):
                    if n not in known and n >= 0:
                        known.add(n)
                        new.append(n)
                if turned[i][j] < 0 or turned[j][i] < 0 or len(known) > 9:
                    return None
        return frozenset(known)

    single = [frozenset([n]) for n in range(len(AXES))]
    sets, frontier = set(single), single
    while frontier:
        larger = {closed(axes | {n}) for axes in frontier for n in range(len(AXES)) if n not in axes}
        frontier = [axes for axes in larger if axes is not None and axes not in sets]
        sets.update(frontier)
    holohedries = set()
    for axes in sets:
        _, values, vectors = np.linalg.svd(CONDITIONS[sorted(axes)].reshape(-1, 6))
        free = vectors[(values > 1e-9).sum() :]
        holohedries.add(tuple(np.flatnonzero(np.abs(CONDITIONS @ free.T).max(axis=(1, 2)) < 1e-9).tolist()))
    return [list(axes) for axes in sorted(holohedries) if len(axes) != 2]  # 2: the third axis is not among the 81


def _conventional_basis(axes: list[int]) -> tuple[str, np.ndarray]:
    """Name the type of a set of axes, and find rows of a conventional basis, as far as the set alone fixes it."""
    vectors, rotations = AXES[axes], ROTATIONS[axes]
    if len(axes) == 1:
        return _monoclinic_basis(vectors[0], PLANES[axes[0]])
    commute = np.array([[np.array_equal(v @ w, w @ v) for w in rotations] for v in rotations])
    partners = commute.sum(axis=1) - 1
    if len(axes) == 9 or (len(axes) == 3 and partners[0] == 2):
        rows = vectors[partners == partners.max()]
        return _right_angled_basis(rows, "c" if len(axes) == 9 else "o")
    if len(axes) == 5:
        main = vectors[partners == 4][0]
        pairs = [(v, w) for i, v in enumerate(vectors) for j, w in enumerate(vectors) if j > i and commute[i, j]]
        bases = [np.array([v, w, main]) for v, w in pairs if (v != main).any() and (w != main).any()]
        rows = min(bases, key=lambda basis: abs(_determinant(basis)))
        return ("tP" if abs(_determinant(rows)) == 1 else "tI"), rows * [[1], [1], [np.sign(_determinant(rows))]]
    return _hexagonal_basis(vectors, partners, rotations)


def _monoclinic_basis(axis: np.ndarray, plane: np.ndarray) -> tuple[str, np.ndarray]:
    """Take b along the axis and a, c in the plane, (a + b) / 2 being a lattice vector in a C-centred lattice."""
    vectors = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    within = vectors[vectors @ plane == 0]
    area = lambda v, w: int(np.cross(v, w) @ plane)  # noqa: E731
    a, c = next((v, w) for v in within for w in within if area(v, w) == -(plane @ plane))
    if axis @ plane == 1:
        return "mP", np.array([a, axis, c])
    a, c = next((v, w) for v, w in ((a, c), (c, -a), (a + c, c)) if not ((v + axis) % 2).any())
    return "mC", np.array([a, axis, c])


def _right_angled_basis(rows: np.ndarray, letter: str) -> tuple[str, np.ndarray]:
    """Sort out the centring of three axes at right angles."""
    rows = rows * [[1], [1], [np.sign(_determinant(rows))]]
    centring = {1: "P", 4: "F"}.get(abs(_determinant(rows)), "I")
    if centring == "I" and (rows.sum(axis=0) % 2).any():
        a, b, c = next(p for p in ((0, 1, 2), (1, 2, 0), (2, 0, 1)) if not ((rows[p[0]] + rows[p[1]]) % 2).any())
        return letter + "C", rows[[a, b, c]]
    return letter + centring, rows


def _hexagonal_basis(vectors: np.ndarray, partners: np.ndarray, rotations: np.ndarray) -> tuple[str, np.ndarray]:
    """Take a, b at 120° along two-fold axes and c along the six- or three-fold axis; R is obverse."""
    turn = next(v @ w for v in rotations for w in rotations if np.trace(v @ w) == 0)  # three-fold
    # The rows of (turn - 1) are perpendicular to what it leaves as it is.
    normals = [np.cross(v, w) for v, w in itertools.combinations(turn - np.eye(3, dtype=int), 2)]
    main = next(n // np.gcd.reduce(n) for n in normals if n.any())
    bases = [np.array([v, turn @ v, main]) for v in vectors[partners < 6]]
    rows = min(bases, key=lambda basis: abs(_determinant(basis)))
    rows = rows if _determinant(rows) > 0 else rows[[1, 0, 2]]
    if len(vectors) == 7:
        return "hP", rows
    return "hR", rows * [[-1], [-1], [1]] if ((2 * rows[0] + rows[1] + rows[2]) % 3).any() else rows


def _determinant(rows: np.ndarray) -> int:
    return int(np.cross(rows[0], rows[1]) @ rows[2])
