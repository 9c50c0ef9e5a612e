import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest

from gpuediff.errors import GpuediffError
from gpuediff.scans.readers import read_scan, spool
from gpuediff.scans.readers.spool import PeakSpool, allocate

ORACLE = Path(__file__).resolve().parents[2] / "oracle"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Let temporary files go to an empty folder, and hand it out."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(spool, "SPOOL_LIMIT", 100)


def backed_by_a_file(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


def write_scan(path, kind):
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 9, 30)
    qx, qy, intensity = rng.uniform(-1, 1, (3, counts.sum()))
    if kind == "npz":
        np.savez(path, qx=qx, qy=qy, intensity=intensity, counts=counts, shape=(5, 6))
    else:
        position = np.repeat(np.arange(30), counts)
        rows = [position // 6, position % 6, qx, qy, intensity]
        order = rng.permutation(len(qx))
        np.savetxt(
            path,
            np.column_stack(rows)[order],
            fmt=["%d", "%d", "%.17g", "%.17g", "%.17g"],
            delimiter=",",
            header="row,column,qx,qy,intensity",
            comments="",
        )
    return path


@pytest.mark.parametrize("name", ["emd/per_position.h5", "hyperspy/vectors.hspy", "scan.npz", "scan.csv"])
def test_a_scan_in_temporary_files_is_bit_for_bit_that_in_memory(name, tmp_path, temporary, monkeypatch):
    path = ORACLE / name
    if not path.exists():
        path = write_scan(tmp_path / name, name.rsplit(".", 1)[-1])
    monkeypatch.setattr("gpuediff.scans.readers.reading.POSITIONS_PER_BLOCK", 4)
    in_memory = read_scan(path).peaks
    assert not backed_by_a_file(in_memory.qx)
    monkeypatch.setattr(spool, "SPOOL_LIMIT", 100)
    in_files = read_scan(path).peaks
    assert all(backed_by_a_file(column) for column in (in_files.qx, in_files.qy, in_files.intensity))
    for column in ("qx", "qy", "intensity", "offsets"):
        np.testing.assert_array_equal(getattr(in_files, column), getattr(in_memory, column))
    assert list(temporary.iterdir())
    del in_files
    gc.collect()
    assert not list(temporary.iterdir())


def test_files_live_as_long_as_any_view_of_them(temporary, small_limit):
    peaks = PeakSpool()
    for start in range(5):
        peaks.append(*np.full((3, 10), float(start)))
    batch = peaks.batch(np.array([20, 30]))
    del peaks
    view = batch[1:].qx
    del batch
    gc.collect()
    assert list(temporary.iterdir())
    np.testing.assert_array_equal(view, np.repeat([2.0, 3.0, 4.0], 10))
    del view
    gc.collect()
    assert not list(temporary.iterdir())


def test_writing_into_a_batch_does_not_reach_the_file(temporary, small_limit):
    peaks = PeakSpool()
    peaks.append(*np.ones((3, 50)))
    batch = peaks.batch(np.array([50]))
    batch.qx[0] = 7
    (stored,) = temporary.glob("*/qx")
    np.testing.assert_array_equal(np.fromfile(stored, np.float32), np.ones(50))


def test_a_spool_that_is_given_up_leaves_nothing(temporary, small_limit):
    peaks = PeakSpool()
    peaks.append(*np.ones((3, 50)))
    assert list(temporary.iterdir())
    del peaks
    gc.collect()
    assert not list(temporary.iterdir())


def test_arrays_are_filled_in_any_order(temporary, small_limit):
    columns = allocate(100)
    order = np.random.default_rng(0).permutation(100)
    for column in columns:
        column[order] = order
        np.testing.assert_array_equal(column, np.arange(100))
    assert backed_by_a_file(columns[0])


def test_a_full_disk_says_what_to_do(temporary, small_limit, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(GpuediffError, match=r"no room for the peaks of the scan: .* set TMPDIR"):
        allocate(100)
    assert not list(temporary.iterdir())
