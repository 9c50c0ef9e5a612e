"""The CUDA kernel indexes as the CPU does: on the host to the last bit, on a GPU but for rounding.

That the lattices are right is in tests/lattices/test_indexing.py.
"""

import functools
from dataclasses import fields
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuediff import arrays
from gpuediff.crystals.sources import read_crystals
from gpuediff.diffraction.orientations import orientations_for
from gpuediff.diffraction.simulate import simulate
from gpuediff.errors import InvalidPeaks
from gpuediff.features.lattice import LatticeBlock
from gpuediff.lattices import gpu_indexing
from gpuediff.lattices.gpu_indexing import SHARED_MEMORY, index_patterns_on_gpu, launch_geometry
from gpuediff.lattices.indexing import Indexing, Status, index_patterns
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Orientations, Simulation, Structures
from tests.host_shim import shim
from tests.kernels.implementations import available, host_shim_as_gpu, lattice_index_on_host_shim
from tests.lattices import cuts
from tests.lattices.cuts import WAVELENGTH

needs_compiler = pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")


@functools.cache
def simulated():
    """200 dynamical patterns of experimentally known crystals."""
    crystals, _ = read_crystals(Structures(sample=10, seed=5, volume_max=200))
    simulation = Simulation(orientations=Orientations(protocol="any", count=20))
    return PeakBatch.concatenate(
        [
            simulate(crystal, orientations_for(crystal, simulation.orientations), simulation).at(0)
            for crystal in crystals
        ]
    )


def deviations(got, wanted):
    """By how much the metrics of two bases differ, of the largest element; infinite if not of one lattice.

    Rounding decides which of two vectors of one length is a row, and its sign.
    """
    steps = np.rint(wanted @ np.linalg.inv(got))
    same = np.abs(np.abs(np.linalg.det(steps)) - 1) < 1e-9
    metric, other = (basis @ basis.swapaxes(-1, -2) for basis in (wanted, steps @ got))
    return np.where(same, np.abs(other - metric).max(axis=(1, 2)) / metric.max(axis=(1, 2)), np.inf)


def assert_identical(got, wanted):
    for field in fields(wanted):
        np.testing.assert_array_equal(getattr(got, field.name), getattr(wanted, field.name), err_msg=field.name)


def on_the_grid(rng, count, rank, noise=0.0):
    """Peaks on a lattice of 1 to 3 vectors in the plane, some of them twice."""
    places = rng.integers(-4, 5, (count, rank)) @ (0.2 * rng.normal(size=(rank, 2)))
    return places + noise * rng.normal(size=(count, 2))


KINDS = {
    "anywhere": lambda rng, count: rng.uniform(-1.5, 1.5, (count, 2)),
    "on a line": lambda rng, count: on_the_grid(rng, count, 1),
    "of one zone": lambda rng, count: on_the_grid(rng, count, 2),
    "on a square grid": lambda rng, count: 0.25 * rng.integers(-5, 6, (count, 2)),
    "of a lattice": lambda rng, count: on_the_grid(rng, count, 3),
    "of a noisy lattice": lambda rng, count: on_the_grid(rng, count, 3, 0.002),
    "at the direct beam": lambda rng, count: rng.uniform(-0.03, 0.03, (count, 2)),
}
INTENSITIES = {
    "equal": lambda rng, count: np.full(count, 0.25),
    "few": lambda rng, count: rng.choice([0.0, 0.125, 0.5], count),
    "zero": lambda rng, count: np.zeros(count),
    "all different": lambda rng, count: 10 ** rng.uniform(-6, 0, count),
}


@st.composite
def ragged(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pattern = st.tuples(st.integers(0, 90), st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(INTENSITIES)))
    return PeakBatch.from_lists(
        np.column_stack([KINDS[kind](rng, count), INTENSITIES[intensity](rng, count)])
        for count, kind, intensity in draw(st.lists(pattern, max_size=4))
    )


@needs_compiler
@settings(deadline=None, max_examples=40)
@given(peaks=ragged(), peaks_max=st.sampled_from([5, 20, 60]), peaks_min=st.sampled_from([4, 5, 12]))
def test_any_peaks_are_indexed_as_on_the_cpu_to_the_last_bit(peaks, peaks_max, peaks_min):
    limits = Indexing(peaks_max=peaks_max, peaks_min=peaks_min)
    got = lattice_index_on_host_shim()(peaks, limits, wavelength=WAVELENGTH)
    assert_identical(got, index_patterns(peaks, limits, wavelength=WAVELENGTH))


