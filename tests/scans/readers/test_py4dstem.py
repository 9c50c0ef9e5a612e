import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidScan
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.readers import read_scan
from gpuediff.scans.readers.py4dstem import flatten
from tests.scans.conftest import PEAK, object_array, peak_list

ORACLE = Path(__file__).resolve().parents[2] / "oracle/emd"
LEGACY = ORACLE.parent / "py4dstem_legacy"
REAL_SCAN = (Path(__file__).resolve().parents[3] / "../shared/data/experimental/braggdisks_cali.h5").resolve()
CENTRED = peak_list((0.0, 0.0, 9.0), (0.5, 0.5, 1.0), (-0.5, -0.5, 1.0))


@pytest.fixture
def old_copy(tmp_path):
    return lambda name: shutil.copyfile(LEGACY / name, tmp_path / name)


@pytest.fixture
def edited(tmp_path):
    """Copy an oracle file and set calibration values in the copy; None removes one."""

    def edit(name, **values):
        path = tmp_path / name
        shutil.copyfile(ORACLE / name, path)
        with h5py.File(path, "a") as file:
            group = file["braggvectors_root/metadatabundle/calibration"]
            for key, value in values.items():
                if key in group:
                    del group[key]
                if value is not None:
                    group[key] = value
        return path

    return edit


class TestAgainstPy4DSTEM:
    @pytest.mark.parametrize(
        ("name", "dataset"),
        [("flipped", None), ("per_position", None), ("version_13", None), ("two_roots", "second_root/braggvectors")],
    )
    def test_calibrated_vectors_are_those_of_py4dstem(self, name, dataset):
        scan = read_scan(ORACLE / f"{name}.h5", dataset=dataset)
        expected = np.load(ORACLE / f"{name}.npz")
        assert scan.shape == (4, 5)
        np.testing.assert_array_equal(scan.peaks.counts, expected["counts"])
        np.testing.assert_allclose(scan.peaks.qx, expected["qx"], atol=1e-6, rtol=0)
        np.testing.assert_allclose(scan.peaks.qy, expected["qy"], atol=1e-6, rtol=0)
        np.testing.assert_array_equal(scan.peaks.intensity, expected["intensity"].astype(np.float32))

    @pytest.mark.parametrize("name", ["flipped", "per_position"])
    def test_the_calibration_itself_agrees_to_rounding_of_float64(self, name):
        with h5py.File(ORACLE / f"{name}.h5") as file:
            qx, qy, _, counts = flatten(file["braggvectors_root/braggvectors/_v_uncal/data"][:])
            stored = {
                key: item[()]
                for key, item in file["braggvectors_root/metadatabundle/calibration"].items()
                if isinstance(item, h5py.Dataset)
            }
        calibration = Calibration(
            (4, 5),
            tuple(np.asarray(stored[key]) for key in ("qx0", "qy0")),
            tuple(np.asarray(stored[key]) for key in ("a", "b", "theta")),
            stored["Q_pixel_size"],
            stored["QR_rotation"],
            bool(stored["QR_flip"]),
        )
        expected = np.load(ORACLE / f"{name}.npz")
        got = calibration.apply(qx, qy, np.repeat(np.arange(20), counts))
        np.testing.assert_allclose(got, [expected["qx"], expected["qy"]], atol=1e-13, rtol=0)

    def test_the_scan_says_what_was_applied(self):
        assert list(read_scan(ORACLE / "flipped.h5").calibration) == ["origin", "ellipse", "pixel_size", "rotation"]
        assert "rotation" not in read_scan(ORACLE / "version_13.h5").calibration

    def test_the_step_between_probe_positions_is_in_angstrom(self):
        assert read_scan(ORACLE / "flipped.h5").step_size == pytest.approx(25.0)
        assert read_scan(ORACLE / "version_13.h5").step_size is None  # "pixels" is no length

    def test_an_empty_probe_position_stays_empty(self):
        assert read_scan(ORACLE / "per_position.h5").peaks.counts[2 * 5 + 3] == 0

    def test_a_dataset_inside_another_is_found_by_path_and_by_name(self):
        by_path = read_scan(ORACLE / "two_datasets.h5", dataset="first_root/first/second")
        by_name = read_scan(ORACLE / "two_datasets.h5", dataset="second")
        np.testing.assert_array_equal(by_path.peaks.qx, by_name.peaks.qx)
        assert by_path.calibration["pixel_size"] == "0.0213 Å⁻¹"  # that of the root

    def test_a_root_stands_for_the_one_set_of_peaks_in_it_with_the_calibration_of_that_root(self):
        path = ORACLE / "two_roots.h5"
        first, second = (read_scan(path, dataset=f"{name}_root") for name in ("first", "second"))
        assert "exchanged" not in first.calibration["rotation"]
        assert "exchanged" in second.calibration["rotation"]
        np.testing.assert_array_equal(second.peaks.qx, read_scan(path, dataset="second_root/braggvectors").peaks.qx)

    def test_a_bare_array_of_emd_1_is_taken_as_it_is(self):
        scan = read_scan(ORACLE / "pointlistarray.h5")
        expected = np.load(ORACLE / "pointlistarray.npz")
        for name in ("qx", "qy", "intensity"):
            np.testing.assert_array_equal(getattr(scan.peaks, name), expected[name].astype(np.float32))
        assert "positions taken as Å⁻¹" in scan.note

    def test_stored_positions_times_pixel_size_around_the_centre_given(self):
        raw = np.load(ORACLE / "uncalibrated.npz")
        scan = read_scan(ORACLE / "uncalibrated.h5", pixel_size=0.02, centre=(64, 63))
        np.testing.assert_allclose(scan.peaks.qx, (raw["qx"] - 64) * 0.02, atol=1e-6)
        np.testing.assert_allclose(scan.peaks.qy, (raw["qy"] - 63) * 0.02, atol=1e-6)
        assert scan.calibration["pixel_size"].endswith("(given by the user)")

    def test_a_pixel_size_given_replaces_that_of_the_file(self):
        as_calibrated = read_scan(ORACLE / "flipped.h5")
        doubled = read_scan(ORACLE / "flipped.h5", pixel_size=0.0426)
        np.testing.assert_allclose(doubled.peaks.qx, 2 * as_calibrated.peaks.qx, rtol=1e-6)


