"""Pictures of scan maps; drawing only, what is drawn is computed in `maps`, `particles` and `virtual`.

All are one or two columns of a journal wide, in fonts of 7 and 8 points. Distributions, patterns and the comparison
with simulated features have modules of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS
from gpuediff.durable import complete_or_absent
from gpuediff.scans.figures import drawing, legends
from gpuediff.scans.figures.distributions import draw_fractions
from gpuediff.scans.figures.drawing import COLOURS, DOUBLE, NOT_PREDICTED, SINGLE, in_print
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.particles import Particles, innermost

# Paul Tol's light scheme: told apart by colour-blind readers, and still when darkened.
GROUP_COLOURS = ("#77AADD", "#EE8866", "#EEDD88", "#44BB99", "#FFAABB", "#BBCC33", "#99DDFF")
OTHER_GROUPS = "#AAAAAA"
LENGTHS = ("a", "b", "c")
FORMATS = (".png", ".pdf")


@in_print
def system_map(maps: ScanMaps) -> Figure:
    """Draw the crystal system of every probe position: colour = system, brightness = filtered difference confidence."""
    maps = drawing.lying(maps)
    figure = _one_map_figure(maps, beside=1.25)
    drawing.draw_systems(figure.subplots(), maps, "crystal system")
    legends.system_legend(figure, maps)
    return figure


@in_print
def space_group_map(maps: ScanMaps) -> Figure:
    """Draw the space group of every probe position: colour = space group, brightness = its share of the trees.

    The most frequent groups have a colour each, all others one grey. The legend gives symbol, number, and the share of
    the probe positions that have a space group.
    """
    maps = drawing.lying(maps)
    number = maps.space_group_number
    there = number > 0
    groups, counts = np.unique(number[there], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [int(group) for group in groups[order[: len(GROUP_COLOURS)]]]
    members = [(number == group, colour) for group, colour in zip(shown, GROUP_COLOURS, strict=False)]
    named = [
        (colour, f"{drawing.space_group_symbol(group)} ({group}), {_share(inside, there)}")
        for group, (inside, colour) in zip(shown, members, strict=True)
    ]
    rest = there & ~np.isin(number, shown)
    if rest.any():
        members.append((rest, OTHER_GROUPS))
        named.append((OTHER_GROUPS, f"{len(groups) - len(shown)} other, {_share(rest, there)}"))

    brightest = drawing.full_brightness(maps.space_group_confidence[there])
    figure = _one_map_figure(maps, beside=1.4)
    axes = figure.subplots()
    drawing.show(axes, maps, drawing.coloured(maps.shape, members, maps.space_group_confidence / brightest))
    axes.set_title("space group")
    meaning = f"dark to bright:\nshare of the trees\n0 to {brightest:.2g}"
    legends.ramp_legend(figure, maps, named, meaning, unanswered=not there.all())
    return figure


@in_print
def confidence_map(maps: ScanMaps) -> Figure:
    """Draw the share of the trees that agree, and the difference confidence before and after filtering."""
    panels = (
        ("confidence (share of the trees)", maps.confidence),
        ("difference confidence", maps.difference_confidence),
        ("difference confidence, filtered", maps.filtered_difference_confidence),
    )
    return _value_maps(maps, panels, cmap="cividis", low=0.0)


@in_print
def trust_maps(maps: ScanMaps) -> Figure:
    """Draw what speaks for and against an answer, each on the scale 0 .. 1.

    The calibrated probability of the system before filtering, the probability of several grains in one pattern, and
    the novelty: how rare a pattern as far from the simulated ones is among those of unseen materials.
    """
    panels = (
        ("probability of the system", maps.probability),
        ("probability of several grains", maps.several_grains),
        ("novelty", maps.novelty),
    )
    return _value_maps(maps, panels, cmap="cividis", low=0.0, high=1.0)


@in_print
def lattice_maps(maps: ScanMaps) -> Figure:
    """Draw a, b and c of every probe position, each on a scale of its own."""
    panels = [(f"${name}$ (Å)", _length(maps.lattice, name)) for name in LENGTHS]
    return _value_maps(maps, panels, cmap="viridis", title=_lattice_title(maps))


@in_print
def lattice_interval_maps(maps: ScanMaps) -> Figure:
    """Draw how wide the 68% interval of a, b and c is at every probe position, each on a scale of its own."""
    panels = [(f"interval of ${name}$ (Å)", _length(maps.lattice_high - maps.lattice_low, name)) for name in LENGTHS]
    return _value_maps(maps, panels, cmap="magma", low=0.0, title=f"width of the 68% intervals, {_lattice_title(maps)}")


@in_print
def virtual_image_figure(maps: ScanMaps) -> Figure:
    """Draw the intensity of the direct beam, and that of all other peaks, as the scan stores them."""
    panels = (("bright field (direct beam)", maps.bright_field), ("dark field (all other peaks)", maps.dark_field))
    return _value_maps(maps, panels, cmap="gray", title="intensity, as stored in the scan")


@in_print
def particle_map(maps: ScanMaps, particles: Particles, *, numbered: int = 20) -> Figure:
    """Draw the particles in the colour of their system, outlined, the largest ones numbered as in their table."""
    maps, labels = drawing.lying(maps), particles.labels
    labels = labels.reshape(maps.shape)
    figure = _one_map_figure(maps, beside=1.0)
    axes = figure.subplots()
    colours = [COLOURS[str(system)] for system in particles.crystal_system]
    palette = np.array([to_rgb(colour) for colour in (NOT_PREDICTED, *colours)])
    drawing.show(axes, maps, palette[labels])
    axes.set_title("1 particle" if len(particles) == 1 else f"{len(particles):,} particles")
    systems = list(dict.fromkeys(str(system) for system in particles.crystal_system))
    named = [(COLOURS[system], system) for system in systems]
    legends.ramp_legend(figure, maps, named, "", unanswered=bool((labels == 0).any()))
    if drawing.is_line(maps):
        return figure
    drawing.draw_outlines(axes, labels)
    halo = [withStroke(linewidth=1.5, foreground="white")]
    for number, (row, column) in enumerate(innermost(labels, numbered), start=1):
        axes.annotate(
            str(number), (column, row), ha="center", va="center", fontsize=7, fontweight="bold", path_effects=halo
        )
    return figure


@in_print
def summary(maps: ScanMaps) -> Figure:
    """Draw everything that a reader wants first: systems, confidence, shares, and the lattice."""
    maps = drawing.lying(maps)
    figure, (systems, confidence, fractions, *lengths) = _summary_figure(maps)
    drawing.draw_systems(systems, maps, "crystal system, bright = confident")
    drawing.draw_values(confidence, maps, maps.confidence, "confidence", cmap="cividis", low=0.0, scale=False)
    draw_fractions(fractions, maps)
    for axes, name in zip(lengths, LENGTHS, strict=True):
        drawing.draw_values(axes, maps, _length(maps.lattice, name), f"${name}$ (Å)", cmap="viridis", scale=False)
    return figure


def _summary_figure(maps: ScanMaps) -> tuple[Figure, list[Axes]]:
    """Make the axes of six panels: two rows of three, or one below the other for a line scan."""
    rows, _, height = drawing.panel_grid(maps, 3)
    if rows > 1:
        # below each other: the strip or map of the systems, the confidence, the bars
        upper_heights: tuple[float, ...] = (height, height, max(height, 2.0))
    else:
        upper_heights = (max(height, 2.1),)
    heights = sum(upper_heights), rows * height
    figure = Figure(figsize=(DOUBLE, sum(heights) + 0.3), layout="constrained")
    figure.suptitle(_source_title(maps), color="0.35")
    # Each part with a layout of its own, because the names beside the bars would push the maps below them aside.
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    first = upper.subplots(rows, 3 // rows, squeeze=False, height_ratios=upper_heights)
    second = lower.subplots(rows, 3 // rows, squeeze=False, sharex=drawing.is_line(maps))
    return figure, [*first.flat, *second.flat]


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 300) -> list[Path]:
    """Write a figure, every file complete or not at all.

    Parameters
    ----------
    figure : Figure
    path : str or Path
        With the suffix .png, .pdf or .svg that one file; without one, PNG and PDF.
    dpi : int
        Dots per inch of what is drawn in dots.

    Returns
    -------
    list of Path
        The files written.
    """
    path = Path(path)
    files = [path] if path.suffix in (*FORMATS, ".svg") else [path.with_name(path.name + suffix) for suffix in FORMATS]
    # Type 42: journals refuse the outlines of Type 3, and text stays text.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        for file in files:
            complete_or_absent(file, lambda temporary: figure.savefig(temporary, dpi=dpi))
    return files


def _value_maps(
    maps: ScanMaps,
    panels: Sequence[tuple[str, np.ndarray]],
    *,
    cmap: str,
    low: float | None = None,
    high: float | None = None,
    title: str = "",
) -> Figure:
    lain = drawing.lying(maps)
    figure, grid = drawing.grid_figure(lain, len(panels), title=title)
    for number, (axes, (name, values)) in enumerate(zip(grid, panels, strict=True)):
        values = values.reshape(lain.shape)
        drawing.draw_values(axes, lain, values, name, cmap=cmap, low=low, high=high, scale=number == 0)
    return figure


def _length(lattice: np.ndarray, name: str) -> np.ndarray:
    return lattice[..., LATTICE_PARAMETERS.index(name)]


def _share(part: np.ndarray, whole: np.ndarray) -> str:
    share = part.sum() / whole.sum()
    return "< 1%" if share < 0.005 else f"{share:.0%}"


def _one_map_figure(maps: ScanMaps, *, beside: float) -> Figure:
    """Make a figure of one column's width for a map, with room for a legend beside it, inches, or below a flat one."""
    if drawing.is_line(maps):
        return Figure(figsize=(SINGLE, drawing.STRIP + 1.2), layout="constrained")
    if legends.legend_below(maps):
        return Figure(figsize=(SINGLE, (SINGLE - 0.4) * drawing.map_aspect(maps) + 1.2), layout="constrained")
    height = (SINGLE - beside - 0.4) * drawing.map_aspect(maps) + 0.6
    return Figure(figsize=(SINGLE, max(height, 1.9)), layout="compressed")


def _source_title(maps: ScanMaps) -> str:
    file, _, dataset = maps.source.partition(": ")
    return f"{Path(file).name}, {dataset}" if dataset else file


def _lattice_title(maps: ScanMaps) -> str:
    system = maps.options.get("lattice_system")
    return f"lattice by the models of {system or 'each probe position’s own system'}"
