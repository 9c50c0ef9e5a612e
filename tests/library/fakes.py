"""Crystals and patterns that cost nothing, and a build that can be killed: `python -m tests.library.fakes PATH`."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gpuediff.crystals.crystal import Crystal
from gpuediff.errors import InvalidStructure
from gpuediff.library import shards, writer
from gpuediff.peaks import offsets_of
from gpuediff.settings import Orientations, Run, Simulation, Training

CRYSTALS_PER_SHARD = 3


def a_run(thicknesses=(100.0, 200.0), patterns=5, **simulation) -> Run:
    settings = Simulation(thicknesses=thicknesses, orientations=Orientations(count=patterns), **simulation)
    return Run(simulation=settings, training=Training(thickness=thicknesses[-1]))


def a_crystal(index: int, space_group_number: int = 225, edge: float = 4.0) -> Crystal:
    return Crystal(
        material_id=f"test-{index}",
        formula="Au",
        lattice=edge * np.eye(3),
        atomic_numbers=np.array([79]),
        positions=np.zeros((1, 3)),
        occupancies=np.ones(1),
        space_group_number=space_group_number,
        conventional=np.array([edge, edge, edge, 90.0, 90.0, 90.0]),
        source="fakes",
        checksum=hashlib.sha256(f"{index}".encode()).hexdigest(),
    )


def crystals(count: int) -> list[Crystal]:
    numbers = (225, 194, 166, 99, 62, 14, 2)  # one of every crystal system
    return [a_crystal(index, numbers[index % len(numbers)]) for index in range(count)]


def fake_patterns(crystal: Crystal, settings: Simulation, orientations: slice = slice(None), **_memory):
    """Random patterns with 0 to 9 peaks, the same for every call; every seventh crystal fails."""
    index = int(crystal.material_id.rpartition("-")[2])
    if index % 7 == 6:
        raise InvalidStructure(f"{crystal.material_id}: fails on purpose")
    return random_patterns(index, settings, peaks_max=9)


def random_patterns(seed: int, settings: Simulation, peaks_max: int, peaks_min: int = 0):
    random = np.random.default_rng(seed)
    patterns = settings.orientations.count
    offsets = offsets_of(random.integers(peaks_min, peaks_max + 1, patterns))
    peaks = int(offsets[-1])
    rotation, _ = np.linalg.qr(random.normal(size=(patterns, 3, 3)))
    return SimpleNamespace(
        thicknesses=np.array(settings.thicknesses),
        qx=random.normal(size=peaks).astype(np.float32),
        qy=random.normal(size=peaks).astype(np.float32),
        intensity=random.random((len(settings.thicknesses), peaks)).astype(settings.precision),
        offsets=offsets,
        orientation=rotation,
    )


def slow(items, description, total=None):
    """Leave time to be killed in."""
    for item in items:
        time.sleep(0.01)
        yield item


if __name__ == "__main__":
    writer.simulate_crystal = fake_patterns
    shards.SHARD_CRYSTALS = CRYSTALS_PER_SHARD
    print("ready", flush=True)
    writer.build_library(Path(sys.argv[1]), a_run(), crystals(20), track=slow)
