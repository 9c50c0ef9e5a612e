import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuediff.cli.detect import detect_and_show, detection_settings, ring_spacings
from gpuediff.cli.screen import Screen
from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.detection.cubes import Cube, Scale, open_cube
from gpuediff.scans.detection.detector import Detection, Fault
from gpuediff.scans.detection.peak_file import PeakWriter, write_peaks
from gpuediff.scans.detection.peak_finding import find_peaks
from gpuediff.scans.readers import read_scan
from tests.oracle.detection.render import expected_counts

ORACLE = Path(__file__).resolve().parents[2] / "oracle/detection"
SHAPE = (4, 5)


def some_peaks(seed=0, *, equal=False):
    """Twenty patterns of none to eight peaks, or of three each."""
    rng = np.random.default_rng(seed)
    counts = np.full(20, 3) if equal else rng.integers(0, 9, 20)
    return PeakBatch.from_lists([rng.uniform(1, 100, (count, 3)) for count in counts])


def some_calibration():
    row, column = np.indices(SHAPE)
    ellipse = tuple(np.asarray(value) for value in (1.04, 0.99, 0.4))
    return Calibration(SHAPE, (60.0 + 0.1 * row, 64.0 - 0.2 * column), ellipse, 0.02, -0.3, True)


class TestWriting:
    @pytest.mark.parametrize("equal", [False, True])  # lists of one length look like one more axis
    @pytest.mark.parametrize("blocks", [(20,), (7, 7, 6), (1,) * 20, (5, 10, 5), (3, 12, 5)])
    def test_what_is_written_is_what_is_read(self, tmp_path, blocks, equal):
        peaks, calibration = some_peaks(equal=equal), some_calibration()
        ends = np.cumsum(blocks)
        parts = (peaks[end - size : end] for end, size in zip(ends, blocks, strict=True))
        write_peaks(tmp_path / "peaks.h5", parts, SHAPE, (128, 100), calibration, step_size=12.5)
        scan = read_scan(tmp_path / "peaks.h5")
        assert scan.shape == SHAPE
        assert scan.step_size == 12.5
        assert list(scan.calibration) == ["origin", "ellipse", "pixel_size", "rotation"]
        np.testing.assert_array_equal(scan.peaks.counts, peaks.counts)
        np.testing.assert_array_equal(scan.peaks.intensity, peaks.intensity)
        expected = calibration.apply(*(axis.astype(np.float64) for axis in (peaks.qx, peaks.qy)), peaks.pattern_of_peak)
        np.testing.assert_allclose(scan.peaks.qx, expected[0], atol=1e-6)
        np.testing.assert_allclose(scan.peaks.qy, expected[1], atol=1e-6)

    def test_groups_and_attributes_are_those_of_a_file_that_py4dstem_wrote(self, tmp_path):
        write_peaks(tmp_path / "peaks.h5", some_peaks(), SHAPE, (128, 128), some_calibration(), step_size=12.5)

        def tree(path):
            found = {}
            with h5py.File(path) as file:
                file.visititems(lambda name, item: found.update({name: {**item.attrs}}))
                shapes = {
                    name: file[name][()].tolist()
                    for name in file["braggvectors_root/braggvectors/metadatabundle/_braggvectors_shape"]
                    if name in file
                }
                return found, shapes, file["braggvectors_root/braggvectors/_v_uncal/data"].dtype.metadata

        ours, theirs = tree(tmp_path / "peaks.h5"), tree(ORACLE.parent / "emd/flipped.h5")
        assert ours[0].keys() == theirs[0].keys()
        arrays = {
            f"braggvectors_root/metadatabundle/calibration/{name}" for name in ("qx0", "qy0", "qx0_shift", "qy0_shift")
        }
        for name in ours[0].keys() - arrays:  # one origin for all positions there, one each here
            assert ours[0][name] == theirs[0][name], name
        assert ours[2]["vlen"] == theirs[2]["vlen"]

    def test_without_a_calibration_the_reader_asks_for_one(self, tmp_path):
        write_peaks(tmp_path / "peaks.h5", some_peaks(), SHAPE, (128, 128))
        with pytest.raises(InvalidScan, match="no pixel size: pass --pixel-size"):
            read_scan(tmp_path / "peaks.h5")
        scan = read_scan(tmp_path / "peaks.h5", pixel_size=0.02, centre=(64, 64))
        np.testing.assert_allclose(scan.peaks.qx, (some_peaks().qx - 64) * 0.02, atol=1e-6)

    def test_a_file_is_complete_or_absent(self, tmp_path):
        path = tmp_path / "peaks.h5"
        path.write_text("what was there before")
        with pytest.raises(InvalidScan, match="13 probe positions were not written"):
            write_peaks(path, some_peaks()[:7], SHAPE, (128, 128))

        def interrupted():
            with PeakWriter(path, SHAPE, (128, 128)) as writer:
                writer.append(some_peaks()[:7])
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert path.read_text() == "what was there before"
        assert [entry.name for entry in tmp_path.iterdir()] == ["peaks.h5"]

    def test_more_patterns_than_positions_are_refused(self, tmp_path):
        with pytest.raises(InvalidScan, match="21 patterns are more than"):
            write_peaks(tmp_path / "peaks.h5", [some_peaks(), some_peaks()[:1]], SHAPE, (128, 128))

    @pytest.mark.py4dstem
    def test_py4dstem_calibrates_it_alike(self, tmp_path):
        py4DSTEM = pytest.importorskip("py4DSTEM")
        write_peaks(tmp_path / "peaks.h5", some_peaks(), SHAPE, (128, 128), some_calibration())
        vectors = py4DSTEM.read(str(tmp_path / "peaks.h5"))
        vectors.setcal()
        flat = np.concatenate([vectors.cal[position].data for position in np.ndindex(*SHAPE)])
        scan = read_scan(tmp_path / "peaks.h5")
        np.testing.assert_allclose(scan.peaks.qx, flat["qx"], atol=1e-6)
        np.testing.assert_allclose(scan.peaks.qy, flat["qy"], atol=1e-6)


