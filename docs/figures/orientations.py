"""Draw docs/images/zone-axes.png: the grid of zone axes of every Laue class, -3m in both its settings.

python docs/figures/orientations.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle

from gpuediff.crystals.symmetry import LAUE_CLASSES, laue_rotations
from gpuediff.diffraction.orientations import zone_axes

COUNT = 100
TARGET = Path(__file__).resolve().parents[1] / "images" / "zone-axes.png"
SYSTEMS = {
    "-1": "triclinic",
    "2/m": "monoclinic",
    "mmm": "orthorhombic",
    "4/m": "tetragonal",
    "4/mmm": "tetragonal",
    "-3": "trigonal",
    "-3m1": "trigonal",
    "-31m": "trigonal",
    "6/m": "hexagonal",
    "6/mmm": "hexagonal",
    "m-3": "cubic",
    "m-3m": "cubic",
}
ZONE, AXES, EQUIVALENTS, MIRRORS, RIM = "#fde8d4", "#d55e00", "#7fa9c9", "#a3afb8", "#5f6b73"
INSIDE = np.array([0.23, 0.49, 0.84])  # a direction in the part of the hemisphere that is drawn as the zone


def projected(directions: np.ndarray) -> np.ndarray:
    """Lambert's equal-area projection of the upper hemisphere to the unit disc, shape (..., 2)."""
    return directions[..., :2] / np.sqrt(1 + directions[..., 2:])


def upper_equivalents(directions: np.ndarray, laue_class: str) -> np.ndarray:
    """Return all equivalents, shape (2k, n, 3), those of the lower hemisphere as NaN."""
    rotations = laue_rotations(laue_class)
    images = np.einsum("gij,nj->gni", np.concatenate([rotations, -rotations]), directions)
    return np.where(images[..., 2:] > -1e-9, images, np.nan)


def in_drawn_zone(directions: np.ndarray, laue_class: str) -> np.ndarray:
    """Of the equivalents of every direction, take the one in the zone that is drawn, all of it above the plane."""
    images = upper_equivalents(directions, laue_class)
    nearest = np.nanargmax(images @ INSIDE, axis=0)
    return images[nearest, np.arange(len(directions))]


def mirror_normals(laue_class: str) -> np.ndarray:
    """List the normals of the mirror planes: the two-fold axes, for the inversion is always there."""
    rotations = laue_rotations(laue_class)
    twofold = rotations[np.isclose(np.trace(rotations, axis1=1, axis2=2), -1)]
    return np.array([np.linalg.svd(rotation - np.eye(3))[2][-1] for rotation in twofold]).reshape(-1, 3)


def draw_zone(panel: Axes, laue_class: str) -> None:
    """Shade the fundamental zone."""
    side = np.linspace(-1, 1, 601)
    x, y = (column.ravel() for column in np.meshgrid(side, side))
    squared = x * x + y * y
    x, y = (np.where(squared <= 1, column, 0) for column in (x, y))
    z = 1 - (x * x + y * y)
    stretch = np.sqrt(1 + z)
    directions = np.stack([x * stretch, y * stretch, z], axis=1)
    own = directions @ INSIDE
    inside = (own >= np.nanmax(upper_equivalents(directions, laue_class) @ INSIDE, axis=0) - 1e-9) & (squared <= 1)
    shade = np.ma.masked_equal(inside.reshape(len(side), -1), False)
    disc = Circle((0, 0), 1, transform=panel.transData)
    image = panel.imshow(
        shade, extent=(-1, 1, -1, 1), origin="lower", cmap=ListedColormap([ZONE]), interpolation="nearest", zorder=0
    )
    image.set_clip_path(disc)


def draw(panel: Axes, laue_class: str) -> None:
    """Draw the disc of one Laue class."""
    draw_zone(panel, laue_class)
    angle = np.linspace(0, 2 * np.pi, 400)
    for normal in mirror_normals(laue_class):
        first, second = np.linalg.svd(normal[None])[2][1:]
        circle = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
        circle[circle[:, 2] < -1e-9] = np.nan
        panel.plot(*projected(circle).T, color=MIRRORS, linewidth=0.7, zorder=1)
    panel.add_patch(Circle((0, 0), 1, fill=False, color=RIM, linewidth=1.0, zorder=2))
    axes = zone_axes(laue_class, COUNT)
    images = upper_equivalents(axes, laue_class).reshape(-1, 3)
    parts = 2 * len(laue_rotations(laue_class))
    size = 14 / parts**0.17  # smaller where they stand closer
    panel.scatter(*projected(images).T, s=size / 3, color=EQUIVALENTS, linewidths=0, zorder=3)
    panel.scatter(*projected(in_drawn_zone(axes, laue_class)).T, s=size, color=AXES, linewidths=0, zorder=4)
    symbol = laue_class.replace("-3", r"$\bar{3}$").replace("-1", r"$\bar{1}$")
    panel.set_title(symbol, fontsize=13, pad=18)
    panel.text(0, 1.07, f"{SYSTEMS[laue_class]}, 1/{parts} of the sphere", ha="center", fontsize=9, color=RIM)
    panel.set(xlim=(-1.03, 1.03), ylim=(-1.03, 1.03), aspect="equal")
    panel.axis("off")


def main() -> None:
    """Draw one disc a class."""
    figure, panels = plt.subplots(3, 4, figsize=(12, 10.2), layout="constrained")
    for panel, laue_class in zip(panels.flat, LAUE_CLASSES, strict=True):
        draw(panel, laue_class)
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", markersize=5, color=AXES, markeredgewidth=0),
        plt.Line2D([], [], marker="o", linestyle="", markersize=3.5, color=EQUIVALENTS, markeredgewidth=0),
        plt.Rectangle((0, 0), 1, 1, color=ZONE, linewidth=0),
        plt.Line2D([], [], color=MIRRORS, linewidth=1),
    ]
    names = [f"the {COUNT} zone axes", "their equivalents", "fundamental zone", "mirror planes"]
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
    figure.savefig(TARGET, dpi=100)


if __name__ == "__main__":
    main()
