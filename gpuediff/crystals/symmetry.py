"""What a space group number says about a crystal: its system, its Laue class and its free lattice parameters.

Everything refers to the conventional standard cell (Setyawan & Curtarolo 2010, as in pymatgen; monoclinic with
unique axis b, trigonal on hexagonal axes) in one Cartesian frame: c along z, a in the xz plane with x > 0, b with
y > 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import cache

import numpy as np

from gpuediff.errors import InvalidStructure
from gpuediff.settings import CRYSTAL_SYSTEMS, CrystalSystem

LATTICE_PARAMETERS = ("a", "b", "c", "alpha", "beta", "gamma")

# The last space group number of each crystal system, and of each Laue class (International Tables A, table 2.1.1.1).
_LAST_OF_SYSTEM = (2, 15, 74, 142, 167, 194, 230)
_LAUE_CLASSES = (
    (2, "-1"),
    (15, "2/m"),
    (74, "mmm"),
    (88, "4/m"),
    (142, "4/mmm"),
    (148, "-3"),
    (167, "-3m1"),
    (176, "6/m"),
    (194, "6/mmm"),
    (206, "m-3"),
    (230, "m-3m"),
)
# Two-fold axes between the hexagonal a axes instead of along them: P312, P3_112, P3_212, P31m, P31c, P-31m, P-31c.
_TWOFOLD_BETWEEN_AXES = frozenset({149, 151, 153, 157, 159, 162, 163})

LAUE_CLASSES = ("-1", "2/m", "mmm", "4/m", "4/mmm", "-3", "-3m1", "-31m", "6/m", "6/mmm", "m-3", "m-3m")

# Generators of the proper rotations: (order, axis) in the Cartesian frame.
_GENERATORS: dict[str, tuple[tuple[int, tuple[int, int, int]], ...]] = {
    "-1": (),
    "2/m": ((2, (0, 1, 0)),),
    "mmm": ((2, (0, 0, 1)), (2, (1, 0, 0))),
    "4/m": ((4, (0, 0, 1)),),
    "4/mmm": ((4, (0, 0, 1)), (2, (1, 0, 0))),
    "-3": ((3, (0, 0, 1)),),
    "-3m1": ((3, (0, 0, 1)), (2, (1, 0, 0))),
    "-31m": ((3, (0, 0, 1)), (2, (0, 1, 0))),
    "6/m": ((6, (0, 0, 1)),),
    "6/mmm": ((6, (0, 0, 1)), (2, (1, 0, 0))),
    "m-3": ((2, (0, 0, 1)), (3, (1, 1, 1))),
    "m-3m": ((4, (0, 0, 1)), (3, (1, 1, 1))),
}

# The parameters that a crystal system leaves free.
_INDEPENDENT: dict[CrystalSystem, tuple[str, ...]] = {
    "triclinic": LATTICE_PARAMETERS,
    "monoclinic": ("a", "b", "c", "beta"),
    "orthorhombic": ("a", "b", "c"),
    "tetragonal": ("a", "c"),
    "trigonal": ("a", "c"),
    "hexagonal": ("a", "c"),
    "cubic": ("a",),
}


def crystal_system(space_group_number: int) -> CrystalSystem:
    """Name the crystal system of a space group.

    Parameters
    ----------
    space_group_number : int
        1 .. 230, of International Tables A.

    Raises
    ------
    InvalidStructure
        If the number is not between 1 and 230.
    """
    _check_number(space_group_number)
    return CRYSTAL_SYSTEMS[bisect_left(_LAST_OF_SYSTEM, space_group_number)]


def laue_class(space_group_number: int) -> str:
    """Name the Laue class of a space group; -3m is told apart by its setting, "-3m1" or "-31m".

    Raises
    ------
    InvalidStructure
        If the number is not between 1 and 230.
    """
    _check_number(space_group_number)
    if space_group_number in _TWOFOLD_BETWEEN_AXES:
        return "-31m"
    return next(name for last, name in _LAUE_CLASSES if space_group_number <= last)


def laue_rotations(laue_class: str) -> np.ndarray:
    """Give the proper rotations of a Laue group.

    A Laue group is its proper rotations and the same times the inversion; directions that the inversion relates have
    the same set of reflections.

    Parameters
    ----------
    laue_class : str
        One of `LAUE_CLASSES`.

    Returns
    -------
    array, shape (k, 3, 3), float64, read-only
        Matrices that act on column vectors in the Cartesian frame of the module; the identity is the first.

    Raises
    ------
    InvalidStructure
        If there is no such Laue class.
    """
    if laue_class not in _GENERATORS:
        raise InvalidStructure(f"Laue class {laue_class!r}: expected one of {', '.join(LAUE_CLASSES)}")
    return _closed_group(laue_class)


def independent_parameters(crystal_system: str) -> tuple[str, ...]:
    """Name the lattice parameters that the crystal system leaves free, in the order of `LATTICE_PARAMETERS`.

    Raises
    ------
    InvalidStructure
        If there is no such crystal system.
    """
    for system, parameters in _INDEPENDENT.items():
        if system == crystal_system:
            return parameters
    raise InvalidStructure(f"crystal system {crystal_system!r}: expected one of {', '.join(CRYSTAL_SYSTEMS)}")


def complete_lattice(crystal_system: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Complete the six lattice parameters from the independent ones.

    Parameters
    ----------
    crystal_system : str
        One of `gpuediff.settings.CRYSTAL_SYSTEMS`.
    values : mapping of str to array, shape (n,)
        The parameters of `independent_parameters(crystal_system)`: lengths in Å, angles in degrees.

    Returns
    -------
    array, shape (n, 6), floating dtype of the values
        a, b, c (Å), alpha, beta, gamma (degrees) of n conventional cells.

    Raises
    ------
    InvalidStructure
        If a parameter is missing, is not free in this system, or the shapes differ.
    """
    needed = independent_parameters(crystal_system)
    if set(values) != set(needed):
        raise InvalidStructure(f"{crystal_system} lattice: expected {', '.join(needed)}, got {', '.join(values)}")
    columns = {name: np.asarray(values[name]) for name in needed}
    shapes = {column.shape for column in columns.values()}
    if len(shapes) != 1 or columns["a"].ndim != 1:
        raise InvalidStructure(f"{crystal_system} lattice: expected flat arrays of one length, got shapes {shapes}")
    dtype = np.result_type(np.float32, *columns.values())
    lattice = np.full((len(columns["a"]), 6), 90.0, dtype=dtype)
    lattice[:, 1] = lattice[:, 2] = columns["a"]
    if crystal_system in ("trigonal", "hexagonal"):
        lattice[:, 5] = 120.0
    for name, column in columns.items():
        lattice[:, LATTICE_PARAMETERS.index(name)] = column
    return lattice


