import numba
import numpy as np
import pytest

from gpuediff.crystals.sources import read_crystals
from gpuediff.crystals.symmetry import laue_rotations
from gpuediff.diffraction import precession
from gpuediff.diffraction import simulate as simulation
from gpuediff.diffraction.beams import excitation_errors, select_beams
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.orientations import orientation_matrix
from gpuediff.diffraction.propagation import propagate
from gpuediff.diffraction.simulate import reflections_of, simulate
from gpuediff.errors import InvalidConfig
from gpuediff.library.reader import Library
from gpuediff.library.writer import build_library
from gpuediff.settings import Orientations, Precession, Run, Simulation, Structures, load_run
from tests.diffraction.test_simulate import ELASTIC, EXACT, GOLD, QUARTZ, RANDOM, assert_same_pattern, totals


def precessing(settings, angle=1.0, azimuths=8):
    return settings.model_copy(update={"precession": Precession(angle=angle, azimuths=azimuths)})


@pytest.mark.parametrize("theory", ["dynamical", "kinematic"])
def test_on_a_cone_of_no_angle_nothing_changes(theory):
    settings = EXACT.model_copy(update={"theory": theory})
    plain = simulate(QUARTZ, orientation_matrix(RANDOM[:2]), settings)
    still = simulate(QUARTZ, orientation_matrix(RANDOM[:2]), precessing(settings, angle=0.0))
    for field in ("qx", "qy", "hkl", "offsets", "excitation_error"):
        np.testing.assert_array_equal(getattr(still, field), getattr(plain, field))
    np.testing.assert_allclose(still.intensity, plain.intensity, rtol=0, atol=1e-12)


def test_excitation_errors_of_a_tilted_beam_reach_the_sphere():
    rng = np.random.default_rng(0)
    electron_wavelength = wavelength(300e3)
    normal = np.array([[0.0, 0, 1]])
    tilt = np.radians(1.5)
    towards_source = np.array([[np.sin(tilt), 0, np.cos(tilt)]])
    g = rng.normal(size=(200, 3)) * [0.8, 0.8, 0.02]
    error = excitation_errors(g, normal, electron_wavelength, incidence=towards_source)[0]
    wave_vector = -towards_source / electron_wavelength
    scattered = wave_vector + g - error[:, None] * normal
    # To first order in s: what is left is s² / 2k.
    off = np.linalg.norm(scattered, axis=1) - 1 / electron_wavelength
    np.testing.assert_allclose(off, 0, atol=1.1 * (error**2).max() * electron_wavelength / 2)


def test_the_beam_goes_evenly_around_the_zone_axis():
    orientations = orientation_matrix(RANDOM[:2])
    orientation, directions = (
        orientations[1],
        precession.incidences(orientations, Precession(angle=2.0, azimuths=12))[1],
    )
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions @ orientation[2], np.cos(np.radians(2.0)))
    np.testing.assert_allclose(directions.mean(axis=0), np.cos(np.radians(2.0)) * orientation[2], atol=1e-12)
    np.testing.assert_allclose(directions[0] @ orientation[0], np.sin(np.radians(2.0)))


def test_nothing_is_lost_where_nothing_absorbs():
    patterns = simulate(QUARTZ, orientation_matrix(RANDOM[:2]), precessing(ELASTIC))
    np.testing.assert_allclose(totals(patterns), 1, rtol=0, atol=1e-11)


def test_the_mean_is_that_of_all_directions():
    settings = EXACT.model_copy(update={"thicknesses": (200.0,)})
    orientation = orientation_matrix(RANDOM[:1])
    whole = simulate(QUARTZ, orientation, precessing(settings, azimuths=6))
    cone = precession.incidences(orientation, Precession(azimuths=6))[0]
    reflections = reflections_of(QUARTZ, settings)
    total = np.zeros(len(reflections.g))
    for direction in cone:
        beams = select_beams(reflections, orientation[:, 2], settings, incidence=direction[None])
        along_normal = wavelength(settings.beam_energy) / np.cos(np.radians(1.0))
        total[beams.reflection] += propagate(reflections, beams, along_normal, [200.0], np.float64)[0] / 6
    expected = {tuple(hkl): value for hkl, value in zip(reflections.hkl.tolist(), total, strict=True)}
    for hkl, value in zip(whole.hkl.tolist(), whole.intensity[0], strict=True):
        assert value == pytest.approx(expected[tuple(hkl)], abs=1e-13)
    assert len(whole.qx) == np.count_nonzero(total)


def test_directions_are_averaged_in_whatever_pieces_to_the_same_bits(monkeypatch):
    settings = precessing(EXACT, azimuths=10).model_copy(update={"precision": "float32"})
    orientation = orientation_matrix(RANDOM[:1])
    whole = simulate(QUARTZ, orientation, settings)
    monkeypatch.setattr(simulation, "_TOGETHER", 3)
    np.testing.assert_array_equal(simulate(QUARTZ, orientation, settings).intensity, whole.intensity)


