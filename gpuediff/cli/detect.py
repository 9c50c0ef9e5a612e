"""Finding the Bragg peaks of a raw 4D-STEM scan for a person: a file of peaks, a picture, and a table."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from rich.console import Group

from gpuediff.cli import show
from gpuediff.durable import complete_or_absent
from gpuediff.errors import InvalidScan
from gpuediff.scans.detection.cubes import open_cube
from gpuediff.scans.detection.detector import Detection, Fault
from gpuediff.scans.detection.peak_finding import FoundPeaks, faulty, find_peaks
from gpuediff.scans.detection.probe import Probe
from gpuediff.scans.detection.ring import face_centred_spacings

if TYPE_CHECKING:
    from gpuediff.cli.screen import Screen


def detect_and_show(
    path: Path,
    out: Path,
    screen: Screen,
    *,
    dataset: str | None = None,
    scan_shape: tuple[int, int] | None = None,
    vacuum: Path | None = None,
    ring: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> tuple[FoundPeaks, list[Path]]:
    """Find the peaks of a scan, write them and a picture, and show what was found.

    Parameters
    ----------
    path : Path
        Raw frames.
    out : Path
        File of peaks; the picture stands beside it.
    screen : Screen
    dataset, scan_shape
        As of `open_cube`.
    vacuum : Path, optional
        Frames without a specimen, whose mean is the probe.
    ring : str, optional
        "Au" or a lattice parameter of a cubic F lattice, Å, or plane spacings with commas.
    overwrite : bool
        Whether a file of peaks that is there may be replaced.
    **options
        As of `find_peaks`.

    Returns
    -------
    found : FoundPeaks
    written : list of Path

    Raises
    ------
    InvalidScan
        If `out` is there and must not be replaced, or as `open_cube` and `find_peaks` do.
    """
    if out.suffix.lower() not in (".h5", ".hdf5"):
        raise InvalidScan(f"{out}: peaks are written as HDF5: choose a name that ends in .h5")
    if out.exists() and (not overwrite or (path.exists() and out.samefile(path))):
        raise InvalidScan(f"{out}: already exists: pass --overwrite to replace it, or choose another --out")
    spacings = None if ring is None else ring_spacings(ring)
    probe = None if vacuum is None else vacuum_probe(vacuum, dataset)
    with open_cube(path, dataset=dataset, scan_shape=scan_shape) as cube:
        if cube.scan_shape[0] == 1 and scan_shape is None and len(cube) > 1:
            screen.remark(
                f"{path}: {len(cube):,} frames and nothing that says how they are arranged: taken as one row; "
                f"--scan-shape (rows columns) says otherwise"
            )
        if cube.pixel is not None and cube.pixel.in_inverse_angstrom() is None and options.get("pixel_size") is None:
            screen.remark(f"{path}: pixel size {cube.pixel}: not taken, for it is not in Å⁻¹ or nm⁻¹")
        out.parent.mkdir(parents=True, exist_ok=True)
        found = find_peaks(cube, out, probe=probe, spacings=spacings, track=screen.track, **options)
    picture = out.with_suffix(".png")
    _draw(found, picture)
    screen.result(_table(found), data=_data(found, out, picture))
    if not found.pixel_size_from:
        screen.remark("no pixel size is known: pass --pixel-size here or to `gpuediff scan`, or fit it with --ring")
    return found, [out, picture]


def detection_settings(**values: Any) -> Detection:
    """Make the settings of the detection from options.

    Raises
    ------
    InvalidScan
        If a value is out of range; names the option, one line for each.
    """
    try:
        return Detection(**values)
    except ValidationError as error:
        faults = [
            f"--{str(fault['loc'][0]).replace('_', '-')} {fault['input']}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise InvalidScan("\n".join(faults)) from error


def ring_spacings(text: str) -> tuple[float, ...]:
    """Read what rings there are: "Au", a cubic F lattice parameter, or spacings with commas, Å.

    Raises
    ------
    InvalidScan
        If it is neither.
    """
    known = {"au": 4.0782, "al": 4.0495, "ni": 3.5238, "pt": 3.9231, "cu": 3.6149}
    if text.strip().lower() in known:
        return face_centred_spacings(known[text.strip().lower()])
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise InvalidScan(
            f"--ring {text}: expected {', '.join(name.capitalize() for name in known)}, the lattice parameter of a "
            f"cubic F lattice in Å, or plane spacings in Å with commas, such as 2.354,2.039,1.442"
        )
    return face_centred_spacings(values[0]) if len(values) == 1 else tuple(values)


def vacuum_probe(path: Path, dataset: str | None = None) -> Probe:
    """Average frames without a specimen, and cut the probe out."""
    with open_cube(path, dataset=dataset) as cube:
        return Probe.from_vacuum(cube.frames(0, min(len(cube), 256)).mean(axis=0, dtype=np.float64))


def _draw(found: FoundPeaks, path: Path) -> None:
    from gpuediff.scans.detection.figure import detection_figure

    complete_or_absent(path, partial(detection_figure(found).savefig, dpi=130))


def _table(found: FoundPeaks) -> Group:
    ny, nx = found.scan_shape
    survey, centres = found.survey, found.centres
    pairs: dict[str, Any] = {
        "peaks": int(found.counts.sum()),
        "peaks a frame, median": f"{np.median(found.counts):.0f}",
        "frames without a peak": int((found.counts == 0).sum()),
        "probe radius": f"{found.probe.radius:.2f} pixels",
        "gain (variance over counts)": f"{survey.sensor.gain:.3g}",
        "direct beam": _direct_beam(found),
    }
    if centres.model != "given":
        pairs["frames where it was found"] = f"{int(centres.measured.sum()):,} of {ny * nx:,}"
    if survey.sensor.hot is not None and len(survey.sensor.hot):
        pairs["hot pixels, replaced"] = len(survey.sensor.hot)
    for name, kind in (("frames with values that are not finite", Fault.NOT_FINITE), ("saturated", Fault.SATURATED)):
        if count := faulty(found.fault, kind):
            pairs[name] = count
    pairs["pixel size"] = _pixel_size(found)
    if found.ring is not None:
        a, b, theta = found.ring.ellipse
        pairs["ellipse"] = (
            f"a/b = {a / b:.4f} ± {found.ring.ratio_error:.4f}, at {math.degrees(theta):.1f}° ± "
            f"{math.degrees(found.ring.angle_error):.1f}°"
        )
        pairs["peaks on rings"] = f"{found.ring.peaks:,}, within {found.ring.scatter:.2%} of the radius"
    return show.key_values(f"{found.source}: {ny} x {nx} probe positions", pairs)


def _direct_beam(found: FoundPeaks) -> str:
    qx, qy = found.centres.qx, found.centres.qy
    place = f"({qx.mean():.2f}, {qy.mean():.2f}) pixels"
    if found.centres.model == "given":
        return f"{place}, given"
    wander = max(float(np.ptp(qx)), float(np.ptp(qy)))
    return f"{place}, wanders over {wander:.2f}, scatters by {found.centres.scatter:.2f}"


def _pixel_size(found: FoundPeaks) -> str:
    size = found.calibration.pixel_size
    if size is None:
        return "not known"
    source = {"ring": "from the rings", "given": "as given", "file": "of the file"}[found.pixel_size_from]
    error = f" ± {found.ring.pixel_size_error:.2g}" if found.ring is not None else ""
    return f"{size:.6g}{error} Å⁻¹, {source}"


def _data(found: FoundPeaks, out: Path, picture: Path) -> dict[str, Any]:
    ring, size = found.ring, found.calibration.pixel_size
    return {
        "source": found.source,
        "scan_shape": list(found.scan_shape),
        "peaks": int(found.counts.sum()),
        "frames_without_peaks": int((found.counts == 0).sum()),
        "frames_not_finite": faulty(found.fault, Fault.NOT_FINITE),
        "frames_saturated": faulty(found.fault, Fault.SATURATED),
        "probe_radius": found.probe.radius,
        "gain": found.survey.sensor.gain,
        "hot_pixels": 0 if found.survey.sensor.hot is None else len(found.survey.sensor.hot),
        "centre": [float(found.centres.qx.mean()), float(found.centres.qy.mean())],
        "centre_scatter": None if math.isnan(found.centres.scatter) else found.centres.scatter,
        "pixel_size": size,
        "pixel_size_from": found.pixel_size_from,
        "pixel_size_error": None if ring is None else ring.pixel_size_error,
        "ellipse": None if ring is None else list(ring.ellipse),
        "files": [str(out), str(picture)],
    }
