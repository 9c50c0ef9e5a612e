"""Read the `DiffractionVectors` of pyxem, 0.17 and later, from the files of HyperSpy: .hspy (HDF5) and .zspy (zarr).

Both hold the same tree: `Experiments/<title>` with the ragged array `data`, one flat array of vectors a probe
position, the shape of each in `_ragged_shapes_data`, and in `metadata/VectorMetadata` what the columns are and in
which unit. Vectors are stored calibrated, around the direct beam.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.scans.calibration import ANGSTROM_PER_UNIT, Calibration, inverse_angstrom
from gpuediff.scans.readers import reading
from gpuediff.scans.readers.reading import Asked, Block, gather, refuse_implausible
from gpuediff.scans.scan import Scan

SIGNAL_TYPE = "diffraction_vectors"
_X_NAMES = ("x", "kx", "qx")
_Y_NAMES = ("y", "ky", "qy")
_HOW = "signal.get_diffraction_vectors(...), pyxem 0.17 or later, and .save(...)"


def is_hyperspy(path: Path) -> bool:
    """Tell whether an HDF5 file is of HyperSpy."""
    with h5py.File(path, "r", locking=False) as file:
        return _text(file.attrs.get("file_format", "")) == "HyperSpy"


def read_hspy(path: Path, asked: Asked) -> Scan:
    """Read diffraction vectors from a .hspy file.

    Raises
    ------
    InvalidScan
        If there are no vectors with intensities, or their unit is no reciprocal length.
    """
    with h5py.File(path, "r", locking=False) as file:
        return _read(path, file, asked)


def read_zspy(path: Path, asked: Asked) -> Scan:
    """Read diffraction vectors from a .zspy folder, or a .zspy file that is a zip archive.

    Raises
    ------
    InvalidScan
        As `read_hspy`; and if zarr 2 is missing.
    """
    try:
        import zarr
    except ImportError as error:
        raise InvalidScan(f"{path}: .zspy files need zarr 2: pip install 'zarr<3', or save as .hspy") from error
    if not zarr.__version__.startswith("2."):
        raise InvalidScan(
            f"{path}: zarr {zarr.__version__} cannot read the ragged arrays of .zspy files: "
            f"pip install 'zarr<3', or save as .hspy"
        )
    store = zarr.ZipStore(str(path), mode="r") if zipfile.is_zipfile(path) else zarr.DirectoryStore(str(path))
    try:
        return _read(path, zarr.open_group(store, mode="r"), asked)
    except (ValueError, zarr.errors.MetadataError) as error:
        raise InvalidScan(f"{path}: cannot be read, perhaps copied in part: {error}") from error


def _read(path: Path, root: Mapping[str, Any], asked: Asked) -> Scan:
    title, experiment = _choose(path, root, asked.dataset)
    source = f"{path}: {title}"
    data, shapes = experiment["data"], experiment.get("_ragged_shapes_data")
    if shapes is None or data.dtype != object:
        raise InvalidScan(
            f"{source}: one list of vectors, without probe positions: save the vectors of the scan as {_HOW}"
        )
    if data.ndim not in (1, 2) or shapes.shape != data.shape:
        raise InvalidScan(
            f"{source}: vectors of shape {data.shape} and their shapes of shape {shapes.shape}: "
            f"expected probe positions (ny, nx)"
        )
    columns, units, note = _columns(source, experiment)
    shape = (int(data.shape[0]), int(data.shape[1])) if data.ndim == 2 else (1, int(data.shape[0]))

    size = asked.pixel_size
    if size is None:
        size = _size_of(source, [units[column] for column in columns[:2]], experiment)
    calibration = asked.over(Calibration(shape, pixel_size=size))
    blocks = _Vectors(source, data, shapes, columns, asked)
    peaks, extent = gather(blocks, calibration)
    unit = units[columns[0]]
    refuse_implausible(source, extent, asked, f"the unit is {unit!r}, but ")
    applied = asked.describe(calibration)
    if asked.pixel_size is None:
        applied["pixel_size"] += f" (unit of the file: {unit})"
    return Scan(peaks, shape, source, applied, note, _step_size(experiment, data.ndim))


def _choose(path: Path, root: Mapping[str, Any], wanted: str | None) -> tuple[str, Any]:
    """Find the one experiment with diffraction vectors, or the one that is asked for."""
    experiments = root["Experiments"]
    types = {title: _attributes(experiments[title], "metadata/Signal").get("signal_type", "") for title in experiments}
    found = [title for title, kind in types.items() if _text(kind) == SIGNAL_TYPE]
    if not found:
        held = ", ".join(f"{title} ({_text(kind) or 'no signal type'})" for title, kind in types.items()) or "nothing"
        raise InvalidScan(f"{path}: no diffraction vectors; it holds: {held}: make them with {_HOW}")
    if wanted is not None:
        wanted = wanted.strip("/").removeprefix("Experiments/")
        if wanted not in found:
            raise InvalidScan(f"{path}: no dataset {wanted!r}; the file holds: {', '.join(sorted(found))}")
        return wanted, experiments[wanted]
    if len(found) > 1:
        raise InvalidScan(f"{path}: several sets of peaks: pass --dataset with one of: {', '.join(sorted(found))}")
    return found[0], experiments[found[0]]


def _columns(source: str, experiment: Any) -> tuple[tuple[int, int, int], list[str], str]:
    """Find the columns of qx, qy and intensity; return also the unit of every column, and what to note."""
    names = _list(experiment, "column_names")
    units = _list(experiment, "units")
    if names is None or units is None or "intensity" not in names:
        found = f"columns: {', '.join(names)}" if names else "it names no columns"
        raise InvalidScan(f"{source}: no intensities ({found}): save vectors with intensities: {_HOW}")
    if len(units) != len(names):
        raise InvalidScan(f"{source}: {len(names)} column_names and {len(units)} units: expected as many")
    x, y = (
        [index for index, name in enumerate(names) if name.lower() in accepted] for accepted in (_X_NAMES, _Y_NAMES)
    )
    intensity = names.index("intensity")
    if len(x) == len(y) == 1:
        return (x[0], y[0], intensity), units, ""
    if not x and not y and len(names) == 3 and intensity == 2:
        note = f"columns {names[0]} and {names[1]} taken as rows and columns of the detector, as pyxem orders them"
        return (1, 0, 2), units, note
    raise InvalidScan(
        f"{source}: columns {', '.join(names)}: expected one of {', '.join(_X_NAMES)}, one of {', '.join(_Y_NAMES)}, "
        f"and intensity: name the signal axes in pyxem before finding the vectors"
    )


def _list(experiment: Any, name: str) -> list[str] | None:
    metadata = experiment.get("metadata/VectorMetadata")
    for kind in ("_list_", "_tuple_", ""):
        if metadata is not None and f"{kind}{name}" in metadata and hasattr(metadata[f"{kind}{name}"], "shape"):
            return [_text(value) for value in metadata[f"{kind}{name}"][:]]
    return None


def _size_of(source: str, units: list[str], experiment: Any) -> float:
    sizes = [inverse_angstrom(unit) for unit in units]
    if sizes[0] is not None and sizes[0] == sizes[1]:
        return sizes[0]
    raise InvalidScan(
        f"{source}: positions in {' and '.join(map(repr, units))}, not in a reciprocal length: "
        f"pass --pixel-size (Å⁻¹ per stored unit) or calibrate the signal in pyxem first "
        f"(signal.calibration(scale=..., units='k_A^-1'))"
    )


def _step_size(experiment: Any, dimensions: int) -> float | None:
    """Distance between probe positions, Å, or None where it differs along the axes or has no unit of length."""
    steps = set()
    for axis in range(dimensions):
        attributes = _attributes(experiment, f"axis-{axis}")
        unit, scale = _text(attributes.get("units", "")), attributes.get("scale")
        if unit not in ANGSTROM_PER_UNIT or scale is None or not np.isfinite(scale):
            return None
        steps.add(round(abs(float(scale)) * ANGSTROM_PER_UNIT[unit], 6))
    return steps.pop() if len(steps) == 1 and 0 not in steps else None


class _Vectors:
    """Blocks of rows of a ragged array of vectors."""

    def __init__(self, source: str, data: Any, shapes: Any, columns: tuple[int, int, int], asked: Asked) -> None:
        self.source, self.data, self.shapes, self.columns, self.track = source, data, shapes, columns, asked.track

    def __iter__(self) -> Iterator[Block]:
        rows = self.data.shape[0]
        columns = self.data.size // max(1, rows)
        chunk = self.data.chunks[0] if self.data.chunks else 1
        # Whole chunks, for each is decompressed as a whole
        rows_per_block = chunk * max(1, reading.POSITIONS_PER_BLOCK // max(1, columns * chunk))
        for first in self.track(range(0, rows, rows_per_block), "reading peaks"):
            last = min(rows, first + rows_per_block)
            yield self._block(self.data[first:last].reshape(-1), self.shapes[first:last].reshape(-1), first * columns)

    def _block(self, data: np.ndarray, shapes: np.ndarray, start: int) -> Block:
        counts, widths = self._sizes(data, shapes, start)
        for index in np.flatnonzero(counts == 1):
            if np.isnan(data[index]).all():  # HyperSpy's peak finders write one row of NaN where they find no peak
                counts[index] = 0
        filled = np.flatnonzero(counts)
        if not len(filled):
            return Block(np.empty(0), np.empty(0), np.empty(0), counts)
        width = int(widths[filled[0]])
        wrong = filled[(widths[filled] != width) | (widths[filled] <= max(self.columns))]
        if len(wrong):
            raise InvalidScan(
                f"{self.source}: probe position {start + wrong[0]}: vectors of {widths[wrong[0]]} columns: "
                f"expected as many everywhere, and all that the file names: save the vectors again: {_HOW}"
            )
        flat = np.concatenate(data[filled]).astype(np.float64).reshape(-1, width)
        qx, qy, intensity = (flat[:, column] for column in self.columns)
        return Block(qx, qy, intensity, counts)

    def _sizes(self, data: np.ndarray, shapes: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and the columns of every position's vectors, after checking them."""
        rows, columns = np.zeros((2, len(data)), np.int64)
        for index, (values, shape) in enumerate(zip(data, shapes, strict=True)):
            if not isinstance(values, np.ndarray):  # zarr's fill value, where a chunk is not there
                raise InvalidScan(
                    f"{self.source}: no vectors stored for probe position {start + index}: "
                    f"the folder was copied in part: copy it again"
                )
            if len(values) == 0:
                continue
            size = tuple(map(int, shape))
            if len(size) != 2 or len(values) != size[0] * size[1] or size[0] < 0 or values.dtype.kind not in "fiu":
                raise InvalidScan(
                    f"{self.source}: probe position {start + index}: {len(values)} values of {values.dtype} as vectors "
                    f"of shape {size}: expected real numbers, a row for every peak: save them again"
                )
            rows[index], columns[index] = size
        return rows, columns


def _attributes(group: Any, name: str) -> Mapping[str, Any]:
    item = group.get(name)
    return {} if item is None else item.attrs


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
