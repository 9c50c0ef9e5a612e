import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from scipy.stats import kstest

from gpuediff.arrays import CPU, resolve_device
from gpuediff.diffraction import detector
from gpuediff.errors import DeviceUnavailable
from gpuediff.peaks import PeakBatch
from tests.array_namespaces import DeviceArray, batch_on_device, on_device, strict_device


def patterns(count, peaks, *, seed=0, intensity=None):
    """Patterns of a direct beam at the centre and peaks anywhere from 0.2 Å⁻¹ on."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(count):
        radius, azimuth = rng.uniform(0.2, 2, size=peaks), rng.uniform(0, 2 * np.pi, size=peaks)
        values = rng.uniform(0.001, 0.1, size=peaks) if intensity is None else np.full(peaks, intensity)
        lists.append((np.r_[0, radius * np.cos(azimuth)], np.r_[0, radius * np.sin(azimuth)], np.r_[0.5, values]))
    return PeakBatch.from_lists(lists)


def assert_equal(first, second):
    for field in ("qx", "qy", "intensity", "offsets"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))


BATCH = patterns(200, 30)
EFFECTS = {
    "count_electrons": lambda peaks, seed: detector.count_electrons(peaks, 1e4, seed),
    "jitter": lambda peaks, seed: detector.jitter(peaks, 0.002, seed),
    "shift_centre": lambda peaks, seed: detector.shift_centre(peaks, 0.01, seed),
    "scale_pixel_size": lambda peaks, seed: detector.scale_pixel_size(peaks, 0.01, seed),
    "vary_intensity": lambda peaks, seed: detector.vary_intensity(peaks, 0.1, seed),
    "lose_peaks": lambda peaks, seed: detector.lose_peaks(peaks, 0.3, seed),
    "add_spurious_peaks": lambda peaks, seed: detector.add_spurious_peaks(peaks, 3, seed),
}


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
def test_a_seed_fixes_the_outcome(effect):
    before = [BATCH.qx.copy(), BATCH.intensity.copy()]
    first = effect(BATCH, 7).validate()
    assert_equal(first, effect(BATCH, 7))
    other = effect(BATCH, 8)
    assert (
        len(first.qx) != len(other.qx)
        or not np.array_equal(first.qx, other.qx)
        or (not np.array_equal(first.intensity, other.intensity))
    )
    assert len(first) == len(BATCH)
    assert first.qx.dtype == first.qy.dtype == first.intensity.dtype == np.float32
    np.testing.assert_array_equal(before, [BATCH.qx, BATCH.intensity])  # the input stays as it was
    rng = np.random.default_rng(1)  # a generator goes on, call after call
    assert len({float(np.sum(effect(BATCH, rng).qx) + np.sum(effect(BATCH, rng).intensity)) for _ in range(3)}) == 3


def test_one_seed_gives_independent_chance_to_different_effects():
    moved = detector.jitter(BATCH, 0.01, 3).qx - BATCH.qx
    shifted = detector.shift_centre(BATCH, 0.01, 3).qx - BATCH.qx
    assert abs(np.corrcoef(moved[: len(BATCH)], shifted[BATCH.offsets[:-1]])[0, 1]) < 0.25


ALL = EFFECTS | {
    "limit_dynamic_range": lambda peaks, _: detector.limit_dynamic_range(peaks, 50),
    "a spurious peak in thirty": lambda peaks, seed: detector.add_spurious_peaks(peaks, peaks.counts / 30, seed),
    "overlap": lambda peaks, _: detector.overlap(peaks, peaks[::-1], weight=0.3, radius=0.1),
    "overlap, own weights": lambda peaks, _: detector.overlap(peaks, peaks, weight=1 / (1 + peaks.counts)),
    "overlap in long chains": lambda peaks, _: detector.overlap(peaks, peaks[::-1], radius=0.6),
}


BATCHES = {
    "twenty": patterns(20, 9, seed=3),
    "one": patterns(1, 9, seed=3),
    "some empty": PeakBatch.concatenate([PeakBatch.from_lists([[]]), patterns(3, 9), PeakBatch.from_lists([[], []])]),
    "all empty": PeakBatch.from_lists([[], []]),
    "none": PeakBatch.from_lists([]),
}


@pytest.mark.parametrize("peaks", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("effect", ALL.values(), ids=ALL)
def test_a_seed_means_the_same_patterns_on_a_device_and_nothing_leaves_it(effect, peaks):
    with strict_device():
        seen = effect(batch_on_device(peaks), 5)
        columns = [seen.qx, seen.qy, seen.intensity, seen.offsets]
        assert all(isinstance(column, DeviceArray) for column in columns)
    assert_equal(PeakBatch(*(column.get() for column in columns)), effect(peaks, 5))


def gpu_or_skip():
    try:
        return resolve_device("gpu")
    except DeviceUnavailable as missing:
        pytest.skip(f"no GPU: {missing}")


@pytest.mark.gpu
@pytest.mark.parametrize("peaks", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("effect", ALL.values(), ids=ALL)
def test_a_seed_means_the_same_patterns_on_a_gpu(effect, peaks):
    gpu = gpu_or_skip()
    seen = effect(peaks.to(gpu), 5)
    assert type(seen.qx).__module__ == type(seen.offsets).__module__ == "cupy"
    assert_equal(seen.to(CPU), effect(peaks, 5))


@pytest.mark.gpu
@pytest.mark.parametrize("effect", ALL.values(), ids=ALL)
def test_many_patterns_are_the_same_on_a_gpu_call_after_call(effect):
    peaks = patterns(3000, 80, seed=4)
    there = peaks.to(gpu_or_skip())
    for _ in range(3):  # what is left to the order of threads differs from call to call
        assert_equal(effect(there, 5).to(CPU), effect(peaks, 5))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda xp: xp.lexsort(xp.zeros((2, 3))), AttributeError),
        (lambda xp: xp.bincount(xp.zeros(0, int), minlength=3), ValueError),
        (lambda xp: xp.minimum.at(xp.zeros(3, np.int64), xp.arange(3), xp.arange(3)), TypeError),
        (lambda xp: xp.argsort(xp.zeros(3), kind="quicksort"), AssertionError),
        (lambda xp: xp.zeros(3) + np.zeros(3), TypeError),
        (lambda xp: xp.zeros(3)[np.arange(2)], TypeError),
        (lambda xp: np.sort(xp.zeros(3)), TypeError),
        (lambda xp: xp.cumsum(np.zeros(3)), TypeError),
    ],
)
def test_the_stand_in_for_a_device_refuses_what_a_device_would(call, error):
    with strict_device() as xp, pytest.raises(error):
        call(xp)


def test_shares_and_rates_may_be_numbers_or_arrays_of_either_device():
    peaks = patterns(20, 9)
    rates, shares = 0.03 * peaks.counts, np.linspace(0, 1, 20)
    half = detector.overlap(peaks, peaks[::-1])
    for number in (0.5, np.float64(0.5), np.array(0.5), [0.5] * 20):
        assert_equal(detector.overlap(peaks, peaks[::-1], weight=number), half)
    with strict_device():
        there = batch_on_device(peaks)
        spurious = detector.add_spurious_peaks(there, on_device(rates), 2)
        both = detector.overlap(there, there[::-1], weight=on_device(shares))
        unequal = detector.overlap(there, there[::-1], weight=on_device(0.5))
    for seen, expected in (
        (spurious, detector.add_spurious_peaks(peaks, rates, 2)),
        (both, detector.overlap(peaks, peaks[::-1], weight=shares)),
        (unequal, half),
    ):
        assert_equal(PeakBatch(*(column.get() for column in vars(seen).values())), expected)


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
def test_batches_without_patterns_or_peaks_pass_through(effect):
    assert len(effect(PeakBatch.from_lists([]), 0)) == 0
    empty = PeakBatch.from_lists([[], []])
    assert len(effect(empty, 0)) == 2
    assert len(detector.limit_dynamic_range(empty, 100)) == 2
    assert len(detector.overlap(empty, empty)) == 2


def test_dynamic_range_is_that_of_every_pattern_for_itself():
    peaks = PeakBatch.from_lists([([0, 1, 2], [0, 0, 0], [1, 0.1, 0.009]), ([0, 1], [0, 0], [1e-4, 2e-6])])
    seen = detector.limit_dynamic_range(peaks, 100)
    np.testing.assert_array_equal(seen.counts, [2, 2])
    np.testing.assert_allclose(seen.intensity, [1, 0.1, 1e-4, 2e-6])
    assert_equal(detector.limit_dynamic_range(peaks, 1e6), peaks)


def test_electrons_are_counted_with_poisson_statistics():
    peaks = patterns(1, 40_000, intensity=2e-4)
    dose = 1e5
    counts = np.zeros(40_000)
    seen = detector.count_electrons(peaks, dose, 0)
    counts[: len(seen.intensity) - 1] = seen.intensity[1:]
    assert (seen.intensity == np.round(seen.intensity)).all()
    assert counts.mean() == pytest.approx(20, rel=0.01)
    assert counts.var() == pytest.approx(20, rel=0.05)


def test_peaks_without_an_electron_are_lost():
    peaks = patterns(1, 20_000, intensity=1e-5)
    seen = detector.count_electrons(peaks, 1e5, 0)
    assert (seen.intensity > 0).all()
    assert 1 - (len(seen.qx) - 1) / 20_000 == pytest.approx(np.exp(-1), abs=0.02)


def test_jitter_moves_every_peak_on_its_own():
    moved = detector.jitter(BATCH, 0.003, 1)
    steps = np.stack([moved.qx - BATCH.qx, moved.qy - BATCH.qy])
    assert kstest(steps.ravel() / 0.003, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(steps)[0, 1]) < 0.05
    np.testing.assert_array_equal(moved.intensity, BATCH.intensity)


def test_an_error_of_the_centre_moves_the_pattern_as_a_whole():
    moved = detector.shift_centre(BATCH, 0.02, 1)
    steps = np.stack([moved.qx - BATCH.qx, moved.qy - BATCH.qy])
    first = steps[:, BATCH.offsets[:-1]]
    np.testing.assert_allclose(steps, first[:, BATCH.pattern_of_peak], atol=3e-7)
    assert kstest(first.ravel() / 0.02, "norm").pvalue > 1e-3


def test_an_error_of_the_pixel_size_stretches_the_pattern_about_its_centre():
    stretched = detector.scale_pixel_size(BATCH, 0.01, 1)
    away = np.hypot(BATCH.qx, BATCH.qy) > 0.1
    factor = np.hypot(stretched.qx, stretched.qy)[away] / np.hypot(BATCH.qx, BATCH.qy)[away]
    pattern = BATCH.pattern_of_peak[away]
    per_pattern = np.array([factor[pattern == index].mean() for index in range(len(BATCH))])
    np.testing.assert_allclose(factor, per_pattern[pattern], atol=1e-6)
    assert kstest((per_pattern - 1) / 0.01, "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.arctan2(stretched.qy, stretched.qx), np.arctan2(BATCH.qy, BATCH.qx), atol=1e-6)


def test_intensities_vary_by_factors_of_median_one():
    seen = detector.vary_intensity(BATCH, 0.1, 4)
    assert kstest(np.log(seen.intensity / BATCH.intensity) / 0.1, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(seen.qx, BATCH.qx)
    assert_equal(detector.vary_intensity(BATCH, 0.0, 4), BATCH)


def test_spurious_peaks_can_be_a_share_of_each_patterns_peaks():
    clean = PeakBatch.concatenate([patterns(2000, 9), patterns(2000, 99)])
    added = detector.add_spurious_peaks(clean, 0.03 * clean.counts, 3).counts - clean.counts
    assert added[:2000].mean() == pytest.approx(0.3, rel=0.1)
    assert added[2000:].mean() == pytest.approx(3.0, rel=0.05)


def test_peaks_are_lost_as_often_as_asked_whatever_their_intensity_but_never_the_direct_beam():
    seen = detector.lose_peaks(BATCH, 0.3, 2)
    diffracted = len(BATCH.qx) - len(BATCH)
    lost = len(BATCH.qx) - len(seen.qx)
    assert lost / diffracted == pytest.approx(0.3, abs=0.03)
    assert (np.hypot(seen.qx, seen.qy) == 0).sum() == len(BATCH)
    away = seen.intensity[np.hypot(seen.qx, seen.qy) > 0]
    assert away.mean() == pytest.approx(BATCH.intensity[BATCH.intensity < 0.5].mean(), rel=0.03)
    np.testing.assert_array_equal(detector.lose_peaks(BATCH, 1.0, 2).counts, np.ones(len(BATCH)))
    assert_equal(detector.lose_peaks(BATCH, 0.0, 2), BATCH)


def test_spurious_peaks_lie_anywhere_on_the_disc_with_intensities_of_all_magnitudes():
    clean = patterns(4000, 2)
    dirty = detector.add_spurious_peaks(clean, 5, 3, q_max=1.5, intensity=(1e-4, 1e-2))
    added = dirty.counts - clean.counts
    assert added.mean() == pytest.approx(5, rel=0.03)
    assert added.var() == pytest.approx(5, rel=0.1)
    own = np.concatenate([np.arange(start, start + 3) for start in dirty.offsets[:-1]])
    np.testing.assert_array_equal(dirty.qx[own], clean.qx)  # the pattern's own peaks come first
    spurious = np.setdiff1d(np.arange(len(dirty.qx)), own)
    radius = np.hypot(dirty.qx, dirty.qy)[spurious]
    assert kstest((radius / 1.5) ** 2, "uniform").pvalue > 1e-3
    azimuth = np.arctan2(dirty.qy, dirty.qx)[spurious]
    assert kstest(azimuth / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
    assert kstest(np.log10(dirty.intensity[spurious]) / 2 + 2, "uniform").pvalue > 1e-3


def test_overlapping_grains_share_the_beam():
    first = PeakBatch.from_lists([([0, 1], [0, 0], [0.6, 0.4]), ([0], [0], [1.0])])
    second = PeakBatch.from_lists([([0, 1.01, 0.5], [0, 0, 0.5], [0.5, 0.3, 0.2]), ([0, 0.7], [0, 0], [0.8, 0.2])])
    both = detector.overlap(first, second, weight=0.25, radius=0.02)
    np.testing.assert_array_equal(both.counts, [3, 2])
    np.testing.assert_allclose(both.intensity, [0.575, 0.375, 0.05, 0.95, 0.05], rtol=1e-6)
    np.testing.assert_allclose(both.qx, [0, (0.3 * 1 + 0.075 * 1.01) / 0.375, 0.5, 0, 0.7], rtol=1e-6)
    np.testing.assert_allclose(both.qy, [0, 0, 0.5, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(detector.overlap(first, second, radius=0.005).counts, [4, 2])


def test_every_pattern_can_have_its_own_share():
    both = detector.overlap(BATCH, BATCH, weight=np.linspace(0, 1, len(BATCH)), radius=0.0)
    np.testing.assert_allclose(np.sum(both.intensity), np.sum(BATCH.intensity), rtol=1e-5)
    np.testing.assert_array_equal(both.counts, BATCH.counts)  # a peak and itself are one
    np.testing.assert_allclose(both.qx, BATCH.qx, atol=1e-6)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_merging_keeps_intensity_and_centre_of_mass_and_leaves_no_pair_within_the_radius(first, second, weight):
    def batch(places):
        columns = np.array(places, dtype=float).reshape(-1, 2)
        return PeakBatch.from_lists([(columns[:, 0], columns[:, 1], np.arange(1.0, len(columns) + 1))])

    a, b = batch(first), batch(second)
    both = detector.overlap(a, b, weight=weight, radius=0.5).validate()  # places are whole numbers: equal ones merge
    assert both.intensity.sum() == pytest.approx(
        (1 - weight) * a.intensity.sum() + weight * b.intensity.sum(), rel=1e-5
    )
    moment = (1 - weight) * (a.intensity @ a.qx) + weight * (b.intensity @ b.qx)
    assert both.intensity @ both.qx == pytest.approx(moment, rel=1e-4, abs=1e-4)
    places = list(zip(both.qx.round(3).tolist(), both.qy.round(3).tolist(), strict=True))
    assert sorted(places) == sorted(set(first) | set(second))


def united(peaks, radius):
    """The same by all distances and the connected components of the graph that they make, pattern by pattern."""
    lists = []
    for qx, qy, intensity in peaks:
        columns = np.stack([qx, qy, intensity]).astype(np.float64)
        places = columns[:2].T
        _, group = connected_components(cdist(places, places) <= radius, directed=False)
        merged = []
        for first in sorted(np.unique(group, return_index=True)[1]):
            x, y, parts = columns[:, group == group[first]]
            mass = parts if parts.sum() > 0 else np.ones(len(parts))
            merged.append((mass @ x / mass.sum(), mass @ y / mass.sum(), parts.sum()))
        lists.append(tuple(np.array(merged).reshape(-1, 3).T))
    return PeakBatch.from_lists(lists)


@pytest.mark.parametrize("radius", [0.0, 0.01, 0.05, 0.2, 1.0])
def test_merging_unites_the_connected_components_of_every_pattern(radius):
    rng = np.random.default_rng(6)
    lists = []
    for count in rng.integers(0, 60, size=30):
        places = rng.integers(-40, 40, size=(2, count)) * 0.0125  # rows, columns, and the same place twice
        lists.append((*places, rng.integers(0, 3, size=count)))
    peaks = PeakBatch.from_lists(lists)
    nothing = PeakBatch.from_lists([[]] * 30)
    merged = detector.overlap(peaks, nothing, weight=0.0, radius=radius)
    expected = united(peaks, radius)
    np.testing.assert_array_equal(merged.offsets, expected.offsets)
    np.testing.assert_allclose(merged.intensity, expected.intensity, rtol=1e-6)
    np.testing.assert_allclose(merged.qx, expected.qx, atol=1e-6)
    np.testing.assert_allclose(merged.qy, expected.qy, atol=1e-6)


def test_a_chain_however_long_becomes_one_peak_whatever_the_order_of_its_links():
    order = np.random.default_rng(0).permutation(500)
    chain = (0.01 * order / np.sqrt(2), 0.01 * order / np.sqrt(2), np.ones(500))
    peaks = PeakBatch.from_lists([([3.6], [3.6], [5.0]), chain, ([], [], [])])
    merged = detector.overlap(peaks, PeakBatch.from_lists([[]] * 3), weight=0.0, radius=0.0101)
    np.testing.assert_array_equal(merged.counts, [1, 1, 0])
    np.testing.assert_allclose(merged.intensity, [5, 500])
    np.testing.assert_allclose(merged.qx, [3.6, 2.495 / np.sqrt(2)], rtol=1e-6)


def test_a_peak_that_meets_no_other_stays_exactly_where_it_is():
    peaks = patterns(50, 40, seed=9)
    merged = detector.overlap(peaks, PeakBatch.from_lists([[]] * 50), weight=0.0, radius=0.05)
    assert len(merged.qx) < len(peaks.qx) - 20
    for before, after in zip(peaks, merged, strict=True):
        places = np.stack(before[:2], axis=1)
        alone = (cdist(places, places) <= 0.05).sum(axis=1) == 1
        rows = {tuple(row) for row in np.stack(after, axis=1).tolist()}
        assert {tuple(row) for row in np.stack(before, axis=1)[alone].tolist()} <= rows


def test_the_patterns_of_a_careful_measurement_can_be_expressed():
    clean = patterns(1000, 60)
    seen = detector.vary_intensity(detector.jitter(detector.scale_pixel_size(clean, 0.01, 1), 0.002, 1), 0.1, 1)
    away = np.hypot(clean.qx, clean.qy) > 1.0
    radius, moved = np.hypot(clean.qx, clean.qy)[away], np.hypot(seen.qx, seen.qy)[away]
    expected = np.sqrt(0.01**2 * np.mean(radius**2) + 0.002**2)  # along the radius, both errors
    assert np.std(moved - radius) == pytest.approx(expected, rel=0.06)
    assert np.std(seen.intensity / clean.intensity) == pytest.approx(0.1, rel=0.03)
    lossy = detector.lose_peaks(seen, 0.1, 1)
    dirty = detector.add_spurious_peaks(lossy, 0.03 * seen.counts, 1)
    assert len(lossy.qx) / len(seen.qx) == pytest.approx(0.9, abs=0.01)
    assert (len(dirty.qx) - len(lossy.qx)) / len(seen.qx) == pytest.approx(0.03, abs=0.003)
    limited = detector.limit_dynamic_range(dirty, 1e3)
    assert 0 < len(dirty.qx) - len(limited.qx) < 0.03 * len(dirty.qx)  # spurious peaks fainter than 5e-4
    for _, _, intensity in limited:
        assert intensity.max() <= 1e3 * intensity.min()


def test_a_second_grain_in_a_fifth_of_the_patterns_leaves_the_others_as_they_are():
    first, second = patterns(2000, 20, seed=1), patterns(2000, 20, seed=2)
    rng = np.random.default_rng(3)
    is_there = rng.random(2000) < 0.2
    weight = np.where(is_there, rng.uniform(0.1, 0.5, size=2000), 0.0)
    both = detector.overlap(first, second.keep(is_there[second.pattern_of_peak]), weight=weight, radius=0.0)
    assert_equal(both[~is_there], first[~is_there])
    np.testing.assert_array_equal(both[is_there].counts, 41)  # the direct beam is one
    sums = np.array([intensity.sum(dtype=np.float64) for _, _, intensity in both])
    alone = [np.array([intensity.sum(dtype=np.float64) for _, _, intensity in grain]) for grain in (first, second)]
    np.testing.assert_allclose(sums, (1 - weight) * alone[0] + weight * alone[1], rtol=1e-6)
    moved = detector.jitter(both, 0.005, 3)
    assert np.std(moved.qx - both.qx) == pytest.approx(0.005, rel=0.02)


def test_peaks_of_different_patterns_never_merge():
    peaks = PeakBatch.from_lists([([1.0], [0], [1])] * 50)
    both = detector.overlap(peaks, peaks, radius=1.9)
    np.testing.assert_array_equal(both.counts, np.ones(50))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detector.limit_dynamic_range(BATCH, 1), "ratio = 1"),
        (lambda: detector.count_electrons(BATCH, 0, 0), "dose = 0"),
        (lambda: detector.jitter(BATCH, -0.1, 0), r"sigma = -0\.1"),
        (lambda: detector.shift_centre(BATCH, np.nan, 0), "sigma = nan"),
        (lambda: detector.scale_pixel_size(BATCH, 0.5, 0), r"sigma = 0\.5"),
        (lambda: detector.vary_intensity(BATCH, -0.1, 0), r"sigma = -0\.1"),
        (lambda: detector.lose_peaks(BATCH, 1.5, 0), r"probability = 1\.5"),
        (lambda: detector.add_spurious_peaks(BATCH, -1, 0), "rate = -1"),
        (lambda: detector.add_spurious_peaks(BATCH, 1, 0, q_max=0), "q_max = 0"),
        (lambda: detector.add_spurious_peaks(BATCH, 1, 0, intensity=(1, 0.5)), "intensity"),
        (lambda: detector.overlap(BATCH, BATCH, weight=2), "weight = 2"),
        (lambda: detector.overlap(BATCH, BATCH, radius=-1), "radius = -1"),
        (lambda: detector.overlap(BATCH, BATCH, weight=np.zeros(3)), r"weight: .* each of 200 patterns, got .*3"),
        (lambda: detector.add_spurious_peaks(BATCH, np.ones((200, 1)), 0), r"rate: .* each of 200 patterns"),
        (lambda: detector.overlap(BATCH, BATCH[:3]), "200 patterns cannot be laid over 3"),
    ],
)
def test_impossible_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
