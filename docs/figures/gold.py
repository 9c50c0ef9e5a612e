"""A simulated scan of twinned gold particles against its truth: prints the tables of docs/gold.md, draws its picture.

python docs/figures/gold.py MODEL
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from gpuediff.errors import InvalidBundle
from gpuediff.hierarchy.bundle import load_bundle
from gpuediff.scans.figures.drawing import COLOURS
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.particles import find_particles
from gpuediff.scans.scoring import (
    LATTICE_TOLERANCE,
    answers_near_zone_axes,
    false_labels,
    score_particles,
    score_positions,
    zone_axis_angles,
)
from gpuediff.scans.simulated import Truth, simulated_scan

PICTURE = Path(__file__).resolve().parents[1] / "images" / "gold-zone-axes.png"
STEP_SIZE = 21.0  # Å, the paper's
BINS = np.arange(0, 40, 4)  # degrees from the nearest <111>


def draw(maps: ScanMaps, truth: Truth) -> None:
    """Draw which systems single patterns are given, against the angle from the beam to the nearest <111>."""
    angle = zone_axis_angles(truth)["<111>"]
    told = maps.raw_system >= 0
    figure, axes = plt.subplots(figsize=(5.2, 3.0), layout="constrained")
    centres, bottom = (BINS[:-1] + BINS[1:]) / 2, np.zeros(len(BINS) - 1)
    counts = {
        system: np.histogram(angle[told & (maps.raw_system == s)], BINS)[0] for s, system in enumerate(maps.systems)
    }
    total = np.maximum(sum(counts.values()), 1)
    for system in sorted(counts, key=lambda name: name != "cubic"):
        share = counts[system] / total
        axes.bar(centres, share, width=3.6, bottom=bottom, color=COLOURS[system], label=system)
        bottom += share
    for centre, number in zip(centres, total, strict=True):
        axes.annotate(f"{number:,}", (centre, 1.01), ha="center", fontsize=7)
    axes.set(xlabel="angle between beam and nearest ⟨111⟩ (°)", ylabel="share of single patterns", ylim=(0, 1.06))
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=200)


def main() -> None:
    """Print the tables and draw the picture."""
    hierarchy = load_bundle(sys.argv[1])
    scan, truth = simulated_scan((96, 96), particles=30, step_size=STEP_SIZE, seed=1)
    ways = {"each pattern by itself": {}, "undecided above 10 % errors": {"error_rate": 0.1}}
    if hierarchy.block.pools:
        ways["with its neighbours"] = {"neighbours": 1}
    for name, options in ways.items():
        try:
            maps = map_scan(scan, hierarchy, **options)
        except InvalidBundle as refused:
            print(f"{name}: {refused}")
            continue
        positions, regions = score_positions(maps, truth), score_particles(find_particles(scan, maps, hierarchy), truth)
        wrong, film = false_labels(maps, truth)
        near = f"with a within {LATTICE_TOLERANCE} Å"
        print(
            f"{name}: {positions.there} positions with crystal, {positions.answered} labelled, "
            f"{positions.right} right, {positions.near} {near}; {wrong} of {film} positions of film labelled; "
            f"{regions.there} particles, {regions.right} right, {regions.near} {near}"
        )
        if not options:
            draw(maps, truth)
        for axis, counts in answers_near_zone_axes(maps, truth).items():
            total = max(1, sum(counts.values()))
            print(f"  {axis}: {total} patterns", {system: f"{n / total:.0%}" for system, n in counts.items()})


if __name__ == "__main__":
    main()
