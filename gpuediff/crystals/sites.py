"""Which atoms a structure has, and whether they can be there at all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from gpuediff.errors import InvalidStructure

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure

OCCUPANCY_TOLERANCE = 1e-3  # a third written as 0.3334 three times is a full site
CLOSEST_APPROACH = 0.5  # Å; the shortest bond there is, H-H, measures 0.74 Å


def checked_structure(structure: Structure) -> Structure:
    """Copy a structure with nothing but neutral elements on its sites, and make sure that it is possible.

    Oxidation states, spins and labels are dropped, deuterium and tritium become hydrogen, sites without any occupancy
    disappear, and occupancies that exceed 1 by rounding are scaled back. The sites come in pymatgen's order, by
    electronegativity.

    Raises
    ------
    InvalidStructure
        If there is no atom, a species is not an element, the occupancies of a site add up to more than
        1 + `OCCUPANCY_TOLERANCE`, the cell is flat, or two atoms are closer than `CLOSEST_APPROACH`.
    """
    from pymatgen.core import Element, Lattice, Structure

    elements, positions = [], []
    for number, site in enumerate(structure, start=1):
        content = _elements_of(site.species, number)
        if content:
            elements.append({Element.from_Z(atomic_number): share for atomic_number, share in content.items()})
            positions.append(site.frac_coords)
    if not elements:
        raise InvalidStructure("there are no atoms")
    lattice, fractional = np.array(structure.lattice.matrix), np.array(positions)
    _check_distances(lattice, fractional)
    # At the edge of its tolerance spglib's answer depends on the order of the sites; this is the order in which
    # pymatgen, and with it the Materials Project, asks.
    return Structure(Lattice(lattice), elements, fractional).get_sorted_structure()


def _elements_of(species: Composition, number: int) -> dict[int, float]:
    """Sum up the occupancies of a site by atomic number."""
    from pymatgen.core import DummySpecies

    content: dict[int, float] = {}
    for kind, share in species.items():
        if isinstance(kind, DummySpecies):
            raise InvalidStructure(f"site {number}: {kind.symbol!r} is not an element")
        if not (math.isfinite(share) and share >= -1e-6):
            raise InvalidStructure(f"site {number}: the occupancy of {kind} is {share:g}")
        if share > 1e-6:
            content[kind.Z] = content.get(kind.Z, 0.0) + float(share)
    total = sum(content.values())
    if total > 1 + OCCUPANCY_TOLERANCE:
        names = ", ".join(str(kind) for kind in species)
        raise InvalidStructure(f"site {number} ({names}): the occupancies add up to {total:.4g}, more than 1")
    if total > 1:
        content = {atomic_number: share / total for atomic_number, share in content.items()}
    return content


def _check_distances(lattice: np.ndarray, fractional: np.ndarray) -> None:
    """Refuse atoms that overlap, whether in one cell or across its faces."""
    if not (np.isfinite(lattice).all() and np.isfinite(fractional).all()):
        raise InvalidStructure("a lattice vector or a position is not a finite number")
    volume = abs(np.linalg.det(lattice))
    if not volume > 0:
        raise InvalidStructure("the volume of the cell is not positive")
    # Every lattice vector is at least as long as the least distance between opposite faces, so a cell that is thick
    # enough keeps each atom away from its own images, and the images of others are at most one cell away.
    thickness = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    if thickness.min() < CLOSEST_APPROACH:
        raise InvalidStructure(f"the cell is only {thickness.min():.3g} Å thick: its atoms overlap their own images")
    points, origin = fractional - np.floor(fractional), np.arange(len(fractional))
    for axis, margin in enumerate(CLOSEST_APPROACH / thickness):
        step = np.eye(3)[axis]
        low, high = points[:, axis] <= margin, points[:, axis] >= 1 - margin
        points = np.concatenate([points, points[low] + step, points[high] - step])
        origin = np.concatenate([origin, origin[low], origin[high]])
    cartesian = points @ lattice
    pairs = cKDTree(cartesian).query_pairs(CLOSEST_APPROACH, output_type="ndarray")
    if len(pairs):
        # The pair with the least distance, and of several the first, names the fault.
        distances = np.linalg.norm(cartesian[pairs[:, 0]] - cartesian[pairs[:, 1]], axis=1)
        closest = np.argmin(distances)
        first, second = sorted(int(origin[index]) + 1 for index in pairs[closest])
        raise InvalidStructure(
            f"sites {first} and {second} are {distances[closest]:.3f} Å apart, less than {CLOSEST_APPROACH} Å"
        )
