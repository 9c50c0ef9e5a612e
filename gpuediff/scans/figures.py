"""Pictures of scan maps; drawing only, what is drawn is computed in `maps` and `particles`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import distance_transform_edt, find_objects

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS
from gpuediff.durable import complete_or_absent
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.particles import Particles

# Okabe & Ito, told apart by colour-blind readers; the two darkest hues go to systems that are rarely neighbours.
COLOURS = {
    "cubic": "#E69F00",
    "hexagonal": "#56B4E9",
    "trigonal": "#009E73",
    "tetragonal": "#F0E442",
    "orthorhombic": "#CC79A7",
    "monoclinic": "#D55E00",
    "triclinic": "#0072B2",
}
NOT_PREDICTED = "#000000"
NO_VALUE = "#D9D9D9"
DIMMEST = 0.35  # brightness at confidence zero, so that the hue can still be told
LENGTHS = ("a", "b", "c")
PANEL = 3.4  # inches, longer side of one map
ANGSTROM_TO = ((1e4, "µm"), (10.0, "nm"), (1.0, "Å"))


def system_map(maps: ScanMaps) -> Figure:
    """Draw the crystal system of every probe position: colour = system, brightness = filtered difference confidence."""
    width, height = _panel_size(maps)
    figure = Figure(figsize=(width + 2.0, height + 0.5), layout="constrained")
    axes, legend = figure.subplots(1, 2, width_ratios=(width, 1.7))
    _draw_systems(axes, maps, "crystal system")
    _draw_system_legend(legend, maps)
    return figure


def confidence_map(maps: ScanMaps) -> Figure:
    """Draw the share of the trees that agree, and the difference confidence before and after filtering."""
    width, height = _panel_size(maps)
    figure = Figure(figsize=(3 * width + 1.5, height + 0.5), layout="constrained")
    panels = (
        ("confidence", maps.confidence),
        ("difference confidence", maps.difference_confidence),
        ("difference confidence, filtered", maps.filtered_difference_confidence),
    )
    for number, (axes, (title, values)) in enumerate(zip(figure.subplots(1, 3), panels, strict=True)):
        _draw_values(axes, maps, values, title, "share of the trees", cmap="cividis", low=0.0)
        if number:
            axes.set_ylabel("")
    return figure


def lattice_maps(maps: ScanMaps) -> Figure:
    """Draw a, b and c of every probe position, each on a scale of its own."""
    width, height = _panel_size(maps)
    figure = Figure(figsize=(3 * width + 1.5, height + 0.8), layout="constrained")
    figure.suptitle(_lattice_title(maps), fontsize=10)
    for number, (axes, name) in enumerate(zip(figure.subplots(1, 3), LENGTHS, strict=True)):
        _draw_length(axes, maps, name)
        if number:
            axes.set_ylabel("")
    return figure


def particle_map(maps: ScanMaps, particles: Particles, *, numbered: int = 20) -> Figure:
    """Draw the particles in the colour of their system, outlined, the largest ones numbered as in their table."""
    width, height = _panel_size(maps)
    figure = Figure(figsize=(width + 0.7, height + 0.5), layout="constrained")
    axes = figure.subplots()
    image = np.zeros((*maps.shape, 3))
    for number, system in enumerate(particles.crystal_system, start=1):
        image[particles.labels == number] = to_rgb(COLOURS[str(system)])
    _show(axes, maps, 0.85 * image)
    _outline(axes, particles.labels)
    halo = [withStroke(linewidth=1.5, foreground="white")]
    for number, box in enumerate(find_objects(particles.labels)[:numbered], start=1):
        # the probe position farthest from the edge, because a centroid may lie outside
        depth = distance_transform_edt(np.pad(particles.labels[box] == number, 1))
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        place = (column - 1 + box[1].start, row - 1 + box[0].start)
        axes.annotate(str(number), place, ha="center", va="center", fontsize=7, fontweight="bold", path_effects=halo)
    axes.set_title(f"{len(particles)} particles", fontsize=10)
    return figure


def summary(maps: ScanMaps) -> Figure:
    """Draw everything that a reader wants first: systems, confidence, shares, and the lattice."""
    width, height = _panel_size(maps)
    figure = Figure(figsize=(3 * width + 2.6, 2 * height + 1.4), layout="constrained")
    figure.suptitle(_source_title(maps), fontsize=9, color="0.35")
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    systems, confidence, fractions = upper.subplots(1, 3)
    _draw_systems(systems, maps, "crystal system, bright = confident")
    _draw_values(
        confidence, maps, maps.confidence, "confidence of one pattern", "share of the trees", cmap="cividis", low=0.0
    )
    _draw_fractions(fractions, maps)
    lengths = lower.subplots(1, 3)
    for axes, name in zip(lengths, LENGTHS, strict=True):
        _draw_length(axes, maps, name)
    for axes in (confidence, *lengths[1:]):
        axes.set_ylabel("")
    return figure


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 200) -> None:
    """Write a figure as PNG, PDF or SVG, by the suffix, complete or not at all."""
    complete_or_absent(Path(path), lambda temporary: figure.savefig(temporary, dpi=dpi))


def _panel_size(maps: ScanMaps) -> tuple[float, float]:
    ny, nx = maps.shape
    longest = max(ny, nx)
    return max(1.6, PANEL * nx / longest), max(1.6, PANEL * ny / longest)


def _source_title(maps: ScanMaps) -> str:
    file, _, dataset = maps.source.partition(": ")
    return f"{Path(file).name}, {dataset}" if dataset else file


def _lattice_title(maps: ScanMaps) -> str:
    system = maps.options.get("lattice_system")
    return f"lattice by the models of {system or 'each probe position’s own system'}"


def _shown_systems(maps: ScanMaps) -> list[int]:
    """Systems that some probe position has, most frequent first."""
    counts = np.bincount(maps.filtered_system[maps.filtered_system >= 0], minlength=len(maps.systems))
    return [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]


def _full_brightness(maps: ScanMaps) -> float:
    """Filtered difference confidence that is drawn at full brightness."""
    shown = maps.filtered_difference_confidence[maps.filtered_system >= 0]
    return float(np.percentile(shown, 98)) if shown.size else 1.0


def _brightness(share: np.ndarray) -> np.ndarray:
    return DIMMEST + (1 - DIMMEST) * np.clip(share, 0, 1)


def _draw_systems(axes: Axes, maps: ScanMaps, title: str) -> None:
    image = np.zeros((*maps.shape, 3))
    image[...] = to_rgb(NOT_PREDICTED)
    brightness = _brightness(np.nan_to_num(maps.filtered_difference_confidence) / _full_brightness(maps))
    for index, system in enumerate(maps.systems):
        positions = maps.filtered_system == index
        image[positions] = brightness[positions, None] * np.array(to_rgb(COLOURS[system]))
    _show(axes, maps, image)
    axes.set_title(title, fontsize=10)


def _draw_system_legend(axes: Axes, maps: ScanMaps) -> None:
    """Draw one strip a system, from the least to the largest confidence."""
    axes.set_axis_off()
    systems = _shown_systems(maps)
    ramp = _brightness(np.linspace(0, 1, 64))[None, :, None]
    for line, index in enumerate(systems):
        colour = np.array(to_rgb(COLOURS[maps.systems[index]]))
        axes.imshow(ramp * colour, extent=(0, 1, -line - 0.36, -line + 0.36), aspect="auto", interpolation="bilinear")
        axes.text(1.08, -line, maps.systems[index], va="center", fontsize=9)
    bottom = -len(systems) + 0.4
    axes.text(0, bottom, "0", va="top", ha="left", fontsize=8)
    axes.text(1, bottom, f"{_full_brightness(maps):.2f}", va="top", ha="right", fontsize=8)
    axes.text(0, bottom - 0.42, "difference\nconfidence,\nfiltered", va="top", ha="left", fontsize=8)
    axes.add_patch(Rectangle((0, bottom - 2.72), 1, 0.72, color=NOT_PREDICTED))
    axes.text(1.08, bottom - 2.36, "no answer", va="center", fontsize=9)
    axes.set_xlim(0, 2.6)
    axes.set_ylim(min(bottom - 2.9, -9.0), 0.6)


def _draw_values(
    axes: Axes, maps: ScanMaps, values: np.ndarray, title: str, label: str, *, cmap: str, low: float | None = None
) -> None:
    finite = values[np.isfinite(values)]
    limits = np.percentile(finite, (2, 98)) if finite.size else np.array([0.0, 1.0])
    picture = _show(axes, maps, values, cmap=cmap, vmin=limits[0] if low is None else low, vmax=limits[1])
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.85, pad=0.03, aspect=18)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.locator = MaxNLocator(5)
    bar.outline.set_linewidth(0.5)
    axes.set_title(title, fontsize=10)


def _draw_length(axes: Axes, maps: ScanMaps, name: str) -> None:
    values = maps.lattice[..., LATTICE_PARAMETERS.index(name)]
    _draw_values(axes, maps, values, f"lattice parameter ${name}$", f"${name}$ (Å)", cmap="viridis")


def _draw_fractions(axes: Axes, maps: ScanMaps) -> None:
    """Draw three bars a system, told apart by hatching, so that colour keeps its meaning."""
    kinds = (
        ("patterns", maps.raw_fractions(), 1.0, ""),
        ("weighted by confidence", maps.weighted_fractions(), 0.65, "///"),
        ("probe positions after filtering", maps.filtered_fractions(), 0.35, ""),
    )
    order = np.argsort(-np.nan_to_num(kinds[0][1]), kind="stable")
    height = 0.26
    for number, (_, shares, alpha, hatch) in enumerate(kinds):
        for line, index in enumerate(order):
            share = float(np.nan_to_num(shares[index]))
            colour = COLOURS[maps.systems[index]]
            place = line + (number - 1) * height
            axes.barh(
                place, share, height * 0.92, color=(*to_rgb(colour), alpha), hatch=hatch, edgecolor="0.25", lw=0.5
            )
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=("0.45", alpha), hatch=hatch, edgecolor="0.25", lw=0.5)
        for _, _, alpha, hatch in kinds
    ]
    axes.legend(handles, [kind[0] for kind in kinds], fontsize=7, frameon=False, loc="lower right")
    axes.set_yticks(range(len(order)), [maps.systems[index] for index in order], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("share of patterns or labels", fontsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("fractions", fontsize=10)


def _show(axes: Axes, maps: ScanMaps, image: np.ndarray, **options: Any) -> AxesImage:
    """Show an image over the probe positions, with a scale bar where the step size is known, else with axes."""
    axes.set_facecolor(NO_VALUE)
    picture = axes.imshow(image, interpolation="nearest", **options)
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
    if maps.step_size is None:
        axes.set_xlabel("probe position, column", fontsize=9)
        axes.set_ylabel("row", fontsize=9)
        axes.tick_params(labelsize=8, width=0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        _draw_scale_bar(axes, maps.shape, maps.step_size)
    return picture


def scale_bar(width: float) -> tuple[float, str]:
    """Choose a scale bar for an image.

    Parameters
    ----------
    width : float
        Of the image, Å.

    Returns
    -------
    length : float
        1, 2 or 5 times a power of ten of its unit, at most a third of the width; Å.
    text : str
        The length with its unit.
    """
    largest = width / 3
    factor, unit = next(((factor, unit) for factor, unit in ANGSTROM_TO if largest >= factor), ANGSTROM_TO[-1])
    power = 10.0 ** np.floor(np.log10(largest / factor))
    value = max(step * power for step in (1, 2, 5) if step * power <= largest / factor * (1 + 1e-9))
    return float(value * factor), f"{value:g} {unit}"


def _draw_scale_bar(axes: Axes, shape: tuple[int, int], step_size: float) -> None:
    """Draw the bar below the image, where it hides nothing."""
    length, text = scale_bar(shape[1] * step_size)
    part = length / (shape[1] * step_size)
    bar = Line2D((0, part), (-0.035, -0.035), color="black", linewidth=2.5, solid_capstyle="butt")
    bar.set(transform=axes.transAxes, clip_on=False)
    axes.add_artist(bar)
    axes.text(part + 0.03, -0.035, text, transform=axes.transAxes, va="center", fontsize=9)


def _outline(axes: Axes, labels: np.ndarray) -> None:
    """Draw the edges between probe positions of different particles."""
    rows, columns = np.nonzero(labels[:, 1:] != labels[:, :-1])
    axes.vlines(columns + 0.5, rows - 0.5, rows + 0.5, color="white", lw=0.6)
    rows, columns = np.nonzero(labels[1:] != labels[:-1])
    axes.hlines(rows + 0.5, columns - 0.5, columns + 0.5, color="white", lw=0.6)
