"""Pictures of lattice parameters, with the true crystal system given; drawing only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters
from gpuediff.evaluation.lattice_errors import LENGTHS, absolute_errors
from gpuediff.evaluation.metrics import Answers, Evaluation
from gpuediff.evaluation.palette import AXES, REFERENCE
from gpuediff.hierarchy.labels import crystal_systems_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN_MAX = 2000  # answers of a crystal system that are drawn as points, taken at even steps
ERROR_BINS = np.logspace(-3, 1.5, 37)  # Å; what is outside counts in the outermost
COLUMNS = 4


def lattice_figure(evaluation: Evaluation, answers: dict[str, Answers]) -> Figure:
    """Draw predicted against true lattice lengths, a panel for each crystal system."""

    def draw(axes: Axes, kind: str, answer: Answers, rows: np.ndarray, system: str) -> None:
        _draw_lengths(axes, answer, rows, system)
        errors = evaluation.scores[kind].lattice_error[system]
        told = [f"{name} {_told(errors[name])}" for name in LENGTHS if name in errors]
        axes.text(0.04, 0.97, "\n".join(["median error", *told]), transform=axes.transAxes, va="top", fontsize=7)

    return _panels(evaluation, answers, draw, "true length (Å)", "predicted (Å)", height=2.75)


def lattice_error_figure(evaluation: Evaluation, answers: dict[str, Answers]) -> Figure:
    """Draw how the errors of the lattice lengths are distributed, a panel for each crystal system."""

    def draw(axes: Axes, kind: str, answer: Answers, rows: np.ndarray, system: str) -> None:
        _draw_errors(axes, answer, rows, system)
        without = 1 - evaluation.scores[kind].lattice_closeness[system].found
        if without:
            told = f"{without:.0%} without"
            axes.text(0.98, 0.98, told, transform=axes.transAxes, ha="right", va="top", fontsize=7)

    return _panels(evaluation, answers, draw, "|predicted − true| (Å)", "share of answers", height=2.3)


def _panels(
    evaluation: Evaluation,
    answers: dict[str, Answers],
    draw: Callable[[Axes, str, Answers, np.ndarray, str], None],
    xlabel: str,
    ylabel: str,
    *,
    height: float,
) -> Figure:
    """Lay out a panel for each crystal system with answers, single patterns above aggregates."""
    systems = [name for name in evaluation.systems if name in evaluation.single.recall]
    columns = min(COLUMNS, len(systems)) if len(systems) != 6 else 3
    lines = math.ceil(len(systems) / columns)
    figure = Figure(figsize=(max(2.5 * columns, 4.0), (height * lines + 0.3) * len(answers)), layout="constrained")
    parts = figure.subfigures(len(answers), 1, squeeze=False)[:, 0]
    for part, (kind, answer) in zip(parts, answers.items(), strict=True):
        part.suptitle(f"answers from {evaluation.titles[kind]}", fontsize=11)
        true_system = crystal_systems_of(answer.space_group_number)
        grid = part.subplots(lines, columns, squeeze=False)
        for number, axes in enumerate(grid.flat):
            if number >= len(systems) or not (true_system == systems[number]).any():
                axes.set_axis_off()
                continue
            rows = np.flatnonzero(true_system == systems[number])
            draw(axes, kind, answer, rows, systems[number])
            axes.set_title(f"{systems[number]} (n = {len(rows):,})", fontsize=9)
            axes.tick_params(labelsize=8)
            if number + columns >= len(systems):
                axes.set_xlabel(xlabel, fontsize=9)
            if number % columns == 0:
                axes.set_ylabel(ylabel, fontsize=9)
    return figure


def _draw_lengths(axes: Axes, answer: Answers, rows: np.ndarray, system: str) -> None:
    drawn = rows[:: math.ceil(len(rows) / DRAWN_MAX)]
    limit = 1.0
    for name in _lengths(system):
        column = LATTICE_PARAMETERS.index(name)
        true = answer.lattice[drawn, column]
        predicted = answer.predicted_in_true_system.lattice[drawn, column]
        known = np.isfinite(predicted)
        if known.any():
            limit = max(limit, float(np.percentile(true, 99)), float(np.percentile(predicted[known], 99)))
        size = 4 if len(drawn) > 200 else 12
        label = name
        axes.scatter(true, predicted, s=size, alpha=0.4, linewidths=0, color=AXES[name], label=label, rasterized=True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True))
    axes.plot([0, limit * 1.05], [0, limit * 1.05], color=REFERENCE, linewidth=0.7)
    axes.set(xlim=(0, limit * 1.05), ylim=(0, limit * 1.05), aspect="equal")
    legend = axes.legend(loc="lower right", fontsize=8, frameon=False, handletextpad=0.0, borderpad=0.1, markerscale=2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _draw_errors(axes: Axes, answer: Answers, rows: np.ndarray, system: str) -> None:
    highest, medians = 0.0, {}
    errors = absolute_errors(answer.predicted_in_true_system.lattice[rows], answer.lattice[rows])
    for name in _lengths(system):
        error = errors[:, LATTICE_PARAMETERS.index(name)]
        found = error[np.isfinite(error)]
        inside = np.clip(found, ERROR_BINS[0] * 1.0001, ERROR_BINS[-1] * 0.9999)
        weights = np.full(len(found), 1 / len(error))
        shares, _ = np.histogram(inside, ERROR_BINS, weights=weights)
        axes.stairs(shares, ERROR_BINS, color=AXES[name], linewidth=1.2, label=name)
        highest = max(highest, float(shares.max()))
        medians[name] = float(np.median(error))
    for name, median in medians.items():
        if np.isfinite(median):
            axes.vlines(median, 0, highest, color=AXES[name], linewidth=0.9, linestyle=":")
    # room above for the legend and the remark; minor ticks would cost most of the time of drawing
    axes.set(xscale="log", xlim=(ERROR_BINS[0], ERROR_BINS[-1]), ylim=(0, 1.3 * highest or 1.0))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", fontsize=8, frameon=False, handlelength=1.2, borderpad=0.1)


def _lengths(system: str) -> list[str]:
    return [name for name in LENGTHS if name in independent_parameters(system)]


def _told(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.2f} Å"
