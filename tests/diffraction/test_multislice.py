"""Bloch waves against multislice, another method by another program: `tests/oracle/multislice`."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuediff.crystals.crystal import Crystal
from gpuediff.diffraction.beams import Beams, excitation_errors
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.propagation import propagate
from gpuediff.diffraction.simulate import reflections_of
from gpuediff.settings import Simulation

REFERENCE = Path(__file__).parents[1] / "oracle" / "multislice" / "reference.h5"
TOLERANCE = {  # with beams up to 4 Å⁻¹; that the difference falls with their number is in the README of the reference
    "Au": 2e-3,
    "SrTiO3": 6e-4,
    "chiral": 5e-4,
    "diamond, three-dimensional": 8e-4,
    "chiral, three-dimensional": 1.4e-3,
}
EXCITATION_ERROR_MAX = 0.3  # Å⁻¹, where the potential is three-dimensional


def largest_difference(name, g_max):
    with h5py.File(REFERENCE) as file:
        group = file[name]
        cell, projected = group.attrs["cell"], group.attrs["projected"]
        crystal = Crystal(
            material_id=name,
            formula=name,
            lattice=np.diag(cell),
            atomic_numbers=group["atomic_numbers"][()],
            positions=group["positions"][()],
            occupancies=np.ones(len(group["positions"])),
            space_group_number=1,
            conventional=np.array([*cell, 90, 90, 90]),
            source="multislice reference",
            checksum="",
        )
        energy, displacement = float(file.attrs["beam_energy"]), float(file.attrs["displacement"])
        thicknesses, hk, expected = (group[field][()] for field in ("thicknesses", "hk", "intensity"))
    settings = Simulation(beam_energy=energy, form_factors="lobato", displacement=displacement, g_max=g_max)
    reflections = reflections_of(crystal, settings)
    against_the_beam = np.array([[0.0, 0, -1]])
    errors = excitation_errors(reflections.g, against_the_beam, wavelength(energy))[0]
    near = reflections.hkl[:, 2] == 0 if projected else np.abs(errors) <= EXCITATION_ERROR_MAX
    beams = Beams(np.flatnonzero(near), errors[near], np.array([0, near.sum()]))
    intensity = propagate(reflections, beams, wavelength(energy), thicknesses, np.dtype("float64"))
    ours = dict.fromkeys(map(tuple, hk.tolist()), 0.0)
    for column, (h, k, _) in enumerate(reflections.hkl[near].tolist()):  # Laue zones above each other are one spot
        ours[h, k] = ours.get((h, k), 0.0) + intensity[:, column]
    computed = np.stack([np.broadcast_to(ours[tuple(spot)], len(thicknesses)) for spot in hk.tolist()], axis=1)
    return float(np.abs(computed - expected).max())


@pytest.mark.parametrize("name", TOLERANCE)
def test_intensities_are_those_of_multislice(name):
    assert largest_difference(name, 4.0) < TOLERANCE[name]


def test_the_difference_falls_with_the_number_of_beams():
    assert largest_difference("SrTiO3", 3.0) > 5 * largest_difference("SrTiO3", 4.0)