class TestRefusals:
    def refusal(self, path, **options):
        with pytest.raises(InvalidScan) as caught:
            read_scan(path, **options)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        return message

    def test_no_pixel_size(self):
        message = self.refusal(ORACLE / "uncalibrated.h5")
        assert "no pixel size: pass --pixel-size (Å⁻¹ per pixel)" in message

    def test_no_origin(self):
        assert "no origin: pass --centre" in self.refusal(ORACLE / "uncalibrated.h5", pixel_size=0.02)

    def test_a_pixel_size_in_mrad_is_not_taken_for_inverse_angstrom(self, edited):
        message = self.refusal(edited("flipped.h5", Q_pixel_units="mrad", Q_pixel_size=0.4))
        assert "mrad (0.4): pass --pixel-size" in message

    def test_a_pixel_size_whose_unit_was_never_set_must_be_confirmed(self, edited):
        path = edited("flipped.h5", Q_pixel_units="pixels")
        assert "pixel size 0.0213 with the unit 'pixels': pass --pixel-size 0.0213" in self.refusal(path)
        confirmed = read_scan(path, pixel_size=0.0213)
        np.testing.assert_array_equal(confirmed.peaks.qx, read_scan(ORACLE / "flipped.h5").peaks.qx)

    def test_a_calibration_of_another_shape(self, edited):
        message = self.refusal(edited("flipped.h5", qx0=np.zeros((5, 4))))
        assert "qx0 has shape (5, 4), but the scan has (4, 5)" in message

    def test_a_calibration_that_is_no_number(self, edited):
        assert "QR_rotation = 'left': expected numbers" in self.refusal(edited("flipped.h5", QR_rotation="left"))
        assert "QR_rotation = nan: expected one finite" in self.refusal(edited("flipped.h5", QR_rotation=np.nan))

    def test_several_datasets_are_listed(self):
        message = self.refusal(ORACLE / "two_datasets.h5")
        assert "pass --dataset with one of: first_root/first, first_root/first/second" in message

    def test_several_roots_are_listed(self):
        path = ORACLE / "two_roots.h5"
        expected = "pass --dataset with one of: first_root/braggvectors, second_root/braggvectors"
        assert expected in self.refusal(path)
        assert expected in self.refusal(path, dataset="braggvectors")

    def test_a_dataset_that_is_not_there(self):
        message = self.refusal(ORACLE / "two_datasets.h5", dataset="third")
        assert "no dataset 'third'; the file holds: first_root/first, first_root/first/second" in message

    @pytest.mark.parametrize("fraction", [0.2, 0.6, 0.95])
    def test_a_file_cut_off_while_copying(self, tmp_path, fraction):
        whole = (ORACLE / "flipped.h5").read_bytes()
        path = tmp_path / "cut.h5"
        path.write_bytes(whole[: int(len(whole) * fraction)])
        assert "cut off" in self.refusal(path)

    def test_hdf5_of_another_program(self, tmp_path):
        path = tmp_path / "images.h5"
        with h5py.File(path, "w") as file:
            file["entry/data"] = np.zeros((3, 3))
        assert "no Bragg peaks in a known layout; it holds: entry; save a py4DSTEM" in self.refusal(path)

    def test_diffraction_patterns_are_no_peaks(self, tmp_path):
        path = tmp_path / "cube.h5"
        with h5py.File(path, "w") as file:
            file["datacube_root/datacube/data"] = np.zeros((2, 2, 8, 8), np.uint16)
        message = self.refusal(path)
        assert "it holds diffraction patterns (datacube_root/datacube/data), not the peaks in them" in message

    def test_an_old_file_without_peaks(self, tmp_path):
        path = tmp_path / "old.h5"
        with h5py.File(path, "w") as file:
            file.create_group("4DSTEM_experiment")
        assert "py4DSTEM 0.12 or older, without a PointListArray" in self.refusal(path)

    def test_peaks_without_an_intensity(self, write_peaks):
        dtype = np.dtype([("qx", float), ("qy", float)])
        path = write_peaks({"peaks": ([np.zeros(2, dtype)], (1, 1))}, dtype=dtype)
        assert "no field intensity; the peaks have: qx, qy" in self.refusal(path)

    def test_peaks_whose_fields_are_no_real_numbers(self, write_peaks):
        dtype = np.dtype([("qx", complex), ("qy", float), ("intensity", float)])
        path = write_peaks({"peaks": ([np.zeros(2, dtype)], (1, 1))}, dtype=dtype)
        assert "field qx is complex128: expected one real number" in self.refusal(path)

    def test_peaks_that_are_not_on_a_grid(self, write_peaks):
        path = write_peaks({"peaks": ([CENTRED] * 2, (2,))})
        assert "shape (2,): expected probe positions (ny, nx)" in self.refusal(path)


