"""Read the Bragg peaks of a scan from the HDF5 files of py4DSTEM, 0.5 to 0.14, natively with h5py.

Three layouts: `BraggVectors` (peaks in detector pixels, and a calibration beside them; EMD 1.0 from py4DSTEM 0.14, and
0.13), a bare `PointListArray` (peaks, and nothing that says in which unit), and the files of 0.12 and older
(`4DSTEM_experiment/data/pointlistarrays`), where a `Coordinates` object may stand beside the peaks and nothing says
whether it was applied to them. `read_py4dstem` returns calibrated peaks, or an error says what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.peaks import Q_PLAUSIBLE
from gpuediff.scans.calibration import (
    INVERSE_ANGSTROM,
    Calibration,
    calibration_from_file,
    find_calibration,
    plain_values,
    step_size,
)
from gpuediff.scans.readers import reading
from gpuediff.scans.readers.reading import Asked, Block, Extent, gather, without_calibration
from gpuediff.scans.scan import Scan

FIELDS = ("qx", "qy", "intensity")
_LEGACY = "/data/pointlistarrays/"
#: One group a probe position and one dataset a field, as written before 0.7 (0.5: `pointlistarray` for `data`).
_ONE_POSITION = re.compile(r"(?P<set>.+/pointlistarrays/[^/]+)/(?P<row>\d+)_(?P<column>\d+)/(?P<rest>.+)")


@dataclass
class _PeakSet:
    """Peaks that a file holds: one ragged dataset, or one group for every probe position."""

    ragged: h5py.Dataset | None = None
    positions: dict[tuple[int, int], h5py.Group] = field(default_factory=dict)


def read_py4dstem(path: Path, asked: Asked) -> Scan:
    """Read and calibrate a scan of py4DSTEM.

    Raises
    ------
    InvalidScan
        If the file is of an unknown layout, holds several sets of peaks, or is not calibrated.
    OSError, RuntimeError, KeyError
        From h5py, if the file is damaged.
    """
    # A lock would keep the program that records the scan from opening its own file again.
    with h5py.File(path, "r", locking=False) as file:
        name, peaks = _choose(path, file, asked.dataset)
        source = f"{path}: {name}"
        if peaks.ragged is None:
            shape = _check_positions(source, peaks.positions)
            return _read_legacy(source, file, name, _GroupedPeaks(source, peaks.positions, shape, asked), asked)
        _check_layout(source, peaks.ragged)
        blocks = _RaggedPeaks(peaks.ragged, asked)
        if _LEGACY in f"/{name}":
            return _read_legacy(source, file, name, blocks, asked)
        return _read(source, peaks.ragged, blocks, asked)


def _choose(path: Path, file: h5py.File, wanted: str | None) -> tuple[str, _PeakSet]:
    """Find the one set of peaks, or the one that is asked for."""
    found: dict[str, _PeakSet] = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and _is_ragged(item):
            if "/counted_datacubes/" not in name:  # electrons, not peaks
                found[_set_name(name)] = _PeakSet(item)
        elif isinstance(item, h5py.Dataset) and (place := _ONE_POSITION.fullmatch(name)):
            position = (int(place["row"]), int(place["column"]))
            positions = found.setdefault(place["set"], _PeakSet()).positions
            positions[position] = file[f"{place['set']}/{place['row']}_{place['column']}"]

    file.visititems(visit)
    # 0.13 may keep positions calibrated by itself beside the stored ones; only their own name brings them up
    default = [name for name in found if not name.endswith("/_v_cal")]
    matches = default
    if wanted is not None:
        wanted = wanted.strip("/")
        matches = (
            [name for name in found if name == wanted]
            or [name for name in default if name.rsplit("/", 1)[-1] == wanted]
            or [name for name in default if name.startswith(f"{wanted}/")]  # a root, or a group in it
        )
    if len(matches) == 1:
        return matches[0], found[matches[0]]
    if not found:
        raise InvalidScan(f"{path}: no Bragg peaks in a known layout; {_explain_contents(file)}")
    if wanted is not None and not matches:
        raise InvalidScan(f"{path}: no dataset {wanted!r}; the file holds: {', '.join(sorted(found))}")
    raise InvalidScan(f"{path}: several sets of peaks: pass --dataset with one of: {', '.join(sorted(matches))}")


def _is_ragged(item: h5py.Dataset) -> bool:
    element = h5py.check_vlen_dtype(item.dtype)
    return isinstance(element, np.dtype) and element.names is not None


def _set_name(name: str) -> str:
    """Shorten `<root>/<name>/_v_uncal/data` and `<root>/<name>/data` to `<root>/<name>`."""
    return name.removesuffix("/data").removesuffix("/_v_uncal")


def _explain_contents(file: h5py.File) -> str:
    if (image := file.visititems(_images)) is not None:
        return f"it holds diffraction patterns ({image}), not the peaks in them: find the peaks first"
    if "4DSTEM_experiment" in file:
        return (
            "written by py4DSTEM 0.12 or older, without a PointListArray: "
            "find the Bragg peaks and save them, or open the file with py4DSTEM.read and save with py4DSTEM.save"
        )
    contents = f"it holds: {', '.join(sorted(file)) or 'nothing'}"
    return f"{contents}; save a py4DSTEM BraggVectors or PointListArray (fields qx, qy, intensity) and read that"


def _images(name: str, item: h5py.HLObject) -> str | None:
    """Name a dataset of images; for `visititems`, which goes on while it gets None."""
    return name if isinstance(item, h5py.Dataset) and item.ndim >= 4 and item.dtype.kind in "fiu" else None


def _check_layout(source: str, data: h5py.Dataset) -> None:
    element = h5py.check_vlen_dtype(data.dtype)
    fields = {key: element.fields[key][0] for key in element.names}
    missing = [key for key in FIELDS if key not in fields]
    if missing:
        raise InvalidScan(
            f"{source}: no field {', '.join(missing)}; the peaks have: {', '.join(fields)}: "
            f"save them with the fields qx, qy and intensity"
        )
    for key in FIELDS:
        if fields[key].kind not in "fiu" or fields[key].shape:
            raise InvalidScan(f"{source}: field {key} is {fields[key]}: expected one real number a peak")
    if data.ndim != 2:
        raise InvalidScan(f"{source}: shape {data.shape}: expected probe positions (ny, nx)")


def _check_positions(source: str, positions: dict[tuple[int, int], h5py.Group]) -> tuple[int, int]:
    rows, columns = (max(place[axis] for place in positions) + 1 for axis in (0, 1))
    if len(positions) != rows * columns:
        row, column = next(place for place in np.ndindex(rows, columns) if place not in positions)
        raise InvalidScan(
            f"{source}: no group {row}_{column}: of {rows} x {columns} probe positions only {len(positions)} are there"
        )
    return rows, columns


def _read(source: str, data: h5py.Dataset, blocks: _RaggedPeaks, asked: Asked) -> Scan:
    """Read what 0.13 and 0.14 write: BraggVectors with their calibration, or a bare PointListArray."""
    with_calibration = data.name.endswith("/_v_uncal/data")
    values = find_calibration(data.parent)
    if not with_calibration:
        return _read_bare(source, blocks, asked, values)
    return _read_calibrated(source, blocks, asked, values, "")


def _read_calibrated(
    source: str, blocks: _RaggedPeaks | _GroupedPeaks, asked: Asked, values: dict[str, Any], note: str
) -> Scan:
    """Read peaks in pixels of the detector, to which all of the file's calibration is to be applied."""
    stated = calibration_from_file(source, values, blocks.shape)
    if asked.pixel_size is None:
        _require_pixel_size(source, stated, values.get("Q_pixel_units"))
    if asked.centre is None and stated.origin is None:
        raise InvalidScan(f"{source}: no origin: pass --centre (direct beam in pixels) or measure it in py4DSTEM first")
    calibration = asked.over(stated)
    peaks, _ = gather(blocks, calibration)
    return Scan(peaks, blocks.shape, source, asked.describe(calibration), note, step_size(values))


