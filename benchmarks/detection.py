"""Bragg disks: frames searched a second, beside py4DSTEM on the same frames of the same machine.

    python benchmarks/detection.py [--py4dstem .venv-py4dstem/bin/python] [--repeats 5]

Parity first: of the disks that both find, 95 % of the strong ones must lie within 0.1 pixels of each other. Frames are
the gold scan of tests/oracle/detection, repeated, and the same drawn with twice the pixels. Warm (one call before),
median of the repeats; frames lie in memory. Time on the clock, and of the processor, which other programs on the
machine lengthen less. The floor is one real Fourier transform there and one back. Writes
benchmarks/results/detection-<device>.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import scipy.fft
from record import ROOT, write_record
from threadpoolctl import threadpool_limits

from gpuediff.arrays import resolve_device, to_device, to_host
from gpuediff.errors import DeviceUnavailable
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.scans.detection.detector import Detection, Detector
from gpuediff.scans.detection.peak_finding import BATCH_PIXELS
from gpuediff.scans.detection.probe import Probe

sys.path.insert(0, str(ROOT))
from tests.oracle.detection.render import expected_counts

ORACLE = ROOT / "tests" / "oracle" / "detection"
RADIUS = 4.0  # pixels, with 128 x 128
STRONG = 3000  # counts
TOLERANCE = 0.1  # pixels

# Runs with py4DSTEM's own Python, which has another NumPy.
BY_PY4DSTEM = """
import json, statistics, sys, time
import numpy as np, py4DSTEM
file, radius, repeats, out = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
frames = np.load(file)
cube = py4DSTEM.DataCube(frames.reshape(8, -1, *frames.shape[1:]))
probe = py4DSTEM.Probe.generate_synthetic_probe(radius=radius, width=1.2, Qshape=frames.shape[1:])
probe.get_kernel(mode="sigmoid", radii=(1.25 * radius, 2 * radius))
times = {}
for subpixel in ("poly", "multicorr"):
    def find():
        return cube.find_Bragg_disks(
            template=probe.kernel, corrPower=1, sigma_cc=1, subpixel=subpixel, upsample_factor=16,
            minRelativeIntensity=0.0005, minPeakSpacing=1.5 * radius, edgeBoundary=int(1.75 * radius), maxNumPeaks=100)
    vectors, clock, processor = find(), [], []
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        find()
        clock.append(time.perf_counter() - started[0]); processor.append(time.process_time() - started[1])
    times[subpixel] = [statistics.median(clock), statistics.median(processor)]