class TestBefore013:
    """Files of py4DSTEM 0.12 and 0.6: coordinates of which nothing says whether they are applied, or none."""

    RAW = "4DSTEM_experiment/data/pointlistarrays/braggpeaks_raw"

    def test_raw_peaks_and_coordinates_give_what_0_12_itself_makes_of_them(self):
        scan = read_scan(LEGACY / "version_12.h5", dataset="braggpeaks_raw")
        expected = np.load(LEGACY / "version_12_calibrated.npz")
        np.testing.assert_array_equal(scan.peaks.counts, expected["counts"])
        np.testing.assert_allclose(scan.peaks.qx, expected["qx"], atol=1e-6, rtol=0)
        np.testing.assert_allclose(scan.peaks.qy, expected["qy"], atol=1e-6, rtol=0)
        assert list(scan.calibration) == ["origin", "ellipse", "pixel_size", "rotation"]
        assert "taken as pixels of the detector" in scan.note
        assert scan.step_size == pytest.approx(25.0)

    def test_peaks_that_0_12_has_calibrated_are_taken_as_they_are(self):
        scan = read_scan(LEGACY / "version_12.h5", dataset="braggpeaks_calibrated")
        expected = np.load(LEGACY / "version_12_calibrated.npz")
        np.testing.assert_array_equal(scan.peaks.qx, expected["qx"].astype(np.float32))
        assert scan.calibration == {}
        assert "positions taken as Å⁻¹" in scan.note

    def test_stored_peaks_are_those_that_py4dstem_reads(self):
        scan = read_scan(LEGACY / "version_6.h5", pixel_size=1.0, centre=(0, 0))
        expected = np.load(LEGACY / "version_6_row_3.npz")
        np.testing.assert_array_equal(scan.peaks.counts[15:], expected["counts"])
        for name in ("qx", "qy", "intensity"):
            last_row = getattr(scan.peaks, name)[scan.peaks.offsets[15] :]
            np.testing.assert_array_equal(last_row, expected[name].astype(np.float32))

    def test_one_group_a_position_is_read_in_the_order_of_the_scan(self):
        scan = read_scan(LEGACY / "version_6.h5", pixel_size=1.0, centre=(0, 0))
        assert scan.shape == (4, 5)
        with h5py.File(LEGACY / "version_6.h5") as file:
            group = file["4DSTEM_experiment/data/pointlistarrays/braggpeaks"]
            stored = [group[f"{row}_{column}/intensity/data"][()] for row in range(4) for column in range(5)]
        np.testing.assert_array_equal(scan.peaks.counts, [len(values) for values in stored])
        np.testing.assert_array_equal(scan.peaks.intensity, np.concatenate(stored).astype(np.float32))

    def test_centred_pixels_are_refused_with_what_the_coordinates_say(self, old_copy):
        path = old_copy("version_12.h5")
        with h5py.File(path, "a") as file:
            del file["4DSTEM_experiment/data/pointlistarrays/braggpeaks_calibrated"]
            data = file[f"{self.RAW}/data"]
            for position in np.ndindex(data.shape):
                peaks = data[position]
                peaks["qx"] -= 63
                peaks["qy"] -= 64
                data[position] = peaks
        with pytest.raises(
            InvalidScan, match=r"cannot be Å⁻¹: pass --pixel-size .*the file's coordinates say 0\.0213 A"
        ):
            read_scan(path)
        assert read_scan(path, pixel_size=0.0213).calibration == {"pixel_size": "0.0213 Å⁻¹ (given by the user)"}

    def test_of_several_coordinates_none_is_taken(self, old_copy):
        path = old_copy("version_12.h5")
        with h5py.File(path, "a") as file:
            file.copy("4DSTEM_experiment/data/coordinates/coordinates", "4DSTEM_experiment/data/coordinates/other")
        with pytest.raises(InvalidScan, match=r"pass --pixel-size.*several coordinates \(coordinates, other\)"):
            read_scan(path, dataset="braggpeaks_raw")

    def test_a_missing_probe_position_is_named(self, old_copy):
        path = old_copy("version_6.h5")
        with h5py.File(path, "a") as file:
            del file["4DSTEM_experiment/data/pointlistarrays/braggpeaks/1_2"]
        with pytest.raises(InvalidScan, match=r"no group 1_2: of 4 x 5 probe positions only 19 are there"):
            read_scan(path)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (None, "1_2: no field qy; the peaks have: intensity, qx"),
            (np.zeros(2), r"1_2: 3 qx, 2 qy, 3 intensity: expected as many of each"),
            (np.zeros((3, 2)), r"1_2: field qy is float64, shape \(3, 2\): expected one real number"),
            (np.zeros(3, complex), r"1_2: field qy is complex128"),
        ],
    )
    def test_fields_that_do_not_fit(self, old_copy, values, message):
        path = old_copy("version_6.h5")
        with h5py.File(path, "a") as file:
            group = file["4DSTEM_experiment/data/pointlistarrays/braggpeaks/1_2"]
            for name in ("qx", "intensity"):
                del group[f"{name}/data"]
                group[f"{name}/data"] = np.ones(3)
            del group["qy"]
            if values is not None:
                group["qy/pointlistarray"] = values  # the name of the dataset before 0.6
        with pytest.raises(InvalidScan, match=message):
            read_scan(path)


