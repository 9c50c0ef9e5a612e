import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuediff.arrays import resolve_device
from gpuediff.errors import InvalidPeaks
from gpuediff.peaks import PeakBatch, offsets_of, pattern_of_peak
from tests.strategies import peak_batches


def lists(peaks):
    """A batch as plain lists, one of (qx, qy, intensity) rows for each pattern."""
    return [np.stack(pattern, axis=1).tolist() for pattern in peaks]


@pytest.fixture
def three():
    return PeakBatch.from_lists([np.full((2, 3), 1.0), np.empty((0, 3)), np.full((3, 3), 3.0)])


def test_lists_are_gathered_in_order_with_empty_patterns_among_them(three):
    assert three.offsets.tolist() == [0, 2, 2, 5]
    assert (three.qx.dtype, three.intensity.dtype, three.offsets.dtype) == (np.float32, np.float32, np.int64)
    assert three.counts.tolist() == [2, 0, 3]
    assert three.pattern_of_peak.tolist() == [0, 0, 2, 2, 2]
    assert len(three) == 3


def test_three_peaks_are_read_by_rows_from_an_array_and_by_columns_from_a_tuple():
    square = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert PeakBatch.from_lists([np.array(square)]).qx.tolist() == [1, 4, 7]
    assert PeakBatch.from_lists([tuple(square)]).qx.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "pattern",
    [([1.0], [2.0, 3.0], [4.0]), [[1.0, 2.0, 3.0]] * 5, np.zeros((3, 4)), np.zeros(3), ([1.0], [2.0])],
)
def test_a_pattern_of_another_shape_is_refused_by_its_index(pattern):
    with pytest.raises(InvalidPeaks, match=r"^pattern 1: "):
        PeakBatch.from_lists([[], pattern])


@pytest.mark.parametrize(
    ("qx", "offsets"),
    [
        (np.zeros((2, 1)), [0, 2]),
        (np.zeros(3), [0, 2]),
        (np.zeros(2), [1, 2]),
        (np.zeros(2), [0, 1]),
        (np.zeros(2), [0, 2, 1, 2]),
        (np.zeros(2), [[0, 2]]),
        (np.zeros(0), []),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(qx, offsets):
    with pytest.raises(InvalidPeaks):
        PeakBatch(qx, np.zeros(2), np.zeros(2), np.array(offsets, dtype=np.int64))


@settings(deadline=None)
@given(peaks=peak_batches(), start=st.integers(-8, 8), stop=st.integers(-8, 8), step=st.sampled_from([1, 2, -1]))
def test_a_slice_takes_what_a_list_of_patterns_gives(peaks, start, stop, step):
    assert lists(peaks[start:stop:step]) == lists(peaks)[start:stop:step]


@settings(deadline=None)
@given(peaks=peak_batches(), data=st.data())
def test_indices_and_masks_take_what_a_list_of_patterns_gives(peaks, data):
    n = len(peaks)
    indices = data.draw(st.lists(st.integers(-n, n - 1), max_size=8)) if n else []
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    before = lists(peaks)
    assert lists(peaks[np.array(indices, dtype=np.int64)]) == [before[index] for index in indices]
    assert lists(peaks[mask]) == [pattern for pattern, taken in zip(before, mask, strict=True) if taken]


@settings(deadline=None)
@given(first=peak_batches(), second=peak_batches())
def test_joined_batches_hold_the_patterns_of_both(first, second):
    assert lists(PeakBatch.concatenate([first, second])) == lists(first) + lists(second)
    assert len(PeakBatch.concatenate([])) == 0


@settings(deadline=None)
@given(peaks=peak_batches(), seed=st.integers(0, 1000))
def test_keeping_peaks_keeps_the_number_of_patterns(peaks, seed):
    mask = np.random.default_rng(seed).random(len(peaks.qx)) < 0.5
    wanted = [
        [row for row, kept in zip(pattern, mask[start:], strict=False) if kept]
        for pattern, start in zip(lists(peaks), peaks.offsets, strict=False)
    ]
    assert lists(peaks.keep(mask)) == wanted


@given(counts=st.lists(st.integers(0, 5), max_size=20))
def test_every_peak_knows_its_pattern(counts):
    wanted = np.repeat(np.arange(len(counts)), counts)
    got = pattern_of_peak(offsets_of(np.array(counts, dtype=np.int64)))
    np.testing.assert_array_equal(got, wanted)
    assert got.dtype == np.int64


@pytest.mark.parametrize("mask", [np.ones(4, bool), np.ones(6, bool), np.ones(5, int), np.ones((5, 1), bool)])
def test_a_mask_that_does_not_fit_the_peaks_is_refused(three, mask):
    with pytest.raises(IndexError, match="expected a mask of 5 peaks"):
        three.keep(mask)


@pytest.mark.parametrize("patterns", [1, np.ones(2, bool), np.array([0.5]), np.zeros((1, 1), int), [3]])
def test_patterns_that_cannot_be_taken_are_refused(three, patterns):
    with pytest.raises(IndexError):
        three[patterns]


def test_one_pattern_is_counted_from_either_end(three):
    assert [len(three.pattern(index)[0]) for index in (0, 1, 2, -1, -3)] == [2, 0, 3, 3, 2]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"no pattern {index} among 3"):
            three.pattern(index)


@pytest.mark.parametrize(
    ("field", "value"), [("qx", np.nan), ("qy", -np.inf), ("intensity", np.nan), ("intensity", -1e-6)]
)
def test_the_first_impossible_peak_is_named(three, field, value):
    getattr(three, field)[3:] = value
    with pytest.raises(InvalidPeaks, match=r"^pattern 2, peak 1: .*finite and not negative"):
        three.validate()


@given(peaks=peak_batches())
def test_possible_peaks_are_returned_as_they_are(peaks):
    assert peaks.validate() is peaks


def test_a_batch_stays_on_the_device_where_it_is(three):
    assert three.to(resolve_device("cpu")).qx is three.qx