lists = [vectors.raw[position].data for position in np.ndindex(*vectors.Rshape)]
flat = np.concatenate(lists)
np.savez(out, qx=flat["qx"], qy=flat["qy"], intensity=flat["intensity"], counts=[len(one) for one in lists])
print("TIMES", json.dumps(times))
"""


def gold_frames(scale: int, count: int) -> np.ndarray:
    """Frames of the oracle's scan, repeated; with another scale, drawn anew with disks so many times as wide."""
    if scale == 1:
        with h5py.File(ORACLE / "cube.h5") as file:
            frames = file["datacube_root/datacube/data"][:].reshape(-1, 128, 128)
    else:
        stored = np.load(ORACLE / "truth.npz")
        values = scale * stored["qx"], scale * stored["qy"], stored["intensity"]
        peaks = PeakBatch(*(value.astype(np.float32) for value in values), offsets_of(stored["counts"]))
        means = expected_counts(peaks, (128 * scale,) * 2, radius=RADIUS * scale, background=2e4, decay=25.0 * scale)
        frames = np.random.default_rng(0).poisson(means).astype(np.uint16)
    return np.concatenate([frames] * -(-count // len(frames)))[:count]


def median_times(call, repeats: int) -> list[float]:
    """Median time on the clock and of the processor, after one call that is not counted."""
    call()
    clock, processor = [], []
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        call()
        clock.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
    return [statistics.median(clock), statistics.median(processor)]


def agreement(ours: PeakBatch, theirs: PeakBatch) -> tuple[int, float]:
    """Strong disks that both find, and the distance within which 95 % of them lie of each other, pixels."""
    apart = []
    for (qx, qy, intensity), (px, py, _) in zip(ours, theirs, strict=True):
        strong = intensity > STRONG
        if len(px) and strong.any():
            nearest = np.hypot(qx[strong, None] - px, qy[strong, None] - py).min(axis=1)
            apart += nearest[nearest < 1].tolist()
    return len(apart), float(np.quantile(apart, 0.95))


def floor(frames: np.ndarray) -> None:
    """Transform frames there and back, as many at a time as the detector does."""
    batch = max(1, BATCH_PIXELS["cpu"] // frames[0].size)
    for start in range(0, len(frames), batch):
        spectrum = scipy.fft.rfft2(frames[start : start + batch].astype(np.float32))
        scipy.fft.irfft2(spectrum, s=frames.shape[1:])


def in_threads(detector: Detector, batches: list[np.ndarray], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(detector.detect, batches))


def on_cpu(scale: int, count: int, repeats: int, python: str | None) -> dict:
    frames, radius = gold_frames(scale, count), RADIUS * scale
    batch = max(1, BATCH_PIXELS["cpu"] // frames[0].size)
    batches = [frames[start : start + batch] for start in range(0, count, batch)]
    detectors = {
        kind: Detector(Probe.disk(radius), frames.shape[1:], Detection(subpixel=kind))
        for kind in ("parabola", "fourier")
    }
    row: dict = {"frames": count, "pixels": list(frames.shape[1:]), "peaks_a_frame": 0.0}
    found = PeakBatch.concatenate([detectors["parabola"].detect(part).peaks for part in batches])
    row["peaks_a_frame"] = float(found.counts.mean())
    seconds = {"floor": median_times(lambda: floor(frames), repeats)}
    for kind, detector in detectors.items():
        seconds[kind] = median_times(lambda one=detector: [one.detect(part) for part in batches], repeats)
    for threads in sorted({2, os.cpu_count() or 1}):
        seconds[f"parabola, {threads} threads"] = median_times(
            partial(in_threads, detectors["parabola"], batches, threads), repeats
        )
    if python is not None:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "frames.npy", frames)
            arguments = [str(Path(folder) / "frames.npy"), str(radius), str(repeats), str(Path(folder) / "peaks.npz")]
            done = subprocess.run(
                [python, "-c", BY_PY4DSTEM, *arguments], capture_output=True, text=True, env=os.environ | ONE_THREAD
            )
            if done.returncode:
                raise SystemExit(f"py4DSTEM failed:\n{done.stderr[-2000:]}")
            line = next(line for line in done.stdout.splitlines() if line.startswith("TIMES "))
            stored = np.load(Path(folder) / "peaks.npz")
        theirs = PeakBatch(
            *(stored[name].astype(np.float32) for name in ("qx", "qy", "intensity")), offsets_of(stored["counts"])
        )
        both, within = agreement(found, theirs)
        if within > TOLERANCE:
            raise SystemExit(f"{within:.3f} pixels between the disks of both: not timed")
        row |= {"strong_disks_of_both": both, "95_percent_within_pixels": within}
        seconds |= {f"py4DSTEM {kind}": value for kind, value in json.loads(line.removeprefix("TIMES ")).items()}
    row["frames_per_second"] = {name: count / clock for name, (clock, _) in seconds.items()}
    row["processor_ms_a_frame"] = {name: 1e3 * processor / count for name, (_, processor) in seconds.items()}
    return row


def on_gpu(device, scale: int, count: int, repeats: int) -> dict:
    cupy = importlib.import_module("cupy")
    frames = gold_frames(scale, count)
    probe, shape = Probe.disk(RADIUS * scale), frames.shape[1:]
    there, detector = to_device(frames, device), Detector(probe, shape, xp=cupy)
    part = slice(0, 64)
    found, expected = detector.detect(there[part]).peaks, Detector(probe, shape).detect(frames[part]).peaks
    if not np.array_equal(to_host(found.counts), expected.counts):
        raise SystemExit(f"{device.name}: other peaks than on the CPU: not timed")
    batch = max(1, BATCH_PIXELS["gpu"] // frames[0].size)

    def call() -> None:
        for start in range(0, count, batch):
            detector.detect(there[start : start + batch])
        cupy.cuda.Device().synchronize()

    return {"frames": count, "pixels": list(shape), "frames_per_second": count / median_times(call, repeats)[0]}


ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--py4dstem", help="a Python that has py4DSTEM 0.14.18; left out where there is none")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with threadpool_limits(1):
        rows = [on_cpu(scale, count, options.repeats, options.py4dstem) for scale, count in ((1, 512), (2, 128))]
    for row in rows:
        for name, rate in row["frames_per_second"].items():
            processor = row["processor_ms_a_frame"][name]
            print(f"{row['pixels']}: {name}: {rate:,.0f} frames/s, {processor:.2f} ms of a processor a frame")
    about = {"repeats": options.repeats, "load_average_before": load}
    print("wrote", write_record("detection-cpu", about | {"rows": rows}).relative_to(ROOT))
    try:
        device = resolve_device("gpu")
    except DeviceUnavailable as missing:
        print(f"gpu: not yet measured: {missing}")
        return
    rows = [on_gpu(device, scale, count, options.repeats) for scale, count in ((1, 16_384), (2, 4096))]
    print("wrote", write_record("detection-gpu", about | {"device": device.name, "rows": rows}).relative_to(ROOT))


if __name__ == "__main__":
    main()
