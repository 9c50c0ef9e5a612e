"""From a structure as somebody wrote it down to a `Crystal`: symmetry, labels, and the shared Cartesian frame.

Space group and conventional standard cell are those of pymatgen's `SpacegroupAnalyzer` (spglib underneath), as in the
Materials Project. The atoms are those of spglib's standardized cell, turned by a proper rotation only: pymatgen's own
conventional structure may be the mirror image, which would make P4_3 of P4_1.
"""

from __future__ import annotations

import math
import os
from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuediff.crystals.crystal import Crystal, cell_vectors
from gpuediff.crystals.sites import checked_structure
from gpuediff.crystals.symmetry import (
    LATTICE_PARAMETERS,
    complete_lattice,
    crystal_system,
    independent_parameters,
    laue_class,
    laue_rotations,
)
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Structures

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Rows of a primitive basis in that of spglib's standardized cell, by centring letter; R is obverse, hexagonal axes.
_PRIMITIVE = {
    "P": np.eye(3),
    "A": np.array([[1, 0, 0], [0, 1, -1], [0, 1, 1]]) / [[1], [2], [2]],
    "C": np.array([[1, -1, 0], [1, 1, 0], [0, 0, 1]]) / [[2], [2], [1]],
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}
# How far a length (Å) or angle (degrees) of pymatgen's cell may be from that of the same vectors in spglib's cell:
# pymatgen takes lengths that differ by less than 0.001 Å for one.
_LENGTH_TOLERANCE = 2e-3
_ANGLE_TOLERANCE = 0.05
_COMBINATIONS = np.array(list(product(range(-3, 4), repeat=3)))


def from_structure(
    structure: Structure, *, material_id: str, settings: Structures | None = None, source: str = "", checksum: str = ""
) -> Crystal:
    """Make a crystal of a structure.

    Parameters
    ----------
    structure : pymatgen.core.Structure
        Any cell of the crystal; oxidation states and partial occupancies are welcome.
    material_id : str
        Name of the crystal in its source.
    settings : Structures, optional
        Tolerances of the symmetry search, and which volumes and crystal systems are taken.
    source, checksum : str
        Where the structure was read, and the SHA-256 of its text.

    Returns
    -------
    Crystal
        With a Niggli-reduced primitive cell. Atoms are at their idealized positions, within `settings.symprec` of the
        given ones. The labels of a monoclinic cell whose beta is 90° by accident, in which pymatgen finds no unique
        axis, are those of spglib's cell.

    Raises
    ------
    InvalidStructure
        If the structure is impossible (see `gpuediff.crystals.sites`), has no symmetry that spglib finds, or is left
        out by `settings.volume_max` or `settings.crystal_systems`; the message is the reason.
    """
    settings = settings or Structures()
    structure = checked_structure(structure)
    _check_size(structure, settings.volume_max)
    dataset, conventional = _symmetry(structure, settings)
    number = int(dataset.number)
    system = crystal_system(number)
    if system not in settings.crystal_systems:
        raise InvalidStructure(f"left out: crystal system {system} (space group {number})")
    setting, conventional = _setting(dataset, conventional)
    frame = cell_vectors(conventional)
    if (volume := np.linalg.det(frame)) > settings.volume_max:
        raise InvalidStructure(f"left out: conventional cell of {volume:.0f} Å³, above {settings.volume_max:g} Å³")

    primitive, atoms = _primitive_cell(dataset)
    positions = dataset.std_positions[atoms] @ np.linalg.inv(primitive)
    positions -= np.floor(positions + 1e-9)  # a coordinate just below 0 stays there, instead of becoming almost 1
    # A mixed site becomes one atom for each element on it.
    species = _species_of_standard_atoms(dataset, structure)
    contents = [
        (site, element.Z, share) for site, atom in enumerate(atoms) for element, share in species[int(atom)].items()
    ]
    return Crystal(
        material_id=material_id,
        formula=structure.composition.reduced_formula,
        lattice=primitive @ np.linalg.inv(setting) @ frame,
        atomic_numbers=np.array([atomic_number for _, atomic_number, _ in contents], dtype=np.int64),
        positions=positions[[site for site, _, _ in contents]],
        occupancies=np.array([share for _, _, share in contents], dtype=np.float64),
        space_group_number=number,
        conventional=conventional,
        source=source,
        checksum=checksum,
    )


def _check_size(structure: Structure, volume_max: float) -> None:
    """Leave out what is certainly too large before its symmetry is searched, which takes long for large cells.

    A cell holds n primitive cells only if n divides the number of sites of every kind.
    """
    counts: dict[Any, int] = {}
    for site in structure:
        counts[site.species] = counts.get(site.species, 0) + 1
    primitive = structure.volume / reduce(math.gcd, counts.values())
    if primitive > 1.1 * volume_max:  # idealized cells have slightly other volumes
        raise InvalidStructure(f"left out: primitive cell of at least {primitive:.0f} Å³, above {volume_max:g} Å³")


