"""One crystal structure, as the diffraction code and the labels need it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuediff.crystals.symmetry import crystal_system, laue_class
from gpuediff.settings import CrystalSystem


@dataclass(frozen=True, eq=False)
class Crystal:
    """A crystal: a primitive cell to simulate, and the labels of its conventional cell.

    All crystals share one Cartesian frame, so that zone axes can be shared within a Laue class: conventional c along z,
    conventional a in the xz plane with x > 0, conventional b with y > 0 (hexagonal: a along x; monoclinic: the unique
    axis b along y). Nothing is checked here; `gpuediff.crystals.labels.from_structure` makes crystals that are right.

    Parameters
    ----------
    material_id : str
        Unique within a source.
    formula : str
        Reduced formula.
    lattice : array, shape (3, 3), float64
        Rows a, b, c of a primitive cell, right-handed, Å.
    atomic_numbers : array, shape (atoms,), int64
        A mixed site appears once for each element on it.
    positions : array, shape (atoms, 3), float64
        Fractional coordinates in `lattice`.
    occupancies : array, shape (atoms,), float64
        Above 0, at most 1.
    space_group_number : int
        1 .. 230.
    conventional : array, shape (6,), float64
        a, b, c (Å), alpha, beta, gamma (degrees) of the conventional standard cell.
    source : str
        Where the structure was read, e.g. "prototypes" or "table mp_icsd.csv.gz".
    checksum : str
        SHA-256 of the structure's source text, hexadecimal.
    """

    material_id: str
    formula: str
    lattice: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray
    occupancies: np.ndarray
    space_group_number: int
    conventional: np.ndarray
    source: str
    checksum: str

    @property
    def crystal_system(self) -> CrystalSystem:
        """Crystal system of the space group."""
        return crystal_system(self.space_group_number)

    @property
    def laue_class(self) -> str:
        """Laue class of the space group, one of `gpuediff.crystals.symmetry.LAUE_CLASSES`."""
        return laue_class(self.space_group_number)

    @property
    def volume(self) -> float:
        """Volume of the primitive cell, Å³."""
        return float(np.linalg.det(self.lattice))

    @property
    def conventional_volume(self) -> float:
        """Volume of the conventional cell, Å³."""
        return float(np.linalg.det(cell_vectors(self.conventional)))

    @property
    def reciprocal(self) -> np.ndarray:
        """Rows a*, b*, c* of the primitive cell, shape (3, 3), Å⁻¹ (1/d, no 2π)."""
        return np.linalg.inv(self.lattice).T


def cell_vectors(parameters: np.ndarray) -> np.ndarray:
    """Put a cell into the Cartesian frame that all crystals share.

    Parameters
    ----------
    parameters : array, shape (6,)
        a, b, c (Å), alpha, beta, gamma (degrees).

    Returns
    -------
    array, shape (3, 3), float64
        Rows a, b, c in Å: c along z, a in the xz plane with x > 0, b with y > 0.
    """
    a, b, c = parameters[:3]
    # 90 and 120 degrees must give exact zeros and halves, or a cube would not be one.
    cos_alpha, cos_beta, cos_gamma = np.round(np.cos(np.radians(parameters[3:])), 15)
    sin_beta = np.sqrt(1 - cos_beta**2)
    b_x = (cos_gamma - cos_alpha * cos_beta) / sin_beta
    b_y = np.sqrt(1 - cos_alpha**2 - b_x**2)
    return np.array(
        [
            [a * sin_beta, 0.0, a * cos_beta],
            [b * b_x, b * b_y, b * cos_alpha],
            [0.0, 0.0, c],
        ]
    )
