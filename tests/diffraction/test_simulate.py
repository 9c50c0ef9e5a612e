import dataclasses

import numba
import numpy as np
import pytest
from scipy.spatial import KDTree

from gpuediff.crystals.crystal import Crystal, cell_vectors
from gpuediff.crystals.symmetry import laue_rotations
from gpuediff.diffraction.beams import excitation_errors
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.orientations import orientation_matrix, zone_axes
from gpuediff.diffraction.potential import structure_potential
from gpuediff.diffraction.simulate import SimulatedPatterns, simulate
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Simulation
from tests.oracle import py4dstem
from tests.reference import bloch

EXACT = Simulation(precision="float64", intensity_min=0.0, thicknesses=(20.0, 200.0, 1000.0))
ELASTIC = EXACT.model_copy(update={"form_factors": "lobato"})
RANDOM = np.random.default_rng(0).normal(size=(6, 3))


def crystal(parameters, numbers, positions, space_group_number, *, primitive=None):
    lattice = cell_vectors(np.array(parameters, dtype=float))
    return Crystal(
        material_id="test",
        formula="test",
        lattice=lattice if primitive is None else np.array(primitive) @ lattice,
        atomic_numbers=np.array(numbers),
        positions=np.array(positions, dtype=float),
        occupancies=np.ones(len(numbers)),
        space_group_number=space_group_number,
        conventional=np.array(parameters, dtype=float),
        source="test",
        checksum="",
    )


FACES = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
GOLD = crystal((4.078,) * 3 + (90,) * 3, [79], [[0, 0, 0]], 225, primitive=FACES)
GOLD_CONVENTIONAL = crystal((4.078,) * 3 + (90,) * 3, [79] * 4, [[0, 0, 0], *FACES], 225)
QUARTZ = py4dstem.load("quartz").crystal  # P3₁21: no centre of inversion, Laue class -3m1


def assert_same_pattern(first: SimulatedPatterns, second: SimulatedPatterns, *, atol=1e-10, weakest=1e-9):
    """Peaks at the same places with the same intensities at every thickness, in whatever order."""
    assert len(first) == len(second)
    for index in range(len(first)):
        places, intensities = [], []
        for patterns in (first, second):
            peaks = slice(patterns.offsets[index], patterns.offsets[index + 1])
            strong = (patterns.intensity[:, peaks] > weakest).any(axis=0)
            places.append(np.stack([patterns.qx[peaks], patterns.qy[peaks]], axis=1)[strong])
            intensities.append(patterns.intensity[:, peaks][:, strong])
        assert len(places[0]) == len(places[1])
        distance, partner = KDTree(places[1]).query(places[0])
        assert distance.max() < 1e-5
        assert len(set(partner.tolist())) == len(partner)
        np.testing.assert_allclose(intensities[0], intensities[1][:, partner], rtol=0, atol=atol)


def totals(patterns):
    return np.add.reduceat(patterns.intensity, patterns.offsets[:-1], axis=1)


def test_nothing_is_lost_where_nothing_absorbs():
    for precision, atol in (("float64", 1e-11), ("float32", 1e-6)):
        settings = ELASTIC.model_copy(update={"precision": precision})
        patterns = simulate(QUARTZ, orientation_matrix(RANDOM), settings)
        np.testing.assert_allclose(totals(patterns), 1, rtol=0, atol=atol)


def test_absorption_takes_from_the_beam_as_it_goes_deeper():
    total = totals(simulate(GOLD, orientation_matrix(RANDOM), EXACT))
    assert (np.diff(total, axis=0, prepend=1.0) < 0).all()


def test_thin_crystals_diffract_kinematically():
    # |π t (U/k0) sinc(t s)|²: what a wave scattered once, anywhere on its way, has.
    thickness = 2.0
    settings = ELASTIC.model_copy(update={"thicknesses": (thickness,)})
    patterns = simulate(QUARTZ, orientation_matrix(RANDOM), settings)
    potential = structure_potential(QUARTZ, settings)
    h, k, l = (-patterns.hkl.astype(int) + potential.extent).T
    u = np.abs(potential.table[h, k, l]) * wavelength(settings.beam_energy) / 2
    kinematic = (2 * np.pi * thickness * u * np.sinc(thickness * patterns.excitation_error)) ** 2
    diffracted = (patterns.hkl != 0).any(axis=1)
    strong = diffracted & (kinematic > 1e-5)
    assert strong.sum() > 20
    np.testing.assert_allclose(patterns.intensity[0][strong], kinematic[strong], rtol=0.05)


