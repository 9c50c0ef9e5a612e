import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.fft
from pydantic import ValidationError

from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.scans.detection.detector import Detection, Detector, Fault, fast_length
from gpuediff.scans.detection.probe import Probe, measure_disk
from gpuediff.scans.detection.sensor import Sensor, healthy_neighbours, hot_pixels
from gpuediff.scans.detection.survey import estimate_noise, sample_of, survey
from tests.oracle.detection.render import expected_counts

ORACLE = Path(__file__).resolve().parents[2] / "oracle/detection"
FRAME = (64, 64)


@pytest.fixture(scope="module")
def gold():
    """Frames of the oracle's scan, its true peaks, and those that py4DSTEM finds."""
    with h5py.File(ORACLE / "cube.h5") as file:
        frames = file["datacube_root/datacube/data"][:].reshape(-1, 128, 128)
    lists = []
    for name in ("truth", "py4dstem"):
        stored = np.load(ORACLE / f"{name}.npz")
        lists.append(PeakBatch(stored["qx"], stored["qy"], stored["intensity"], offsets_of(stored["counts"])))
    return frames, *lists


@pytest.fixture(scope="module")
def found(gold):
    return Detector(Probe.disk(4.0), (128, 128)).detect(gold[0])


def matched(truth: PeakBatch, peaks: PeakBatch, *, within=1.0):
    """Pairs (index of a true peak, index of the found one that is nearest), where the true peak stands alone."""
    pairs = []
    for number in range(len(truth)):
        tx, ty, _ = truth.pattern(number)
        px, py, _ = peaks.pattern(number)
        apart = np.hypot(tx[:, None] - tx, ty[:, None] - ty) + 1e3 * np.eye(len(tx))
        alone = apart.min(axis=1) > 11 if len(tx) > 1 else np.ones(len(tx), bool)
        far = np.hypot(tx[:, None] - px, ty[:, None] - py)
        for peak in np.flatnonzero(alone & (far.min(axis=1, initial=np.inf) < within)):
            pairs.append((truth.offsets[number] + peak, peaks.offsets[number] + far[peak].argmin()))
    return np.array(pairs).T


def distance(a: PeakBatch, i, b: PeakBatch, j):
    return np.hypot(a.qx[i] - b.qx[j], a.qy[i] - b.qy[j])


def disks(*peaks, shape=FRAME, radius=4.0, seed=None, **options):
    """One frame of disks (qx, qy, counts), with Poisson noise if there is a seed."""
    means = expected_counts(PeakBatch.from_lists([np.array(peaks, np.float32)]), shape, radius=radius, **options)
    return means if seed is None else np.random.default_rng(seed).poisson(means)


