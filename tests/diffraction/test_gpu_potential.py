import numpy as np
import pytest

from gpuediff.diffraction import gpu_potential
from gpuediff.diffraction.potential import structure_potential
from gpuediff.settings import Simulation
from tests.kernels.implementations import HOST_SHIM, available, host_shim_as_gpu
from tests.oracle import py4dstem

SMALL = Simulation(g_max=0.9)
everywhere = pytest.mark.parametrize("implementation", available("structure_factors"))


@everywhere
@pytest.mark.parametrize("name", ["Au", "quartz", "triclinic", "hexagonal"])
@pytest.mark.parametrize("scattering", ["default", "py4dstem"])
def test_the_kernel_fills_the_table_of_the_cpu(implementation, name, scattering):
    settings = SMALL.model_copy(update={"scattering": scattering})
    crystal = py4dstem.load(name).crystal
    expected, computed = structure_potential(crystal, settings), implementation(crystal, settings)
    for field in ("reciprocal", "extent", "beam_extent"):
        np.testing.assert_array_equal(getattr(computed, field), getattr(expected, field))
    hkl = np.stack(np.indices(expected.table.shape), axis=-1) - expected.extent
    outside = np.linalg.norm(hkl @ expected.reciprocal, axis=-1) > 2 * settings.g_max * (1 + 1e-8)
    assert (computed.table[outside] == 0).all()
    np.testing.assert_allclose(computed.table, expected.table, rtol=0, atol=1e-13 * np.abs(expected.table).max())


@everywhere
def test_sites_that_elements_share_are_summed_with_their_occupancies(implementation):
    crystal = py4dstem.load("orthoclase").crystal  # Si and Al on the same sites
    settings = SMALL.model_copy(update={"g_max": 0.3})
    expected, computed = structure_potential(crystal, settings), implementation(crystal, settings)
    np.testing.assert_allclose(computed.table, expected.table, rtol=0, atol=1e-13 * np.abs(expected.table).max())


def test_phases_in_single_precision_are_good_to_1e_5():
    crystal = py4dstem.load("quartz").crystal
    expected = structure_potential(crystal, SMALL).table
    with host_shim_as_gpu(dtype="float32"):
        computed = gpu_potential.structure_potential(crystal, SMALL, HOST_SHIM).table
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