@pytest.mark.parametrize("implementation", available("lattice_index"))
def test_simulated_patterns_have_the_lattices_that_the_cpu_finds(implementation):
    peaks = simulated()
    assert len(peaks) == 200
    got, wanted = (index(peaks, wavelength=WAVELENGTH) for index in (implementation, index_patterns))
    indexed = wanted.status == Status.INDEXED
    assert indexed.sum() > 100
    near = ~indexed
    both = indexed & (got.status == Status.INDEXED)
    near[both] = deviations(got.basis[both, 0], wanted.basis[both, 0]) < 1e-6
    assert np.mean((got.status == wanted.status) & near) >= 0.99


@pytest.mark.parametrize("implementation", available("lattice_index"))
def test_every_kind_of_pattern_gets_the_status_that_the_cpu_gives(implementation):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 90, 20 * len(KINDS))
    kinds = list(KINDS.values()) * 20
    peaks = PeakBatch.from_lists(
        np.column_stack([kind(rng, count), rng.random(count)]) for kind, count in zip(kinds, counts, strict=True)
    )
    got, wanted = (index(peaks, wavelength=WAVELENGTH) for index in (implementation, index_patterns))
    assert set(wanted.status) == set(Status)
    assert np.mean(got.status == wanted.status) >= 0.98


@pytest.mark.parametrize("implementation", available("lattice_index"))
def test_two_runs_give_the_same_bits(implementation):
    peaks = cuts.patterns(10, seed=2, noise=0.001)[0]
    assert_identical(implementation(peaks, wavelength=WAVELENGTH), implementation(peaks, wavelength=WAVELENGTH))


@needs_compiler
@pytest.mark.parametrize(("lanes", "seed"), [(1, 0), (7, 1), (32, 2), (32, 3)])
def test_the_bits_depend_neither_on_the_number_of_lanes_nor_on_the_order_in_which_they_run(lanes, seed):
    exact, _ = cuts.patterns(2, seed=3)
    noisy, _ = cuts.patterns(2, seed=4, noise=0.002)
    few = PeakBatch.from_lists([(), on_the_grid(np.random.default_rng(0), 9, 3)[:, [0, 1, 1]] ** (1, 1, 2)])
    peaks = PeakBatch.concatenate([exact, few, noisy])
    got = lattice_index_on_host_shim(lanes, seed=seed)(peaks, wavelength=WAVELENGTH)
    assert_identical(got, index_patterns(peaks, wavelength=WAVELENGTH))


@needs_compiler
@pytest.mark.parametrize(
    ("limits", "in_shared_memory"),
    [
        (Indexing(peaks_max=90), True),
        (Indexing(peaks_max=150), False),
        (Indexing(peaks_max=200, hypotheses=8, clusters=60, pairs=20, trials=25), False),
        (Indexing(peaks_min=4, peaks_max=4, hypotheses=1, clusters=3, pairs=2, trials=1), True),
    ],
)
def test_differences_that_do_not_fit_shared_memory_lie_in_a_workspace(limits, in_shared_memory):
    peaks, _ = cuts.patterns(3, seed=5, noise=0.001, g_max=1.9)
    assert peaks.counts.max() > 150
    assert (launch_geometry(int(peaks.counts.max()), limits).workspace == 0) is in_shared_memory
    got = lattice_index_on_host_shim()(peaks, limits, wavelength=WAVELENGTH)
    assert_identical(got, index_patterns(peaks, limits, wavelength=WAVELENGTH))


@given(
    most=st.integers(0, 500),
    peaks_max=st.integers(4, 200),
    clusters=st.integers(3, 200),
    trials=st.integers(1, 100),
)
def test_patterns_of_all_sizes_that_settings_allow_fit_the_shared_memory_of_every_device(
    most, peaks_max, clusters, trials
):
    geometry = launch_geometry(most, Indexing(peaks_min=4, peaks_max=peaks_max, clusters=clusters, trials=trials))
    assert 0 < geometry.shared_memory <= SHARED_MEMORY
    assert geometry.room == max(1, min(most, peaks_max))


