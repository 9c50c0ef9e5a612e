import numpy as np
import pytest

from gpuediff.errors import InvalidConfig, InvalidScan
from gpuediff.features.preparation import remove_direct_beam
from gpuediff.peaks import PeakBatch
from gpuediff.scans import virtual
from gpuediff.scans.virtual import virtual_images


@pytest.fixture
def peaks():
    rng = np.random.default_rng(3)
    patterns = []
    for count in rng.integers(0, 12, size=35):
        qx, qy = rng.normal(scale=0.4, size=(2, count))
        if count > 1:
            qx[1], qy[1] = rng.normal(scale=0.005, size=2)
        patterns.append((qx, qy, rng.exponential(1e5, size=count)))
    return PeakBatch.from_lists(patterns)


def test_bright_and_dark_field_add_up_to_all_that_was_measured(peaks):
    bright, dark = virtual_images(peaks, (5, 7))
    total = np.bincount(peaks.pattern_of_peak, weights=peaks.intensity, minlength=35).reshape(5, 7)
    empty = (peaks.counts == 0).reshape(5, 7)
    assert bright.dtype == dark.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(bright), empty)
    np.testing.assert_array_equal(np.isnan(dark), empty)
    np.testing.assert_allclose((bright + dark)[~empty], total[~empty], rtol=1e-6)


def test_the_direct_beam_is_the_peak_that_the_features_leave_out(peaks):
    _, dark = virtual_images(peaks, (7, 5))
    kept = remove_direct_beam(peaks, "centre")
    expected = np.bincount(kept.pattern_of_peak, weights=kept.intensity, minlength=35)
    np.testing.assert_allclose(dark.ravel()[peaks.counts > 0], expected[peaks.counts > 0], rtol=1e-6)


def test_only_the_nearest_peak_within_the_radius_is_the_direct_beam():
    peaks = PeakBatch.from_lists([([0.02, 0.01, 0.5], [0.0, 0.0, 0.0], [1.0, 2.0, 4.0]), ([0.03], [0.0], [8.0])])
    bright, dark = virtual_images(peaks, (1, 2))
    np.testing.assert_array_equal(bright, [[2, 0]])
    np.testing.assert_array_equal(dark, [[5, 8]])
    np.testing.assert_array_equal(virtual_images(peaks, (1, 2), radius=0.04)[0], [[2, 8]])


def test_a_pattern_with_a_value_that_is_not_finite_has_no_intensity_and_spoils_no_other():
    good = ([0.0, 0.4], [0.0, 0.0], [3.0, 1.0])
    bad = [([0.0, np.nan], [0.0, 0.0], [3.0, 1.0]), ([0.0, 0.4], [0.0, 0.0], [np.inf, 1.0])]
    bright, dark = virtual_images(PeakBatch.from_lists([good, *bad, good]), (2, 2))
    np.testing.assert_array_equal(bright, [[3, np.nan], [np.nan, 3]])
    np.testing.assert_array_equal(dark, [[1, np.nan], [np.nan, 1]])


def test_blocks_change_nothing(peaks, monkeypatch):
    whole = virtual_images(peaks, (5, 7))
    monkeypatch.setattr(virtual, "PATTERNS_PER_BATCH", 4)
    np.testing.assert_array_equal(virtual_images(peaks, (5, 7)), whole)


def test_peaks_may_lie_in_a_file(peaks, tmp_path):
    mapped = []
    for name in ("qx", "qy", "intensity"):
        values = getattr(peaks, name)
        file = np.memmap(tmp_path / name, dtype=values.dtype, mode="w+", shape=values.shape)
        file[:] = values
        mapped.append(file)
    np.testing.assert_array_equal(
        virtual_images(PeakBatch(*mapped, peaks.offsets), (5, 7)), virtual_images(peaks, (5, 7))
    )


def test_what_does_not_fit_is_refused(peaks):
    with pytest.raises(InvalidScan, match="35 patterns do not fill 5 x 6"):
        virtual_images(peaks, (5, 6))
    with pytest.raises(InvalidConfig, match="radius = -1"):
        virtual_images(peaks, (5, 7), radius=-1)
