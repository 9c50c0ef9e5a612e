"""Diffraction patterns of a 4D-STEM scan, read in blocks from the file that the microscope or another program wrote.

HDF5 (py4DSTEM of any version, HyperSpy, plain datasets) and .npy are read natively; the makers' own formats (.mib,
.blo, .dm4, ...) by RosettaSciIO, an optional package. Nothing is read before it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.scans.calibration import ANGSTROM_PER_UNIT, find_calibration

CHUNK_CACHE = 2**28  # bytes; a chunk that spans rows of the scan is decompressed once and not once a row
HDF5_SUFFIXES = (".h5", ".hdf5", ".hspy", ".emd", ".nxs", ".py4dstem", ".mat")
PER_ANGSTROM = {"A": 1.0, "Å": 1.0, "nm": 0.1, "pm": 100.0}  # of one per unit


@dataclass(frozen=True)
class Scale:
    """What a file says of the distance between pixels, or between probe positions.

    Parameters
    ----------
    size : float
    unit : str
        As in the file.
    """

    size: float
    unit: str

    def in_inverse_angstrom(self) -> float | None:
        """Return the size in Å⁻¹, or None where the unit is no inverse length."""
        text = self.unit.strip().replace(" ", "").replace("$", "").replace("{", "").replace("}", "")
        text = text.replace("⁻¹", "^-1").replace("**", "^").replace("Å", "Å")
        for name, factor in PER_ANGSTROM.items():
            if text in (f"1/{name}", f"{name}^-1", f"{name}-1", f"{name}_n1"):
                return self.size * factor
        return None

    def in_angstrom(self) -> float | None:
        """Return the size in Å, or None where the unit is no length."""
        factor = ANGSTROM_PER_UNIT.get(self.unit.strip())
        return None if factor is None else self.size * factor

    def __str__(self) -> str:
        return f"{self.size:.6g} {self.unit}"


class Cube:
    """Frames of a scan, row by row; a context manager.

    Parameters
    ----------
    data : array-like
        Three axes (frame, qx, qy), or four (row, column, qx, qy); sliced, and nothing else is done with it.
    source : str
        File and dataset.
    scan_shape : tuple of int, optional
        (ny, nx), for three axes; one row if absent.
    pixel, step : Scale, optional
        Of the detector and of the scan, where the file tells them.
    close : callable, optional

    Raises
    ------
    InvalidScan
        If the axes are not such, or do not fill the scan.
    """

    def __init__(
        self,
        data: Any,
        source: str,
        *,
        scan_shape: tuple[int, int] | None = None,
        pixel: Scale | None = None,
        step: Scale | None = None,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        if len(data.shape) not in (3, 4) or 0 in data.shape or np.dtype(data.dtype).kind not in "uif":
            raise InvalidScan(
                f"{source}: shape {tuple(data.shape)} of {data.dtype}: expected real numbers (row, column, qx, qy) or "
                f"(frame, qx, qy)"
            )
        stored = (1, data.shape[0]) if len(data.shape) == 3 else (data.shape[0], data.shape[1])
        count = stored[0] * stored[1]
        if scan_shape is not None and (min(scan_shape) < 1 or scan_shape[0] * scan_shape[1] != count):
            raise InvalidScan(
                f"{source}: {count:,} frames do not fill {scan_shape[0]} x {scan_shape[1]} probe positions: "
                f"pass another --scan-shape (rows columns)"
            )
        self.source, self.pixel, self.step = source, pixel, step
        self.scan_shape: tuple[int, int] = (int(stored[0]), int(stored[1])) if scan_shape is None else scan_shape
        self.frame_shape: tuple[int, int] = (int(data.shape[-2]), int(data.shape[-1]))
        self.dtype = np.dtype(data.dtype).newbyteorder("=")
        self._data, self._close = data, close

    def __len__(self) -> int:
        return self.scan_shape[0] * self.scan_shape[1]

    def __enter__(self) -> Cube:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def frames(self, first: int, last: int) -> np.ndarray:
        """Read the frames first .. last - 1, row-major.

        Returns
        -------
        array, shape (last - first, nqx, nqy)
            In the type of the file, in the machine's byte order.

        Raises
        ------
        InvalidScan
            If there are no such frames, or the file is damaged there.
        """
        if not 0 <= first < last <= len(self):
            raise InvalidScan(f"{self.source}: no frames {first} .. {last - 1} among {len(self):,}")
        try:
            if len(self._data.shape) == 3:
                return self._read(np.s_[first:last])
            columns = self._data.shape[1]
            parts = []
            while first < last:
                row, column = divmod(first, columns)
                if column == 0 and last - first >= columns:
                    rows = (last - first) // columns
                    parts.append(self._read(np.s_[row : row + rows]).reshape(-1, *self.frame_shape))
                    first += rows * columns
                else:
                    end = min(columns, column + last - first)
                    parts.append(self._read(np.s_[row, column:end]))
                    first += end - column
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise InvalidScan(f"{self.source}: frames cannot be read, perhaps the file is cut off: {error}") from error

    def _read(self, index: Any) -> np.ndarray:
        # A memory map is copied: what comes back must not be backed by a file that may be closed.
        return np.array(self._data[index], dtype=self.dtype)


def open_cube(path: str | Path, *, dataset: str | None = None, scan_shape: tuple[int, int] | None = None) -> Cube:
    """Open the raw frames of a scan.

    Parameters
    ----------
    path : str or Path
        HDF5, .npy, or a format of RosettaSciIO.
    dataset : str, optional
        Path within an HDF5 file, or its last part; needed where several datasets have three or four axes.
    scan_shape : tuple of int, optional
        (ny, nx), for a file that holds a row of frames and not their arrangement.

    Returns
    -------
    Cube
        To be closed: `with open_cube(path) as cube`.

    Raises
    ------
    InvalidScan
        If the file is missing, damaged, holds no frames or several sets of them, or needs a package that is missing;
        says what was found and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidScan(f"{path}: no such file")
    if path.suffix.lower() == ".npy":
        return _open_npy(path, scan_shape)
    if path.is_file() and h5py.is_hdf5(path):
        return _open_hdf5(path, dataset, scan_shape)
    if path.suffix.lower() in HDF5_SUFFIXES:
        raise InvalidScan(f"{path}: not an HDF5 file, perhaps cut off while copying")
    return _open_by_rosettasciio(path, scan_shape)


