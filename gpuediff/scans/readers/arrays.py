"""Read a scan from a NumPy archive (.npz), array by array and block by block.

The archive holds `qx`, `qy`, `intensity`, shape (peaks,), q in Å⁻¹ around the direct beam; `offsets`, shape (n + 1,),
or `counts`, shape (n,): the peaks of every probe position, row by row; `shape`, the probe positions (ny, nx); and, if
it is known, `step_size`, the distance between them, Å.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.peaks import offsets_of
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.readers import reading
from gpuediff.scans.readers.reading import Asked, Block, gather, refuse_implausible
from gpuediff.scans.scan import Scan

PEAK_ARRAYS = ("qx", "qy", "intensity")
_HOW = "np.savez(file, qx=..., qy=..., intensity=..., offsets=..., shape=(ny, nx))"


def read_npz(path: Path, asked: Asked) -> Scan:
    """Read a scan from an archive of NumPy.

    Raises
    ------
    InvalidScan
        If an array is missing, of another type or shape, or does not fit the others; names it.
    zipfile.BadZipFile, OSError, EOFError
        If the archive is damaged.
    """
    if asked.dataset is not None:
        raise InvalidScan(f"{path}: an archive holds one set of peaks: leave out --dataset {asked.dataset}")
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
        missing = [name for name in (*PEAK_ARRAYS, "shape") if name not in names]
        if {"offsets", "counts"}.isdisjoint(names):
            missing.append("offsets")
        if missing:
            found = ", ".join(sorted(names)) or "none"
            raise InvalidScan(f"{path}: no array {', '.join(missing)} (found: {found}); write {_HOW}")
        shape = _shape(path, archive)
        counts = _counts(path, archive, names, shape)
        step = _step_size(path, archive) if "step_size" in names else None
        calibration = asked.over(Calibration(shape))
        peaks, extent = gather(_blocks(path, archive, counts, asked), calibration)
    refuse_implausible(str(path), extent, asked)
    return Scan(peaks, shape, str(path), asked.describe(calibration), "", step)


def _shape(path: Path, archive: zipfile.ZipFile) -> tuple[int, int]:
    values = _small(path, archive, "shape", "iu")
    if values.shape != (2,) or (values < 1).any():
        raise InvalidScan(f"{path}: shape = {values.tolist()}: expected the numbers of probe positions (ny, nx), >= 1")
    return int(values[0]), int(values[1])


def _counts(path: Path, archive: zipfile.ZipFile, names: set[str], shape: tuple[int, int]) -> np.ndarray:
    name = "offsets" if "offsets" in names else "counts"
    values = _small(path, archive, name, "iu").astype(np.int64)
    n = shape[0] * shape[1]
    expected = n + 1 if name == "offsets" else n
    if values.shape != (expected,):
        raise InvalidScan(
            f"{path}: {name} has shape {values.shape}: expected ({expected},) for {shape[0]} x {shape[1]} positions"
        )
    counts = np.diff(values) if name == "offsets" else values
    if (counts < 0).any() or (name == "offsets" and values[0] != 0):
        what = "rise from 0" if name == "offsets" else "be >= 0"
        wrong = 0 if name == "offsets" and values[0] != 0 else int(np.flatnonzero(counts < 0)[0])
        raise InvalidScan(f"{path}: {name} must {what}: it does not at probe position {wrong}")
    if "offsets" in names and "counts" in names:
        both = _small(path, archive, "counts", "iu")
        if both.shape != counts.shape or (both != counts).any():
            raise InvalidScan(f"{path}: counts are not the differences of offsets: leave out one of them")
    return counts


def _step_size(path: Path, archive: zipfile.ZipFile) -> float:
    values = _small(path, archive, "step_size", "fiu")
    if values.shape not in ((), (1,)) or not np.isfinite(values).all() or not (values > 0).all():
        raise InvalidScan(f"{path}: step_size = {values.tolist()}: expected one number > 0, Å")
    return float(values.reshape(-1)[0])


def _small(path: Path, archive: zipfile.ZipFile, name: str, kinds: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _header(path, file, name, kinds)
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(_exactly(path, file, name, count * dtype.itemsize), dtype).reshape(shape)


def _header(path: Path, file: IO[bytes], name: str, kinds: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
    except (ValueError, KeyError) as error:
        raise InvalidScan(f"{path}: {name} is no array of NumPy: {error}: write {_HOW}") from error
    if dtype.kind not in kinds or dtype.names is not None:
        what = "integers" if kinds == "iu" else "real numbers"
        raise InvalidScan(f"{path}: {name} is {dtype}: expected {what}")
    return shape, dtype


def _exactly(path: Path, file: IO[bytes], name: str, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise InvalidScan(f"{path}: {name} ends early: {len(data)} of {size} bytes: write the file again")
    return data


def _blocks(path: Path, archive: zipfile.ZipFile, counts: np.ndarray, asked: Asked) -> Iterator[Block]:
    """Go through the three arrays side by side, so that no more than a block of each is in memory."""
    offsets = offsets_of(counts)
    peaks = int(offsets[-1])
    files, dtypes = [], []
    for name in PEAK_ARRAYS:
        file = archive.open(f"{name}.npy")
        shape, dtype = _header(path, file, name, "fiu")
        if shape != (peaks,):
            raise InvalidScan(f"{path}: {name} has shape {shape}, but the probe positions have {peaks} peaks")
        files.append(file)
        dtypes.append(dtype)
    for first, last in asked.track(_runs(offsets), "reading peaks"):
        count = int(offsets[last] - offsets[first])
        qx, qy, intensity = (
            np.frombuffer(_exactly(path, file, name, count * dtype.itemsize), dtype).astype(np.float64)
            for name, file, dtype in zip(PEAK_ARRAYS, files, dtypes, strict=True)
        )
        yield Block(qx, qy, intensity, counts[first:last])
    for name, file in zip(PEAK_ARRAYS, files, strict=True):
        if file.read(1):  # reading on to the end also checks the archive's checksum
            raise InvalidScan(f"{path}: {name} goes on after {peaks} peaks: write the file again")
        file.close()


def _runs(offsets: np.ndarray) -> list[tuple[int, int]]:
    """Split the probe positions where the peaks of a block have come together."""
    n = len(offsets) - 1
    ends = np.searchsorted(offsets, np.arange(reading.PEAKS_PER_BLOCK, int(offsets[-1]) + 1, reading.PEAKS_PER_BLOCK))
    bounds = np.unique(np.concatenate([[0], np.clip(ends, 1, n), [n]]))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