@pytest.fixture(scope="module")
def gold(tmp_path_factory):
    out = tmp_path_factory.mktemp("gold") / "peaks.h5"
    with open_cube(ORACLE / "cube.h5") as cube:
        found = find_peaks(cube, out, spacings=ring_spacings("4.078"), threads=2)
    return out, found, np.load(ORACLE / "truth.npz")


class TestFromFramesToPeaks:
    def test_the_scan_is_calibrated_as_it_was_made(self, gold):
        _, found, truth = gold
        assert found.calibration.pixel_size == pytest.approx(float(truth["pixel_size"]), rel=1e-3)
        a, b, theta = found.ring.ellipse
        assert a / b == pytest.approx(float(truth["ratio"]), abs=2e-3)
        assert theta == pytest.approx(float(truth["angle"]), abs=0.03)
        centres = np.stack([found.centres.qx, found.centres.qy], axis=-1).reshape(-1, 2)
        np.testing.assert_allclose(centres, truth["centre"], atol=0.02)
        assert (found.pixel_size_from, found.calibration.shape) == ("ring", (8, 8))

    def test_strong_peaks_are_read_where_they_are_in_reciprocal_space(self, gold):
        out, _, truth = gold
        scan = read_scan(out)
        position = np.repeat(np.arange(64), truth["counts"])
        qx, qy = (truth[name].astype(np.float64) for name in ("qx", "qy"))
        true = Calibration(
            (8, 8),
            tuple(truth["centre"].T.reshape(2, 8, 8)),
            tuple(np.asarray(float(value)) for value in (truth["ratio"], 1.0, truth["angle"])),
            float(truth["pixel_size"]),
        ).apply(qx, qy, position)
        strong = truth["intensity"] > 1e4
        errors = []
        for number in range(64):
            px, py, _ = scan.peaks.pattern(number)
            tx, ty = (axis[strong & (position == number)] for axis in true)
            inside = np.maximum(np.abs(tx), np.abs(ty)) < 1.5
            errors += np.hypot(tx[inside, None] - px, ty[inside, None] - py).min(axis=1).tolist()
        assert len(errors) > 100
        assert np.quantile(errors, 0.9) < 0.002  # Å⁻¹, what the protocol `measured` takes for a good measurement

    def test_blocks_and_threads_change_nothing(self, gold, tmp_path, monkeypatch):
        monkeypatch.setattr("gpuediff.scans.detection.peak_finding.BLOCK_BYTES", 11 * 128 * 128 * 2)
        monkeypatch.setattr("gpuediff.scans.detection.peak_finding.KEPT_PATTERNS", 20)
        with open_cube(ORACLE / "cube.h5") as cube:
            found = find_peaks(cube, tmp_path / "peaks.h5", threads=1)
        np.testing.assert_array_equal(found.counts, gold[1].counts)
        np.testing.assert_array_equal(found.kept.counts, gold[1].counts.reshape(-1)[::4])
        for qx, qy, _ in found.kept:  # the beam wanders over 2.4 pixels
            assert np.hypot(qx, qy).min() < 0.1
        assert [example.index for example in found.examples] == [example.index for example in gold[1].examples]
        assert found.pixel_size_from == "file"
        assert read_scan(tmp_path / "peaks.h5").step_size == pytest.approx(15.0)

    def test_frames_that_are_not_finite_and_empty_ones_are_counted(self, tmp_path):
        peaks = PeakBatch.from_lists([np.array([[32, 32, 1e4], [44, 40, 1e3]], np.float32)] * 12)
        frames = expected_counts(peaks, (64, 64), radius=3.0)
        frames[3, 0, 0], frames[5] = np.nan, 0
        cube = Cube(frames.reshape(3, 4, 64, 64), "made here", pixel=Scale(0.2, "1/nm"))
        found = find_peaks(cube, tmp_path / "peaks.h5")
        expected = np.full(12, 2)
        expected[[3, 5]] = 0
        np.testing.assert_array_equal(found.counts.reshape(-1), expected)
        np.testing.assert_array_equal(np.flatnonzero(found.fault & Fault.NOT_FINITE), [3])
        assert found.calibration.pixel_size == pytest.approx(0.02)
        np.testing.assert_allclose(found.centres.qx, 32, atol=0.02)

    def test_what_is_given_is_not_estimated(self, tmp_path):
        with open_cube(ORACLE / "cube.h5") as cube:
            found = find_peaks(
                cube,
                tmp_path / "peaks.h5",
                radius=3.9,
                gain=1.0,
                centre=(63.0, 64.0),
                pixel_size=0.031,
                step_size=7.0,
                settings=Detection(max_peaks=3),
            )
        assert (found.probe.radius, found.survey.sensor.gain, found.calibration.pixel_size) == (3.9, 1.0, 0.031)
        assert found.counts.max() == 3
        assert (np.ptp(found.centres.qx), found.centres.qx[0, 0], found.centres.model) == (0, 63.0, "given")
        assert read_scan(tmp_path / "peaks.h5").step_size == 7.0

    def test_a_failure_leaves_no_file(self, tmp_path):
        with open_cube(ORACLE / "cube.h5") as cube, pytest.raises(InvalidScan, match="rings: "):
            find_peaks(cube, tmp_path / "peaks.h5", spacings=(9.0, 8.7, 8.5))
        assert not list(tmp_path.iterdir())


