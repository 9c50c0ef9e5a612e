import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidConfig
from gpuediff.features import preparation
from gpuediff.features.preparation import intensity_scale, remove_direct_beam, scale_intensity
from gpuediff.peaks import PeakBatch
from tests.strategies import peak_batches


def intensities(peaks):
    return [intensity.tolist() for _, _, intensity in peaks]


PATTERNS = PeakBatch.from_lists(
    [
        ([0.3, 0.001, -0.3], [0.0, 0.002, 0.0], [0.5, 0.25, 0.125]),  # a direct beam that is not the brightest
        [],
        ([0.3, -0.3], [0.1, -0.1], [0.5, 0.25]),  # none near the centre
        ([0.02, -0.01, 0.0], [0.0, 0.0, 0.015], [0.5, 0.25, 0.125]),  # two near the centre
    ]
)


def test_centre_removes_the_peak_nearest_to_the_origin_and_no_other():
    kept = remove_direct_beam(PATTERNS, "centre")
    assert intensities(kept) == [[0.5, 0.125], [], [0.5, 0.25], [0.5, 0.125]]


def test_brightest_removes_the_most_intense_peak_wherever_it_is():
    kept = remove_direct_beam(PATTERNS, "brightest")
    assert intensities(kept) == [[0.25, 0.125], [], [0.25], [0.25, 0.125]]


def test_a_peak_on_the_radius_is_removed_and_one_beyond_is_not():
    peaks = PeakBatch.from_lists([([0.25], [0.0], [1.0])])
    assert len(remove_direct_beam(peaks, "centre", radius=0.25).qx) == 0
    assert len(remove_direct_beam(peaks, "centre", radius=np.nextafter(0.25, 0)).qx) == 1


@pytest.mark.parametrize("how", ["centre", "brightest"])
def test_of_equal_peaks_the_first_is_removed(how):
    peaks = PeakBatch.from_lists([([0.01, -0.01, 0.01], [0.0, 0.0, 0.0], [0.5, 0.5, 0.5])])
    assert remove_direct_beam(peaks, how).qx.tolist() == pytest.approx([-0.01, 0.01])


@settings(deadline=None, max_examples=40)
@given(peaks=peak_batches(), how=st.sampled_from(["centre", "brightest"]))
def test_at_most_one_peak_of_a_pattern_is_removed_and_the_rest_stay_in_order(peaks, how):
    kept = remove_direct_beam(peaks, how)
    for (qx, qy, intensity), after in zip(peaks, kept, strict=True):
        distance = qx.astype(float) ** 2 + qy.astype(float) ** 2
        removed = len(qx) - len(after[0])
        if how == "brightest":
            assert removed == min(len(qx), 1)
            index = np.argmax(intensity) if len(qx) else 0
        else:
            assert removed == int(len(qx) > 0 and distance.min() <= 0.025**2)
            index = np.argmin(distance) if len(qx) else 0
        for values, left in zip((qx, qy, intensity), after, strict=True):
            np.testing.assert_array_equal(left, np.delete(values, index) if removed else values)


@settings(deadline=None, max_examples=40)
@given(peaks=peak_batches())
def test_the_whole_array_way_of_the_gpu_finds_the_same_peaks(peaks):
    rank = np.round(peaks.intensity.astype(np.float64), 1)  # with ties
    np.testing.assert_array_equal(
        preparation._first_lowest_by_sorting(rank, peaks.offsets), preparation._first_lowest(rank, peaks.offsets)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "center"}, "direct_beam = 'center': expected 'centre' or 'brightest'"),
        ({"how": "centre", "radius": -0.1}, "radius = -0.1"),
        ({"how": "centre", "radius": np.nan}, "radius = nan"),
    ],
)
def test_an_unknown_way_or_an_impossible_radius_is_refused(options, message):
    with pytest.raises(InvalidConfig, match=message):
        remove_direct_beam(PATTERNS, **options)


@settings(deadline=None, max_examples=40)
@given(peaks=peak_batches(), total=st.floats(0.01, 10))
def test_scaled_intensities_sum_to_the_total_and_keep_their_ratios(peaks, total):
    scaled = scale_intensity(peaks, total)
    for (_, _, before), (_, _, after) in zip(peaks, scaled, strict=True):
        if before.sum(dtype=float) > 1e-9:
            assert after.sum(dtype=float) == pytest.approx(total, rel=1e-6)
            np.testing.assert_allclose(after, total * before / before.sum(dtype=float), rtol=1e-6, atol=1e-12)
    assert scaled.intensity.dtype == np.float32


def test_a_pattern_without_intensity_stays_as_it_is():
    peaks = PeakBatch.from_lists([[], ([0.1], [0.0], [0.0]), ([0.1], [0.0], [4.0])])
    np.testing.assert_array_equal(intensity_scale(peaks, 0.3), [1, 1, 0.3 / 4])
    assert intensities(scale_intensity(peaks, 2.0)) == [[], [0.0], [2.0]]
    assert len(scale_intensity(PeakBatch.from_lists([]), 0.3)) == 0


@pytest.mark.parametrize("total", [0.0, -1.0, np.nan, np.inf])
def test_an_impossible_total_is_refused(total):
    with pytest.raises(InvalidConfig, match="total intensity"):
        scale_intensity(PATTERNS, total)
