"""From the raw frames of a scan to a file of calibrated Bragg peaks, in bounded memory.

A sample of the frames tells radius of the probe, direct beam and noise; then the frames go through the detector block
by block, and their peaks into the file. What the calibration needs of them, one direct beam a frame and the peaks of
every so many frames, is kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuediff import arrays
from gpuediff.arrays import CPU, Device
from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch
from gpuediff.progress import Track, Workload, silent
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.detection.centring import Centres, Model, direct_beams, fit_centres
from gpuediff.scans.detection.cubes import Cube
from gpuediff.scans.detection.detector import Detected, Detection, Detector, Fault
from gpuediff.scans.detection.peak_file import PeakWriter
from gpuediff.scans.detection.probe import Probe
from gpuediff.scans.detection.ring import RingFit, fit_rings
from gpuediff.scans.detection.survey import Survey, sample_of, survey

BLOCK_BYTES = 2**26  # of frames that are read at once
BATCH_PIXELS = {"cpu": 2**17, "gpu": 2**23}  # that the detector takes at once; on a CPU they stay in its cache
KEPT_PATTERNS = 20_000  # whose peaks are kept for rings and pictures
WANDER = 3.0  # probe radii from the mean direct beam, within which that of a frame is looked for
EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class Example:
    """One frame and its peaks, pixels, for a person to look at."""

    index: int
    frame: np.ndarray
    qx: np.ndarray
    qy: np.ndarray


@dataclass(frozen=True, eq=False)
class FoundPeaks:
    """What was found in a scan.

    Parameters
    ----------
    source : str
    scan_shape : tuple of int
        (ny, nx).
    survey : Survey
    probe : Probe
    counts : array, shape (ny, nx), int32
        Peaks of every frame, the direct beam among them.
    fault : array, shape (ny, nx), uint8
        `detection.Fault` of every frame.
    centres : Centres
    calibration : Calibration
        As it is in the file.
    pixel_size_from : str
        "ring", "given", "file", or empty where there is none.
    ring : RingFit, optional
    kept : PeakBatch
        Peaks of every so many frames, pixels around the direct beam.
    examples : tuple of Example
    """

    source: str
    scan_shape: tuple[int, int]
    survey: Survey
    probe: Probe
    counts: np.ndarray
    fault: np.ndarray
    centres: Centres
    calibration: Calibration
    pixel_size_from: str
    ring: RingFit | None
    kept: PeakBatch
    examples: tuple[Example, ...]


def find_peaks(
    cube: Cube,
    out: str | Path,
    *,
    settings: Detection | None = None,
    probe: Probe | None = None,
    radius: float | None = None,
    gain: float | None = None,
    saturation: float | None = None,
    centre: tuple[float, float] | None = None,
    centring: Model = "plane",
    max_wander: float | None = None,
    pixel_size: float | None = None,
    spacings: Sequence[float] | None = None,
    ellipse: bool = True,
    step_size: float | None = None,
    threads: int | None = None,
    device: Device = CPU,
    track: Track = silent,
) -> FoundPeaks:
    """Find the Bragg peaks of a scan and write them to a file, with their calibration.

    Parameters
    ----------
    cube : Cube
    out : str or Path
        HDF5, as py4DSTEM's `BraggVectors`; replaced, complete or not at all.
    settings : Detection, optional
    probe : Probe, optional
        Of a vacuum measurement; an even disk if absent.
    radius : float, optional
        Of that disk, pixels; estimated if absent.
    gain, saturation : float, optional
        Of the detector; see `survey`.
    centre : tuple of float, optional
        Direct beam (qx, qy) of all frames, pixels, instead of what is found.
    centring : "plane", "median" or "frame"
        See `centring.fit_centres`.
    max_wander : float, optional
        From the mean direct beam to that of a frame, pixels; three radii of the probe if absent.
    pixel_size : float, optional
        Å⁻¹; that of the file if absent. With spacings, roughly.
    spacings : sequence of float, optional
        Of a polycrystal that the scan is of, Å: pixel size and ellipse are fitted to its rings.
    ellipse : bool
        Whether rings are fitted as ellipses.
    step_size : float, optional
        Å; that of the file if absent.
    threads : int, optional
        On a CPU; as many as it has cores if absent.
    device : Device, optional
    track : Track, optional

    Raises
    ------
    InvalidScan
        If the frames cannot be read, or no direct beam or no rings are found; says what to pass.
    """
    _check(pixel_size, centre, max_wander)
    sample = np.concatenate([cube.frames(first, last) for first, last in sample_of(len(cube), cube.frame_shape)])
    known = probe.radius if probe else radius
    seen = survey(sample, radius=known, centre=centre, gain=gain, saturation=saturation)
    del sample
    probe = probe or Probe.disk(seen.radius)
    xp = np if device.kind == "cpu" else arrays.namespace(arrays.to_device(np.zeros(1), device))
    detector = Detector(probe, cube.frame_shape, settings, seen.sensor, xp=xp)
    wander = WANDER * probe.radius if max_wander is None else max_wander

    stride = math.ceil(len(cube) / KEPT_PATTERNS)
    shown = {round(len(cube) * (number + 0.5) / EXAMPLES - 0.5) for number in range(EXAMPLES)}
    counts, faults, beams, kept, examples = [], [], [], [], []
    with PeakWriter(out, cube.scan_shape, cube.frame_shape) as writer:
        for first, frames, found in _detected(cube, detector, threads, device, track):
            writer.append(found.peaks)
            counts.append(found.peaks.counts.astype(np.int32))
            faults.append(found.fault)
            beams.append(direct_beams(found.peaks, seen.centre, wander))
            kept.append(found.peaks[np.arange(-first % stride, len(frames), stride)])
            for index in sorted(shown & set(range(first, first + len(frames)))):
                qx, qy, _ = found.peaks.pattern(index - first)
                examples.append(Example(index, frames[index - first].copy(), qx, qy))
        centres = _centres(np.concatenate(beams), cube.scan_shape, centring, centre)
        around = _around(PeakBatch.concatenate(kept), centres, stride)
        ring = None
        from_file = None if cube.pixel is None else cube.pixel.in_inverse_angstrom()
        size, size_from = (pixel_size, "given") if pixel_size is not None else (from_file, "file")
        if spacings is not None:
            ring = _fit_ring(around, spacings, probe, size, ellipse)
            size, size_from = ring.pixel_size, "ring"
        calibration = Calibration(
            cube.scan_shape,
            (centres.qx, centres.qy),
            None if ring is None or not ellipse else _as_arrays(ring.ellipse),
            size,
        )
        step = step_size if step_size is not None else cube.step.in_angstrom() if cube.step is not None else None
        writer.calibrate(calibration, step_size=step, extra={"probe_semiangle": probe.radius})
    return FoundPeaks(
        source=cube.source,
        scan_shape=cube.scan_shape,
        survey=seen,
        probe=probe,
        counts=np.concatenate(counts).reshape(cube.scan_shape),
        fault=np.concatenate(faults).reshape(cube.scan_shape),
        centres=centres,
        calibration=calibration,
        pixel_size_from="" if size is None else size_from,
        ring=ring,
        kept=around,
        examples=tuple(examples),
    )


def _check(pixel_size: float | None, centre: tuple[float, float] | None, max_wander: float | None) -> None:
    if pixel_size is not None and not (math.isfinite(pixel_size) and pixel_size > 0):
        raise InvalidScan(f"pixel size = {pixel_size}: must be > 0 Å⁻¹ per pixel")
    if centre is not None and not all(map(math.isfinite, centre)):
        raise InvalidScan(f"centre = {centre}: expected two finite numbers, qx and qy in pixels")
    if max_wander is not None and not (math.isfinite(max_wander) and max_wander > 0):
        raise InvalidScan(f"max wander = {max_wander}: must be > 0 pixels")


def _detected(
    cube: Cube, detector: Detector, threads: int | None, device: Device, track: Track
) -> Iterator[tuple[int, np.ndarray, Detected]]:
    """Read block by block and detect batch by batch; yields a block's first frame, its frames and their peaks."""
    pixels = cube.frame_shape[0] * cube.frame_shape[1]
    size = max(1, min(len(cube), BLOCK_BYTES // (pixels * cube.dtype.itemsize)))
    starts = range(0, len(cube), size)
    sizes = [min(size, len(cube) - start) for start in starts]
    batch = max(1, BATCH_PIXELS[device.kind] // pixels)
    workers = 1 if device.kind == "gpu" else threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        for start in track(Workload(starts, sizes, sizes, "frames"), "detecting peaks"):
            frames = cube.frames(start, min(len(cube), start + size))
            batches = [frames[at : at + batch] for at in range(0, len(frames), batch)]
            parts = (
                [_on_host(detector.detect, part, device) for part in batches]
                if workers == 1
                else list(pool.map(detector.detect, batches))
            )
            yield start, frames, _joined(parts)


def _on_host(detect, frames: np.ndarray, device: Device) -> Detected:
    found = detect(arrays.to_device(frames, device))
    return Detected(found.peaks.to(CPU), arrays.to_host(found.significance), arrays.to_host(found.fault))


def _joined(parts: Iterable[Detected]) -> Detected:
    parts = list(parts)
    return Detected(
        PeakBatch.concatenate([part.peaks for part in parts]),
        np.concatenate([part.significance for part in parts]),
        np.concatenate([part.fault for part in parts]),
    )


def _centres(beams: np.ndarray, shape: tuple[int, int], model: Model, given: tuple[float, float] | None) -> Centres:
    if given is None:
        return fit_centres(beams, shape, model)
    qx, qy = (np.full(shape, float(value)) for value in given)
    return Centres(qx, qy, np.zeros(shape, dtype=bool), math.nan, "given")


def _around(kept: PeakBatch, centres: Centres, stride: int) -> PeakBatch:
    """Move the peaks of every `stride`-th frame so that the direct beam is at the origin."""
    pattern = kept.pattern_of_peak
    qx, qy = (axis.reshape(-1)[::stride][pattern].astype(np.float32) for axis in (centres.qx, centres.qy))
    return PeakBatch(kept.qx - qx, kept.qy - qy, kept.intensity, kept.offsets)


def _fit_ring(
    around: PeakBatch, spacings: Sequence[float], probe: Probe, pixel_size: float | None, ellipse: bool
) -> RingFit:
    diffracted = np.hypot(around.qx, around.qy) > 2 * probe.radius
    return fit_rings(around.qx[diffracted], around.qy[diffracted], spacings, pixel_size=pixel_size, ellipse=ellipse)


def _as_arrays(values: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, theta = (np.asarray(value) for value in values)
    return a, b, theta


def faulty(fault: np.ndarray, kind: Fault) -> int:
    """Count the frames with a fault."""
    return int(np.count_nonzero(fault & kind))