def _open_npy(path: Path, scan_shape: tuple[int, int] | None) -> Cube:
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidScan(f"{path}: cannot be read as .npy: {error}") from error
    return Cube(data, str(path), scan_shape=scan_shape)


def _open_hdf5(path: Path, wanted: str | None, scan_shape: tuple[int, int] | None) -> Cube:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE))
            data = _choose(path, file, wanted)
            pixel, step = _scales(data)
        except (OSError, RuntimeError) as error:  # h5py reports damage as either
            raise InvalidScan(f"{path}: cannot be read, perhaps cut off while copying: {error}") from error
        cube = Cube(data, f"{path}: {data.name.strip('/')}", scan_shape=scan_shape, pixel=pixel, step=step)
        cube._close = stack.pop_all().close
    return cube


def _choose(path: Path, file: h5py.File, wanted: str | None) -> h5py.Dataset:
    """Find the one dataset of frames, or the one that is asked for; of four axes before those of three."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (3, 4) and item.dtype.kind in "uif":
            found[name] = item

    file.visititems(visit)
    if wanted is not None:
        wanted = wanted.strip("/")
        matches = [name for name in found if wanted in (name, name.removesuffix("/data"))] or [
            name for name in found if name.removesuffix("/data").rsplit("/", 1)[-1] == wanted
        ]
        if not matches:
            raise InvalidScan(f"{path}: no frames at {wanted!r}; the file holds: {', '.join(found) or 'none'}")
    else:
        matches = [name for name in found if found[name].ndim == 4] or list(found)
    if len(matches) == 1:
        return found[matches[0]]
    if not found:
        contents = ", ".join(sorted(file)) or "nothing"
        raise InvalidScan(
            f"{path}: no dataset of frames: numbers with the axes (row, column, qx, qy) or (frame, qx, qy); it holds: "
            f"{contents}"
        )
    shapes = ", ".join(f"{name} {found[name].shape}" for name in sorted(matches))
    raise InvalidScan(f"{path}: several sets of frames: pass --dataset with one of: {shapes}")


def _scales(data: h5py.Dataset) -> tuple[Scale | None, Scale | None]:
    """Read pixel and step size: py4DSTEM's calibration, HyperSpy's axes, or the dimensions of EMD."""
    values = find_calibration(data.parent)
    pixel = _scale(values.get("Q_pixel_size"), values.get("Q_pixel_units"))
    step = _scale(values.get("R_pixel_size"), values.get("R_pixel_units"))
    if pixel is None and step is None:
        axes = [data.parent.get(f"axis-{number}") for number in range(data.ndim)]
        if all(isinstance(axis, h5py.Group) for axis in axes):
            return _scales_of_axes([{**axis.attrs} for axis in axes])
        dims = [data.parent.get(f"dim{number}") for number in range(1, data.ndim + 1)]
        if all(isinstance(axis, h5py.Dataset) and axis.size > 1 for axis in dims):
            return _scales_of_axes(
                [{"scale": float(axis[1] - axis[0]), "units": axis.attrs.get("units", "")} for axis in dims]
            )
    return pixel, step


def _scales_of_axes(axes: list[dict[str, Any]]) -> tuple[Scale | None, Scale | None]:
    """Take the scale of the last axis, and of the last one before the frames."""
    pixel, step = (_scale(axis.get("scale"), axis.get("units")) for axis in (axes[-1], axes[-3]))
    return pixel, step


def _scale(size: Any, unit: Any) -> Scale | None:
    if isinstance(unit, bytes):
        unit = unit.decode("utf-8", errors="replace")
    with suppress(TypeError, ValueError):
        number = float(size)
        if isinstance(unit, str) and np.isfinite(number) and number > 0:
            return Scale(number, unit.strip().strip("[]"))
    return None


def _open_by_rosettasciio(path: Path, scan_shape: tuple[int, int] | None) -> Cube:
    try:
        plugins = importlib.import_module("rsciio").IO_PLUGINS
    except ModuleNotFoundError as error:
        raise InvalidScan(
            f"{path}: neither HDF5 nor .npy: other formats are read by RosettaSciIO: run pip install 'gpuediff[cubes]'"
        ) from error
    suffix = path.suffix.lower().lstrip(".")
    readers = [plugin for plugin in plugins if suffix in map(str.lower, plugin["file_extensions"])]
    if not readers:
        raise InvalidScan(f"{path}: unknown format {path.suffix!r}: save it as HDF5, .npy, .hspy, .mib, .blo or .dm4")
    failures = []
    for plugin in readers:
        # Formats fail in as many ways as there are; what they say is passed on, and the next reader tried.
        try:
            signals = importlib.import_module(plugin["api"]).file_reader(str(path), lazy=True)
        except ModuleNotFoundError as error:
            failures.append(f"{plugin['name']} needs {error.name}: run pip install {error.name}")
            continue
        except Exception as error:
            failures.append(f"{plugin['name']}: {type(error).__name__}: {error}")
            continue
        frames = [signal for signal in signals if signal["data"].ndim in (3, 4)]
        if len(frames) == 1:
            axes = sorted(frames[0]["axes"], key=lambda axis: axis.get("index_in_array", 0))
            pixel, step = _scales_of_axes(axes) if len(axes) == frames[0]["data"].ndim else (None, None)
            return Cube(frames[0]["data"], f"{path}: {plugin['name']}", scan_shape=scan_shape, pixel=pixel, step=step)
        shapes = ", ".join(str(signal["data"].shape) for signal in signals)
        failures.append(
            f"{plugin['name']} finds arrays of the shapes {shapes or 'none'}, not one of three or four axes"
        )
    raise InvalidScan(f"{path}: cannot be read: {'; '.join(failures)}")