def _symmetry(structure: Structure, settings: Structures) -> tuple[Any, np.ndarray]:
    """Return spglib's dataset, and a, b, c, alpha, beta, gamma of pymatgen's conventional standard cell."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    # Unless the user wants them: spglib's library writes its retries straight to the terminal, over any progress bar.
    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    try:
        analyzer = SpacegroupAnalyzer(structure, settings.symprec, settings.angle_tolerance)
        dataset = analyzer.get_symmetry_dataset()
        lattice = analyzer.get_conventional_standard_structure().lattice
    except Exception as error:  # spglib and pymatgen give up in many ways; all mean the same for the structure
        raise InvalidStructure(f"its symmetry cannot be determined: {error}") from error
    return dataset, _exact(crystal_system(int(dataset.number)), np.array(lattice.parameters))


def _exact(system: str, parameters: np.ndarray) -> np.ndarray:
    """Make parameters that the system ties together equal to the last digit."""
    free = independent_parameters(system)
    return complete_lattice(system, {name: parameters[None, LATTICE_PARAMETERS.index(name)] for name in free})[0]


def _setting(dataset: Any, conventional: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the conventional basis in the lattice of spglib's standardized cell.

    Returns
    -------
    setting : array, shape (3, 3)
        Rows a, b, c of the conventional cell in spglib's basis: whole numbers, determinant +1.
    conventional : array, shape (6,)
        Parameters of that cell.
    """
    import spglib

    number = int(dataset.number)
    standard = np.array(dataset.std_lattice)
    operations: Any = spglib.get_symmetry_from_database(dataset.hall_number)
    point_group = standard.T @ operations["rotations"] @ np.linalg.inv(standard.T)
    allowed = laue_rotations(laue_class(number))
    given = _exact(crystal_system(number), _parameters(standard))
    for parameters in (conventional, given):
        frame = cell_vectors(parameters)
        for setting in _bases(standard, parameters):
            # Column vectors of spglib's Cartesian frame turn into ours by `turn`.
            turn = (np.linalg.inv(setting @ standard) @ frame).T
            turned = turn @ point_group @ np.linalg.inv(turn)
            proper = turned * np.sign(np.linalg.det(turned))[:, None, None]
            distance = np.abs(proper[:, None] - allowed).max(axis=(2, 3)).min(axis=1)
            if distance.max() < 0.05:  # two operations of a point group differ by 0.5 at least
                return setting, parameters
    raise InvalidStructure(f"its axes cannot be brought into the standard setting of space group {number}")


def _bases(standard: np.ndarray, parameters: np.ndarray) -> list[np.ndarray]:
    """List right-handed bases of a lattice that have the given parameters, the least change of basis first."""
    vectors = _COMBINATIONS @ standard
    lengths = np.linalg.norm(vectors, axis=1)
    rows = [np.flatnonzero(np.abs(lengths - length) < _LENGTH_TOLERANCE) for length in parameters[:3]]
    choices = np.stack(np.meshgrid(*rows, indexing="ij"), axis=-1).reshape(-1, 3)
    settings = _COMBINATIONS[choices].astype(float)
    units = vectors[choices] / lengths[choices][..., None]
    pairs = np.einsum("npi,npi->np", units[:, [1, 2, 0]], units[:, [2, 0, 1]])
    angles = np.degrees(np.arccos(np.clip(pairs, -1, 1)))
    deviation = np.abs(angles - parameters[3:]).max(axis=1, initial=0)
    fits = (deviation < _ANGLE_TOLERANCE) & (np.linalg.det(settings) > 0.5)
    deviation += np.abs(lengths[choices] - parameters[:3]).max(axis=1, initial=0)
    # Rounding keeps noise in the last digits from deciding among equivalent bases.
    ranked = sorted(
        zip(np.round(deviation[fits], 5), -np.trace(settings[fits], axis1=1, axis2=2), settings[fits], strict=True),
        key=lambda entry: (entry[0], entry[1], tuple(entry[2].ravel())),
    )
    return [setting for _, _, setting in ranked if abs(np.linalg.det(setting) - 1) < 1e-6]


def _parameters(lattice: np.ndarray) -> np.ndarray:
    """Return a, b, c (Å), alpha, beta, gamma (degrees) of three rows."""
    lengths = np.linalg.norm(lattice, axis=1)
    units = lattice / lengths[:, None]
    cosines = [units[1] @ units[2], units[2] @ units[0], units[0] @ units[1]]
    return np.concatenate([lengths, np.degrees(np.arccos(cosines))])


def _primitive_cell(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Reduce spglib's standardized cell to a primitive one.

    Returns
    -------
    primitive : array, shape (3, 3)
        Rows of a Niggli-reduced, right-handed basis, in the basis of the standardized cell.
    atoms : array, shape (atoms,), int
        Indices of standardized atoms, one for each atom of the primitive cell.
    """
    import spglib

    centred = _PRIMITIVE[dataset.international[0]]
    standard = np.array(dataset.std_lattice)
    reduced = spglib.niggli_reduce(centred @ standard)
    if reduced is None:
        raise InvalidStructure("its primitive cell cannot be reduced (Niggli)")
    change = np.round(reduced @ np.linalg.inv(centred @ standard))
    primitive = change @ centred * np.sign(np.linalg.det(change))
    _, atoms = np.unique(dataset.std_mapping_to_primitive, return_index=True)
    expected = len(dataset.std_types) * np.linalg.det(primitive)
    if abs(len(atoms) - expected) > 1e-6:
        raise InvalidStructure(f"its primitive cell has {len(atoms)} sites where its centring wants {expected:g}")
    return primitive, atoms


def _species_of_standard_atoms(dataset: Any, structure: Structure) -> list[Any]:
    """Find what is on each site of the standardized cell, by way of the primitive cell both map to."""
    given = {int(primitive): structure[site].species for site, primitive in enumerate(dataset.mapping_to_primitive)}
    return [given[int(primitive)] for primitive in dataset.std_mapping_to_primitive]
