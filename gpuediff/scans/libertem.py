"""Crystal systems, space groups and lattices in LiberTEM: from the frames of a file, or of a detector as they come.

A user-defined function (UDF) of LiberTEM, and so of LiberTEM-live: https://libertem.github.io/LiberTEM/udf.html.
Every frame is labelled by itself, as `gpuediff.scans.mapping.map_scan` does before it filters.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuediff.errors import GpuediffError, InvalidScan
from gpuediff.features.preparation import scale_intensity
from gpuediff.hierarchy.bundle import load_bundle
from gpuediff.hierarchy.manifest import MANIFEST
from gpuediff.hierarchy.trained_on import intensity_sum_for
from gpuediff.peaks import PeakBatch
from gpuediff.scans.detection.centring import direct_beams
from gpuediff.scans.detection.detector import Detection, Detector
from gpuediff.scans.detection.peak_finding import BATCH_PIXELS
from gpuediff.scans.detection.sensor import Sensor
from gpuediff.scans.mapping import classify
from gpuediff.scans.maps import Status
from gpuediff.scans.scan import PATTERNS_PER_BATCH

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.scans.detection.probe import Probe

try:
    from libertem.udf import UDF
except ModuleNotFoundError as missing:
    raise GpuediffError("CrystalUDF needs LiberTEM: run pip install 'gpuediff[libertem]'") from missing

# Name of every result, the shape that it has at a probe position, and its type.
RESULTS: dict[str, tuple[tuple[int, ...], type]] = {
    "status": ((), np.uint8),
    "n_peaks": ((), np.int32),
    "raw_system": ((), np.int16),
    "confidence": ((), np.float32),
    "difference_confidence": ((), np.float32),
    "probability": ((), np.float32),
    "space_group_number": ((), np.int32),
    "lattice": ((6,), np.float32),
}


class CrystalUDF(UDF):
    """Find the Bragg disks of every frame and predict its crystal.

    The results have the names, types and missing values of `gpuediff.scans.maps.ScanMaps`: `status`, `n_peaks`,
    `raw_system` (index in the `systems` of the model), `confidence`, `difference_confidence`, `probability`,
    `space_group_number` and `lattice` (a, b, c in Å, alpha, beta, gamma in degrees). Space group and lattice are by the
    models of `raw_system`.

    Parameters
    ----------
    model : path
        A bundle that every worker can read; each process loads it once.
    pixel_size : float
        Å⁻¹ per pixel.
    centre : tuple of float
        Direct beam (qx, qy), pixels: along axis 0 and axis 1 of a frame, the middle of the first pixel at zero.
    probe : Probe
        The disk to look for.
    max_wander : float
        Pixels around `centre` within which a frame's brightest disk is taken for its direct beam; 0 if the direct beam
        stays where it is.
    peaks_min : int
        Patterns with fewer peaks, the direct beam counted, are not predicted.
    intensity_sum : float, optional
        To which every pattern's intensities are scaled, the direct beam included; as in training if absent.
    detection : Detection, optional
        What counts as a disk.
    sensor : Sensor, optional
        Gain, hot pixels and saturation of the detector.

    Raises
    ------
    InvalidScan
        If pixel size, centre, `max_wander` or `peaks_min` is out of range.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        pixel_size: float,
        centre: tuple[float, float],
        probe: Probe,
        max_wander: float = 0.0,
        peaks_min: int = 5,
        intensity_sum: float | None = None,
        detection: Detection | None = None,
        sensor: Sensor | None = None,
    ) -> None:
        pair = np.shape(centre) == (2,) and bool(np.isfinite(centre).all())
        for name, value, fits, expected in (
            ("pixel_size", pixel_size, math.isfinite(pixel_size) and pixel_size > 0, "> 0 Å⁻¹ per pixel"),
            ("centre", centre, pair, "two numbers, qx and qy in pixels"),
            ("max_wander", max_wander, math.isfinite(max_wander) and max_wander >= 0, ">= 0 pixels"),
            ("peaks_min", peaks_min, peaks_min >= 1, ">= 1"),
        ):
            if not fits:
                raise InvalidScan(f"CrystalUDF: {name} = {value}: expected {expected}")
        super().__init__(
            model=str(Path(model).resolve()),  # workers may be started in another folder
            pixel_size=pixel_size,
            centre=centre,
            probe=probe,
            max_wander=max_wander,
            peaks_min=peaks_min,
            intensity_sum=intensity_sum,
            detection=detection,
            sensor=sensor,
        )

    def get_result_buffers(self) -> dict[str, Any]:
        """Declare the results: one of each for every probe position."""
        return {name: self.buffer(kind="nav", extra_shape=shape, dtype=kind) for name, (shape, kind) in RESULTS.items()}

    def get_preferred_input_dtype(self) -> Any:
        """Take frames as they are stored."""
        return self.USE_NATIVE_DTYPE

    def get_task_data(self) -> dict[str, Any]:
        """Make ready what the frames of a partition have in common."""
        params = self.params
        frame_shape = tuple(self.meta.dataset_shape.sig)
        if len(frame_shape) != 2:
            raise InvalidScan(f"CrystalUDF: frames of shape {frame_shape}: expected two axes")
        return {
            "hierarchy": hierarchy_of(params.model),
            "detector": Detector(params.probe, frame_shape, params.detection, params.sensor),
        }

    def process_partition(self, partition: np.ndarray) -> None:
        """Label frames, shape (n, nqx, nqy), any real type: the more at once, the faster the forests are."""
        params = self.params
        found = detect(partition, self.task_data.detector)
        peaks = calibrate(found, params.pixel_size, params.centre, params.max_wander)
        answers = label(peaks, self.task_data.hierarchy, params.intensity_sum, params.peaks_min)
        for name, values in answers.items():
            getattr(self.results, name)[:] = values