def _read_bare(
    source: str, blocks: _RaggedPeaks | _GroupedPeaks, asked: Asked, values: dict[str, Any], hint: str = ""
) -> Scan:
    """Read peaks of which nothing says what was done to them."""
    calibration = asked.over(Calibration(blocks.shape))
    peaks, extent = gather(blocks, calibration)
    try:
        note = without_calibration(source, extent, asked)
    except InvalidScan as error:
        raise InvalidScan(f"{error}{hint}") from None
    return Scan(peaks, blocks.shape, source, asked.describe(calibration), note, step_size(values))


def _read_legacy(source: str, file: h5py.File, name: str, blocks: _RaggedPeaks | _GroupedPeaks, asked: Asked) -> Scan:
    """Read what 0.12 and older write: peaks, and perhaps one `Coordinates` that may or may not be applied to them.

    Raw peaks give themselves away: they lie in the frame of the detector, far from zero on one side. Everything else
    is taken as it is stored.
    """
    top = file[name.split(_LEGACY)[0]]
    coordinates = top.get("data/coordinates")
    found = [item for item in coordinates.values() if isinstance(item, h5py.Group)] if coordinates is not None else []
    values = plain_values(found[0]) if len(found) == 1 else {}
    hint = ""
    if len(found) > 1:
        names = ", ".join(item.name.rsplit("/", 1)[-1] for item in found)
        hint = f"; the file has several coordinates ({names}), of which none is taken"
    elif values:
        size, unit = values.get("Q_pixel_size"), values.get("Q_pixel_units")
        hint = f"; the file's coordinates say {size} {unit} per pixel, and not whether it was applied to these peaks"
        extent = Extent()
        for block in blocks:
            extent.add(block.qx, block.qy)
        if not extent.empty and extent.q_max > Q_PLAUSIBLE and not extent.around_zero:
            note = (
                f"positions taken as pixels of the detector, because they lie at qx {extent.qx[0]:.4g} .. "
                f"{extent.qx[1]:.4g}, qy {extent.qy[0]:.4g} .. {extent.qy[1]:.4g}; calibrated by the file's coordinates"
            )
            return _read_calibrated(source, blocks, asked, values, note)
    return _read_bare(source, blocks, asked, values, hint)