@needs_compiler
def test_batches_are_put_together_in_order():
    peaks = PeakBatch.concatenate([cuts.patterns(5, seed=6)[0], PeakBatch.from_lists([()])])
    with mock.patch.object(arrays, "memory_budget", return_value=2 * 2 * 1200 + 4 * 16 * 200):
        assert len(batches_of(peaks)) > 2
        got = lattice_index_on_host_shim()(peaks, wavelength=WAVELENGTH)
    assert_identical(got, index_patterns(peaks, wavelength=WAVELENGTH))


@needs_compiler
def test_every_number_of_the_result_is_written_whatever_was_there_before():
    flat = on_the_grid(np.random.default_rng(3), 40, 2)
    one_zone = PeakBatch.from_lists([np.column_stack([flat, np.linspace(0.1, 1, 40)]), ()])
    peaks = PeakBatch.concatenate([cuts.patterns(1, seed=9)[0], one_zone])
    wanted = index_patterns(peaks, wavelength=WAVELENGTH)
    assert wanted.status.tolist() == [Status.INDEXED, Status.ONE_ZONE, Status.TOO_FEW_PEAKS]
    empty = gpu_indexing.Found.empty

    def full(xp, n, h):
        found = empty(xp, n, h)
        for array in found:
            array[...] = 7
        return found

    with mock.patch.object(gpu_indexing.Found, "empty", full):
        assert_identical(lattice_index_on_host_shim()(peaks, wavelength=WAVELENGTH), wanted)


def batches_of(peaks):
    with host_shim_as_gpu(), mock.patch.object(arrays, "run_batches") as run_batches:
        index_patterns_on_gpu(peaks, wavelength=WAVELENGTH)
    return run_batches.call_args.args[1]


@needs_compiler
def test_single_precision_in_the_search_leads_to_the_same_lattices():
    peaks, bases = cuts.patterns(30, seed=7, noise=0.0005)
    single = lattice_index_on_host_shim(dtype="float32")(peaks, wavelength=WAVELENGTH)
    double = index_patterns(peaks, wavelength=WAVELENGTH)
    assert np.mean(single.status == double.status) >= 0.95

    def right(result):
        steps = [cuts.steps_between(found, true, 0.004) for found, true in zip(result.basis[:, 0], bases, strict=True)]
        return np.array([step is not None and abs(round(np.linalg.det(step))) == 1 for step in steps])

    assert np.mean(right(single) == right(double)) >= 0.95
    assert right(single).mean() >= 0.9


@pytest.mark.parametrize("implementation", available("lattice_index"))
def test_wrong_values_are_refused_before_anything_is_computed(implementation):
    good = cuts.patterns(1, seed=8)[0]
    for column, value in (("qx", np.nan), ("qy", np.inf), ("intensity", np.nan), ("intensity", -1.0)):
        columns = {name: getattr(good, name).copy() for name in ("qx", "qy", "intensity")}
        columns[column][3] = value
        with pytest.raises(InvalidPeaks, match="pattern 0, peak 3"):
            implementation(PeakBatch(**columns, offsets=good.offsets), wavelength=WAVELENGTH)
    with pytest.raises(ValueError, match="wavelength = -1"):
        implementation(good, wavelength=-1)


@pytest.mark.parametrize("implementation", available("lattice_index"))
def test_no_patterns_and_patterns_without_peaks_have_no_lattice(implementation):
    assert len(implementation(PeakBatch.from_lists([]), wavelength=WAVELENGTH)) == 0
    result = implementation(PeakBatch.from_lists([(), ()]), wavelength=WAVELENGTH)
    assert result.status.tolist() == [Status.TOO_FEW_PEAKS] * 2
    assert np.isnan(result.basis).all()
    assert np.isnan(result.centre).all()
    assert (result.layers == 0).all()


@needs_compiler
def test_features_of_patterns_on_a_gpu_are_those_of_the_cpu():
    block, peaks = LatticeBlock(300e3), cuts.patterns(4, seed=11)[0]
    launched = mock.patch.object(gpu_indexing, "launch", wraps=gpu_indexing.launch)
    with host_shim_as_gpu(), mock.patch.object(gpu_indexing, "THREADS", 4), launched as launch:
        got = block.compute(peaks)
    assert launch.called
    np.testing.assert_array_equal(got, block.compute(peaks))