def hierarchy_of(model: str) -> Hierarchy:
    """Load a bundle, once in this process as long as nobody replaces it."""
    manifest = Path(model) / MANIFEST
    return _loaded(model, manifest.stat().st_mtime_ns if manifest.exists() else 0)


@lru_cache(maxsize=2)
def _loaded(model: str, modified: int) -> Hierarchy:
    return load_bundle(model)


def detect(frames: np.ndarray, detector: Detector) -> PeakBatch:
    """Find the disks of frames, shape (n, nqx, nqy); pixels and counts."""
    size = max(1, BATCH_PIXELS["cpu"] // (frames.shape[1] * frames.shape[2]))
    starts = range(0, len(frames), size)
    return PeakBatch.concatenate([detector.detect(frames[at : at + size]).peaks for at in starts])


def calibrate(peaks: PeakBatch, pixel_size: float, centre: tuple[float, float], max_wander: float = 0.0) -> PeakBatch:
    """Turn pixels into Å⁻¹ around the direct beam.

    Parameters
    ----------
    peaks : PeakBatch
        Pixels.
    pixel_size, centre, max_wander
        As for `CrystalUDF`; patterns without a disk so near to the centre keep the centre itself.

    Returns
    -------
    PeakBatch
    """
    origins = np.broadcast_to(np.asarray(centre, dtype=np.float64), (len(peaks), 2))
    if max_wander > 0:
        beams = direct_beams(peaks, centre, max_wander)
        origins = np.where(np.isnan(beams), origins, beams)
    qx0, qy0 = origins[peaks.pattern_of_peak].T
    return PeakBatch(
        ((peaks.qx - qx0) * pixel_size).astype(np.float32),
        ((peaks.qy - qy0) * pixel_size).astype(np.float32),
        peaks.intensity,
        peaks.offsets,
    )


def label(
    peaks: PeakBatch, hierarchy: Hierarchy, intensity_sum: float | None = None, peaks_min: int = 5
) -> dict[str, np.ndarray]:
    """Predict every pattern by itself.

    Returns
    -------
    dict of array, shape (n, ...)
        `RESULTS`; where a pattern was not predicted, floats are NaN, system indices -1, space group numbers 0.
    """
    answers: dict[str, np.ndarray] = {
        name: np.full((len(peaks), *shape), np.nan if np.issubdtype(kind, np.floating) else 0, dtype=kind)
        for name, (shape, kind) in RESULTS.items()
    }
    answers["raw_system"][:] = -1
    answers["n_peaks"][:] = peaks.counts
    answers["status"][:] = classify(peaks, peaks_min)
    scale = intensity_sum_for(hierarchy, intensity_sum)
    usable = np.flatnonzero(answers["status"] == Status.PREDICTED)
    for start in range(0, len(usable), PATTERNS_PER_BATCH):
        batch = usable[start : start + PATTERNS_PER_BATCH]
        prediction = hierarchy.predict(hierarchy.block.compute(scale_intensity(peaks[batch], scale)))
        answers["raw_system"][batch] = prediction.system_index
        answers["probability"][batch] = prediction.system_probability
        for name in ("confidence", "difference_confidence", "space_group_number", "lattice"):
            answers[name][batch] = getattr(prediction, name)
    return answers
