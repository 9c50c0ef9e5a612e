"""Pictures of how answers are distributed over a scan: shares of the crystal systems, histograms of the lattice."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters
from gpuediff.scans.figures.drawing import COLOURS, DOUBLE, SINGLE, in_print, shown_systems
from gpuediff.scans.maps import ScanMaps

SYMBOLS = {"a": "$a$", "b": "$b$", "c": "$c$", "alpha": "$\\alpha$", "beta": "$\\beta$", "gamma": "$\\gamma$"}
BINS_MAX = 40
ROW = 1.0  # inches
LEGEND_ROOM = 0.36  # of the height of the bars


@in_print
def fraction_figure(maps: ScanMaps) -> Figure:
    """Draw the share of each crystal system: of the patterns, weighted by confidence, and after filtering."""
    figure = Figure(figsize=(SINGLE, 0.75 + 0.36 * len(maps.systems)), layout="constrained")
    draw_fractions(figure.subplots(), maps)
    return figure


def draw_fractions(axes: Axes, maps: ScanMaps) -> None:
    """Draw three bars a system, told apart by hatching, so that colour keeps its meaning."""
    kinds = (
        ("patterns", maps.raw_fractions(), 1.0, ""),
        ("weighted by confidence", maps.weighted_fractions(), 0.65, "//////"),
        ("after filtering", maps.filtered_fractions(), 0.3, ""),
    )
    highest = np.nan_to_num([shares for _, shares, _, _ in kinds]).max(axis=0)
    order = np.argsort(-np.nan_to_num(kinds[0][1]), kind="stable")
    order = order[highest[order] > 0] if highest.any() else order
    height = 0.27
    for number, (_, shares, alpha, hatch) in enumerate(kinds):
        for line, index in enumerate(order):
            share = float(np.nan_to_num(shares[index]))
            colour = (*to_rgb(COLOURS[maps.systems[index]]), alpha)
            place = line + (number - 1) * height
            axes.barh(place, share, height * 0.92, color=colour, hatch=hatch, edgecolor="0.25", lw=0.4)
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=("0.45", alpha), hatch=hatch, edgecolor="0.25", lw=0.4)
        for _, _, alpha, hatch in kinds
    ]
    axes.legend(
        handles,
        [kind[0] for kind in kinds],
        loc="upper right",
        borderaxespad=0.0,
        handlelength=1.4,
    )
    axes.set_yticks(range(len(order)), [maps.systems[index] for index in order])
    # The legend stands above the bars; beside the short ones there is not always room.
    axes.set_ylim(len(order) - 0.4, -0.6 - LEGEND_ROOM * len(order))
    axes.spines["left"].set_bounds(-0.5, len(order) - 0.5)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("share of each crystal system")
    if not highest.any():
        axes.text(0.5, 0.35, "no pattern was predicted", transform=axes.transAxes, ha="center", color="0.35")


@in_print
def lattice_histograms(maps: ScanMaps) -> Figure:
    """Draw the distribution of every lattice parameter that is free, a row for each crystal system.

    A line and a number mark the median. Values beyond the percentiles 1 and 99 count in the outermost bins. What a
    crystal system fixes is written instead. The rows give the number of probe positions with a lattice, and of how
    many where some have none.
    """
    rows = _rows(maps)
    if not rows:
        figure = Figure(figsize=(SINGLE, 1.0), layout="constrained")
        figure.text(0.5, 0.5, "no probe position has a lattice", ha="center", va="center", color="0.35")
        return figure
    free = {name: independent_parameters(name) for name, _, _ in rows}
    columns = [name for name in LATTICE_PARAMETERS if any(name in names for names in free.values())]
    size = (DOUBLE if len(columns) > 2 else SINGLE, 0.35 + ROW * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (system, lattice, labelled) in zip(grid, rows, strict=True):
        for axes, name in zip(line, columns, strict=True):
            if name in free[system]:
                _draw_histogram(axes, lattice[:, LATTICE_PARAMETERS.index(name)], name, COLOURS[system])
            else:
                _write_fixed(axes, system, name)
        told = f"n = {len(lattice):,}" + (f"\nof {labelled:,}" if labelled > len(lattice) else "")
        line[0].set_ylabel(f"{system}\n{told}", fontsize=7)
    for line, name in zip(grid.T, columns, strict=True):
        lowest = [axes for axes, (system, _, _) in zip(line, rows, strict=True) if name in free[system]][-1]
        lowest.set_xlabel(f"{SYMBOLS[name]} {_unit(name)}")
    figure.supylabel("probe positions", fontsize=8)
    return figure


def _rows(maps: ScanMaps) -> list[tuple[str, np.ndarray, int]]:
    """Each crystal system with lattices, most frequent first; the lattices, (n, 6); its number of probe positions."""
    known = np.isfinite(maps.lattice).all(axis=-1)
    asked = maps.options.get("lattice_system")
    if asked is not None:
        places = [(str(asked), maps.filtered_system >= 0)]
    else:
        places = [(maps.systems[index], maps.filtered_system == index) for index in shown_systems(maps)]
    return [
        (name, maps.lattice[known & inside], int(inside.sum())) for name, inside in places if (known & inside).any()
    ]


def _draw_histogram(axes: Axes, values: np.ndarray, name: str, colour: str) -> None:
    lowest, highest = np.percentile(values, (1, 99)).astype(float)
    if highest - lowest < 1e-6 * abs(highest):
        lowest, highest = lowest - 0.05, highest + 0.05
    bins = int(np.clip(np.sqrt(len(values)), 8, BINS_MAX))
    counts, edges = np.histogram(np.clip(values, lowest, highest), bins, range=(lowest, highest))
    axes.stairs(counts, edges, fill=True, facecolor=colour, edgecolor="0.25", lw=0.4)
    median = float(np.median(values))
    axes.axvline(median, color="black", lw=0.8)
    text = f"median {median:.1f}°" if _unit(name) == "(°)" else f"median {median:.2f} Å"
    axes.set_title(text, loc="right", fontsize=7, pad=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.05 * counts.max())
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _write_fixed(axes: Axes, system: str, name: str) -> None:
    """Write what a parameter is that the crystal system does not leave free, in place of a histogram."""
    value = "= $a$"
    if name not in ("b", "c"):
        value = "120°" if name == "gamma" and system in ("trigonal", "hexagonal") else "90°"
    axes.text(0.5, 0.45, value, transform=axes.transAxes, ha="center", va="center", color="0.5")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _unit(name: str) -> str:
    return "(Å)" if name in ("a", "b", "c") else "(°)"
