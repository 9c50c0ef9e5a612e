import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from gpuediff.diffraction import beams, gpu_beams
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Simulation
from tests.diffraction.test_beams import GOLD, OBLIQUE, direction, reflections_of
from tests.diffraction.test_propagation import a_system
from tests.host_shim import shim
from tests.kernels.implementations import available, host_shim_as_gpu

needs_compiler = pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")


def reached(matrix, *, seed=0, dtype=np.complex128):
    reflections, pattern = a_system(matrix)
    with host_shim_as_gpu(seed=seed):
        return gpu_beams.reachable(
            reflections.coupling.astype(dtype),
            reflections.centre,
            1e-9,
            reflections.address.astype(np.int32),
            pattern.offsets,
        )


@pytest.mark.parametrize("select", available("beams"))
@pytest.mark.parametrize("structure", [GOLD, OBLIQUE], ids=["centred", "oblique"])
def test_the_beams_are_those_of_the_cpu(select, structure):
    options = Simulation(g_max=1.3)
    reflections = reflections_of(structure, options)
    axes = np.array([[0, 0, 1.0], *(direction(seed) for seed in range(4))])
    got = select(reflections, axes, options)
    wanted = beams.select_beams(reflections, axes, options)
    np.testing.assert_array_equal(got.reflection, wanted.reflection)
    np.testing.assert_allclose(got.excitation_error, wanted.excitation_error, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(got.offsets, wanted.offsets)


@pytest.mark.parametrize("select", available("beams"))
def test_without_zone_axes_there_are_no_beams(select):
    options = Simulation(g_max=1.0)
    none = select(reflections_of(GOLD, options), np.empty((0, 3)), options)
    assert (len(none.reflection), none.offsets.tolist()) == (0, [0])


@needs_compiler
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 150), links=st.integers(0, 150), seed=st.integers(0, 1000))
def test_what_is_reached_is_what_is_connected(n, links, seed):
    rng = np.random.default_rng(seed)
    matrix = np.zeros((n, n), dtype=complex)
    for i, j in rng.integers(0, n, (links, 2)):
        matrix[i, j] = matrix[j, i] = 1e-3j
    _, label = connected_components(matrix != 0)
    for dtype in (np.complex64, np.complex128):
        np.testing.assert_array_equal(reached(matrix, seed=seed, dtype=dtype), label == label[0])


@needs_compiler
def test_a_chain_is_followed_to_its_end_in_any_order_of_threads():
    n = 40
    order = np.random.default_rng(0).permutation(n - 6) + 1  # 5 beams are not in it
    matrix = np.zeros((n, n), dtype=complex)
    for here, there in zip([0, *order[:-1]], order, strict=True):
        matrix[here, there] = matrix[there, here] = 1
    for seed in range(4):
        assert np.flatnonzero(reached(matrix, seed=seed) == 0).tolist() == list(range(n - 5, n))


@needs_compiler
def test_a_coupling_at_rounding_level_reaches_nothing():
    assert reached(np.array([[0, 0.9e-9, 2e-9], [0.9e-9, 0, 0], [2e-9, 0, 0]])).tolist() == [1, 0, 1]


def test_more_beams_than_fit_a_block_are_refused():
    assert gpu_beams.shared_memory(gpu_beams.BEAMS_MAX) <= gpu_beams.SHARED_MEMORY
    most = gpu_beams.BEAMS_MAX + 1
    with pytest.raises(InvalidStructure, match=f"{most} reflections"):
        gpu_beams.reachable(np.zeros(3, complex), 1, 0.0, np.zeros(most, np.int32), np.array([0, most]))