class TestForAPerson:
    @pytest.fixture
    def undrawn(self, monkeypatch):
        """Leave the picture out, which takes longer than all the rest."""
        monkeypatch.setattr("gpuediff.cli.detect._draw", lambda found, path: None)

    def test_peaks_picture_and_a_table(self, tmp_path, capsys):
        out = tmp_path / "new" / "peaks.h5"
        _, written = detect_and_show(ORACLE / "cube.h5", out, Screen(), ring="4.078")
        assert written == [out, out.with_suffix(".png")]
        assert all(path.stat().st_size > 10_000 for path in written)
        shown = capsys.readouterr().out
        assert "8 x 8 probe positions" in shown
        assert "64 of 64" in shown
        assert "Å⁻¹, from the rings" in shown
        assert "a/b = 1.03" in shown

    def test_json_is_plain(self, tmp_path, capsys, undrawn):
        detect_and_show(ORACLE / "cube.h5", tmp_path / "peaks.h5", Screen(as_json=True))
        data = json.loads(capsys.readouterr().out)
        assert data["pixel_size_from"] == "file"
        assert data["frames_not_finite"] == 0
        assert data["peaks"] > 500

    def test_a_vacuum_measurement_gives_the_probe(self, tmp_path, undrawn):
        peaks = PeakBatch.from_lists([np.array([[63.2, 64.1, 1e6]], np.float32)])
        np.save(tmp_path / "vacuum.npy", expected_counts(peaks, (128, 128), radius=4.0))
        found, _ = detect_and_show(
            ORACLE / "cube.h5", tmp_path / "peaks.h5", Screen(quiet=True), vacuum=tmp_path / "vacuum.npy"
        )
        assert found.probe.radius == pytest.approx(4.0, abs=0.1)
        assert not np.allclose(found.probe.image.max(), found.probe.image[0, 0])

    def test_settings_out_of_range_name_their_option(self):
        assert detection_settings(max_peaks=7).max_peaks == 7
        with pytest.raises(InvalidScan, match=r"--min-spacing -3\.0: allowed range: 0 <= value <= 10000 pixels"):
            detection_settings(min_spacing=-3.0)

    def test_nothing_is_replaced_unasked(self, tmp_path):
        (tmp_path / "peaks.h5").write_text("old")
        with pytest.raises(InvalidScan, match="already exists: pass --overwrite"):
            detect_and_show(ORACLE / "cube.h5", tmp_path / "peaks.h5", Screen(quiet=True))
        with pytest.raises(InvalidScan, match="already exists"):
            detect_and_show(ORACLE / "cube.h5", ORACLE / "cube.h5", Screen(quiet=True), overwrite=True)
        with pytest.raises(InvalidScan, match=r"ends in \.h5"):
            detect_and_show(ORACLE / "cube.h5", tmp_path / "peaks.csv", Screen(quiet=True))

    def test_rings_are_named_by_metal_lattice_parameter_or_spacings(self):
        assert ring_spacings("Au")[0] == pytest.approx(4.0782 / 3**0.5)
        assert ring_spacings("4.05") == ring_spacings("4.050")
        assert ring_spacings("2.3, 2.0") == (2.3, 2.0)
        for wrong in ("unobtainium", "-4", "", "2.3,x"):
            with pytest.raises(InvalidScan, match="lattice parameter of a cubic F lattice"):
                ring_spacings(wrong)
