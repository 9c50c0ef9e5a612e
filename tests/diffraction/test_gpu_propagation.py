"""The GPU's way of propagation, on kernels compiled for the host and, where there is one, on a GPU."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuediff import arrays
from gpuediff.diffraction import chebyshev, expansions, gpu_propagation, propagation
from gpuediff.diffraction.beams import Beams, Reflections, select_beams
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.potential import structure_potential
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Simulation
from tests.diffraction.test_beams import GOLD, OBLIQUE
from tests.diffraction.test_propagation import WAVELENGTH, a_matrix, a_system
from tests.host_shim import shim
from tests.kernels.implementations import HOST_SHIM, available, bloch_on_host_shim, host_shim_as_gpu
from tests.reference import bloch

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", available("bloch_chebyshev"))
MATRIX = pytest.mark.parametrize("matrix", ["gathered", "dense"])
ATOL = {"float32": 5e-6, "float64": 1e-11}
SINGLE, DOUBLE = np.dtype("float32"), np.dtype("float64")
needs_compiler = pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")


def patterns_of(matrix, sizes):
    """One crystal, and patterns whose matrices are the upper left corners of one matrix."""
    reflections, beams = a_system(matrix)
    index = np.concatenate([np.arange(size) for size in sizes])
    return reflections, Beams(index, beams.excitation_error[index], np.concatenate([[0], np.cumsum(sizes)]))


def expected(matrix, sizes, thicknesses):
    """With the damping that all beams share as at the direct beam, as a coupling table has it."""
    return np.concatenate([bloch.intensities(matrix[:n, :n], 0, thicknesses) for n in sizes], axis=1)


@pytest.mark.parametrize("precision", [SINGLE, DOUBLE], ids=str)
@IMPLEMENTATIONS
@settings(max_examples=5, deadline=None)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    absorption=st.sampled_from([0.0, 1e-5, 1e-4, 1e-3]),
    coupling=st.sampled_from([0.0, 1e-4, 0.004, 0.01]),
    thicknesses=st.lists(st.floats(0.01, 600), min_size=1, max_size=8, unique=True).map(sorted),
)
def test_matches_the_reference(implementation, precision, n, seed, absorption, coupling, thicknesses):
    matrix = a_matrix(n, seed, coupling=coupling, absorption=absorption)
    (computed,) = implementation([a_system(matrix)], WAVELENGTH, np.array(thicknesses), precision)
    assert computed.dtype == precision
    wanted = bloch.intensities(matrix, 0, thicknesses)
    np.testing.assert_allclose(computed, wanted, rtol=0, atol=ATOL[precision.name])


@IMPLEMENTATIONS
def test_matches_the_reference_at_the_borders_of_blocks_and_slices(implementation):
    matrix, sizes, thicknesses = a_matrix(129, 1, absorption=2e-4), [65, 1, 31, 32, 33, 64, 129], [90.0]
    (computed,) = implementation([patterns_of(matrix, sizes)], WAVELENGTH, np.array(thicknesses), SINGLE)
    np.testing.assert_allclose(computed, expected(matrix, sizes, thicknesses), rtol=0, atol=5e-6)


@IMPLEMENTATIONS
def test_matches_the_cpu_with_more_beams_than_threads_and_much_shared_memory(implementation):
    crystal = a_system(a_matrix(265, 2, absorption=2e-4))
    thicknesses = np.arange(2.5, 41, 2.5)
    (computed,) = implementation([crystal], WAVELENGTH, thicknesses, SINGLE)
    wanted = propagation.propagate(*crystal, WAVELENGTH, thicknesses, SINGLE, method="chebyshev")
    np.testing.assert_allclose(computed, wanted, rtol=0, atol=5e-6)


@IMPLEMENTATIONS
def test_real_crystals_together_match_each_alone_on_the_cpu(implementation):
    simulation = Simulation(thicknesses=(20.0, 200.0), g_max=1.2)
    electron_wavelength = wavelength(simulation.beam_energy)
    crystals = []
    for crystal in (GOLD, OBLIQUE):
        reflections = Reflections.of_potential(structure_potential(crystal, simulation), simulation.g_max)
        zone_axes = np.array([[0, 0, 1.0], [0.6, 0, 0.8]])
        crystals.append((reflections, select_beams(reflections, zone_axes, simulation)))
    thicknesses = np.array(simulation.thicknesses)
    computed = implementation(crystals, electron_wavelength, thicknesses, SINGLE)
    for crystal, intensity in zip(crystals, computed, strict=True):
        wanted = propagation.propagate(*crystal, electron_wavelength, thicknesses, DOUBLE)
        np.testing.assert_allclose(intensity, wanted, rtol=0, atol=5e-6)
        assert intensity.sum(axis=1).max() < 2  # two patterns, and something is absorbed


@IMPLEMENTATIONS
def test_nothing_is_lost_without_absorption(implementation):
    (computed,) = implementation([a_system(a_matrix(40, 3))], WAVELENGTH, np.arange(20.0, 501, 20), SINGLE)
    np.testing.assert_allclose(computed.sum(axis=1), 1, rtol=0, atol=2e-6)


@IMPLEMENTATIONS
def test_values_that_are_not_finite_are_refused(implementation):
    for value in (np.nan, np.inf, 1e60):
        good, bad = a_matrix(5, 4), a_matrix(5, 4)
        bad[1, 2] = value
        with pytest.raises(InvalidStructure, match="not finite"):
            implementation([a_system(good), a_system(bad)], WAVELENGTH, np.array([20.0]), SINGLE)


@IMPLEMENTATIONS
def test_without_patterns_there_are_no_intensities(implementation):
    thicknesses = np.array([20.0, 40.0])
    assert implementation([], WAVELENGTH, thicknesses, SINGLE) == []
    reflections, beams = a_system(a_matrix(3, 0))
    none = Beams(np.empty(0, int), np.empty(0), np.array([0]))
    empty, full = implementation([(reflections, none), (reflections, beams)], WAVELENGTH, thicknesses, SINGLE)
    assert (empty.shape, full.shape) == ((2, 0), (2, 3))


@needs_compiler
@MATRIX
def test_the_bits_depend_neither_on_the_order_of_threads_nor_on_the_matrix(matrix):
    crystals = [patterns_of(a_matrix(40, 5, absorption=1e-4), [40, 7, 33]), a_system(a_matrix(20, 6))]
    arguments = crystals, WAVELENGTH, np.array([50.0, 130.0]), SINGLE
    first = bloch_on_host_shim("gathered")(*arguments)
    for seed in range(1, 4):
        other = bloch_on_host_shim(matrix, seed=seed)(*arguments)
        for got, wanted in zip(other, first, strict=True):
            np.testing.assert_array_equal(got, wanted)


@needs_compiler
@MATRIX
def test_a_pattern_has_the_same_bits_in_any_company_and_batch(matrix):
    sizes = [40, 20, 1, 37, 36, 8]
    crystal = patterns_of(a_matrix(40, 8, absorption=1e-4), sizes)
    alone = patterns_of(a_matrix(40, 8, absorption=1e-4), [37])
    propagate = bloch_on_host_shim(matrix)
    thicknesses = np.array([20.0, 150.0])
    together, again = propagate([crystal, crystal], WAVELENGTH, thicknesses, SINGLE)
    with mock.patch.object(arrays, "memory_budget", return_value=1):
        one_by_one = propagate([crystal], WAVELENGTH, thicknesses, SINGLE)[0]
    np.testing.assert_array_equal(again, together)
    np.testing.assert_array_equal(one_by_one, together)
    np.testing.assert_array_equal(propagate([alone], WAVELENGTH, thicknesses, SINGLE)[0], together[:, 61:98])


@needs_compiler
@MATRIX
@pytest.mark.parametrize("part", [0.2, 0.6, 0.85])
@pytest.mark.parametrize("absorption", [0.0, 3e-3])
def test_a_spectral_bound_that_is_too_narrow_is_noticed_and_widened(matrix, part, absorption):
    narrow, wide = a_matrix(40, 7, absorption=absorption), np.diag(a_matrix(9, 7).diagonal().real) + 0j
    thicknesses = np.array([30.0, 200.0])
    launched = []

    def count(self, geometry, which, *rest, original=gpu_propagation._Batch._expand):
        launched.append(len(which))
        original(self, geometry, which, *rest)

    with (
        mock.patch.multiple(gpu_propagation, MARGIN=part, MARGIN_OF_GAIN=0.0),
        mock.patch.object(gpu_propagation._Batch, "_expand", count),
    ):
        computed = bloch_on_host_shim(matrix)([a_system(narrow), a_system(wide)], WAVELENGTH, thicknesses, SINGLE)
    assert sum(launched) > 2, "no pattern was done again"
    np.testing.assert_allclose(computed[0], bloch.intensities(narrow, 0, thicknesses), rtol=0, atol=1e-5)
    np.testing.assert_allclose(computed[1], bloch.intensities(wide, 0, thicknesses), rtol=0, atol=1e-5)


@needs_compiler
def test_an_expansion_that_never_converges_is_given_up():
    with (
        mock.patch.multiple(gpu_propagation, MARGIN=0.05, ATTEMPTS_MAX=2),
        pytest.raises(InvalidStructure, match="does not converge"),
    ):
        bloch_on_host_shim()([a_system(a_matrix(30, 7))], WAVELENGTH, np.array([200.0]), SINGLE)


@needs_compiler
@MATRIX
@pytest.mark.parametrize("precision", [SINGLE, DOUBLE], ids=str)
def test_spectral_bounds_come_close_to_the_extreme_eigenvalues(matrix, precision):
    for n, seed in ((1, 0), (2, 0), (3, 1), (11, 2), (60, 3), (150, 4)):
        dynamical = a_matrix(n, seed, coupling=0.01, absorption=1e-4)
        run = gpu_propagation._Run(WAVELENGTH, (20.0,), precision, HOST_SHIM, matrix)
        with host_shim_as_gpu():
            coupling = gpu_propagation._upload_tables([a_system(dynamical)], 0, run)
            patterns = gpu_propagation._concatenated([a_system(dynamical)], WAVELENGTH)
            low, high = gpu_propagation._Batch.upload(patterns, coupling, run).bounds()
        exact = np.linalg.eigvalsh((dynamical + dynamical.conj().T) / 2)[[0, -1]]
        # Nothing can be outside of the spectrum, but for rounding and the absorption that Lanczos leaves in.
        np.testing.assert_allclose([low[0], high[0]], exact, atol=0.05 * np.ptp(exact) + 1e-9)
        assert low[0] >= exact[0] - 1e-3 * np.ptp(exact) - 1e-9
        assert high[0] <= exact[1] + 1e-3 * np.ptp(exact) + 1e-9


@pytest.mark.parametrize(("precision", "most"), [(SINGLE, 2368), (DOUBLE, 1600)], ids=str)
def test_more_beams_than_fit_a_block_are_refused(precision, most):
    assert gpu_propagation.beams_max(precision) == most
    geometry = gpu_propagation.launch_geometry(most, 5, precision)
    assert geometry.shared_memory <= gpu_propagation.SHARED_MEMORY_MAX
    reflections, _ = a_system(a_matrix(3, 0))
    many = Beams(np.zeros(most + 1, int), np.zeros(most + 1), np.array([0, 1, most + 1]))
    few = Beams(np.zeros(1, int), np.zeros(1), np.array([0, 1]))
    too_many = Beams(np.zeros(most + 1, int), np.zeros(most + 1), np.array([0, most + 1]))
    gpu_propagation._check([(reflections, few), (reflections, many)], precision)
    with pytest.raises(InvalidStructure, match=rf"crystal 1: a pattern has {most + 1} beams, a GPU takes up to {most}"):
        gpu_propagation._check([(reflections, few), (reflections, too_many)], precision)


def test_an_unknown_matrix_is_refused():
    with pytest.raises(ValueError, match="matrix = 'sparse'"):
        gpu_propagation.propagate([], WAVELENGTH, np.array([20.0]), SINGLE, HOST_SHIM, matrix="sparse")


@given(beams=st.integers(1, 1600), outputs=st.integers(1, 32), precision=st.sampled_from([SINGLE, DOUBLE]))
def test_every_block_can_be_launched(beams, outputs, precision):
    geometry = gpu_propagation.launch_geometry(beams, outputs, precision)
    assert geometry.threads % 32 == 0
    assert geometry.threads % geometry.slices == 0
    assert geometry.threads <= gpu_propagation.THREADS_MAX
    assert geometry.slices == 1 or beams <= geometry.threads // geometry.slices
    assert 1 <= geometry.outputs <= outputs
    assert geometry.shared_memory_of_bounds < geometry.shared_memory <= gpu_propagation.SHARED_MEMORY_MAX


@given(
    thicknesses=st.lists(st.floats(0.01, 2000), min_size=1, max_size=30, unique=True).map(sorted),
    step_max=st.sampled_from([100.0, 50.0, 12.5]),
    outputs_max=st.integers(1, 32),
)
def test_steps_lead_to_every_thickness_in_turn(thicknesses, step_max, outputs_max):
    depth, reached = 0.0, []
    for first, distances in expansions.plan_steps(thicknesses, step_max, outputs_max):
        assert len(distances) <= outputs_max
        assert 0 < distances[-1] <= step_max
        if first >= 0:
            assert first == len(reached)
            reached += [depth + distance for distance in distances]
        depth += distances[-1]
    np.testing.assert_allclose(reached, thicknesses, rtol=1e-12)


@given(half_width=st.floats(1e-9, 10))
def test_a_half_width_is_rounded_up_by_no_more_than_one_step(half_width):
    rounded = expansions.WIDTH_STEP ** float(expansions.width_class(np.array([half_width]))[0])
    assert half_width * (1 - 1e-9) <= rounded <= half_width * expansions.WIDTH_STEP * (1 + 1e-9)


def test_steps_of_equal_distances_share_their_coefficients():
    thicknesses = tuple(np.arange(20.0, 2001, 20))
    table = expansions.expansion(-140, 0, thicknesses, 5, SINGLE)
    assert len(table.steps) == 20
    assert set(table.steps[:, 0]) == {0}
    tail = chebyshev.TAIL * np.finfo(np.float32).eps
    wanted = chebyshev.coefficients(1 / table.inverse_half_width, np.array([20.0, 40, 60, 80, 100]), tail)
    np.testing.assert_array_equal(table.coefficients.reshape(-1, 5), wanted)
    assert table.inverse_half_width == np.float32(table.inverse_half_width)