@pytest.mark.parametrize("form_factors", ["lobato", "wk-cp"])
def test_intensities_are_those_of_the_matrix_exponential(form_factors):
    settings = EXACT.model_copy(update={"form_factors": form_factors, "g_max": 1.2})
    patterns = simulate(QUARTZ, orientation_matrix(RANDOM[:2]), settings)
    potential = structure_potential(QUARTZ, settings)
    for index in range(2):
        peaks = slice(patterns.offsets[index], patterns.offsets[index + 1])
        hkl = patterns.hkl[peaks].astype(int)
        g = hkl @ QUARTZ.reciprocal
        zone_axis = patterns.orientation[index, 2]
        error = excitation_errors(g, zone_axis[None], wavelength(settings.beam_energy))[0]
        matrix = bloch.dynamical_matrix(hkl, error, potential, wavelength(settings.beam_energy))
        direct = int(np.flatnonzero((hkl == 0).all(axis=1))[0])
        expected = bloch.intensities(matrix, direct, settings.thicknesses)
        np.testing.assert_allclose(patterns.intensity[:, peaks], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("structure", [GOLD, QUARTZ], ids=["gold", "quartz"])
def test_orientations_that_the_crystal_cannot_tell_apart_give_the_same_pattern(structure):
    orientations = orientation_matrix(RANDOM[:2])
    pattern = simulate(structure, orientations, EXACT)
    for rotation in laue_rotations(structure.laue_class)[1:]:
        assert_same_pattern(simulate(structure, orientations @ rotation, EXACT), pattern)


def test_other_orientations_give_another_pattern():
    orientations = orientation_matrix(RANDOM[:1])
    sixfold = np.array([[0.5, -np.sqrt(0.75), 0], [np.sqrt(0.75), 0.5, 0], [0, 0, 1]])
    with pytest.raises(AssertionError):
        assert_same_pattern(simulate(QUARTZ, orientations @ sixfold, EXACT), simulate(QUARTZ, orientations, EXACT))


def test_an_inverted_crystal_gives_the_mirror_image_of_the_crystal_turned_over():
    # -1 is a half turn about x followed by the mirror x -> -x, and a mirrored experiment has the mirrored outcome.
    inverted = dataclasses.replace(QUARTZ, positions=-QUARTZ.positions)
    orientations = orientation_matrix(RANDOM[:2])
    half_turn = np.diag([1.0, -1, -1])
    turned = simulate(QUARTZ, half_turn @ orientations, EXACT)
    mirror_image = dataclasses.replace(turned, qx=-turned.qx)
    assert_same_pattern(simulate(inverted, orientations, EXACT), mirror_image)
    with pytest.raises(AssertionError):  # there is no centre of inversion
        assert_same_pattern(simulate(QUARTZ, orientations, EXACT), mirror_image)


def test_the_origin_of_the_cell_does_not_matter():
    moved = dataclasses.replace(QUARTZ, positions=QUARTZ.positions + np.array([0.123, 0.456, 0.789]))
    orientations = orientation_matrix(RANDOM[:2])
    first, second = (simulate(structure, orientations, EXACT) for structure in (QUARTZ, moved))
    np.testing.assert_array_equal(first.hkl, second.hkl)
    np.testing.assert_allclose(first.intensity, second.intensity, rtol=0, atol=1e-11)


def test_primitive_and_conventional_cell_give_the_same_pattern():
    orientations = orientation_matrix(np.vstack([RANDOM[:2], [[0, 0, 1]]]))
    assert_same_pattern(simulate(GOLD, orientations, EXACT), simulate(GOLD_CONVENTIONAL, orientations, EXACT))


def test_turning_about_the_beam_turns_the_pattern():
    angle = 0.7
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    orientations = orientation_matrix(RANDOM[:1])
    before, after = (simulate(GOLD, matrices, EXACT) for matrices in (orientations, turn @ orientations))
    np.testing.assert_allclose(after.intensity, before.intensity, rtol=0, atol=1e-12)
    np.testing.assert_allclose(after.qx, np.cos(angle) * before.qx + np.sin(angle) * before.qy, atol=1e-6)
    np.testing.assert_allclose(after.qy, -np.sin(angle) * before.qx + np.cos(angle) * before.qy, atol=1e-6)


def test_high_symmetry_patterns_have_the_symmetry_of_the_zone_axis():
    pattern = simulate(GOLD, np.eye(3)[None], EXACT)
    fourfold = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert_same_pattern(simulate(GOLD, fourfold[None], EXACT), pattern)


def test_weak_peaks_are_dropped_and_the_direct_beam_never():
    orientations = orientation_matrix(RANDOM[:3])
    everything = simulate(GOLD, orientations, EXACT)
    some = simulate(GOLD, orientations, EXACT.model_copy(update={"intensity_min": 1e-3}))
    direct = (everything.hkl == 0).all(axis=1)
    kept = direct | (everything.intensity >= 1e-3).any(axis=0)
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(some.intensity, everything.intensity[:, kept])
    np.testing.assert_array_equal(some.hkl, everything.hkl[kept])
    # Even where absorption leaves next to nothing of it.
    thick = EXACT.model_copy(update={"thicknesses": (20_000.0,), "intensity_min": 0.1})
    faint = simulate(GOLD, orientations, thick)
    np.testing.assert_array_equal(faint.hkl, np.zeros((3, 3)))
    np.testing.assert_array_equal(faint.offsets, [0, 1, 2, 3])
    assert (faint.intensity < 1e-3).all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_arrays_have_the_shapes_and_types_that_are_promised(precision):
    settings = Simulation(precision=precision, thicknesses=(20.0, 200.0))
    patterns = simulate(GOLD, orientation_matrix(RANDOM), settings)
    peaks = int(patterns.offsets[-1])
    assert len(patterns) == 6
    assert patterns.offsets.dtype == np.int64
    assert patterns.thicknesses.tolist() == [20.0, 200.0]
    assert (patterns.qx.shape, patterns.qy.shape, patterns.hkl.shape) == ((peaks,), (peaks,), (peaks, 3))
    assert patterns.qx.dtype == patterns.qy.dtype == patterns.excitation_error.dtype == np.float32
    assert patterns.hkl.dtype == np.int16
    assert (patterns.intensity.shape, patterns.intensity.dtype) == ((2, peaks), np.dtype(precision))
    assert patterns.orientation.shape == (6, 3, 3)
    thick = patterns.at(1).validate()
    assert len(thick) == 6
    assert thick.intensity.dtype == np.float32
    np.testing.assert_array_equal(thick.intensity, patterns.intensity[1].astype(np.float32))
    g = patterns.hkl @ GOLD.reciprocal
    np.testing.assert_allclose(np.linalg.norm(g, axis=1), np.hypot(patterns.qx, patterns.qy), atol=0.1)
    assert np.abs(patterns.excitation_error).max() <= np.float32(settings.excitation_error_max)


def test_threads_and_company_do_not_change_a_bit():
    orientations = orientation_matrix(zone_axes("m-3m", 40))
    settings = Simulation(thicknesses=(20.0, 200.0))
    threads = numba.get_num_threads()
    together = simulate(GOLD, orientations, settings)
    numba.set_num_threads(1)
    try:
        by_one_thread = simulate(GOLD, orientations, settings)
    finally:
        numba.set_num_threads(threads)
    alone = simulate(GOLD, orientations[17:18], settings)
    peaks = slice(together.offsets[17], together.offsets[18])
    for field in ("qx", "qy", "hkl", "excitation_error", "intensity"):
        values = getattr(together, field)
        np.testing.assert_array_equal(getattr(by_one_thread, field), values)
        part = values[:, peaks] if field == "intensity" else values[peaks]
        np.testing.assert_array_equal(getattr(alone, field), part)


def test_no_orientations_give_no_patterns():
    patterns = simulate(GOLD, np.empty((0, 3, 3)), Simulation())
    assert len(patterns) == 0
    assert patterns.intensity.shape == (1, 0)
    assert len(patterns.at(0)) == 0


def test_matrices_that_are_no_rotations_are_refused():
    mirror = np.diag([1.0, 1, -1])
    with pytest.raises(ValueError, match=r"orientations\[1\] is not a rotation"):
        simulate(GOLD, np.array([np.eye(3), mirror]), Simulation())
    with pytest.raises(ValueError, match=r"expected shape \(n, 3, 3\)"):
        simulate(GOLD, np.eye(3), Simulation())
    with pytest.raises(ValueError, match=r"orientations\[0\]"):
        simulate(GOLD, np.full((1, 3, 3), np.nan), Simulation())


def test_positions_that_are_not_finite_are_refused():
    broken = dataclasses.replace(GOLD, positions=np.array([[np.nan, 0, 0]]))
    with pytest.raises(InvalidStructure, match="not finite"):
        simulate(broken, np.eye(3)[None], Simulation())


def test_the_memory_that_is_allowed_changes_no_bit_of_a_pattern():
    orientations = orientation_matrix(RANDOM)
    plenty, little = (simulate(QUARTZ, orientations, EXACT, memory=memory) for memory in (2**32, 2**21))
    np.testing.assert_array_equal(little.intensity, plenty.intensity)


def test_a_pattern_that_does_not_fit_the_memory_is_refused_before_it_is_tried():
    with pytest.raises(InvalidStructure, match=r"beams, whose matrix takes .* GiB allowed: allow more \(--memory\)"):
        simulate(QUARTZ, orientation_matrix(RANDOM), EXACT, memory=10_000)