def _require_pixel_size(source: str, calibration: Calibration, unit: object) -> None:
    size = calibration.pixel_size
    if unit in INVERSE_ANGSTROM and size is not None and size > 0:
        return
    if unit == "mrad":
        raise InvalidScan(
            f"{source}: pixel size in mrad ({size:g}): pass --pixel-size (Å⁻¹ per pixel): the angle in radians "
            f"divided by the wave length; 1 mrad is 0.0508 Å⁻¹ at 300 keV"
        )
    if size is None or size == 1:
        raise InvalidScan(
            f"{source}: no pixel size: pass --pixel-size (Å⁻¹ per pixel) or calibrate the file in py4DSTEM first"
        )
    raise InvalidScan(
        f"{source}: pixel size {size:g} with the unit {unit!r}: pass --pixel-size {size:g} if that is Å⁻¹ per pixel"
    )


class _RaggedPeaks:
    """Blocks of rows of one ragged dataset; can be gone through more than once."""

    def __init__(self, data: h5py.Dataset, asked: Asked) -> None:
        self.data, self.track = data, asked.track
        self.shape = (int(data.shape[0]), int(data.shape[1]))

    def __iter__(self) -> Iterator[Block]:
        rows, columns = self.shape
        rows_per_block = max(1, reading.POSITIONS_PER_BLOCK // max(1, columns))
        for first in self.track(range(0, rows, rows_per_block), "reading peaks"):
            yield Block(*flatten(self.data[first : first + rows_per_block]))


class _GroupedPeaks:
    """Blocks of one row each, from one group for every probe position; can be gone through more than once."""

    def __init__(
        self, source: str, positions: dict[tuple[int, int], h5py.Group], shape: tuple[int, int], asked: Asked
    ) -> None:
        self.source, self.positions, self.shape, self.track = source, positions, shape, asked.track

    def __iter__(self) -> Iterator[Block]:
        rows, columns = self.shape
        for row in self.track(range(rows), "reading peaks"):
            lists = [self._peaks(self.positions[row, column]) for column in range(columns)]
            counts = np.array([len(peaks[0]) for peaks in lists], dtype=np.int64)
            qx, qy, intensity = (np.concatenate(part) for part in zip(*lists, strict=True))
            yield Block(qx, qy, intensity, counts)

    def _peaks(self, group: h5py.Group) -> list[np.ndarray]:
        where = group.name.rsplit("/", 1)[-1]
        found = []
        for key in FIELDS:
            data = group.get(f"{key}/data", group.get(f"{key}/pointlistarray"))
            if not isinstance(data, h5py.Dataset):
                raise InvalidScan(
                    f"{self.source}: {where}: no field {key}; the peaks have: {', '.join(group)}: "
                    f"save them with the fields qx, qy and intensity"
                )
            if data.dtype.kind not in "fiu" or data.ndim != 1:
                raise InvalidScan(
                    f"{self.source}: {where}: field {key} is {data.dtype}, shape {data.shape}: "
                    f"expected one real number a peak"
                )
            found.append(data[()].astype(np.float64))
        if len({len(values) for values in found}) != 1:
            lengths = ", ".join(f"{len(values)} {key}" for key, values in zip(FIELDS, found, strict=True))
            raise InvalidScan(f"{self.source}: {where}: {lengths}: expected as many of each")
        return found


def flatten(lists: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Flatten an array of peak lists, row by row.

    Parameters
    ----------
    lists : array of object
        Each element an array, shape (peaks of this pattern,), contiguous, all of one dtype with the fields qx, qy
        and intensity.

    Returns
    -------
    qx, qy, intensity : array, shape (peaks,), float64
    counts : array, shape (patterns,), int64
        Peaks in every pattern.
    """
    flat = lists.reshape(-1)
    counts = np.fromiter(map(len, flat), dtype=np.int64, count=len(flat))
    filled = flat[counts > 0]
    if not len(filled):
        return np.empty(0), np.empty(0), np.empty(0), counts
    # All elements of one dataset have one dtype, which np.concatenate would compare again for every pattern.
    peaks = np.frombuffer(b"".join(filled), dtype=filled[0].dtype)
    qx, qy, intensity = (peaks[key].astype(np.float64) for key in FIELDS)
    return qx, qy, intensity, counts
