"""Detected peaks on disk as py4DSTEM keeps them: EMD 1.0 `BraggVectors` in pixels, their calibration beside them.

`gpuediff.scans.readers.read_scan` reads the file, and so does `py4DSTEM.read`. Peaks are written block by block, the
calibration at the end, when it is known; the file is complete or absent.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from gpuediff.durable import publish
from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch
from gpuediff.scans.calibration import Calibration

PEAK = np.dtype([("qx", np.float64), ("qy", np.float64), ("intensity", np.float64)])
NAME = "braggvectors"


class PeakWriter:
    """Writes the peaks of a scan in the order of its positions; a context manager.

    Leaving it by an error leaves the file that was there before, or none.

    Parameters
    ----------
    path : str or Path
        A file of that name is replaced.
    scan_shape : tuple of int
        Probe positions (ny, nx).
    frame_shape : tuple of int
        Pixels (nqx, nqy).
    """

    def __init__(self, path: str | Path, scan_shape: tuple[int, int], frame_shape: tuple[int, int]) -> None:
        self.path = Path(path)
        self.scan_shape, self.frame_shape = scan_shape, frame_shape
        self.written = 0
        self._temporary = self.path.with_name(f".{os.getpid()}.part.{self.path.name}")
        self._calibration: dict[str, Any] | None = None

    def __enter__(self) -> PeakWriter:
        self._file = h5py.File(self._temporary, "w")
        self._file.attrs.update(
            emd_group_type="file",
            version_major=1,
            version_minor=0,
            UUID=str(uuid.uuid4()),
            authoring_program="gpuediff",
            authoring_user="",
        )
        root = _group(self._file, f"{NAME}_root", "root", "Root")
        vectors = _group(root, NAME, "custom", "BraggVectors")
        bundle = _group(vectors, "metadatabundle", "metadatabundle")
        shapes = _group(bundle, "_braggvectors_shape", "metadata", "Metadata")
        _put(shapes, "Rshape", np.array(self.scan_shape), "tuple")
        _put(shapes, "Qshape", np.array(self.frame_shape), "tuple")
        lists = _group(vectors, "_v_uncal", "custom_pointlistarray", "PointListArray")
        self._data = lists.create_dataset("data", self.scan_shape, dtype=h5py.vlen_dtype(PEAK))
        self._root = root
        return self

    def append(self, peaks: PeakBatch) -> None:
        """Write the peaks of the next probe positions.

        Parameters
        ----------
        peaks : PeakBatch
            In pixels, on the CPU.

        Raises
        ------
        InvalidScan
            If there are more than the scan has positions left.
        """
        first, last = self.written, self.written + len(peaks)
        columns = self.scan_shape[1]
        if last > self.scan_shape[0] * columns:
            raise InvalidScan(f"{self.path}: {last:,} patterns are more than {self.scan_shape} probe positions")
        flat = np.empty(len(peaks.qx), dtype=PEAK)
        flat["qx"], flat["qy"], flat["intensity"] = peaks.qx, peaks.qy, peaks.intensity
        lists = np.empty(len(peaks), dtype=object)
        for number in range(len(peaks)):
            lists[number] = flat[peaks.offsets[number] : peaks.offsets[number + 1]]
        done = 0
        while first < last:
            row, column = divmod(first, columns)
            rows = (last - first) // columns if column == 0 else 0
            block = (rows, columns) if rows else (1, min(columns - column, last - first))
            size = block[0] * block[1]
            self._write((row, column), block, lists[done : done + size])
            done, first = done + size, first + size
        self.written = last

    def _write(self, start: tuple[int, int], block: tuple[int, int], lists: np.ndarray) -> None:
        # Not by indexing: h5py takes lists of one length for one more axis.
        space = self._data.id.get_space()
        space.select_hyperslab(start, block)
        memory = h5py.h5s.create_simple(lists.shape)
        self._data.id.write(memory, space, lists, h5py.h5t.py_create(self._data.dtype))

    def calibrate(
        self,
        calibration: Calibration,
        *,
        step_size: float | None = None,
        extra: dict[str, float | str] | None = None,
    ) -> None:
        """Set the calibration; without one the file says that its unit is the pixel.

        Parameters
        ----------
        calibration : Calibration
            Of this scan's shape; steps that are None are left out.
        step_size : float, optional
            Å between probe positions.
        extra : dict, optional
            More numbers and texts to be kept beside it, such as the radius of the probe.
        """
        if calibration.shape != self.scan_shape:
            raise InvalidScan(f"{self.path}: calibration of {calibration.shape} for {self.scan_shape} probe positions")
        values: dict[str, Any] = dict(extra or {})
        if calibration.origin is not None:
            for name, origin in zip(("qx0", "qy0"), calibration.origin, strict=True):
                mean = float(np.mean(origin))
                values |= {
                    name: _plain(origin),
                    f"{name}_mean": mean,
                    f"{name}_shift": _plain(np.asarray(origin) - mean),
                }
        if calibration.ellipse is not None:
            values |= dict(zip(("a", "b", "theta"), map(_plain, calibration.ellipse), strict=True))
        if calibration.pixel_size is not None:
            values |= {"Q_pixel_size": calibration.pixel_size, "Q_pixel_units": "A^-1"}
        if calibration.rotation is not None:
            values |= {"QR_rotation": calibration.rotation, "QR_rotation_degrees": np.degrees(calibration.rotation)}
            values["QR_flip"] = calibration.flip
        if step_size is not None:
            values |= {"R_pixel_size": step_size, "R_pixel_units": "A"}
        self._calibration = values

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                missing = self.scan_shape[0] * self.scan_shape[1] - self.written
                if missing:
                    raise InvalidScan(f"{self.path}: {missing:,} probe positions were not written")
                self._write_calibration()
            self._file.close()
            if error is None:
                publish(self._temporary, self.path)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _write_calibration(self) -> None:
        defaults = {"Q_pixel_size": 1.0, "Q_pixel_units": "pixels", "R_pixel_size": 1.0, "R_pixel_units": "pixels"}
        values = defaults | {"QR_flip": False} | (self._calibration or {})
        bundle = _group(self._root, "metadatabundle", "metadatabundle")
        group = _group(bundle, "calibration", "metadata", "Calibration")
        for name, value in values.items():
            kind = {bool: "bool", str: "string", np.ndarray: "array"}.get(type(value), "number")
            _put(group, name, value, kind)
        _put(group, "_root_treepath", "", "string")
        paths = group.create_group("_target_paths")
        paths.attrs.update(length=1, type="list_of_strings")
        paths["0"] = f"/{NAME}"


def write_peaks(
    path: str | Path,
    peaks: PeakBatch | Iterable[PeakBatch],
    scan_shape: tuple[int, int],
    frame_shape: tuple[int, int],
    calibration: Calibration | None = None,
    *,
    step_size: float | None = None,
) -> None:
    """Write the peaks of a scan and their calibration.

    Parameters
    ----------
    path : str or Path
        A file of that name is replaced.
    peaks : PeakBatch, or an iterable of them
        In pixels, all probe positions in row-major order.
    scan_shape, frame_shape : tuple of int
        Probe positions (ny, nx); pixels (nqx, nqy).
    calibration : Calibration, optional
    step_size : float, optional
        Å between probe positions.

    Raises
    ------
    InvalidScan
        If the patterns do not fill the scan.
    """
    with PeakWriter(path, scan_shape, frame_shape) as writer:
        for batch in (peaks,) if isinstance(peaks, PeakBatch) else peaks:
            writer.append(batch)
        if calibration is not None:
            writer.calibrate(calibration, step_size=step_size)


def _group(parent: h5py.Group, name: str, kind: str, python_class: str | None = None) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["emd_group_type"] = kind
    if python_class is not None:
        group.attrs["python_class"] = python_class
    return group


def _put(group: h5py.Group, name: str, value: Any, kind: str) -> None:
    group[name] = value
    group[name].attrs["type"] = kind


def _plain(value: np.ndarray) -> float | np.ndarray:
    """Return a number for an array without axes."""
    return float(value) if np.ndim(value) == 0 else np.asarray(value, dtype=np.float64)
