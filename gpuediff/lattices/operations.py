"""Symmetry operations of the holohedries, as what they do to the indices of reflections.

By them intensities are compared (`gpuediff.lattices.merging`); indices are those of the conventional cells.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from gpuediff.settings import CrystalSystem


class Operation(NamedTuple):
    """A class of rotations: `name`, and one or more of them, as the indices of the reflection that they make of hkl.

    All rotations that those of the holohedry turn these into belong to the class.
    """

    name: str
    makes: tuple[str, ...]


# A hexagonal lattice is also that of trigonal crystals, of which one pattern can be laid upon another in two ways.
_HEXAGONAL = (
    Operation("3z", ("k,-h-k,l",)),
    Operation("2_100", ("h,-h-k,-l",)),
    Operation("2_120", ("-k,-h,-l",)),
    Operation("6z", ("-h,-k,l", "h+k,-h,l")),  # all that trigonal crystals have not
)
OPERATIONS: dict[CrystalSystem, tuple[Operation, ...]] = {
    "triclinic": (),
    "monoclinic": (Operation("2y", ("-h,k,-l",)),),
    "orthorhombic": (Operation("2x", ("h,-k,-l",)), Operation("2y", ("-h,k,-l",)), Operation("2z", ("-h,-k,l",))),
    "tetragonal": (
        Operation("2z", ("-h,-k,l",)),
        Operation("4z", ("k,-h,l",)),
        Operation("2_100", ("h,-k,-l",)),
        Operation("2_110", ("k,h,-l",)),
    ),
    "trigonal": _HEXAGONAL,
    "hexagonal": _HEXAGONAL,
    "cubic": (
        Operation("2z", ("-h,-k,l",)),
        Operation("3_111", ("k,l,h",)),
        Operation("4z", ("k,-h,l", "k,h,-l")),  # all that the class m-3 has not
    ),
}


class Tables(NamedTuple):
    """Rotations of the holohedries of s systems, and what operation each is; operations are counted per system."""

    turns: np.ndarray  # (s,) rotations of each system
    rotations: np.ndarray  # (s, 24, 3, 3) int64; a row of indices times one of them is a row again
    operation: np.ndarray  # (s, 24) int64; -1 for the identity and what has no name
    relative: np.ndarray  # (s, 24, 24) int64; operation that takes the second rotation to the first
    width: np.ndarray  # (s,) operations of each system
    twin: np.ndarray  # (s,) earlier system of the same operations, -1 where there is none


@cache
def tables_of(systems: tuple[CrystalSystem, ...]) -> Tables:
    """Write out the holohedries of some systems."""
    s = len(systems)
    turns, width = np.zeros(s, np.int64), np.array([len(OPERATIONS[system]) for system in systems], dtype=np.int64)
    rotations = np.zeros((s, 24, 3, 3), np.int64)
    operation, relative, twin = np.full((s, 24), -1), np.full((s, 24, 24), -1), np.full(s, -1)
    for k, system in enumerate(systems):
        twin[k] = next((t for t in range(k) if OPERATIONS[systems[t]] == OPERATIONS[system]), -1)
        group = holohedry(system)
        place = {rotation.tobytes(): i for i, rotation in enumerate(group)}
        inverse = [np.rint(np.linalg.inv(rotation)).astype(np.int64) for rotation in group]
        turns[k], rotations[k, : len(group)] = len(group), group
        for number, of in enumerate(OPERATIONS[system]):
            for turn in map(_rotation, of.makes):
                for rotation, back in zip(group, inverse, strict=True):
                    operation[k, place[(back @ turn @ rotation).tobytes()]] = number
        for i, first in enumerate(group):
            for j, back in enumerate(inverse):
                relative[k, i, j] = operation[k, place[(back @ first).tobytes()]]
    return Tables(turns, rotations, operation, relative, width, twin)


def holohedry(system: CrystalSystem) -> np.ndarray:
    """Return the rotations by which patterns of a system are laid upon each other.

    Returns
    -------
    array, shape (rotations, 3, 3), int64
        A row hkl times one of them is the row of the reflection that it makes of hkl; the identity is the first.
    """
    generators = [_rotation(makes) for operation in OPERATIONS[system] for makes in operation.makes]
    group = [np.eye(3, dtype=np.int64)]
    for member in group:  # grows while it is walked through
        for generator in generators:
            product = member @ generator
            if not any(np.array_equal(product, known) for known in group):
                group.append(product)
    return np.array(group)


def _rotation(makes: str) -> np.ndarray:
    """Read indices such as "h+k,-h,l" as a matrix that makes them of a row hkl."""
    matrix = np.zeros((3, 3), np.int64)
    for column, index in enumerate(makes.split(",")):
        sign = 1
        for letter in index:
            if letter in "+-":
                sign = 1 if letter == "+" else -1
            else:
                matrix["hkl".index(letter), column] = sign
    return matrix
