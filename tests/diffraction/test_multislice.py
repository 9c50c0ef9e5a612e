"""Bloch waves against multislice, another method by another program: `tests/oracle/multislice`."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from gpuediff.diffraction.simulate import simulate
from gpuediff.settings import Simulation
from tests.oracle import multislice

# g_max and tolerance. What is left at 6 Å⁻¹ is the thickness of the slices, at 5 Å⁻¹ the beams that are not taken.
PROJECTED = {"Au": (6.0, 5e-6), "SrTiO3": (6.0, 5e-6), "chiral": (5.0, 4e-5)}
# Beams up to 3 Å⁻¹ of the zero-order Laue zone alone: what the other zones do to them is the difference.
THREE_DIMENSIONAL = {"diamond, three-dimensional": 2e-4, "chiral, three-dimensional": 3e-3}
SHORTER = 20


def projected(crystal):
    """Shorten the period along the beam: the same potential per length without higher-order Laue zones."""
    lattice = crystal.lattice * [[1], [1], [1 / SHORTER]]
    return replace(crystal, lattice=lattice, occupancies=crystal.occupancies / SHORTER)


def intensities(reference, crystal, g_max, excitation_error_max):
    """Return what `simulate` gives for the reference's beams, shape (thicknesses, beams); 0 where there is none."""
    settings = Simulation(
        beam_energy=reference.beam_energy,
        g_max=g_max,
        excitation_error_max=excitation_error_max,
        displacement=reference.displacement,
        form_factors="lobato",
        thicknesses=reference.thicknesses,
        intensity_min=0.0,
        precision="float64",
    )
    patterns = simulate(crystal, multislice.ORIENTATION[None], settings)
    place = {tuple(hkl): column for column, hkl in enumerate(patterns.hkl.tolist())}
    ours = np.zeros_like(reference.intensity)
    for column, (h, k) in enumerate(reference.hk.tolist()):
        if (h, k, 0) in place:
            ours[:, column] = patterns.intensity[:, place[h, k, 0]]
    return ours


@pytest.mark.parametrize("name", PROJECTED)
def test_a_projected_potential_gives_the_intensities_of_multislice(name):
    reference = multislice.load(name)
    g_max, tolerance = PROJECTED[name]
    ours = intensities(reference, projected(reference.crystal), g_max, 0.5)
    np.testing.assert_allclose(ours, reference.intensity, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", THREE_DIMENSIONAL)
def test_a_crystal_as_it_is_gives_the_intensities_of_multislice_up_to_higher_laue_zones(name):
    reference = multislice.load(name)
    ours = intensities(reference, reference.crystal, 3.0, 0.2)
    np.testing.assert_allclose(ours, reference.intensity, rtol=0, atol=THREE_DIMENSIONAL[name])


def test_the_more_beams_the_less_is_the_difference():
    reference = multislice.load("Au")
    by_beams = [
        np.abs(intensities(reference, projected(reference.crystal), g_max, 0.5) - reference.intensity).max()
        for g_max in (3.0, 4.0, 5.0, 6.0)
    ]
    assert all(more < less / 5 for less, more in pairwise(by_beams))


def test_multislice_tells_the_sense_of_the_phase():
    reference = multislice.load("chiral")
    inverted = replace(projected(reference.crystal), positions=-reference.crystal.positions)
    assert np.abs(intensities(reference, inverted, 4.0, 0.5) - reference.intensity).max() > 0.05
