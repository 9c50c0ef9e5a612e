"""A library of real simulations, small."""

import numpy as np
import pytest

from gpuediff.crystals.sources import read_crystals
from gpuediff.diffraction.orientations import orientations_for
from gpuediff.diffraction.simulate import simulate
from gpuediff.errors import InvalidLibrary, InvalidPeaks
from gpuediff.library import shards, writer
from gpuediff.library.reader import Library
from gpuediff.library.shards import expected_peaks
from gpuediff.library.writer import build_library, simulate_crystal
from gpuediff.settings import Structures
from tests.host_shim import shim
from tests.kernels.implementations import HOST_SHIM, host_shim_as_gpu
from tests.library import fakes

SIMULATE = simulate_crystal  # before the folder's conftest puts a fake in its place
RUN = fakes.a_run(thicknesses=(50.0, 200.0), patterns=4, g_max=1.5)


@pytest.fixture(scope="module")
def crystals():
    taken, _ = read_crystals(Structures(sample=4))
    return taken


@pytest.fixture
def path(tmp_path, monkeypatch, crystals):
    monkeypatch.setattr(writer, "simulate_crystal", SIMULATE)
    build_library(tmp_path / "library.h5", RUN, crystals)
    return tmp_path / "library.h5"


def test_a_library_gives_back_what_the_simulation_gave(path, crystals):
    with Library(path) as library:
        assert library.materials.material_id.tolist() == [crystal.material_id for crystal in crystals]
        for index, crystal in enumerate(crystals):
            orientations = orientations_for(crystal, RUN.simulation.orientations)
            patterns = simulate(crystal, orientations, RUN.simulation)
            of_crystal = np.flatnonzero(library.material_of_pattern == index)
            np.testing.assert_array_equal(library.orientation[of_crystal], orientations)
            for row, thickness in enumerate(library.thicknesses):
                got, wanted = library.peaks(thickness, of_crystal), patterns.at(row)
                for name in ("qx", "qy", "intensity", "offsets"):
                    np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))


def test_every_stored_pattern_holds_its_direct_beam_and_no_more_than_the_incident_intensity(path):
    with Library(path) as library:
        for thickness in library.thicknesses:
            for qx, qy, intensity in library.peaks(thickness):
                assert (np.hypot(qx, qy) < 1e-6).sum() == 1
                assert 0 < intensity.sum() <= 1 + 1e-5  # absorption takes some, nothing adds any


def test_shards_are_planned_for_no_fewer_peaks_than_there_are(path, crystals):
    with Library(path) as library:
        for index, crystal in enumerate(crystals):
            mean = library.peak_counts[library.material_of_pattern == index].mean()
            assert mean < 1.6 * expected_peaks(crystal, RUN.simulation)  # four zone axes of high symmetry scatter


def test_a_library_holds_the_same_however_a_crystal_is_divided(path, crystals, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    build_library(tmp_path / "divided.h5", RUN, crystals)
    with Library(path) as whole, Library(tmp_path / "divided.h5") as divided:
        np.testing.assert_array_equal(divided.material_of_pattern, whole.material_of_pattern)
        np.testing.assert_array_equal(divided.orientation, whole.orientation)
        for name in ("qx", "qy", "intensity", "offsets"):
            np.testing.assert_array_equal(getattr(divided.peaks(200.0), name), getattr(whole.peaks(200.0), name))


def test_a_crystal_that_fails_in_some_orientations_only_stops_the_build(crystals, tmp_path, monkeypatch):
    def failing(crystal, settings, orientations, **_memory):
        if crystal is crystals[0] and orientations.start == 2:
            raise InvalidPeaks("fails in the third orientation")
        return SIMULATE(crystal, settings, orientations)

    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    monkeypatch.setattr(writer, "simulate_crystal", failing)
    with pytest.raises(InvalidLibrary, match="could be simulated in some orientations, and not in all"):
        build_library(tmp_path / "library.h5", RUN, crystals[:2])


@pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")
def test_a_library_simulated_by_the_kernels_holds_the_same_but_for_rounding(crystals, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "simulate_crystal", SIMULATE)
    run = fakes.a_run(thicknesses=(100.0,), patterns=2, g_max=0.7)
    chosen = sorted(crystals, key=lambda crystal: crystal.volume)[:2]
    build_library(tmp_path / "cpu.h5", run, chosen)
    with host_shim_as_gpu():
        build_library(tmp_path / "gpu.h5", run, chosen, device=HOST_SHIM)
    with Library(tmp_path / "cpu.h5") as first, Library(tmp_path / "gpu.h5") as second:
        assert first.identity == second.identity
        np.testing.assert_array_equal(first.orientation, second.orientation)
        for ours, theirs in zip(first.peaks(100.0), second.peaks(100.0), strict=True):
            strong = [np.sort(pattern[2][pattern[2] > 1e-5]) for pattern in (ours, theirs)]
            np.testing.assert_allclose(*strong, rtol=0, atol=5e-6)
        assert "device" not in first.info()["versions"]
        assert second.info()["versions"]["device"] == HOST_SHIM.name