def test_directions_that_the_crystal_cannot_tell_apart_give_equivalent_reflections_one_intensity():
    patterns = simulate(GOLD, orientation_matrix(np.array([[0.0, 0, 1]])), precessing(EXACT, azimuths=8))
    turned = {}
    for x, y, hkl, value in zip(patterns.qx, patterns.qy, patterns.hkl, patterns.intensity.T, strict=True):
        key = (*sorted(np.round(np.abs([x, y]), 3).tolist()), round(float(hkl @ GOLD.reciprocal[:, 2]), 3))
        turned.setdefault(key, []).append(value)
    families = [np.array(values) for values in turned.values() if len(values) > 1]
    assert len(families) > 5
    for family in families:
        np.testing.assert_allclose(family, np.broadcast_to(family[0], family.shape), atol=1e-11)


def test_more_directions_converge():
    def mean_of(azimuths):
        patterns = simulate(QUARTZ, orientation_matrix(RANDOM[:1]), precessing(EXACT, azimuths=azimuths))
        return {tuple(hkl): value for hkl, value in zip(patterns.hkl.tolist(), patterns.intensity.T, strict=True)}

    def difference(first, second):
        return max(np.abs(first.get(key, 0) - second.get(key, 0)).max() for key in first.keys() | second.keys())

    few, some, many, most = (mean_of(azimuths) for azimuths in (8, 16, 64, 128))
    assert difference(many, most) < 0.2 * difference(few, some)


def test_precession_brings_in_more_reflections():
    orientation = orientation_matrix(RANDOM[:1])
    plain, precessed = simulate(QUARTZ, orientation, EXACT), simulate(QUARTZ, orientation, precessing(EXACT))
    assert len(precessed.qx) > 1.2 * len(plain.qx)


@pytest.mark.parametrize("threads", [1, 2])
def test_patterns_are_the_same_for_any_number_of_threads_and_in_any_company(threads):
    before = numba.get_num_threads()
    if threads > before:
        pytest.skip(f"only {before} threads here")
    settings = precessing(EXACT).model_copy(update={"precision": "float32"})
    orientations = orientation_matrix(RANDOM[:3])
    alone = simulate(GOLD, orientations[1:2], settings)
    numba.set_num_threads(threads)
    try:
        together = simulate(GOLD, orientations, settings)
    finally:
        numba.set_num_threads(before)
    own = slice(together.offsets[1], together.offsets[2])
    np.testing.assert_array_equal(together.intensity[:, own], alone.intensity)


def test_no_orientations_give_no_patterns():
    assert len(simulate(GOLD, np.empty((0, 3, 3)), precessing(EXACT))) == 0


def test_a_rotated_crystal_gives_the_rotated_pattern():
    orientation = orientation_matrix(RANDOM[:1])
    quarter = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # a quarter turn in the detector plane
    first = simulate(QUARTZ, orientation, precessing(EXACT, azimuths=8))
    second = simulate(QUARTZ, quarter @ orientation, precessing(EXACT, azimuths=8))
    np.testing.assert_allclose(second.qx, first.qy, atol=1e-6)
    np.testing.assert_allclose(second.intensity, first.intensity, atol=1e-11)
    assert_same_pattern(first, first)


@pytest.mark.parametrize("structure", [GOLD, QUARTZ], ids=["gold", "quartz"])
def test_orientations_that_the_crystal_cannot_tell_apart_give_the_same_pattern(structure):
    orientation = orientation_matrix(RANDOM[:1])
    settings = precessing(EXACT)
    pattern = simulate(structure, orientation, settings)
    for rotation in laue_rotations(structure.laue_class)[1:4]:
        assert_same_pattern(simulate(structure, orientation @ rotation, settings), pattern)


def test_a_thicker_crystal_needs_more_directions():
    thicknesses = (200.0, 1000.0)
    settings = EXACT.model_copy(update={"thicknesses": thicknesses, "g_max": 1.2})
    few, many = (
        simulate(QUARTZ, orientation_matrix(RANDOM[:1]), precessing(settings, azimuths=azimuths))
        for azimuths in (32, 192)
    )
    found = {tuple(hkl): value for hkl, value in zip(few.hkl.tolist(), few.intensity.T, strict=True)}
    none = np.zeros(2)
    wanted = zip(many.hkl.tolist(), many.intensity.T, strict=True)
    thin, thick = np.max([np.abs(value - found.get(tuple(hkl), none)) for hkl, value in wanted], axis=0)
    assert thin < 1e-4
    assert thick > 100 * thin


def test_a_library_holds_precessed_patterns_and_says_so(tmp_path):
    crystals, _ = read_crystals(Structures(sample=2))
    simulation = Simulation(g_max=1.0, orientations=Orientations(count=2), precession=Precession(azimuths=4))
    build_library(tmp_path / "library.h5", Run(simulation=simulation), crystals)
    with Library(tmp_path / "library.h5") as library:
        assert library.run.simulation.precession == Precession(angle=1.0, azimuths=4)
        wanted = simulate(crystals[0], library.orientation[:2], simulation).at(0)
        np.testing.assert_array_equal(library.peaks(200.0, np.array([0, 1])).intensity, wanted.intensity)


def test_a_faulty_cone_in_a_file_is_named_with_its_value(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[simulation.precession]\nangle = 11.0")
    named = r"simulation\.precession\.angle = 11\.0: allowed range: 0 <= value <= 10 °"
    with pytest.raises(InvalidConfig, match=named):
        load_run(file)


@pytest.mark.parametrize("wrong", [{"angle": -1.0}, {"angle": 11.0}, {"azimuths": 0}, {"azimuths": 5000}])
def test_impossible_cones_are_refused(wrong):
    with pytest.raises(ValueError, match="allowed range"):
        Precession(**wrong)
