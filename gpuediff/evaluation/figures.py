"""Pictures of an evaluation; drawing only, what is drawn is computed in `metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters
from gpuediff.evaluation.metrics import Answers, Evaluation, Scores
from gpuediff.hierarchy.labels import crystal_systems_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LENGTHS = ("a", "b", "c")
COLOURS = {"a": "#0072b2", "b": "#e69f00", "c": "#009e73"}  # Okabe & Ito, safe for colour-blind readers


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Draw the confusion of crystal systems, for single patterns and for aggregates side by side."""
    panels = [("single patterns", evaluation.single)]
    if evaluation.aggregate is not None:
        panels.append((f"{evaluation.aggregate_size} patterns of one material", evaluation.aggregate))
    figure = Figure(figsize=(5.4 * len(panels), 5.2), layout="constrained")
    figure.suptitle(f"Crystal system of unseen materials, protocol “{evaluation.protocol}”")
    for axes, (title, scores) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_confusion(axes, title, scores, evaluation.systems)
    return figure


def _draw_confusion(axes: Axes, title: str, scores: Scores, systems: tuple[str, ...]) -> None:
    counts = np.array(scores.confusion, dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(share.shape):
        if totals[row, 0]:
            colour = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, f"{share[row, column]:.0%}", ha="center", va="center", color=colour, fontsize=9)
    labels = [f"{name}\n(n = {int(total)})" for name, total in zip(systems, totals[:, 0], strict=True)]
    axes.set_xticks(range(len(systems)), systems, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(systems)), labels, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{title}: {scores.accuracy:.1%} ± {scores.accuracy_error:.1%} right", fontsize=10)


def lattice_figure(evaluation: Evaluation, answers: dict[str, Answers]) -> Figure:
    """Draw predicted against true lattice lengths per crystal system, with the system given."""
    systems = evaluation.systems
    figure = Figure(figsize=(2.7 * len(systems), 2.9 * len(answers)), layout="constrained")
    figure.suptitle(f"Lattice lengths of unseen materials, crystal system given, protocol “{evaluation.protocol}”")
    grid = figure.subplots(len(answers), len(systems), squeeze=False)
    titles = {"single": "one pattern", "aggregate": f"{evaluation.aggregate_size} patterns"}
    for row, (kind, answer) in zip(grid, answers.items(), strict=True):
        scores = evaluation.single if kind == "single" else evaluation.aggregate
        true_system = crystal_systems_of(answer.space_group_number)
        for axes, system in zip(row, systems, strict=True):
            rows = true_system == system
            _draw_lattice(axes, answer, rows, system)
            axes.set_title(f"{system}, {titles[kind]}", fontsize=9)
            errors = scores.lattice_error.get(system, {}) if scores else {}
            told = "\n".join(f"{name}: {errors[name]:.2f} Å" for name in LENGTHS if name in errors)
            axes.text(0.04, 0.96, f"median error\n{told}", transform=axes.transAxes, va="top", fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("true, Å")
    for axes in grid[:, 0]:
        axes.set_ylabel("predicted, Å")
    return figure


def _draw_lattice(axes: Axes, answer: Answers, rows: np.ndarray, system: str) -> None:
    limit = 1.0
    size = 4 if rows.sum() > 200 else 14
    for name in LENGTHS:
        if name not in independent_parameters(system) or not rows.any():
            continue
        column = LATTICE_PARAMETERS.index(name)
        true = answer.lattice[rows, column]
        predicted = answer.predicted_in_true_system.lattice[rows, column]
        limit = max(limit, float(np.percentile(true, 99)), float(np.percentile(predicted, 99)))
        axes.scatter(
            true, predicted, s=size, alpha=0.35, linewidths=0, color=COLOURS[name], label=f"${name}$", rasterized=True
        )
    axes.plot([0, limit], [0, limit], color="0.4", linewidth=0.7)
    axes.set_xlim(0, limit * 1.05)
    axes.set_ylim(0, limit * 1.05)
    axes.set_aspect("equal")
    if rows.any():
        axes.legend(loc="lower right", fontsize=7, frameon=False, handletextpad=0.1)