class TestPeaksWithoutCalibration:
    """A bare PointListArray: only its values can tell pixels from Å⁻¹."""

    def test_short_positions_around_zero_are_taken_as_inverse_angstrom_and_the_scan_says_so(self, write_peaks):
        scan = read_scan(write_peaks({"peaks": ([CENTRED] * 4, (2, 2))}))
        np.testing.assert_allclose(scan.peaks.qx[:3], [0, 0.5, -0.5])
        assert "positions taken as Å⁻¹, because they end at 0.7071" in scan.note
        assert scan.calibration == {}

    def test_long_positions_are_refused_until_a_pixel_size_is_given(self, write_peaks):
        pixels = peak_list((0, 0, 9), (25, 25, 1), (-25, -25, 1))
        path = write_peaks({"peaks": ([pixels], (1, 1))})
        with pytest.raises(InvalidScan, match=r"as far out as 35\.36 cannot be Å⁻¹: pass --pixel-size"):
            read_scan(path)
        scan = read_scan(path, pixel_size=0.02)
        np.testing.assert_allclose(scan.peaks.qx, [0, 0.5, -0.5])
        assert (
            scan.note
            == "the file states no calibration: the direct beam taken at zero, because the peaks lie around it"
        )

    def test_positions_in_the_frame_of_the_detector_are_refused_until_a_centre_is_given(self, write_peaks):
        detector = peak_list((64, 64, 9), (89, 89, 1), (39, 39, 1))
        path = write_peaks({"peaks": ([detector], (1, 1))})
        with pytest.raises(InvalidScan, match=r"do not lie around zero .*: pass --centre"):
            read_scan(path, pixel_size=0.02)
        scan = read_scan(path, pixel_size=0.02, centre=(64, 64))
        np.testing.assert_allclose(scan.peaks.qx, [0, 0.5, -0.5])
        assert scan.note == ""

    def test_bad_peaks_are_kept_for_the_map_to_report(self, write_peaks):
        lists = [CENTRED, peak_list((np.nan, 0, 1), (np.inf, 0, 1)), np.zeros(0, PEAK), CENTRED]
        scan = read_scan(write_peaks({"peaks": (lists, (2, 2))}))
        assert scan.peaks.counts.tolist() == [3, 2, 0, 3]
        assert np.isnan(scan.peaks.qx[3])

    def test_a_scan_without_any_peak_is_read(self, write_peaks):
        scan = read_scan(write_peaks({"peaks": ([np.zeros(0, PEAK)] * 6, (2, 3))}))
        assert scan.shape == (2, 3)
        assert len(scan.peaks.qx) == 0

    def test_integers_and_further_fields_are_no_obstacle(self, write_peaks):
        dtype = np.dtype([("intensity", "i4"), ("qx", "f4"), ("mask", "u1"), ("qy", "f4")])
        peaks = np.array([(9, 0, 1, 0), (1, 0.5, 1, 0.25), (2, -0.5, 0, -0.25)], dtype)
        scan = read_scan(write_peaks({"peaks": ([peaks], (1, 1))}, dtype=dtype))
        np.testing.assert_array_equal(scan.peaks.intensity, [9, 1, 2])
        np.testing.assert_array_equal(scan.peaks.qy, np.float32([0, 0.25, -0.25]))


