"""Lattices of patterns: patterns indexed a second on every device there is, and groups of ten brought together.

    python benchmarks/lattice.py [--patterns 20000] [--repeats 3]

Patterns are dynamical, of the built-in prototypes in random orientations, under the protocols `any` and `measured`.
Parity first: a GPU must give the status that the CPU gives in 99 % of the patterns before it is timed. Warm (one call
before), median of the repeats; on the CPU one thread. Writes benchmarks/results/lattice-<device>.json.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numba
import numpy as np
from record import ROOT, write_record

from gpuediff.arrays import Device, resolve_device
from gpuediff.crystals.sources import read_crystals
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.orientations import orientations_for
from gpuediff.diffraction.protocols import PROTOCOLS, observe
from gpuediff.diffraction.simulate import simulate
from gpuediff.errors import DeviceUnavailable
from gpuediff.features.groups import Groups
from gpuediff.features.lattice import LatticeBlock
from gpuediff.lattices.indexing import index_patterns
from gpuediff.lattices.pooling import pooled
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Orientations, Simulation, Structures

ENERGY = 300e3  # eV
CRYSTALS, ORIENTATIONS = 40, 10
PARITY = 0.99  # share of the patterns that must have the same status


def patterns(protocol: str) -> PeakBatch:
    """Ten patterns of each of some built-in prototypes."""
    crystals, _ = read_crystals(Structures(sample=CRYSTALS))
    settings = Simulation(orientations=Orientations(protocol="any", count=ORIENTATIONS))
    simulated = PeakBatch.concatenate(
        [simulate(crystal, orientations_for(crystal, settings.orientations), settings).at(0) for crystal in crystals]
    )
    return observe(simulated, PROTOCOLS[protocol].detector, seed=0, pattern=np.arange(len(simulated)))


def median_seconds(call, repeats: int) -> float:
    """Median time of a call, after one that is not counted."""
    call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def on_cpu(peaks: PeakBatch, repeats: int) -> dict[str, float]:
    """Milliseconds on one core: a pattern indexed, a group of ten pooled, and all features of either."""
    wave = wavelength(ENERGY)
    groups = Groups.of_labels(np.arange(len(peaks)) // ORIENTATIONS)
    members = index_patterns(peaks, wavelength=wave)[groups.members]
    block = LatticeBlock(ENERGY)
    stages = {
        "index, a pattern": (len(peaks), lambda: index_patterns(peaks, wavelength=wave)),
        "pool, a group of ten": (
            len(groups),
            lambda: pooled(peaks, groups.members, groups.group_of_member, len(groups), members, wavelength=wave),
        ),
        "all features, a pattern": (len(peaks), lambda: block.compute(peaks)),
        "all features, a group of ten": (len(groups), lambda: block.compute(peaks, groups)),
    }
    return {stage: 1e3 * median_seconds(call, repeats) / count for stage, (count, call) in stages.items()}


def on_gpu(peaks: PeakBatch, device: Device, count: int, repeats: int) -> dict[str, float]:
    """Patterns indexed a second, results on the host, and the share of them in which CPU and GPU agree."""
    wave = wavelength(ENERGY)
    there = peaks.to(device)
    agree = float(
        np.mean(index_patterns(there, wavelength=wave).status == index_patterns(peaks, wavelength=wave).status)
    )
    if agree < PARITY:
        raise SystemExit(f"{device.name}: {agree:.1%} of the patterns have the CPU's status: not timed")
    many = there[np.arange(count) % len(peaks)].to(device)
    seconds = median_seconds(lambda: index_patterns(many, wavelength=wave), repeats)
    return {"patterns": count, "same_status": agree, "patterns_per_second": count / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patterns", type=int, default=20_000, help="on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    batches = {protocol: patterns(protocol) for protocol in ("any", "measured")}
    numba.set_num_threads(1)
    milliseconds = {protocol: on_cpu(peaks, options.repeats) for protocol, peaks in batches.items()}
    for protocol, stages in milliseconds.items():
        for stage, value in stages.items():
            print(f"{protocol}: {stage}: {value:.2f} ms on one core", flush=True)
    about = {"crystals": CRYSTALS, "orientations": ORIENTATIONS, "repeats": options.repeats}
    print("wrote", write_record("lattice-cpu", about | {"milliseconds": milliseconds}).relative_to(ROOT))
    try:
        device = resolve_device("gpu")
    except DeviceUnavailable as missing:
        print(f"gpu: not yet measured: {missing}")
        return
    rows = {protocol: on_gpu(peaks, device, options.patterns, options.repeats) for protocol, peaks in batches.items()}
    print("wrote", write_record("lattice-gpu", about | {"device": device.name, "rows": rows}).relative_to(ROOT))


if __name__ == "__main__":
    main()
