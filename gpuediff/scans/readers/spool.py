"""Flat peak arrays that stay in memory while they are small, and go to temporary files when they are not.

A scan of ten million probe positions can have 10^9 peaks, 12 GB of them. Whoever reads such a file appends block by
block; what grows beyond `SPOOL_LIMIT` is written to the folder for temporary files (`TMPDIR`) and mapped from there.
The files live as long as an array that is mapped from them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Literal

import numpy as np

from gpuediff.errors import GpuediffError
from gpuediff.peaks import PeakBatch, offsets_of

SPOOL_LIMIT = 1 << 30  # bytes of flat peaks that stay in memory
COLUMNS = ("qx", "qy", "intensity")
_ITEM = np.dtype(np.float32).itemsize


class PeakSpool:
    """Peaks that are appended pattern after pattern, in blocks."""

    def __init__(self) -> None:
        self._blocks: list[list[np.ndarray]] = [[], [], []]
        self._peaks = 0
        self._folder: Path | None = None

    def append(self, qx: np.ndarray, qy: np.ndarray, intensity: np.ndarray) -> None:
        """Take the next peaks, each array shape (peaks,), any real dtype; kept as float32."""
        columns = [np.ascontiguousarray(column, dtype=np.float32) for column in (qx, qy, intensity)]
        self._peaks += len(columns[0])
        for blocks, column in zip(self._blocks, columns, strict=True):
            blocks.append(column)
        if self._folder is not None or self._peaks * _ITEM * len(COLUMNS) > SPOOL_LIMIT:
            self._write_out()

    def _write_out(self) -> None:
        if self._folder is None:
            self._folder = _temporary_folder()
            self._discard = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for name, blocks in zip(COLUMNS, self._blocks, strict=True):
            try:
                with (self._folder / name).open("ab") as file:
                    for block in blocks:
                        file.write(block.data)
            except OSError as error:
                raise _no_room(self._folder, error) from error
            blocks.clear()

    def batch(self, counts: np.ndarray) -> PeakBatch:
        """Return what was appended; ends the spool.

        Parameters
        ----------
        counts : array, shape (patterns,), int64
            Peaks in every pattern.
        """
        columns: list[np.ndarray] = []
        for name, blocks in zip(COLUMNS, self._blocks, strict=True):
            if self._folder is None:
                columns.append(np.concatenate([np.empty(0, np.float32), *blocks]))
                blocks.clear()  # a column at a time, so that not all peaks are there twice
            else:
                columns.append(_mapped(self._folder / name, self._peaks, "c"))
        if self._folder is not None:
            self._discard.detach()
        qx, qy, intensity = columns
        return PeakBatch(qx, qy, intensity, offsets_of(counts))


def allocate(peaks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three arrays, shape (peaks,), float32, to be filled in any order; mapped where they are large."""
    if peaks * _ITEM * len(COLUMNS) <= SPOOL_LIMIT:
        return np.empty(peaks, np.float32), np.empty(peaks, np.float32), np.empty(peaks, np.float32)
    folder = _temporary_folder()
    for name in COLUMNS:
        try:
            with (folder / name).open("wb") as file:
                file.truncate(peaks * _ITEM)
                if hasattr(os, "posix_fallocate"):  # else a full disk kills the process when a page is written
                    os.posix_fallocate(file.fileno(), 0, peaks * _ITEM)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _no_room(folder, error) from error
    qx, qy, intensity = (_mapped(folder / name, peaks, "r+") for name in COLUMNS)
    return qx, qy, intensity


def _no_room(folder: Path, error: OSError) -> GpuediffError:
    return GpuediffError(
        f"{folder}: no room for the peaks of the scan: {error}: free some, or set TMPDIR to a folder with more"
    )


def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="gpuediff-peaks-"))


def _mapped(path: Path, peaks: int, mode: Literal["c", "r+"]) -> np.ndarray:
    mapping = np.memmap(path, dtype=np.float32, mode=mode, shape=(peaks,))
    # Every view, plain array or not, holds this object at the root of its bases.
    weakref.finalize(mapping.base, _remove, path)
    return mapping.view(np.ndarray)  # np.memmap itself makes the slicing of patterns several times slower


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a file system that keeps open files, or a folder that is not empty yet
        path.unlink()
        path.parent.rmdir()