class TestAgainstTruthAndPy4DSTEM:
    def test_strong_disks_are_placed_to_a_fiftieth_of_a_pixel(self, gold, found):
        true, got = matched(gold[1], found.peaks)
        strong = gold[1].intensity[true] > 1e4
        assert strong.sum() > 100
        assert np.median(distance(gold[1], true, found.peaks, got)[strong]) < 0.02

    def test_disks_agree_with_py4dstem_to_a_tenth_of_a_pixel(self, gold, found):
        theirs, ours = matched(gold[2], found.peaks)
        strong = found.peaks.intensity[ours] > 3000
        assert strong.sum() > 150
        assert np.quantile(distance(gold[2], theirs, found.peaks, ours)[strong], 0.95) < 0.1

    def test_disks_that_both_find_are_placed_no_worse_than_by_py4dstem(self, gold, found):
        ours, theirs = (dict(zip(*matched(gold[1], peaks), strict=True)) for peaks in (found.peaks, gold[2]))
        both = sorted(ours.keys() & theirs.keys())
        true = gold[1].intensity[both]
        errors = [
            distance(gold[1], both, peaks, [index[peak] for peak in both])
            for peaks, index in ((found.peaks, ours), (gold[2], theirs))
        ]
        for low, high in ((300, 3000), (3000, 1e7)):
            chosen = (true > low) & (true < high)
            assert chosen.sum() > 100
            for share in (0.5, 0.9):
                assert np.quantile(errors[0][chosen], share) < 1.1 * np.quantile(errors[1][chosen], share)

    def test_as_many_true_disks_are_found_as_by_py4dstem_and_no_false_ones(self, gold, found):
        def score(peaks):
            true, _ = matched(gold[1], peaks, within=1.5)
            false = 0
            for number in range(len(peaks)):
                px, py, _ = peaks.pattern(number)
                tx, ty, _ = gold[1].pattern(number)
                false += int((np.hypot(px[:, None] - tx, py[:, None] - ty).min(axis=1) > 3).sum())
            return len(true), false

        ours, theirs = score(found.peaks), score(gold[2])
        assert ours[0] > 0.97 * theirs[0]
        assert ours[1] == 0 < theirs[1]

    def test_intensities_are_the_true_counts_to_their_poisson_noise(self, gold, found):
        true, got = matched(gold[1], found.peaks)
        expected, counts = gold[1].intensity[true], found.peaks.intensity[got]
        strong = expected > 1000
        assert np.median(counts[strong] / expected[strong]) == pytest.approx(1, abs=0.01)
        pull = (counts - expected)[strong] / np.sqrt(expected[strong])
        assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.6

    def test_intensities_scatter_less_than_those_of_py4dstem(self, gold, found):
        def scatter(peaks):
            true, got = matched(gold[1], peaks)
            ratio = peaks.intensity[got] / gold[1].intensity[true]
            chosen = (gold[1].intensity[true] > 1000) & (gold[1].intensity[true] < 1e5)
            return np.std(np.log(ratio[chosen]))

        assert scatter(found.peaks) < scatter(gold[2])

    def test_the_correlation_tells_intensities_better_than_the_sum_over_an_aperture(self, gold):
        def scatter(kind):
            peaks = Detector(Probe.disk(4.0), (128, 128), Detection(intensity=kind)).detect(gold[0]).peaks
            true, got = matched(gold[1], peaks)
            ratio = peaks.intensity[got] / gold[1].intensity[true]
            middle = (gold[1].intensity[true] > 1000) & (gold[1].intensity[true] < 3000)
            return 1.4826 * np.median(np.abs(ratio[middle] - np.median(ratio[middle])))

        assert scatter("correlation") < scatter("aperture")


def test_the_sum_over_an_aperture_is_that_above_the_surroundings():
    frames = disks((32, 32, 5e4), (46, 40, 4e3), background=1e5)
    peaks = Detector(Probe.disk(4.0), FRAME, Detection(intensity="aperture")).detect(frames).peaks
    np.testing.assert_allclose(peaks.intensity[:2], [5e4, 4e3], rtol=0.05)


class TestPlaces:
    def test_a_disk_without_noise_is_found_where_it_is(self):
        rng = np.random.default_rng(0)
        for subpixel, tolerance in (("parabola", 0.02), ("fourier", 0.005)):
            detector = Detector(Probe.disk(4.0), FRAME, Detection(subpixel=subpixel, smoothing=1.0))
            places = rng.uniform(28, 36, (20, 2))
            frames = np.concatenate([disks((*place, 1000.0)) for place in places])
            peaks = detector.detect(frames).peaks
            np.testing.assert_array_equal(peaks.counts, 1)
            assert np.abs(np.stack([peaks.qx, peaks.qy], axis=1) - places).max() < tolerance
            np.testing.assert_allclose(peaks.intensity, 1000, rtol=0.01)

    def test_moving_a_frame_moves_its_peaks_and_nothing_else(self):
        frame = disks((30.3, 31.1, 5e4), (44.2, 20.7, 2e3), background=5e3, seed=1)[0]
        detector = Detector(Probe.disk(4.0), FRAME)
        here, there = (detector.detect(np.roll(frame, shift, axis=(0, 1))[None]).peaks for shift in ((0, 0), (3, -2)))
        np.testing.assert_allclose(there.qx[:2], here.qx[:2] + 3, atol=1e-3)
        np.testing.assert_allclose(there.qy[:2], here.qy[:2] - 2, atol=1e-3)

    def test_axis_0_is_qx(self):
        peaks = Detector(Probe.disk(3.0), (64, 48)).detect(disks((40, 15, 1000.0), shape=(64, 48), radius=3.0)).peaks
        assert (peaks.qx[0], peaks.qy[0]) == (pytest.approx(40, abs=0.02), pytest.approx(15, abs=0.02))

    def test_the_fourier_sum_is_the_correlation_at_whole_pixels(self):
        detector = Detector(Probe.disk(4.0), (60, 50))
        values, _ = detector._clean(disks((30, 20, 1e4), (40, 33, 3e3), shape=(60, 50), background=5e3, seed=3))
        spectrum = detector._correlate(values)
        correlation = detector._fft.irfft2(spectrum, s=detector._shape)
        place = np.array([30, 41]), np.array([20, 30])
        nine = detector._upsampled(spectrum, np.array([0, 0]), *(axis.astype(np.float32) for axis in place), 1)
        np.testing.assert_allclose(nine[:, 4], correlation[0][place], rtol=1e-3, atol=1e-2)

    def test_uneven_disks_are_still_placed(self):
        rng = np.random.default_rng(2)
        places = rng.uniform(28, 36, (20, 2))
        frames = np.concatenate([disks((*place, 2e4), tilt=0.3, seed=number) for number, place in enumerate(places)])
        peaks = Detector(Probe.disk(4.0), FRAME).detect(frames).peaks
        first = peaks.offsets[:-1]
        assert np.median(np.hypot(peaks.qx[first] - places[:, 0], peaks.qy[first] - places[:, 1])) < 0.35

    def test_small_spots_are_found_too(self):
        frames = np.concatenate([disks((32.4, 30.2, 5e3), (42.7, 36.1, 300.0), radius=1.5, seed=n) for n in range(5)])
        peaks = Detector(Probe.disk(1.5), FRAME).detect(frames).peaks
        np.testing.assert_array_equal(peaks.counts, 2)
        np.testing.assert_allclose(peaks.qx[::2], 32.4, atol=0.1)


