"""Which of three phases explains the patterns of the real scan: prints the table of docs/scan.md, draws its picture.

python docs/figures/phases.py braggdisks_cali.h5
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from gpuediff.diffraction.electron import wavelength
from gpuediff.lattices.indexing import index_patterns
from gpuediff.lattices.phases import explain, primitive
from gpuediff.scans.readers import read_scan

PICTURE = Path(__file__).resolve().parents[1] / "images" / "real-scan-phases.png"
CONVENTIONAL = {
    "LiMn2O4": ([8.245, 8.245, 8.245, 90, 90, 90], "F"),
    "Li2MnO3": ([4.93, 8.53, 5.03, 90, 109.4, 90], "C"),
    "LiCoO2": ([2.816, 2.816, 14.05, 90, 90, 120], "R"),
    # Lattices of about the same size that are of nothing in the scan.
    "control, cubic F": ([7.1, 7.1, 7.1, 90, 90, 90], "F"),
    "control, triclinic": ([4.3, 5.6, 6.1, 80, 95, 103], "P"),
}
PHASES = 3  # the first so many; the others are controls
SURE = 5.0  # score, and lead over the next
COLOURS = ["#0072B2", "#E69F00", "#009E73"]


def sure_best(score: np.ndarray) -> np.ndarray:
    """Index of the lattice that explains each pattern best, -1 where none does by far."""
    ordered = np.sort(np.maximum(score, 0), axis=0)
    sure = (ordered[-1] > SURE) & (ordered[-1] - ordered[-2] > SURE)
    return np.where(sure, score.argmax(axis=0), -1)


def main() -> None:
    """Print the table and draw the picture."""
    scan = read_scan(sys.argv[1])
    wave = wavelength(300e3)
    noise = float(np.nanmedian(index_patterns(scan.peaks, wavelength=wave).position_noise))
    lattices = np.array([primitive(np.array(cell), centring) for cell, centring in CONVENTIONAL.values()])
    found = explain(scan.peaks, lattices, wavelength=wave, noise=noise)
    among_phases, among_all = sure_best(found.score[:PHASES]), sure_best(found.score)
    there = np.isfinite(found.score).any(axis=0)
    print(f"noise {noise:.4f} Å⁻¹, {there.sum()} patterns with at least four diffracted peaks")
    for k, name in enumerate(CONVENTIONAL):
        best = f"{(among_phases == k).sum()}" if k < PHASES else "-"
        print(
            f"{name}: primitive volume {np.linalg.det(lattices[k]):.0f} Å³, median score "
            f"{np.median(found.score[k][there]):.0f}, median share of peaks {np.median(found.on[k][there]):.2f}, "
            f"best among the phases {best}, among all {(among_all == k).sum()}"
        )
    image = among_phases.reshape(scan.shape)
    figure, axes = plt.subplots(figsize=(6, 4.6), layout="constrained")
    axes.imshow(np.ma.masked_less(image, 0), cmap=ListedColormap(COLOURS), vmin=-0.5, vmax=2.5, interpolation="nearest")
    axes.set(xticks=[], yticks=[], facecolor="#dddddd")
    axes.set_title("Phase that explains the peaks best", loc="left", fontsize=10)
    for k, name in enumerate(list(CONVENTIONAL)[:PHASES]):
        axes.plot([], [], "s", color=COLOURS[k], label=f"{name}: {(image == k).sum():,}")
    axes.plot([], [], "s", color="#dddddd", label=f"none by far: {(image < 0).sum():,}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    main()
