import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidScan
from gpuediff.scans.readers import read_scan
from tests.strategies import peak_batches

PATTERN = {"qx": [0.0, 0.5, -0.5], "qy": [0.0, 0.4, -0.4], "intensity": [9.0, 1.0, 2.0]}


def arrays(**changes):
    """Arrays of a scan of 2 x 3 positions: three peaks at the first and at the last; None leaves one out."""
    made = {name: np.tile(np.array(values), 2) for name, values in PATTERN.items()}
    made |= {"offsets": np.array([0, 3, 3, 3, 3, 3, 6]), "shape": np.array([2, 3]), "step_size": np.array(25.0)}
    made |= changes
    return {name: values for name, values in made.items() if values is not None}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / "scan.npz"
        np.savez(path, **arrays(**changes))
        return path

    return write


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    peaks=peak_batches(),
    columns=st.integers(1, 3),
    compressed=st.booleans(),
    by_counts=st.booleans(),
    per_block=st.integers(1, 50),
)
def test_what_is_written_is_read(tmp_path, monkeypatch, peaks, columns, compressed, by_counts, per_block):
    monkeypatch.setattr("gpuediff.scans.readers.reading.PEAKS_PER_BLOCK", per_block)
    counts = np.concatenate([peaks.counts, np.zeros(-len(peaks) % columns + columns, np.int64)])
    index = {"counts": counts} if by_counts else {"offsets": np.concatenate([[0], np.cumsum(counts)])}
    path = tmp_path / "scan.npz"
    shape = (len(counts) // columns, columns)
    save = np.savez_compressed if compressed else np.savez
    save(path, qx=peaks.qx, qy=peaks.qy, intensity=peaks.intensity, shape=shape, **index)
    scan = read_scan(path, pixel_size=1.0, centre=(0.0, 0.0))
    assert scan.shape == shape
    np.testing.assert_array_equal(scan.peaks.counts, counts)
    for name in ("qx", "qy", "intensity"):
        np.testing.assert_array_equal(getattr(scan.peaks, name), getattr(peaks, name))


def test_positions_are_in_inverse_angstrom_around_the_direct_beam(write):
    scan = read_scan(write())
    assert scan.calibration == {}
    assert scan.note == ""
    assert scan.step_size == 25.0
    np.testing.assert_array_equal(scan.peaks.counts, [3, 0, 0, 0, 0, 3])


def test_pixels_are_calibrated_by_what_the_user_says(write):
    scan = read_scan(write(qx=np.arange(6.0) * 100, qy=np.zeros(6)), pixel_size=0.01, centre=(250.0, 0.0))
    np.testing.assert_allclose(scan.peaks.qx, np.linspace(-2.5, 2.5, 6))


def test_integers_and_values_that_are_not_finite_are_kept(write):
    scan = read_scan(write(intensity=np.arange(6), qx=np.array([0, np.nan, -0.5, 0, 0.5, np.inf])))
    np.testing.assert_array_equal(scan.peaks.intensity, np.arange(6))
    assert np.isnan(scan.peaks.qx[1])
    assert np.isinf(scan.peaks.qx[5])


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"qy": None}, r"no array qy \(found: intensity, offsets, qx, shape, step_size\); write np\.savez"),
            ({"offsets": None}, "no array offsets"),
            ({"shape": None}, "no array shape"),
            ({"shape": np.array([2, -3])}, r"shape = \[2, -3\]: expected the numbers of probe positions"),
            ({"shape": np.array([6])}, r"shape = \[6\]"),
            ({"shape": np.array([2.0, 3.0])}, "shape is float64: expected integers"),
            ({"shape": np.array([2, 2])}, r"offsets has shape \(7,\): expected \(5,\) for 2 x 2 positions"),
            ({"offsets": np.array([0, 3, 2, 3, 3, 3, 6])}, "offsets must rise from 0: it does not at probe position 1"),
            ({"offsets": np.array([1, 3, 3, 3, 3, 3, 6])}, "offsets must rise from 0: it does not at probe position 0"),
            (
                {"offsets": np.array([0, 3, 3, 3, 3, 3, 5])},
                r"qx has shape \(6,\), but the probe positions have 5 peaks",
            ),
            ({"offsets": None, "counts": np.array([3, 0, 0, -1, 1, 3])}, "counts must be >= 0: .* position 3"),
            ({"counts": np.array([3, 0, 0, 0, 1, 2])}, "counts are not the differences of offsets"),
            ({"intensity": np.ones(5)}, r"intensity has shape \(5,\), but the probe positions have 6 peaks"),
            ({"qx": np.ones((2, 3))}, r"qx has shape \(2, 3\)"),
            ({"qx": np.ones(6, complex)}, "qx is complex128: expected real numbers"),
            ({"qx": np.array([None] * 6)}, "qx is object: expected real numbers"),
            ({"intensity": np.array(list("abcdef"))}, "intensity is <U1: expected real numbers"),
            ({"step_size": np.array(-1.0)}, r"step_size = -1\.0: expected one number > 0"),
            ({"step_size": np.array([1.0, 2.0])}, r"step_size = \[1\.0, 2\.0\]"),
            ({"qx": np.arange(6.0) * 100}, "peaks as far out as 500 cannot be Å⁻¹: pass --pixel-size"),
            ({"qx": np.arange(1.0, 7.0) / 4}, "the peaks do not lie around zero"),
        ],
    )
    def test_arrays_that_are_no_scan(self, write, changes, message):
        path = write(**changes)
        with pytest.raises(InvalidScan, match=message) as caught:
            read_scan(path)
        assert str(caught.value).startswith(f"{path}: ")

    def test_a_dataset_cannot_be_chosen(self, write):
        with pytest.raises(InvalidScan, match="holds one set of peaks: leave out --dataset peaks"):
            read_scan(write(), dataset="peaks")

    @pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.99])
    def test_an_archive_cut_off_while_copying(self, write, fraction):
        path = write()
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * fraction)])
        with pytest.raises(InvalidScan, match="cut off"):
            read_scan(path)

    def test_an_array_that_ends_before_its_head_says(self, write):
        whole = arrays()
        buffer = io.BytesIO()
        np.save(buffer, whole["qx"])
        path = write(qx=None)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("qx.npy", buffer.getvalue()[:-4])
        with pytest.raises(InvalidScan, match="qx ends early: 44 of 48 bytes"):
            read_scan(path)

    def test_an_array_that_goes_on_after_its_last_peak(self, write):
        buffer = io.BytesIO()
        np.save(buffer, arrays()["qx"])
        path = write(qx=None)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("qx.npy", buffer.getvalue() + bytes(8))
        with pytest.raises(InvalidScan, match="qx goes on after 6 peaks"):
            read_scan(path)

    def test_a_peak_that_was_damaged_does_not_match_the_checksum(self, write):
        path = write()
        whole = path.read_bytes()
        place = whole.index(np.float64(-0.4).tobytes())
        path.write_bytes(whole[:place] + np.float64(-0.3).tobytes() + whole[place + 8 :])
        with pytest.raises(InvalidScan, match="Bad CRC-32"):
            read_scan(path)

    def test_a_member_that_is_no_array(self, write):
        path = write(qx=None)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("qx.npy", b"not an array at all")
        with pytest.raises(InvalidScan, match="qx is no array of NumPy"):
            read_scan(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), garbage=st.binary(min_size=1, max_size=40))
def test_damage_is_read_or_refused_and_never_anything_else(write, place, garbage):
    path = write()
    whole = bytearray(path.read_bytes())
    start = int(place * (len(whole) - 1))
    whole[start : start + len(garbage)] = garbage
    path.write_bytes(whole)
    try:
        scan = read_scan(path)
    except InvalidScan:
        return
    assert len(scan.peaks) == scan.shape[0] * scan.shape[1]
