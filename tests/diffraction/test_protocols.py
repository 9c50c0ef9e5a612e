from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare, kstest, poisson

from gpuediff import arrays
from gpuediff.diffraction import detector as effects
from gpuediff.diffraction import protocols
from gpuediff.diffraction.protocols import PROTOCOLS, Detector, observe, partners_of, second_grain_share
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch
from gpuediff.settings import Orientations
from tests.array_namespaces import batch_on_device, strict_device
from tests.strategies import peak_batches

MEASURED, HARD = PROTOCOLS["measured"].detector, PROTOCOLS["hard"].detector


def patterns(count, peaks, *, seed=0, faintest=1e-2):
    """Patterns of a direct beam of 0.5 at the centre and diffracted peaks from 0.2 to 1.9 Å⁻¹."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(count):
        radius, azimuth = rng.uniform(0.2, 1.9, size=peaks), rng.uniform(0, 2 * np.pi, size=peaks)
        values = 10 ** rng.uniform(np.log10(faintest), -1, size=peaks)
        lists.append((np.r_[0, radius * np.cos(azimuth)], np.r_[0, radius * np.sin(azimuth)], np.r_[0.5, values]))
    return PeakBatch.from_lists(lists)


def assert_equal(first, second):
    for field in ("qx", "qy", "intensity", "offsets"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))


CLEAN = patterns(500, 60)
NUMBERS = np.arange(len(CLEAN))
OTHERS = patterns(500, 60, seed=1)


def test_the_protocols_are_those_of_the_documentation_and_cannot_be_changed():
    assert list(PROTOCOLS) == ["grid", "any", "measured", "hard"]
    assert [conditions.orientations for conditions in PROTOCOLS.values()] == ["grid", "any", "any", "any"]
    assert PROTOCOLS["grid"].detector == PROTOCOLS["any"].detector == Detector()
    for conditions in PROTOCOLS.values():
        assert Orientations(protocol=conditions.orientations).protocol == conditions.orientations
    changed = {name: value for name, value in HARD if value != getattr(MEASURED, name)}
    assert changed == {"jitter": 0.005, "second_grain": 0.2}
    assert HARD.second_grain_weight == (0.1, 0.4)
    with pytest.raises(TypeError):
        PROTOCOLS["easy"] = PROTOCOLS["any"]
    with pytest.raises(ValidationError):
        MEASURED.jitter = 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("jitter", -0.001),
        ("jitter", np.nan),
        ("dynamic_range", 0.0),
        ("dynamic_range", 1000.0),
        ("lost", 1.1),
        ("spurious", -0.1),
        ("pixel_size_error", 0.2),
        ("intensity_noise", 4.0),
        ("centre_error", 1.0),
        ("second_grain", 2.0),
        ("second_grain_weight", (0.4, 0.1)),
        ("second_grain_weight", (0.1, 0.6)),
        ("pixel_size", 0.01),
    ],
)
def test_a_detector_that_cannot_be_is_refused_by_the_name_of_the_field(field, value):
    with pytest.raises(ValidationError, match=field):
        Detector(**{field: value})


@pytest.mark.parametrize("name", ["grid", "any"])
def test_a_perfect_detector_leaves_every_bit(name):
    assert_equal(observe(CLEAN, PROTOCOLS[name].detector, seed=3, pattern=NUMBERS), CLEAN)


@pytest.mark.parametrize("field", sorted(set(Detector.model_fields) - {"second_grain_weight"}))
def test_every_effect_disturbs_a_pattern_and_is_its_own_whatever_else_is_in_the_batch(field):
    only = Detector(**{field: getattr(HARD, field)})
    clean, others = patterns(60, 40, faintest=1e-5), patterns(60, 40, seed=1)
    numbers = np.arange(60) + 17
    together = observe(clean, only, seed=5, pattern=numbers, partners=others)
    assert not np.array_equal(together.intensity, clean.intensity) or not np.array_equal(together.qx, clean.qx)
    order = np.random.default_rng(0).permutation(60)[:33]
    assert_equal(
        observe(clean[order], only, seed=5, pattern=numbers[order], partners=others[order]).validate(), together[order]
    )


@settings(max_examples=60, deadline=None)
@given(peak_batches(), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_a_pattern_has_the_same_bits_alone_and_in_any_batch(peaks, seed, random):
    numbers = np.array([random.randrange(10**9) for _ in range(len(peaks))], dtype=np.int64)
    partners = peaks[::-1]
    together = observe(peaks, HARD, seed=seed, pattern=numbers, partners=partners).validate()
    order = np.array(random.sample(range(len(peaks)), len(peaks)), dtype=np.int64)
    shuffled = observe(peaks[order], HARD, seed=seed, pattern=numbers[order], partners=partners[order])
    assert_equal(shuffled, together[order])
    for index in range(len(peaks)):
        one = slice(index, index + 1)
        alone = observe(peaks[one], HARD, seed=seed, pattern=numbers[one], partners=partners[one])
        assert_equal(alone, together[one])
    for (_, _, before), (_, _, after), (_, _, other) in zip(peaks, together, partners, strict=True):
        assert len(before) or len(other) or not len(after)  # nothing comes of nothing


def test_another_seed_and_another_number_mean_other_noise():
    def steps(seed, numbers):
        return observe(CLEAN, Detector(jitter=0.01), seed=seed, pattern=numbers).qx - CLEAN.qx

    first = steps(1, NUMBERS)
    for other in (steps(2, NUMBERS), steps(1, NUMBERS + 1), steps(1, NUMBERS + 2**40)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(len(first))


def test_different_effects_draw_independent_numbers():
    seen = observe(CLEAN, Detector(jitter=0.01, intensity_noise=0.1), seed=0, pattern=NUMBERS)
    steps, factors = seen.qx - CLEAN.qx, np.log(seen.intensity / CLEAN.intensity)
    assert abs(np.corrcoef(steps, factors)[0, 1]) < 4 / np.sqrt(len(steps))


def test_a_seed_means_the_same_patterns_on_a_device():
    clean, others, numbers = CLEAN[:20], OTHERS[:20], NUMBERS[:20]
    with strict_device():
        here = {"namespace": arrays.namespace, "to_host": arrays.to_host}
        with mock.patch.multiple(protocols, **here):
            there = observe(batch_on_device(clean), HARD, seed=4, pattern=numbers, partners=batch_on_device(others))
    assert (second_grain_share(HARD, seed=4, pattern=numbers) > 0).any()
    expected = observe(clean, HARD, seed=4, pattern=numbers, partners=others)
    assert_equal(PeakBatch(*(column.get() for column in vars(there).values())), expected)


def test_jitter_has_its_standard_deviation_along_x_and_y_and_no_correlation():
    moved = observe(CLEAN, Detector(jitter=0.002), seed=0, pattern=NUMBERS)
    steps = np.stack([moved.qx - CLEAN.qx, moved.qy - CLEAN.qy])
    error = 0.002 / np.sqrt(2 * steps.shape[1])
    np.testing.assert_allclose(np.sqrt(np.mean(steps**2, axis=1)), 0.002, atol=4 * error)
    np.testing.assert_allclose(steps.mean(axis=1), 0, atol=4 * 0.002 / np.sqrt(steps.shape[1]))
    assert kstest(steps.ravel() / 0.002, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(steps)[0, 1]) < 4 / np.sqrt(steps.shape[1])
    first, second = steps[0].reshape(500, 61)[:-1], steps[0].reshape(500, 61)[1:]  # neighbours in the library
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / np.sqrt(first.size)
    assert abs(np.corrcoef(steps[0, :-1], steps[0, 1:])[0, 1]) < 4 / np.sqrt(first.size)  # in a pattern


def test_a_pattern_is_shifted_and_scaled_as_a_whole_by_its_own_numbers():
    clean = patterns(4000, 3)
    seen = observe(clean, Detector(centre_error=0.001, pixel_size_error=0.01), seed=2, pattern=np.arange(4000))
    x, y, qx, qy = (column.reshape(4000, 4).astype(float) for column in (clean.qx, clean.qy, seen.qx, seen.qy))
    length = np.hypot(x[:, 1] - x[:, 2], y[:, 1] - y[:, 2])
    seen_length = np.hypot(qx[:, 1] - qx[:, 2], qy[:, 1] - qy[:, 2])
    factor = seen_length[length > 0.5] / length[length > 0.5]
    assert kstest((factor - 1) / 0.01, "norm").pvalue > 1e-3
    # The direct beam, at 0, is where the centre went, then scaled.
    assert kstest(np.r_[qx[:, 0], qy[:, 0]] / (0.001 * np.sqrt(1 + 0.01**2)), "norm").pvalue > 1e-3
    np.testing.assert_allclose(qx - x * (seen_length / length)[:, None], np.repeat(qx[:, :1], 4, axis=1), atol=1e-5)


def test_peaks_are_lost_as_often_as_asked_and_the_direct_beam_never_however_far_it_moves():
    seen = observe(CLEAN, Detector(lost=0.1), seed=0, pattern=NUMBERS)
    diffracted = len(CLEAN.qx) - len(CLEAN)
    share = 1 - (len(seen.qx) - len(CLEAN)) / diffracted
    assert share == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 / diffracted))
    lost_in = 61 - seen.counts
    assert lost_in.var() == pytest.approx(60 * 0.1 * 0.9, rel=0.25)  # binomial
    assert (np.hypot(seen.qx, seen.qy) < DIRECT_BEAM_RADIUS).sum() == len(CLEAN)
    only = observe(CLEAN, Detector(lost=1.0, jitter=0.1, centre_error=0.1), seed=0, pattern=NUMBERS)
    np.testing.assert_array_equal(only.counts, np.ones(len(CLEAN)))
    np.testing.assert_array_equal(only.intensity, np.float32(0.5))
    assert (np.hypot(only.qx, only.qy) > DIRECT_BEAM_RADIUS).any()


def test_intensities_vary_by_a_tenth_about_the_true_ones():
    seen = observe(CLEAN, Detector(intensity_noise=0.1), seed=0, pattern=NUMBERS)
    logarithm = np.log(seen.intensity / CLEAN.intensity)
    assert kstest(logarithm / 0.1, "norm").pvalue > 1e-3
    assert logarithm.std() == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * len(logarithm)))


@pytest.mark.parametrize("detector", [MEASURED, HARD], ids=["measured", "hard"])
def test_no_peak_is_below_the_dynamic_range_of_its_pattern(detector):
    clean = patterns(200, 60, faintest=1e-6)
    seen = observe(clean, detector, seed=0, pattern=np.arange(200), partners=patterns(200, 60, seed=3, faintest=1e-6))
    for (_, _, intensity), (_, _, before) in zip(seen, clean, strict=True):
        assert intensity.min() >= 0.999999e-3 * intensity.max()
        assert (before < 1e-3 * before.max()).any()


def test_spurious_peaks_are_a_share_of_the_peaks_that_can_be_seen():
    clean = patterns(3000, 100, faintest=1e-6)
    detector = Detector(dynamic_range=1e-3, lost=0.1, spurious=0.03)
    numbers = np.arange(3000)
    true = observe(clean, detector.model_copy(update={"spurious": 0.0}), seed=0, pattern=numbers)
    seen = observe(clean, detector, seed=0, pattern=numbers)
    added = seen.counts - true.counts
    assert (added >= 0).all()
    assert true.counts.mean() < 0.6 * clean.counts.mean()
    assert added.sum() == pytest.approx(0.03 * len(true.qx), abs=4 * np.sqrt(0.03 * len(true.qx)))
    own = np.concatenate([np.arange(count) + start for count, start in zip(true.counts, seen.offsets, strict=False)])
    np.testing.assert_array_equal(seen.qx[own], true.qx)  # the pattern's own peaks come first
    np.testing.assert_array_equal(seen.intensity[own], true.intensity)
    spurious = np.setdiff1d(np.arange(len(seen.qx)), own)
    qx, qy, strength = seen.qx[spurious], seen.qy[spurious], seen.intensity[spurious] / 0.5
    assert kstest((qx.astype(float) ** 2 + qy**2) / 4, "uniform").pvalue > 1e-3
    assert kstest(np.arctan2(qy, qx) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
    assert kstest(np.log10(strength) + 3, "uniform").pvalue > 1e-3  # from 1e-3 to 1e-2 of the direct beam


def test_spurious_peaks_reach_down_to_a_fixed_share_where_the_dynamic_range_has_no_limit():
    seen = observe(CLEAN, Detector(spurious=0.5), seed=0, pattern=NUMBERS)
    strength = seen.intensity[seen.intensity < 0.005] / 0.5
    assert len(strength) > 5000
    assert kstest((np.log10(strength) + 5) / 3, "uniform").pvalue > 1e-3


def test_numbers_of_spurious_peaks_are_those_of_poisson():
    for mean in (0.03, 1.5, 40.0):
        chance = protocols._Chance(9, "add_spurious_peaks", np.arange(20_000))
        drawn = chance.poisson(np.full(20_000, mean))
        values, seen = np.unique(np.minimum(drawn, poisson.ppf(0.999, mean)), return_counts=True)
        expected = np.diff(np.r_[0, poisson.cdf(values[:-1], mean), 1]) * 20_000
        assert chisquare(seen, expected).pvalue > 1e-3
    assert (protocols._Chance(9, "x", np.arange(5)).poisson(np.array([0, 0, 5000.0, 0, 1e-9]))[[0, 1, 3, 4]] == 0).all()


def test_the_errors_are_as_large_as_those_that_a_generator_draws():
    clean, numbers = patterns(2000, 40), np.arange(2000)
    seen = observe(clean, Detector(jitter=0.005, pixel_size_error=0.01, centre_error=0.001), seed=1, pattern=numbers)
    drawn = effects.jitter(effects.scale_pixel_size(effects.shift_centre(clean, 0.001, 1), 0.01, 1), 0.005, 1)
    far = np.hypot(clean.qx, clean.qy) > 1
    spread = [np.std(np.hypot(batch.qx, batch.qy)[far] - np.hypot(clean.qx, clean.qy)[far]) for batch in (seen, drawn)]
    assert spread[0] == pytest.approx(spread[1], rel=0.04)
    expected = np.sqrt(0.005**2 + 0.001**2 + 0.01**2 * np.mean(np.hypot(clean.qx, clean.qy)[far] ** 2))
    assert spread[0] == pytest.approx(expected, rel=0.04)


def test_a_second_grain_adds_peaks_and_keeps_the_beam():
    only = Detector(second_grain=0.2)
    share = second_grain_share(only, seed=0, pattern=NUMBERS)
    both = share > 0
    seen = observe(CLEAN, only, seed=0, pattern=NUMBERS, partners=OTHERS)
    assert_equal(seen[~both], CLEAN[~both])
    assert (seen[both].counts > CLEAN[both].counts + 30).all()

    def sums(peaks):
        return np.array([intensity.sum(dtype=np.float64) for _, _, intensity in peaks])

    np.testing.assert_allclose(sums(seen), (1 - share) * sums(CLEAN) + share * sums(OTHERS), rtol=1e-6)
    central = np.hypot(seen.qx, seen.qy) < DIRECT_BEAM_RADIUS
    np.testing.assert_array_equal(np.bincount(seen.pattern_of_peak[central]), 1)  # one direct beam
    np.testing.assert_allclose(seen.intensity[central], 0.5, rtol=1e-6)


def test_second_grains_are_as_frequent_and_as_large_as_asked():
    share = second_grain_share(HARD, seed=0, pattern=np.arange(20_000))
    assert np.mean(share > 0) == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 20_000))
    assert kstest((share[share > 0] - 0.1) / 0.3, "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(second_grain_share(MEASURED, seed=0, pattern=np.arange(9)), 0)


def test_an_empty_partner_is_no_grain():
    none = PeakBatch.from_lists([[]] * len(CLEAN))
    assert_equal(observe(CLEAN, Detector(second_grain=1.0), seed=0, pattern=NUMBERS, partners=none), CLEAN)


def test_a_partner_is_another_pattern_of_the_same_material_each_as_likely():
    rng = np.random.default_rng(0)
    material = rng.permutation(np.repeat(np.arange(100), 60))
    numbers = np.arange(6000)
    partner = partners_of(material, numbers, 3)
    np.testing.assert_array_equal(material[partner], material)
    assert (partner != numbers).all()
    np.testing.assert_array_equal(partners_of(material, numbers[5:7], 3), partner[5:7])
    assert (partners_of(material, numbers, 4) != partner).mean() > 0.9
    three = np.zeros(3, dtype=np.int64)
    chosen = np.array([partners_of(three, np.arange(3), seed) for seed in range(600)])
    for own, column in enumerate(chosen.T):
        values, seen = np.unique(column, return_counts=True)
        np.testing.assert_array_equal(values, np.delete(np.arange(3), own))
        assert chisquare(seen).pvalue > 1e-3


def test_a_material_of_one_pattern_has_no_partner():
    np.testing.assert_array_equal(partners_of(np.array([4, 7, 4, 1]), np.arange(4), 0), [2, -1, 0, -1])
    assert len(partners_of(np.array([4, 7]), np.arange(0), 0)) == 0


@pytest.mark.parametrize("effect", ["jitter", "lose_peaks", "partner"])
def test_the_numbers_are_uniform_along_and_across_patterns_and_in_every_bit(effect):
    chance = protocols._Chance(0, effect, np.arange(2000), np.full(2000, 100))
    rows = chance.random((2, 200_000)).reshape(2, 2000, 100)
    assert rows.min() > 0
    assert rows.max() < 1
    for values in (rows[0], rows[1], chance.random(200_000)):
        assert kstest(values.ravel(), "uniform").pvalue > 1e-3
    for means in (rows[0].mean(axis=0), rows[0].mean(axis=1)):
        standard = (means - 0.5) * np.sqrt(12 * rows[0].size / len(means))
        assert kstest(standard, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(rows[0].ravel(), rows[1].ravel())[0, 1]) < 4 / np.sqrt(200_000)
    bits = (rows[0].ravel() * 2.0**52).astype(np.int64)
    ones = np.array([((bits >> place) & 1).mean() for place in range(1, 52)])
    assert np.abs(ones - 0.5).max() < 4.5 * 0.5 / np.sqrt(200_000)
    assert len(np.unique(rows)) == rows.size


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: observe(CLEAN, HARD, seed=0, pattern=NUMBERS), "partners = None: .* second_grain = 0.2"),
        (lambda: observe(CLEAN, HARD, seed=0, pattern=NUMBERS, partners=OTHERS[:3]), "partners = 3 patterns"),
        (lambda: observe(CLEAN, MEASURED, seed=0, pattern=NUMBERS[:3]), "3 numbers do not fit 500 patterns"),
        (lambda: observe(CLEAN, MEASURED, seed=0, pattern=NUMBERS - 1), "pattern = -1"),
        (lambda: observe(CLEAN, MEASURED, seed=0, pattern=NUMBERS / 2), "of integers, got float64"),
        (lambda: observe(CLEAN, MEASURED, seed=-1, pattern=NUMBERS), "seed = -1"),
        (lambda: partners_of(np.zeros(3, dtype=np.int64), np.array([3]), 0), "pattern = 3: the library holds 3"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
