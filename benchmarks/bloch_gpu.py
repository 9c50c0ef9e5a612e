"""Bloch waves on a GPU: patterns a second with the matrix gathered and dense, beside the floor of dense matrices.

    python benchmarks/bloch_gpu.py [--patterns 4096] [--repeats 5]

Parity first: both variants must give the CPU's intensities before they are timed. Crystals of about 50, 150, 350 and
550 beams, at 1 and 100 thicknesses, in float32. Warm (one call before), median of the repeats. Beams are selected
before; `call` is all else, from arrays on the host to intensities on the host; `device` leaves out the tables' way to
the device and the intensities' way back. The floor is 103 products of a matrix and a vector for every 200 Å, each
reading N² complex64 at the speed of a copy that is measured here; a matrix that is gathered is not bound by it.
Writes benchmarks/results/bloch-gpu.json.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from record import ROOT, write_record

from gpuediff import arrays
from gpuediff.arrays import Device, resolve_device
from gpuediff.diffraction import gpu_propagation
from gpuediff.diffraction.beams import Beams, Reflections, select_beams
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.potential import structure_potential
from gpuediff.diffraction.propagation import propagate
from gpuediff.errors import DeviceUnavailable
from gpuediff.settings import Simulation

sys.path.insert(0, str(ROOT))
from tests.oracle import py4dstem

CRYSTALS = ("Si", "quartz", "GdFeO3", "orthoclase")
ORIENTATIONS = 32  # different ones; patterns are these over and over
TOLERANCE = 5e-6
PRODUCTS_IN_200 = 103
THICKNESSES = {1: np.array([200.0]), 100: np.arange(20.0, 2001, 20)}
SINGLE = np.dtype("float32")
SIMULATION = Simulation()
WAVELENGTH = wavelength(SIMULATION.beam_energy)


def some_patterns(name: str) -> tuple[Reflections, Beams]:
    """Return a crystal in random orientations."""
    potential = structure_potential(py4dstem.load(name).crystal, SIMULATION)
    reflections = Reflections.of_potential(potential, SIMULATION.g_max)
    zone_axis = np.random.default_rng(0).normal(size=(ORIENTATIONS, 3))
    return reflections, select_beams(
        reflections, zone_axis / np.linalg.norm(zone_axis, axis=1, keepdims=True), SIMULATION
    )


def repeated(beams: Beams, times: int) -> Beams:
    """Return the patterns over and over."""
    sizes = np.tile(np.diff(beams.offsets), times)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Beams(np.tile(beams.reflection, times), np.tile(beams.excitation_error, times), offsets)


def largest_difference(crystal: tuple[Reflections, Beams], device: Device, matrix: gpu_propagation.Matrix) -> float:
    """Largest |difference| of two intensities from the CPU's in float64, at 200 and 2000 Å."""
    thicknesses = np.array([200.0, 2000.0])
    (got,) = gpu_propagation.propagate([crystal], WAVELENGTH, thicknesses, SINGLE, device, matrix=matrix)
    return float(np.abs(got - propagate(*crystal, WAVELENGTH, thicknesses, np.dtype("float64"))).max())


def median_seconds(call: Callable[[], object], wait: Callable[[], None], repeats: int) -> float:
    """Median time of a call to its end on the device."""
    call()
    wait()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def on_device(
    crystal: tuple[Reflections, Beams], thicknesses: np.ndarray, device: Device, matrix: gpu_propagation.Matrix
) -> Callable[[], object]:
    """Return a call that computes with the coupling table there already, and leaves the intensities there."""
    run = gpu_propagation._Run(WAVELENGTH, tuple(thicknesses.tolist()), SINGLE, device, matrix)
    coupling = gpu_propagation._upload_tables([crystal], 0, run)
    patterns = gpu_propagation._concatenated([crystal], WAVELENGTH)
    return lambda: gpu_propagation._Batch.upload(patterns, coupling, run).intensities()


def copy_bandwidth(cupy: Any, wait: Callable[[], None], repeats: int) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    source = cupy.zeros(2**28, dtype=np.float32)
    target = cupy.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: cupy.copyto(target, source), wait, repeats)


def measure(name: str, device: Device, options: argparse.Namespace, wait: Callable[[], None]) -> list[dict]:
    """Return one row for each number of thicknesses and each variant."""
    reflections, beams = some_patterns(name)
    sizes = np.diff(beams.offsets)
    squares = float(np.mean(sizes.astype(float) ** 2))
    rows = []
    for matrix in ("gathered", "dense"):
        difference = largest_difference((reflections, beams), device, matrix)
        if not difference <= TOLERANCE:
            raise SystemExit(f"{name}, {matrix}: off the CPU by {difference:.1e}: not timed")
        for count, thicknesses in THICKNESSES.items():
            memory = arrays.memory_budget(importlib.import_module("cupy"))
            most = 0.25 * memory / (8 * squares + 4 * sizes.mean() * count)
            times = max(1, int(min(options.patterns, most)) // ORIENTATIONS)
            crystal = (reflections, repeated(beams, times))
            patterns = times * ORIENTATIONS
            call = median_seconds(
                lambda c=crystal, t=thicknesses, m=matrix: gpu_propagation.propagate(
                    [c], WAVELENGTH, t, SINGLE, device, matrix=m
                ),
                wait,
                options.repeats,
            )
            device_only = median_seconds(on_device(crystal, thicknesses, device, matrix), wait, options.repeats)
            rows.append(
                {
                    "crystal": name,
                    "beams": float(sizes.mean()),
                    "matrix": matrix,
                    "thicknesses": count,
                    "patterns": patterns,
                    "largest_difference": difference,
                    "patterns_per_second_call": patterns / call,
                    "patterns_per_second_device": patterns / device_only,
                    "bytes_per_pattern_at_the_floor": PRODUCTS_IN_200 * float(thicknesses[-1]) / 200 * 8 * squares,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patterns", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    try:
        device = resolve_device("gpu")
    except DeviceUnavailable as missing:
        print(f"gpu: not yet measured: {missing}")
        return
    cupy = importlib.import_module("cupy")
    wait = cupy.cuda.Device().synchronize
    bandwidth = copy_bandwidth(cupy, wait, options.repeats)
    print(f"{device.name}: {bandwidth / 1e12:.2f} TB/s in a copy", flush=True)
    rows = []
    for name in CRYSTALS:
        for row in measure(name, device, options, wait):
            row["patterns_per_second_at_the_floor"] = bandwidth / row["bytes_per_pattern_at_the_floor"]
            print(
                f"{name}, {row['beams']:.0f} beams, {row['thicknesses']} thicknesses, {row['matrix']}: "
                f"{row['patterns_per_second_call']:,.0f} a second ({row['patterns_per_second_device']:,.0f} on the "
                f"device; floor of dense {row['patterns_per_second_at_the_floor']:,.0f})",
                flush=True,
            )
            rows.append(row)
    content = {
        "precision": SINGLE.name,
        "orientations": ORIENTATIONS,
        "repeats": options.repeats,
        "copy_bytes_per_second": bandwidth,
        "device": device.name,
        "rows": rows,
    }
    print("wrote", write_record("bloch-gpu", content).relative_to(ROOT))


if __name__ == "__main__":
    main()
