"""Pictures of what was learned from and what matters: space groups, materials of each class, features; drawing only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gpuediff.crystals.symmetry import crystal_system
from gpuediff.evaluation.metrics import Evaluation
from gpuediff.evaluation.palette import KINDS, ONE, SIDES
from gpuediff.hierarchy.labels import crystal_systems_of
from gpuediff.settings import CRYSTAL_SYSTEMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPACE_GROUPS_SHOWN = 30
FEATURES_SHOWN = 30
RADIAL = re.compile(r"(abs|arg)_R_(\d+)_(\d+)")
PARTS = {"abs": "magnitude |R|", "arg": "argument arg R"}


def space_group_figure(evaluation: Evaluation) -> Figure:
    """Draw the share of right space groups in each crystal system, which is given, with the number of answers."""
    kinds = evaluation.scores
    systems = [name for name in evaluation.systems if name in evaluation.single.space_group_accuracy]
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(kinds)
    counts = {
        kind: dict(zip(evaluation.systems, np.sum(scores.confusion, axis=1), strict=True))
        for kind, scores in kinds.items()
    }
    for number, (kind, scores) in enumerate(kinds.items()):
        for place, system in enumerate(systems):
            share = scores.space_group_accuracy.get(system)
            if share is None:
                continue
            centre = place + (number - (len(kinds) - 1) / 2) * width
            axes.bar(centre, share, width * 0.94, color=KINDS[kind])
            axes.text(centre, share + 0.01, f"{share:.0%}", ha="center", va="bottom", fontsize=8)
        label = f"{evaluation.titles[kind]}, all systems: {scores.space_group_accuracy_overall:.1%}"
        axes.bar(0, 0, color=KINDS[kind], label=label)
    told = [f"{name}\n(n = {' / '.join(f'{counts[kind][name]:,}' for kind in kinds)})" for name in systems]
    axes.set_xticks(range(len(systems)), told, fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.set(ylim=(0, 1.08), ylabel="share of right space groups")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(kinds), fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def class_figure(train: np.ndarray, test: np.ndarray) -> Figure:
    """Draw how many materials each crystal system has, and the most frequent space groups.

    Parameters
    ----------
    train, test : array, shape (materials,), integers
        Space group number of every material.
    """
    sides = {"train": np.asarray(train), "test": np.asarray(test)}
    everything = np.concatenate(list(sides.values()))
    present = np.unique(crystal_systems_of(everything))
    systems: list[str] = [name for name in CRYSTAL_SYSTEMS if name in present]
    numbers, counts = np.unique(everything, return_counts=True)
    common = numbers[np.argsort(-counts, kind="stable")][:SPACE_GROUPS_SHOWN]
    figure = Figure(figsize=(9.6, 6.4), layout=ConstrainedLayoutEngine(h_pad=0.12))
    upper, lower = figure.subplots(2, 1)
    _draw_counts(upper, systems, {side: _count(crystal_systems_of(of), systems) for side, of in sides.items()})
    groups = {side: _count(of, common) for side, of in sides.items()}
    _draw_counts(lower, [str(number) for number in common], groups)
    upper.set_title("crystal systems", fontsize=10)
    shown = f"the {len(common)} most frequent of {len(numbers)}" if len(numbers) > len(common) else "all"
    lower.set_title(f"space groups, by number: {shown}", fontsize=10)
    upper.legend(fontsize=8, frameon=False)
    _name_systems(lower, [crystal_system(int(number)) for number in common], np.max(list(groups.values()), axis=0))
    return figure


def importance_figure(importances: Mapping[str, float]) -> Figure:
    """Draw the features that matter most, and ring by order where they are those of the radial-angular basis.

    Parameters
    ----------
    importances : mapping of str to float
        Share of what all splits gained in training, by the name of the column.
    """
    names = sorted(importances, key=lambda name: -importances[name])[:FEATURES_SHOWN]
    grids = radial_grids(importances)
    figure = Figure(figsize=(9.6 if grids else 6.0, 6.0), layout="constrained")
    axes, *maps = figure.subplots(1, 1 + len(grids), width_ratios=[1.5] + [1] * len(grids), squeeze=False)[0]
    axes.barh(range(len(names)), [importances[name] for name in names], color=ONE, height=0.75)
    axes.set_yticks(range(len(names)), names, fontsize=7.5, family="monospace")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("importance", fontsize=9)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=2))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"the first {len(names)} of {len(importances):,} features", fontsize=10)
    brightest = max((float(np.nanmax(grid)) for grid in grids.values()), default=0.0) or 1.0
    for axis, (part, grid) in zip(maps, grids.items(), strict=True):
        picture = axis.imshow(grid, origin="lower", aspect="auto", cmap="viridis", vmin=0, vmax=brightest)
        axis.set_title(f"{PARTS[part]}: {np.nansum(grid):.0%} of all", fontsize=10)
        axis.set_xlabel("angular order m", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(9, integer=True))
    if maps:
        maps[0].set_ylabel("ring n", fontsize=9)
        bar = figure.colorbar(picture, ax=maps[-1], fraction=0.08, format=PercentFormatter(1, decimals=2))
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_linewidth(0.5)
    return figure


def radial_grids(importances: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Sort columns such as abs_R_03_07 (ring 3, order 7) into one grid for magnitudes and one for arguments.

    Returns
    -------
    dict of "abs", "arg" to array, shape (rings, orders)
        Of one shape; NaN where there is no such column. Empty if there is none at all.
    """
    cells: dict[str, dict[tuple[int, int], float]] = {}
    for name, value in importances.items():
        if match := RADIAL.fullmatch(name):
            cells.setdefault(match[1], {})[int(match[2]), int(match[3])] = value
    places = np.array([place for part in cells.values() for place in part])
    grids = {}
    for part in sorted(cells):
        grids[part] = np.full(places.max(axis=0) + 1, np.nan)
        for place, value in cells[part].items():
            grids[part][place] = value
    return grids


def _count(values: np.ndarray, classes: list[str] | np.ndarray) -> np.ndarray:
    return np.array([np.count_nonzero(values == one) for one in classes])


def _draw_counts(axes: Axes, labels: list[str], counts: dict[str, np.ndarray]) -> None:
    for number, (side, count) in enumerate(counts.items()):
        places = np.arange(len(labels)) + (number - 0.5) * 0.4
        bars = axes.bar(places, count, 0.38, color=SIDES[side], label=f"{side}: {count.sum():,} materials shown")
        if len(labels) <= len(CRYSTAL_SYSTEMS):
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=1)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlim(-0.7, len(labels) - 0.3)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("materials", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _name_systems(axes: Axes, systems: list[str], heights: np.ndarray) -> None:
    """Write the crystal system of each bar above it, upright."""
    for place, (system, height) in enumerate(zip(systems, heights, strict=True)):
        axes.annotate(system, (place, height), (0, 3), textcoords="offset points", rotation=90, ha="center", fontsize=7)
    axes.set_ylim(0, heights.max() * 1.35)
