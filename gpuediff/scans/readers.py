"""Read the Bragg peaks of a 4D-STEM scan from the files that py4DSTEM writes.

Two layouts, both read natively with h5py: `BraggVectors` (peaks in detector pixels, and a calibration beside them;
EMD 1.0 from py4DSTEM 0.14, and 0.13), and a bare `PointListArray` (peaks, and nothing that says in which unit).
`read_scan` is the only entry point; what comes back is calibrated, or an error says what is missing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.peaks import Q_PLAUSIBLE, PeakBatch, offsets_of
from gpuediff.progress import Track, silent
from gpuediff.scans.calibration import (
    INVERSE_ANGSTROM,
    Calibration,
    calibration_from_file,
    find_calibration,
    step_size,
)
from gpuediff.scans.scan import Scan

FIELDS = ("qx", "qy", "intensity")
POSITIONS_PER_BLOCK = 65_536  # bounds the memory of h5py's object arrays


def read_scan(
    path: str | Path,
    *,
    dataset: str | None = None,
    pixel_size: float | None = None,
    centre: tuple[float, float] | None = None,
    track: Track = silent,
) -> Scan:
    """Read and calibrate a scan.

    Parameters
    ----------
    path : str or Path
        HDF5 file of py4DSTEM 0.13 or 0.14 with detected Bragg peaks.
    dataset : str, optional
        Which peaks, by name or by path in the file; needed where a file holds several.
    pixel_size : float, optional
        Å⁻¹ per pixel, instead of that of the file; 1 says that the stored positions are Å⁻¹.
    centre : tuple of float, optional
        Direct beam (qx0, qy0) in the unit of the stored positions, instead of that of the file.
    track : Track, optional
        Shows progress over blocks of rows.

    Returns
    -------
    Scan
        Peaks float32 in Å⁻¹. Empty probe positions stay empty; values that are not finite stay as they are.

    Raises
    ------
    InvalidScan
        If the file is missing, damaged or of an unknown layout, holds several sets of peaks, or is not calibrated;
        names the file, what was found, and what to do.
    """
    path = Path(path)
    _check_arguments(path, pixel_size, centre)
    try:
        with h5py.File(path, "r") as file:
            data = _choose(path, file, dataset)
            return _read(path, data, pixel_size, centre, track)
    except FileNotFoundError as error:
        raise InvalidScan(f"{path}: no such file") from error
    except (OSError, RuntimeError) as error:
        # h5py reports damage as either, wherever in the file it meets it
        if path.is_file() and not h5py.is_hdf5(path):
            raise InvalidScan(
                f"{path}: not an HDF5 file: expected Bragg peaks as py4DSTEM saves them (py4DSTEM.save)"
            ) from error
        raise InvalidScan(f"{path}: cannot be read, perhaps cut off while copying: {error}") from error


def _check_arguments(path: Path, pixel_size: float | None, centre: tuple[float, float] | None) -> None:
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InvalidScan(f"{path}: pixel size = {pixel_size}: must be > 0 Å⁻¹ per pixel")
    if centre is not None and (np.shape(centre) != (2,) or not np.isfinite(centre).all()):
        raise InvalidScan(f"{path}: centre = {centre}: expected two finite numbers, qx0 and qy0 in pixels")


def _choose(path: Path, file: h5py.File, wanted: str | None) -> h5py.Dataset:
    """Find the one dataset of peaks, or the one that is asked for."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and _is_ragged(item):
            found[_set_name(name)] = item

    file.visititems(visit)
    # 0.13 may keep positions calibrated by itself beside the stored ones; only their own name brings them up
    default = [name for name in found if not name.endswith("/_v_cal")]
    if wanted is not None:
        wanted = wanted.strip("/")
        matches = [name for name in found if name == wanted] or [
            name for name in default if name.rsplit("/", 1)[-1] == wanted
        ]
    else:
        matches = default
    if len(matches) == 1:
        data = found[matches[0]]
        _check_layout(path, matches[0], data)
        return data
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
    if "4DSTEM_experiment" in file:
        return "written by py4DSTEM 0.12 or older: open it with py4DSTEM.read and save the peaks with py4DSTEM.save"
    contents = f"it holds: {', '.join(sorted(file)) or 'nothing'}"
    return f"{contents}; save a py4DSTEM BraggVectors or PointListArray (fields qx, qy, intensity) and read that"