def short_symbol(space_group_number: int) -> str:
    """Return the short Hermann-Mauguin symbol in the standard setting, as spglib writes it: Fm-3m, P2_1/c.

    Raises
    ------
    InvalidStructure
        If the number is not in 1 .. 230.
    """
    _check_number(space_group_number)
    return _short_symbols()[space_group_number]


@cache
def _short_symbols() -> dict[int, str]:
    import spglib

    kinds = [spglib.get_spacegroup_type(hall) for hall in range(1, 531)]
    # the standard setting of a space group comes first
    return {kind.number: kind.international_short for kind in reversed(kinds) if kind is not None}


def _check_number(space_group_number: int) -> None:
    if not 1 <= space_group_number <= 230:
        raise InvalidStructure(f"space group number {space_group_number}: expected 1 .. 230")


@cache
def _closed_group(laue_class: str) -> np.ndarray:
    """Multiply the generators until nothing new appears."""
    generators = [_rotation(order, axis) for order, axis in _GENERATORS[laue_class]]
    group = [np.eye(3)]
    for member in group:  # grows while it is walked through
        for generator in generators:
            product = generator @ member
            if not any(np.allclose(product, known, atol=1e-9) for known in group):
                group.append(product)
    rotations = np.array(group)
    rotations.flags.writeable = False  # shared by every caller
    return rotations


def _rotation(order: int, axis: tuple[int, int, int]) -> np.ndarray:
    """Rotation by 360°/order about an axis (Rodrigues), with exact zeros where they belong."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = 2 * np.pi / order
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[np.abs(matrix) < 1e-12] = 0.0
    return matrix
