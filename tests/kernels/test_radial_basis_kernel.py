"""What is particular to the CUDA kernels; that they are right is in tests/features/test_radial_basis.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidConfig
from gpuediff.features import radial_basis
from gpuediff.features.radial_basis import SHARED_MEMORY, RadialBasis, coefficients, launch, launch_geometry
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Features
from tests.host_shim import shim
from tests.kernels.implementations import on_host_shim
from tests.strategies import peak_batches

PAPER_BASIS = RadialBasis.from_settings(Features())
needs_compiler = pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")


def random_peaks():
    rng = np.random.default_rng(0)
    return PeakBatch.from_lists([rng.uniform(-1, 1, (count, 3)) ** (1, 1, 2) for count in (0, 1, 70, 200)])


@needs_compiler
def test_the_bits_do_not_depend_on_the_order_in_which_threads_run():
    peaks = random_peaks()
    first = on_host_shim(seed=0)
    for seed in range(1, 6):
        other = on_host_shim(seed=seed)
        np.testing.assert_array_equal(other(peaks, PAPER_BASIS), first(peaks, PAPER_BASIS))
        np.testing.assert_array_equal(
            other.magnitudes_and_arguments(peaks, PAPER_BASIS), first.magnitudes_and_arguments(peaks, PAPER_BASIS)
        )


@needs_compiler
@settings(deadline=None, max_examples=20)
@given(peaks=peak_batches())
def test_sums_in_float32_are_good_to_1e_5_of_order_zero(peaks):
    wanted = coefficients(peaks, PAPER_BASIS)
    got = on_host_shim(dtype="float32")(peaks, PAPER_BASIS)
    assert np.all(np.abs(got - wanted) <= 1e-5 * np.abs(wanted[:, :, :1]) + 1e-7)


@needs_compiler
def test_nothing_is_written_outside_the_output():
    peaks = random_peaks()
    inputs = radial_basis._inputs(peaks, None, None)
    room = np.full(len(peaks) * 533 + 200, np.nan, np.complex64)
    out = room[100:-100].reshape(len(peaks), 41, 13)
    launch(shim.HostKernel("radial_basis", "radial_basis_coefficients", "float64"), inputs, PAPER_BASIS, out=out)
    assert np.isfinite(out).all()
    assert np.isnan(room[:100]).all()
    assert np.isnan(room[-100:]).all()


@given(rings=st.integers(1, 1000), orders=st.integers(1, 100))
def test_the_chunks_of_every_basis_that_settings_allow_fit_and_cover_all_orders_once(rings, orders):
    geometry = launch_geometry(5, RadialBasis(rings, 0.05, orders))
    patterns, chunks = geometry.grid
    assert patterns == 5
    assert geometry.shared_memory <= SHARED_MEMORY
    covered = [
        m
        for chunk in range(chunks)
        for m in range(1 + chunk * geometry.orders_per_block, min(orders, 1 + (chunk + 1) * geometry.orders_per_block))
    ]
    assert covered == list(range(1, orders))


def test_the_papers_basis_takes_one_block_for_each_pattern():
    assert launch_geometry(7, PAPER_BASIS).grid == (7, 1)


def test_a_basis_whose_rings_alone_do_not_fit_is_refused():
    with pytest.raises(InvalidConfig, match="rings = 7000"):
        launch_geometry(1, RadialBasis(7000, 0.01, 2))