def _check_layout(path: Path, name: str, data: h5py.Dataset) -> None:
    element = h5py.check_vlen_dtype(data.dtype)
    fields = {key: element.fields[key][0] for key in element.names}
    missing = [key for key in FIELDS if key not in fields]
    if missing:
        raise InvalidScan(
            f"{path}: {name}: no field {', '.join(missing)}; the peaks have: {', '.join(fields)}: "
            f"save them with the fields qx, qy and intensity"
        )
    for key in FIELDS:
        if fields[key].kind not in "fiu" or fields[key].shape:
            raise InvalidScan(f"{path}: {name}: field {key} is {fields[key]}: expected one real number a peak")
    if data.ndim != 2:
        raise InvalidScan(f"{path}: {name}: shape {data.shape}: expected probe positions (ny, nx)")


def _read(
    path: Path, data: h5py.Dataset, pixel_size: float | None, centre: tuple[float, float] | None, track: Track
) -> Scan:
    name = _set_name(data.name).strip("/")
    source = f"{path}: {name}"
    with_calibration = data.name.endswith("/_v_uncal/data")
    values = find_calibration(data.parent)
    shape = (int(data.shape[0]), int(data.shape[1]))
    calibration = Calibration(shape)
    if with_calibration:
        calibration = calibration_from_file(source, values, shape)
        if pixel_size is None:
            _require_pixel_size(source, calibration, values.get("Q_pixel_units"))
        if centre is None and calibration.origin is None:
            raise InvalidScan(
                f"{source}: no origin: pass --centre (direct beam in pixels) or measure it in py4DSTEM first"
            )
    if pixel_size is not None:
        calibration = replace(calibration, pixel_size=float(pixel_size))
    if centre is not None:
        calibration = replace(calibration, origin=(np.asarray(float(centre[0])), np.asarray(float(centre[1]))))

    peaks = _read_peaks(data, calibration, track)
    note = "" if with_calibration else _judge_bare_positions(source, peaks, pixel_size, centre)
    applied = calibration.describe()
    for step, given in (("origin", centre), ("pixel_size", pixel_size)):
        if given is not None:
            applied[step] += " (given by the user)"
    return Scan(peaks, shape, source, applied, note, step_size(values))


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


def _read_peaks(data: h5py.Dataset, calibration: Calibration, track: Track) -> PeakBatch:
    """Read by blocks of rows, calibrate each in float64, and keep float32."""
    rows, columns = data.shape
    rows_per_block = max(1, POSITIONS_PER_BLOCK // max(1, columns))
    counts = np.zeros(rows * columns, dtype=np.int64)
    blocks: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.float32),) * 3]
    for first in track(range(0, rows, rows_per_block), "reading peaks"):
        qx, qy, intensity, block_counts = flatten(data[first : first + rows_per_block])
        start = first * columns
        counts[start : start + len(block_counts)] = block_counts
        position = start + np.repeat(np.arange(len(block_counts)), block_counts)
        with np.errstate(invalid="ignore", over="ignore"):  # a peak that is not finite shows in its map
            qx, qy = calibration.apply(qx, qy, position)
            blocks.append(tuple(column.astype(np.float32) for column in (qx, qy, intensity)))
    qx, qy, intensity = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return PeakBatch(qx, qy, intensity, offsets_of(counts))


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


def _judge_bare_positions(
    source: str, peaks: PeakBatch, pixel_size: float | None, centre: tuple[float, float] | None
) -> str:
    """Accept peaks without calibration metadata where their values can only mean one thing; return what to note."""
    finite = np.isfinite(peaks.qx) & np.isfinite(peaks.qy)
    qx, qy = peaks.qx[finite], peaks.qy[finite]
    if not len(qx):
        return "no peaks"
    q_max = float(np.hypot(qx, qy).max())
    if pixel_size is None and q_max > Q_PLAUSIBLE:
        raise InvalidScan(
            f"{source}: no pixel size in the file, and peaks as far out as {q_max:.4g} cannot be Å⁻¹: "
            f"pass --pixel-size (Å⁻¹ per pixel; 1 if the positions are Å⁻¹ all the same) and --centre"
        )
    if centre is None and not (_around_zero(qx) and _around_zero(qy)):
        raise InvalidScan(
            f"{source}: no origin in the file, and the peaks do not lie around zero "
            f"(qx {qx.min():.4g} .. {qx.max():.4g}, qy {qy.min():.4g} .. {qy.max():.4g}): "
            f"pass --centre (direct beam in the unit of the stored positions)"
        )
    assumed = []
    if pixel_size is None:
        assumed.append(f"positions taken as Å⁻¹, because they end at {q_max:.4g}")
    if centre is None:
        assumed.append("the direct beam taken at zero, because the peaks lie around it")
    return f"the file states no calibration: {'; '.join(assumed)}" if assumed else ""


def _around_zero(values: np.ndarray) -> bool:
    """Tell whether peaks lie on both sides, one reaching at least a quarter as far as the other."""
    below, above = -float(values.min()), float(values.max())
    return min(below, above) >= max(below, above) / 4
