"""A simulated scan of twinned gold particles against its truth: prints the tables of docs/gold.md, draws its picture.

python docs/figures/gold.py MODEL
"""

from __future__ import annotations

import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from gpuediff.hierarchy.bundle import load_bundle
from gpuediff.scans.figures.drawing import COLOURS
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.particles import find_particles
from gpuediff.scans.scoring import (
    answers_near_zone_axes,
    false_labels,
    score_particles,
    score_positions,
    zone_axis_angles,
)
from gpuediff.scans.simulated import Truth, simulated_scan

PICTURE = Path(__file__).resolve().parents[1] / "images" / "gold-zone-axes.png"
STEP_SIZE = 21.0  # Å, the paper's
SEEDS = range(6)
BINS = np.array([0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36])  # degrees from the nearest <111>


def counts_by_angle(maps: ScanMaps, truth: Truth) -> np.ndarray:
    """Single patterns of each system, by the angle from the beam to the nearest <111>, (systems, bins)."""
    angle = zone_axis_angles(truth)["<111>"]
    told = (maps.raw_system >= 0) & (truth.grain >= 0)
    return np.array([np.histogram(angle[told & (maps.raw_system == s)], BINS)[0] for s in range(len(maps.systems))])


def draw(systems: tuple[str, ...], counts: np.ndarray) -> None:
    """Draw which systems single patterns are given, against that angle."""
    figure, axes = plt.subplots(figsize=(5.6, 3.0), layout="constrained")
    places, bottom = np.arange(len(BINS) - 1), np.zeros(len(BINS) - 1)
    total = np.maximum(counts.sum(axis=0), 1)
    for index in sorted(range(len(systems)), key=lambda index: systems[index] != "cubic"):
        share = counts[index] / total
        axes.bar(places, share, width=0.9, bottom=bottom, color=COLOURS[systems[index]], label=systems[index])
        bottom += share
    for place, number in zip(places, counts.sum(axis=0), strict=True):
        axes.annotate(f"{number:,}", (place, 1.02), ha="center", fontsize=7)
    axes.set_xticks(np.arange(len(BINS)) - 0.5, [str(edge) for edge in BINS], fontsize=8)
    axes.set(xlabel="angle between beam and nearest ⟨111⟩ (°)", ylabel="share of single patterns", ylim=(0, 1.08))
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=200)


def main() -> None:
    """Print the tables and draw the picture."""
    hierarchy = load_bundle(sys.argv[1])
    scans = [simulated_scan((96, 96), particles=30, step_size=STEP_SIZE, seed=seed) for seed in SEEDS]
    ways: dict[str, dict[str, Any]] = {"each by itself": {}, "error rate 0.2": {"error_rate": 0.2}}
    if hierarchy.block.pools:
        ways["with its neighbours"] = {"neighbours": 1}
    print("way, then there, answered, right, near: positions; particles; labels on film, film")
    for name, options in ways.items():
        mapped = [map_scan(scan, hierarchy, **options) for scan, _ in scans]
        pairs = [(maps, truth) for maps, (_, truth) in zip(mapped, scans, strict=True)]
        particles = [find_particles(scan, maps, hierarchy) for maps, (scan, _) in zip(mapped, scans, strict=True)]
        positions = np.sum([astuple(score_positions(*pair)) for pair in pairs], axis=0)
        found = [(of, truth) for of, (_, truth) in zip(particles, pairs, strict=True)]
        regions = np.sum([astuple(score_particles(*pair)) for pair in found], axis=0)
        print(name, positions, regions, np.sum([false_labels(*pair) for pair in pairs], axis=0))
        if hierarchy.block.pools:
            print(
                "  described together", np.sum([astuple(score_particles(*pair, pooled=True)) for pair in found], axis=0)
            )
        if not options:
            draw(mapped[0].systems, np.sum([counts_by_angle(*pair) for pair in pairs], axis=0))
        near = [answers_near_zone_axes(*pair) for pair in pairs]
        for axis in near[0]:
            counts = {system: sum(of[axis][system] for of in near) for system in mapped[0].systems}
            total = max(1, sum(counts.values()))
            print(f"  {axis}: {total} patterns", {system: f"{n / total:.0%}" for system, n in counts.items()})


if __name__ == "__main__":
    main()
