"""A scan from its file to maps, particles, tables and pictures: seconds of every stage, beside the paper's way.

    python benchmarks/scan.py MODEL [--side 256] [--peaks 20] [--repeats 3]

MODEL is a bundle; `python benchmarks/accuracy/run.py paper-grid` trains one of the paper's size. The scan is made of
the demo's library (`gpuediff demo`): patches of 8 x 8 probe positions show one pattern, of which the brightest peaks
are kept; every position can be predicted. Warm (one small scan before), median of the repeats. The basis is first
compared with the reference, a Python loop over one pattern after the other, which is also timed: this and the walk of
one pattern after the other through one tree after the other is how the published code predicts. Writes
benchmarks/results/scan-cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import ROOT, write_record

from gpuediff.features.radial_basis import RadialBasis, coefficients
from gpuediff.hierarchy.bundle import load_bundle
from gpuediff.library.reader import Library
from gpuediff.peaks import PeakBatch
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.detection.peak_file import write_peaks
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.particles import find_particles
from gpuediff.scans.readers import read_scan
from gpuediff.scans.report import write_scan_report
from gpuediff.scans.scan import Scan

sys.path.insert(0, str(ROOT))
from tests.reference.radial_basis import radial_basis

PATCH = 8
PIXEL = 0.02  # Å⁻¹
CENTRE = 128.0  # pixels
SAMPLE = 200  # patterns that the reference expands
TOLERANCE = 2e-5  # relative to R_n0


def made_scan(library: Path, side: int, peaks: int) -> Scan:
    """Patches of patterns drawn at random."""
    with Library(library) as opened:
        patterns = opened.peaks(200.0, np.arange(opened.info()["patterns"]))
    order = np.lexsort((-patterns.intensity, patterns.pattern_of_peak))
    rank = np.arange(len(order)) - np.repeat(patterns.offsets[:-1], patterns.counts)
    kept = np.zeros(len(order), dtype=bool)
    kept[order[rank < peaks]] = True
    patterns = patterns.keep(kept)
    patches = np.random.default_rng(0).integers(0, len(patterns), (side // PATCH, side // PATCH))
    image = np.kron(patches, np.ones((PATCH, PATCH), dtype=np.int64))
    return Scan(patterns[image.reshape(-1)], image.shape, "benchmark", step_size=10.0)


def in_pixels(peaks: PeakBatch) -> PeakBatch:
    return PeakBatch(peaks.qx / PIXEL + CENTRE, peaks.qy / PIXEL + CENTRE, peaks.intensity, peaks.offsets)


def reference_seconds(peaks: PeakBatch, basis: RadialBasis) -> float:
    """Seconds a pattern of the loop in Python, after a comparison."""
    some = peaks[:SAMPLE]
    started = time.perf_counter()
    expected = radial_basis(some, basis)
    seconds = (time.perf_counter() - started) / SAMPLE
    error = float((abs(coefficients(some, basis) - expected) / np.maximum(expected[..., :1].real, 1e-6)).max())
    if not error <= TOLERANCE:
        raise SystemExit(f"off the reference by {error:.1e} of R_n0: not timed")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--peaks", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--library", type=Path, default=ROOT / "runs" / "demo" / "library.h5")
    options = parser.parse_args()
    scan = made_scan(options.library, options.side, options.peaks)
    seconds: dict[str, list[float]] = {}

    def timed(stage, call):
        started = time.perf_counter()
        result = call()
        seconds.setdefault(stage, []).append(time.perf_counter() - started)
        return result

    hierarchy = timed("loading the model", lambda: load_bundle(options.model))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "peaks.h5"
        centre = np.asarray(CENTRE)
        calibration = Calibration(scan.shape, origin=(centre, centre), pixel_size=PIXEL)
        write_peaks(file, in_pixels(scan.peaks), scan.shape, (256, 256), calibration)
        warm = Scan(scan.peaks[: PATCH * 32], (PATCH, 32), "warm")
        map_scan(warm, hierarchy)
        for _ in range(options.repeats):
            read = timed("reading the peaks", lambda: read_scan(file))
            maps = timed("maps", lambda read=read: map_scan(read, hierarchy))
            particles = timed("particles", lambda read=read, maps=maps: find_particles(read, maps, hierarchy))
        timed("tables and pictures", lambda: write_scan_report(Path(folder) / "report", read, maps, particles))
    medians = {stage: round(statistics.median(values), 3) for stage, values in seconds.items()}
    for stage, value in medians.items():
        print(f"{stage}: {value:.2f} s")
    content = {
        "scan": {
            "positions": len(scan.peaks),
            "peaks": len(scan.peaks.qx),
            "predicted": int((maps.raw_system >= 0).sum()),
        },
        "model": {
            "features": hierarchy.block.description(),
            "forests": {name: forest.trees for name, forest in hierarchy.forests_.items()},
        },
        "repeats": options.repeats,
        "seconds": medians,
    }
    if isinstance(basis := getattr(hierarchy.block, "basis", None), RadialBasis):
        content["python_loop_seconds_per_pattern"] = reference_seconds(scan.peaks, basis)
    print("wrote", write_record("scan-cpu", content).relative_to(ROOT))


if __name__ == "__main__":
    main()
