"""Draw docs/images/zone-axes.png: the grid of zone axes of every Laue class, -3m in both its settings.

python docs/figures/zone_axes.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from gpuediff.crystals.symmetry import LAUE_CLASSES, laue_rotations
from gpuediff.diffraction.orientations import zone_axes

COUNT = 100
TARGET = Path(__file__).resolve().parents[1] / "images" / "zone-axes.png"


def projected(directions: np.ndarray) -> np.ndarray:
    """Lambert's equal-area projection of the upper hemisphere; u and -u are one direction."""
    upper = np.where(directions[:, 2:] < 0, -directions, directions)
    return upper[:, :2] / np.sqrt(1 + upper[:, 2:])


def main() -> None:
    """Draw one disc a class."""
    figure, panels = plt.subplots(2, 6, figsize=(12, 4.9), layout="constrained")
    for panel, laue_class in zip(panels.flat, LAUE_CLASSES, strict=True):
        axes = zone_axes(laue_class, COUNT)
        rotations = laue_rotations(laue_class)
        images = projected(np.concatenate([axes @ rotation.T for rotation in rotations]))
        panel.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.4", linewidth=0.8))
        panel.scatter(*images.T, s=2.5, color="#9ecae1", linewidths=0)
        panel.scatter(*projected(axes).T, s=7, color="#d55e00", linewidths=0)
        name = laue_class.replace("-3", r"$\bar{3}$").replace("-1", r"$\bar{1}$")
        panel.set_title(name, fontsize=11)
    for panel in panels.flat:
        panel.set(xlim=(-1.04, 1.04), ylim=(-1.04, 1.04), aspect="equal")
        panel.axis("off")
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", markersize=size, color=colour)
        for size, colour in ((5, "#d55e00"), (3, "#9ecae1"))
    ]
    names = ["the 100 zone axes", "their equivalents"]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    figure.get_layout_engine().set(h_pad=0.1)
    figure.savefig(TARGET, dpi=100)


if __name__ == "__main__":
    main()