counts_of_scans = st.lists(st.integers(0, 6), min_size=1, max_size=24)


@given(counts_of_scans, st.integers(0, 2**32 - 1))
def test_flattening_keeps_every_peak_in_its_pattern(counts, seed):
    rng = np.random.default_rng(seed)
    lists = [np.array(list(map(tuple, rng.normal(size=(count, 3)))), PEAK) for count in counts]
    qx, qy, intensity, got = flatten(object_array(lists, (len(counts), 1)))
    np.testing.assert_array_equal(got, counts)
    ends = np.cumsum(counts)
    for peaks, end in zip(lists, ends, strict=True):
        part = slice(end - len(peaks), end)
        np.testing.assert_array_equal(
            np.stack([qx[part], qy[part], intensity[part]]).T, peaks.tolist() or np.empty((0, 3))
        )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts_of_scans, st.integers(1, 7))
def test_reading_by_blocks_gives_what_reading_at_once_gives(write_peaks, monkeypatch, counts, positions_per_block):
    lists = [peak_list(*[(0.1 * index, -0.1 * index, index)] * count) for index, count in enumerate(counts)]
    path = write_peaks({"peaks": (lists, (len(counts), 1))})
    monkeypatch.setattr("gpuediff.scans.readers.reading.POSITIONS_PER_BLOCK", positions_per_block)
    scan = read_scan(path, pixel_size=1.0, centre=(0.0, 0.0))
    np.testing.assert_array_equal(scan.peaks.counts, counts)
    np.testing.assert_array_equal(scan.peaks.intensity, np.repeat(np.arange(len(counts)), counts))


def test_origin_ellipse_and_rotation_follow_the_probe_position_across_blocks(monkeypatch):
    at_once = read_scan(ORACLE / "per_position.h5")
    monkeypatch.setattr("gpuediff.scans.readers.reading.POSITIONS_PER_BLOCK", 5)
    np.testing.assert_array_equal(read_scan(ORACLE / "per_position.h5").peaks.qx, at_once.peaks.qx)


def test_the_ellipse_becomes_a_circle_of_its_short_axis():
    t = np.linspace(0, 2 * np.pi, 50)
    a, b, angle = 1.1, 1.0, 0.7
    qx = a * np.cos(t) * np.cos(angle) - b * np.sin(t) * np.sin(angle)
    qy = a * np.cos(t) * np.sin(angle) + b * np.sin(t) * np.cos(angle)
    ellipse = tuple(np.asarray(value) for value in (a, b, angle))
    got = np.hypot(*Calibration((1, 1), ellipse=ellipse).apply(qx, qy, np.zeros(50, int)))
    np.testing.assert_allclose(got, b, rtol=1e-12)


@pytest.mark.skipif(not REAL_SCAN.is_file(), reason="the experimental scan is not here")
def test_the_experimental_scan_is_read_completely():
    scan = read_scan(REAL_SCAN)
    assert scan.shape == (80, 58)
    assert len(scan.peaks) == 4640
    assert len(scan.peaks.qx) == 121_390
    assert int((scan.peaks.counts >= 5).sum()) == 3411
    assert "positions taken as Å⁻¹" in scan.note
    # the direct beam is there: in every pattern a peak within 0.02 Å⁻¹ of the origin
    q = np.hypot(scan.peaks.qx, scan.peaks.qy)
    assert np.minimum.reduceat(q, scan.peaks.offsets[:-1]).max() < 0.02
