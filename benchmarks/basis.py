"""Radial-angular features: patterns a second on every device there is, beside the floor.

    python benchmarks/basis.py [--peaks 100] [--repeats 7]

Parity first: each device must give the reference's coefficients before it is timed. Warm (one call before), median
of the repeats. Peaks lie on the device already, and features stay there. The floor is the memory's: 12 bytes a peak
in and 8 bytes a coefficient out. Writes benchmarks/results/basis-<device>.json.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time

import numpy as np
from record import ROOT, write_record

from gpuediff.arrays import resolve_device, to_host
from gpuediff.errors import DeviceUnavailable
from gpuediff.features.radial_basis import RadialBasis, coefficients, magnitudes_and_arguments
from gpuediff.peaks import PeakBatch, offsets_of

sys.path.insert(0, str(ROOT))
from tests.reference.radial_basis import radial_basis

BASIS = RadialBasis(41, 0.05, 13)
SIZES = {"cpu": (1_000, 10_000, 100_000), "gpu": (1_000, 10_000, 100_000, 1_000_000)}
TOLERANCE = 2e-5  # relative to R_n0


def random_peaks(patterns: int, peaks: int, seed: int = 0) -> PeakBatch:
    """Patterns of one size, peaks spread evenly over the disk |q| < 2 Å⁻¹."""
    rng = np.random.default_rng(seed)
    radius = 2 * np.sqrt(rng.random(patterns * peaks))
    azimuth = 2 * np.pi * rng.random(patterns * peaks)
    values = radius * np.cos(azimuth), radius * np.sin(azimuth), rng.random(patterns * peaks)
    return PeakBatch(*(value.astype(np.float32) for value in values), offsets_of(np.full(patterns, peaks)))


def largest_error(device) -> float:
    """Largest |R - reference| / R_n0 over a small batch."""
    peaks = random_peaks(50, 100, seed=1)
    got = to_host(coefficients(peaks.to(device), BASIS))
    reference = radial_basis(peaks, BASIS)
    return float((abs(got - reference) / np.maximum(reference[..., :1].real, 1e-6)).max())


def median_seconds(device, patterns: int, peaks: int, repeats: int) -> float:
    """Median time of one call that leaves the features on the device."""
    batch = random_peaks(patterns, peaks).to(device)

    def wait() -> None:
        if device.kind == "gpu":
            importlib.import_module("cupy").cuda.Device().synchronize()

    magnitudes_and_arguments(batch, BASIS)
    wait()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        magnitudes_and_arguments(batch, BASIS)
        wait()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peaks", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    for kind in ("cpu", "gpu"):
        try:
            device = resolve_device(kind)
        except DeviceUnavailable as missing:
            print(f"{kind}: not yet measured: {missing}")
            continue
        error = largest_error(device)
        if not error <= TOLERANCE:
            raise SystemExit(f"{device.name}: off the reference by {error:.1e} of R_n0: not timed")
        rows = []
        for patterns in SIZES[kind]:
            seconds = median_seconds(device, patterns, options.peaks, options.repeats)
            rows.append({"patterns": patterns, "seconds": seconds, "patterns_per_second": patterns / seconds})
            print(f"{device.name}: {patterns:,} patterns: {patterns / seconds:,.0f} a second", flush=True)
        content = {
            "peaks_per_pattern": options.peaks,
            "features": 2 * BASIS.rings * BASIS.orders,
            "repeats": options.repeats,
            "bytes_per_pattern_at_the_floor": 12 * options.peaks + 8 * BASIS.rings * BASIS.orders,
            "largest_error_relative_to_R_n0": error,
            "device": device.name,
            "rows": rows,
        }
        print("wrote", write_record(f"basis-{kind}", content).relative_to(ROOT))


if __name__ == "__main__":
    main()