class TestWhatIsADisk:
    def test_noise_alone_has_hardly_a_peak(self):
        rng = np.random.default_rng(0)
        for mean in (0.05, 1.0, 100.0):
            found = Detector(Probe.disk(4.0), FRAME).detect(rng.poisson(mean, (100, *FRAME)).astype(np.uint16))
            assert len(found.peaks.qx) <= 3

    def test_significance_is_counts_over_their_noise(self):
        frames = np.random.default_rng(1).poisson(np.repeat(disks((32, 32, 400.0), background=2e4), 300, axis=0))
        found = Detector(Probe.disk(4.0), FRAME).detect(frames)
        near = np.hypot(found.peaks.qx - 32, found.peaks.qy - 32) < 2
        assert near.sum() > 250
        deviation = found.peaks.intensity[near].std()
        assert np.median(found.significance[near]) == pytest.approx(400 / deviation, rel=0.2)

    def test_counts_in_other_units_need_the_gain_and_then_give_the_same_peaks(self):
        frames = np.concatenate([disks((32, 32, 3e4), (44, 40, 500.0), background=2e4, seed=n) for n in range(8)])
        electrons = Detector(Probe.disk(4.0), FRAME).detect(frames)
        scaled = Detector(Probe.disk(4.0), FRAME, sensor=Sensor(gain=7.0)).detect(frames * 7.0)
        np.testing.assert_array_equal(scaled.peaks.counts, electrons.peaks.counts)
        np.testing.assert_allclose(scaled.peaks.intensity, 7 * electrons.peaks.intensity, rtol=1e-3)
        np.testing.assert_allclose(scaled.significance, electrons.significance, rtol=1e-3)

    def test_of_two_peaks_that_are_too_near_the_brighter_stays(self):
        frame = disks((32, 28, 1e4), (32, 36, 5e3))
        both = Detector(Probe.disk(2.0), FRAME, Detection(min_spacing=5.0)).detect(
            disks((32, 28, 1e4), (32, 36, 5e3), radius=2.0)
        )
        one = Detector(Probe.disk(4.0), FRAME, Detection(min_spacing=9.0)).detect(frame)
        assert both.peaks.counts[0] == 2
        assert one.peaks.counts[0] == 1
        assert one.peaks.qy[0] == pytest.approx(28, abs=0.5)

    def test_a_chain_of_peaks_is_thinned_from_the_brightest_on(self):
        # b is too near to a and goes; c, too near to b only, stays
        frame = disks((20, 32, 9e3), (28, 32, 6e3), (36, 32, 4e3), radius=2.0)
        peaks = Detector(Probe.disk(2.0), FRAME, Detection(min_spacing=10.0)).detect(frame).peaks
        np.testing.assert_allclose(peaks.qx, [20, 36], atol=0.1)

    def test_the_brightest_come_first_and_no_more_than_asked_for(self, gold):
        peaks = Detector(Probe.disk(4.0), (128, 128), Detection(max_peaks=5)).detect(gold[0][:10]).peaks
        assert peaks.counts.max() == 5
        for _, _, intensity in peaks:
            assert (np.diff(intensity) <= 1e-3 * intensity[0]).all()

    def test_thresholds_leave_the_strong(self, gold, found):
        for settings, least in (
            (Detection(min_relative=0.05), lambda x: 0.05 * x.max()),
            (Detection(min_counts=5000.0), lambda x: 5000.0),
        ):
            got = Detector(Probe.disk(4.0), (128, 128), settings).detect(gold[0][:8]).peaks
            for number in range(8):
                all_of_them = found.peaks.pattern(number)[2]
                expected = int((all_of_them > 1.15 * least(all_of_them)).sum())
                assert expected <= got.counts[number] <= int((all_of_them > 0.85 * least(all_of_them)).sum())

    def test_no_peaks_nearer_to_the_edge_than_asked_for(self):
        frame = disks((9, 32, 1e4), (32, 32, 1e4), (58, 50, 1e4), radius=3.0)
        for edge, expected in ((5, 3), (12, 1)):
            found = Detector(Probe.disk(3.0), FRAME, Detection(edge=edge)).detect(frame)
            assert found.peaks.counts[0] == expected

    def test_hybrid_correlation_finds_disks_on_a_strong_background(self):
        frames = disks((32, 32, 1e6), (46, 44, 2e4), background=2e5, decay=10.0)
        found = Detector(Probe.disk(4.0), FRAME, Detection(corr_power=0.9, smoothing=1.0)).detect(frames)
        first = found.peaks.offsets[0]
        assert np.hypot(found.peaks.qx[first] - 32, found.peaks.qy[first] - 32) < 0.1
        assert np.hypot(found.peaks.qx - 46, found.peaks.qy - 44).min() < 0.5

    def test_frames_are_independent_of_their_batch(self, gold, found):
        alone = [Detector(Probe.disk(4.0), (128, 128)).detect(gold[0][n : n + 1]).peaks for n in (0, 17, 63)]
        for number, peaks in zip((0, 17, 63), alone, strict=True):
            for one, other in zip(peaks.pattern(0), found.peaks.pattern(number), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


class TestFaults:
    def test_an_empty_frame_has_no_peaks(self):
        found = Detector(Probe.disk(4.0), FRAME).detect(np.zeros((3, *FRAME), np.uint16))
        np.testing.assert_array_equal(found.peaks.counts, 0)
        np.testing.assert_array_equal(found.fault, 0)

    def test_a_frame_that_is_not_finite_has_no_peaks_and_does_not_touch_the_others(self):
        frames = np.repeat(disks((32, 32, 1e4)), 3, axis=0)
        frames[1, 5, 5] = np.nan
        frames[2, 5, 5] = np.inf
        found = Detector(Probe.disk(4.0), FRAME).detect(frames)
        np.testing.assert_array_equal(found.peaks.counts, [1, 0, 0])
        np.testing.assert_array_equal(found.fault, [0, Fault.NOT_FINITE, Fault.NOT_FINITE])
        assert np.isnan(frames[1, 5, 5])  # the caller's frames stay as they are

    def test_saturated_frames_are_flagged(self):
        frames = np.concatenate([disks((32, 32, 1e4)), disks((32, 32, 1e6))]).astype(np.uint16)
        found = Detector(Probe.disk(4.0), FRAME, sensor=Sensor(saturation=4095)).detect(frames)
        np.testing.assert_array_equal(found.fault, [0, Fault.SATURATED])

    def test_one_bright_pixel_is_no_disk(self):
        frame = disks((32, 32, 1e5), background=1e4, seed=0).astype(np.uint16)
        frame[0, 45, 20] = 3000
        peaks = Detector(Probe.disk(4.0), FRAME).detect(frame).peaks
        assert np.hypot(peaks.qx - 45, peaks.qy - 20).min() > 5

    def test_hot_pixels_do_not_move_a_disk(self):
        frame = disks((32.3, 31.6, 1e5))
        hot = np.array([[34, 33], [34, 34]])
        frame[0, 34, 33:35] = 1e5
        plain = Detector(Probe.disk(4.0), FRAME).detect(frame).peaks
        healed = Detector(Probe.disk(4.0), FRAME, sensor=Sensor(hot=hot)).detect(frame).peaks
        assert np.hypot(healed.qx[0] - 32.3, healed.qy[0] - 31.6) < 0.15
        assert not len(plain.qx) or np.hypot(plain.qx[0] - 32.3, plain.qy[0] - 31.6) > 0.5

    def test_neighbours_of_hot_pixels_are_not_hot(self):
        hot = np.array([[0, 0], [0, 1], [10, 10]])
        near = healthy_neighbours(hot, FRAME)
        assert near.shape == (3, 8, 2)
        assert not {tuple(place) for place in near.reshape(-1, 2)} & {tuple(place) for place in hot}
        assert near.min() >= 0

    def test_frames_of_another_shape_or_too_small_are_refused(self):
        with pytest.raises(InvalidScan, match="too small for a probe of radius 9"):
            Detector(Probe.disk(9.0), (24, 24))
        with pytest.raises(InvalidScan, match="expected"):
            Detector(Probe.disk(4.0), FRAME).detect(np.zeros((2, 32, 32)))
        with pytest.raises(InvalidScan, match="gain = 0"):
            Detector(Probe.disk(4.0), FRAME, sensor=Sensor(gain=0.0))

    @pytest.mark.parametrize("settings", [{"corr_power": 0.0}, {"min_relative": 2.0}, {"max_peaks": 0}, {"edge": 0}])
    def test_settings_out_of_range_are_refused(self, settings):
        with pytest.raises(ValidationError, match="allowed range"):
            Detection(**settings)


class DeviceArray(np.ndarray):
    """Stands for an array of CuPy: it meets no array of NumPy, and NumPy's functions are not for it."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        for value in inputs:
            if type(value) is np.ndarray and value.ndim:
                raise TypeError(f"{ufunc.__name__}: an array of the host meets one of the device")
        plain = [value.view(np.ndarray) if isinstance(value, DeviceArray) else value for value in inputs]
        if out is not None:
            keywords["out"] = tuple(value.view(np.ndarray) for value in out)
        return on_device(getattr(ufunc, method)(*plain, **keywords))

    def __array_function__(self, function, types, arguments, keywords):
        raise TypeError(f"numpy.{function.__name__} was called with an array of the device")

    def __getitem__(self, index):
        self._check(index)
        return on_device(super().__getitem__(index))

    def __setitem__(self, index, value):
        self._check((*index, value) if isinstance(index, tuple) else (index, value))
        super().__setitem__(index, value)

    @staticmethod
    def _check(index):
        for part in index if isinstance(index, tuple) else (index,):
            if type(part) is np.ndarray and part.ndim:
                raise TypeError("an array of the host meets one of the device")


def on_device(value):
    return np.asarray(value).view(DeviceArray) if isinstance(value, (np.ndarray, np.generic)) else value


class Device:
    """The functions of NumPy's namespace that the detector uses and CuPy has too, on arrays of the device."""

    float32 = np.float32
    shared = (
        "asarray zeros ones full empty arange stack flatnonzero maximum minimum clip sqrt exp where lexsort bincount "
        "cumsum sort isfinite median concatenate"
    )

    def __init__(self, module=np, shared=shared):
        for name in shared.split():
            setattr(self, name, self._of_device(getattr(module, name), name))

    @staticmethod
    def _of_device(function, name):
        def call(*arguments, **keywords):
            for value in arguments:
                if type(value) is np.ndarray and name != "asarray":
                    raise TypeError(f"{name}: an array of the host on the device")
                if name == "bincount" and not value.size:
                    raise ValueError("CuPy's bincount takes no empty array")
            plain = [
                [part.view(np.ndarray) for part in value]
                if isinstance(value, list)
                else value.view(np.ndarray)
                if isinstance(value, DeviceArray)
                else value
                for value in arguments
            ]
            return on_device(function(*plain, **keywords))

        return call


class TestDevice:
    @pytest.fixture
    def device(self, monkeypatch):
        device = Device()
        device.fft = Device(scipy.fft, "rfft2 irfft2")

        def namespace(array):
            return device if isinstance(array, DeviceArray) else np

        for module in ("arrays", "peaks"):
            monkeypatch.setattr(f"gpuediff.{module}.namespace", namespace)
        return device

    @pytest.mark.parametrize("settings", [{}, {"subpixel": "fourier"}, {"corr_power": 0.9}, {"edge": 3}])
    def test_arrays_of_a_device_meet_none_of_the_host_and_give_the_same_peaks(self, gold, device, settings):
        sensor = Sensor(hot=np.array([[5, 5]]), saturation=1e5)
        for frames in (gold[0][:4].astype(np.float32), np.zeros((2, 128, 128), np.uint16)):
            options = Probe.disk(4.0), (128, 128), Detection(**settings), sensor
            expected = Detector(*options).detect(frames)
            got = Detector(*options, xp=device).detect(on_device(frames))
            assert all(isinstance(part, DeviceArray) for part in (got.peaks.qx, got.significance, got.fault))
            np.testing.assert_array_equal(got.peaks.qx.view(np.ndarray), expected.peaks.qx)
            np.testing.assert_array_equal(got.peaks.offsets.view(np.ndarray), expected.peaks.offsets)


class TestProbe:
    def test_the_kernel_gives_the_counts_of_a_disk_and_nothing_of_what_is_even(self):
        for probe in (Probe.disk(1.3), Probe.disk(4.0), Probe.disk(11.5)):
            kernel = probe.kernel()
            assert kernel.sum() == pytest.approx(0, abs=1e-12)
            pad = (kernel.shape[0] - probe.image.shape[0]) // 2
            assert (kernel * np.pad(probe.image, pad)).sum() == pytest.approx(1)

    @pytest.mark.parametrize("radius", [2.0, 3.0, 4.4, 8.0])
    def test_the_radius_is_measured_to_a_tenth_of_a_pixel(self, radius):
        measured, centre = measure_disk(disks((31.4, 33.2, 1e6), radius=radius)[0])
        assert measured == pytest.approx(radius, abs=0.15)
        np.testing.assert_allclose(centre, (31.4, 33.2), atol=0.02)

    def test_a_pattern_without_a_disk_is_refused(self):
        with pytest.raises(InvalidScan, match="even"):
            measure_disk(np.ones(FRAME))
        with pytest.raises(InvalidScan, match="that is no disk"):
            measure_disk(disks((2, 2, 1e4), radius=6.0)[0])

    def test_a_vacuum_probe_is_found_and_centred(self):
        probe = Probe.from_vacuum(disks((30.4, 33.8, 1e6), radius=4.0, background=1e3, seed=0)[0])
        assert probe.image.sum() == pytest.approx(1)
        x, y = np.indices(probe.image.shape) - probe.image.shape[0] // 2
        assert abs((probe.image * x).sum()) < 0.05
        assert abs((probe.image * y).sum()) < 0.05
        peaks = Detector(probe, FRAME).detect(disks((30.4, 33.8, 1e4))).peaks
        assert np.hypot(peaks.qx[0] - 30.4, peaks.qy[0] - 33.8) < 0.05

    def test_a_radius_below_a_pixel_is_refused(self):
        with pytest.raises(InvalidScan, match=r"radius = 0\.5"):
            Probe.disk(0.5)


class TestSurvey:
    def test_radius_centre_and_noise_of_the_gold_scan(self, gold):
        truth = np.load(ORACLE / "truth.npz")
        seen = survey(gold[0])
        assert seen.radius == pytest.approx(float(truth["radius"]), abs=0.2)
        np.testing.assert_allclose(seen.centre, truth["centre"].mean(axis=0), atol=0.1)
        assert seen.sensor.gain == pytest.approx(1, abs=0.2)
        assert len(seen.sensor.hot) == 0
        assert seen.sensor.saturation == 65535

    @pytest.mark.parametrize("gain", [1.0, 12.0])
    @pytest.mark.parametrize(("reading", "pedestal"), [(0.0, 0.0), (3.0, 0.0), (0.0, 10.0), (2.0, 100.0)])
    def test_the_variance_is_told_with_noise_of_reading_and_with_a_pedestal(self, gain, reading, pedestal):
        rng = np.random.default_rng(0)
        shape, electrons = (128, 128), np.array([2.0, 20.0])
        disk = (64, 64, 1e5), (90, 70, 1e3)
        frames = np.concatenate([disks(*disk, shape=shape, background=6e4, decay=20.0, seed=n) for n in range(8)])
        frames = gain * (frames + rng.normal(0, reading, frames.shape) + pedestal)
        measured, dark, least = estimate_noise(frames.astype(np.float32), Probe.disk(4.0))
        told = measured * gain * (electrons + pedestal) + dark
        true = gain**2 * (electrons + reading**2)
        tolerance = 0.2 if pedestal < 50 else 1.0  # where counts hardly differ, one variance stands for all
        np.testing.assert_allclose(told, true, rtol=tolerance, atol=0.5 * gain**2)
        assert 0 < least < true[0]
        if not pedestal:
            assert measured == pytest.approx(gain, rel=0.3)

    def test_noise_of_reading_without_a_background_is_not_taken_for_disks(self):
        rng = np.random.default_rng(0)
        frames = rng.normal(disks((32, 32, 5e4), (44, 44, 2e3)), 3.0, (50, *FRAME)).astype(np.float32)
        sensor = survey(frames).sensor
        peaks = Detector(Probe.disk(4.0), FRAME, sensor=sensor).detect(frames).peaks
        assert 100 <= len(peaks.qx) <= 104

    def test_a_pedestal_costs_no_disks(self):
        frames = np.concatenate([disks((32, 32, 1e5), (44, 44, 400.0), background=2e4, seed=n) for n in range(30)])
        counts = []
        for pedestal in (0, 200):
            raised = (frames + pedestal).astype(np.uint16)
            sensor = survey(raised).sensor
            counts.append(Detector(Probe.disk(4.0), FRAME, sensor=sensor).detect(raised).peaks.counts.sum())
        assert counts[1] == pytest.approx(counts[0], abs=3)
        assert counts[0] > 50

    def test_frames_without_noise_have_almost_no_variance(self):
        frames = disks((32, 32, 1e5), background=1e4)
        gain, dark, _ = estimate_noise(frames.astype(np.float32), Probe.disk(4.0))
        assert gain * 5 + dark < 0.5 * 5

    def test_pixels_that_are_hot_all_the_time_are_found(self):
        frames = np.concatenate([disks((32, 32, 1e5), background=1e4, seed=n) for n in range(20)]).astype(np.float32)
        frames[:, 10, 12] += 300
        frames[3, 20, 50] += 300  # once only
        np.testing.assert_array_equal(hot_pixels(frames), [[10, 12]])

    def test_few_counts_do_not_make_hot_pixels(self):
        frames = np.random.default_rng(0).poisson(0.02, (20, *FRAME)).astype(np.float32)
        assert len(hot_pixels(frames)) == 0

    def test_a_wandering_beam_does_not_widen_the_probe(self):
        rng = np.random.default_rng(0)
        frames = np.concatenate([disks((*(32 + rng.uniform(-5, 5, 2)), 1e5), seed=n) for n in range(30)])
        assert survey(frames.astype(np.uint16)).radius == pytest.approx(4.0, abs=0.25)

    def test_a_sample_is_spread_over_the_scan_and_bounded(self):
        for count, shape, most in ((1, FRAME, 1), (5, FRAME, 5), (10_000, FRAME, 256), (10_000, (4096, 4096), 16)):
            runs = sample_of(count, shape)
            assert 0 < sum(last - first for first, last in runs) <= most
            assert (runs[0][0], runs[-1][1]) == (0, count if len(runs) > 1 or count < 8 else 8)
            assert all(later[0] >= earlier[1] for earlier, later in itertools.pairwise(runs))

    def test_nothing_but_nan_is_refused(self):
        with pytest.raises(InvalidScan, match="none of the 4 frames"):
            survey(np.full((4, *FRAME), np.nan))


def test_lengths_are_even_and_fast():
    assert [fast_length(length) for length in (127, 128, 129, 511, 515)] == [128, 128, 140, 512, 540]
    for length in range(16, 600):
        fast = fast_length(length)
        assert fast >= length
        assert fast % 2 == 0
