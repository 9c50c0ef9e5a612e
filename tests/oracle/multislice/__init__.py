"""Intensities computed by multislice with abTEM, read by `load`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from gpuediff.crystals.crystal import Crystal

PATH = Path(__file__).with_name("reference.h5")
PROJECTED = ("Au", "SrTiO3", "chiral")
THREE_DIMENSIONAL = ("diamond, three-dimensional", "chiral, three-dimensional")
# The electrons travel along +c, those of gpuediff along -e_z: rows e_x, e_y, e_z, with a along x and b along y.
ORIENTATION = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Reference:
    """One crystal with an orthogonal cell, seen along c."""

    crystal: Crystal
    beam_energy: float  # eV
    displacement: float  # Å
    thicknesses: tuple[float, ...]  # Å
    hk: np.ndarray  # (beams, 2) int16
    intensity: np.ndarray  # (thicknesses, beams) float64, fraction of the incident beam


def load(name: str) -> Reference:
    """Read the reference of one of `PROJECTED` or `THREE_DIMENSIONAL`."""
    with h5py.File(PATH) as file:
        group = file[name]
        cell, numbers = group.attrs["cell"], group["atomic_numbers"][()]
        crystal = Crystal(
            material_id=name,
            formula=name,
            lattice=np.diag(cell),
            atomic_numbers=numbers,
            positions=group["positions"][()],
            occupancies=np.ones(len(numbers)),
            space_group_number=1,
            conventional=np.array([*cell, 90.0, 90.0, 90.0]),
            source="multislice reference",
            checksum="",
        )
        return Reference(
            crystal=crystal,
            beam_energy=float(file.attrs["beam_energy"]),
            displacement=float(file.attrs["displacement"]),
            thicknesses=tuple(group["thicknesses"][()].tolist()),
            hk=group["hk"][()],
            intensity=group["intensity"][()],
        )
