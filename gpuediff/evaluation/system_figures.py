"""Pictures of the crystal system's answers; drawing only, what is drawn is computed in `metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from gpuediff.evaluation.calibration import Calibration
from gpuediff.evaluation.metrics import Evaluation, Scores
from gpuediff.evaluation.palette import CONFIDENCES, EMPTY, REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIDENCE_NAMES = {"confidence": "confidence", "probability": "probability"}


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Draw the confusion of crystal systems, for single patterns and for aggregates side by side."""
    figure, panels = _matrix_panels(evaluation)
    for axes, (kind, scores) in zip(panels, evaluation.scores.items(), strict=True):
        counts = np.array(scores.confusion, dtype=float)
        totals = counts.sum(axis=1, keepdims=True)
        share = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
        _draw_matrix(axes, share, evaluation.systems, totals[:, 0], "Blues")
        right = f"{scores.accuracy:.1%} ± {scores.accuracy_error:.1%} right"
        axes.set_title(f"{evaluation.titles[kind]}: {right}", fontsize=10)
    return figure


def confidence_figure(evaluation: Evaluation) -> Figure:
    """Draw the mean confidence of every true and predicted crystal system, as `confusion_figure` the answers."""
    figure, panels = _matrix_panels(evaluation)
    for axes, (kind, scores) in zip(panels, evaluation.scores.items(), strict=True):
        matrix = np.array(scores.confidence_matrix, dtype=float)  # None becomes NaN
        _draw_matrix(axes, matrix, evaluation.systems, np.sum(scores.confusion, axis=1), "Oranges")
        axes.set_title(f"{evaluation.titles[kind]}: {scores.mean_confidence:.1%} on average", fontsize=10)
    return figure


def calibration_figure(evaluation: Evaluation) -> Figure:
    """Draw how often answers of a confidence are right, and how many are right among the most confident ones."""
    kinds = evaluation.scores
    figure = Figure(figsize=(9.6, 4.1 * len(kinds)), layout=ConstrainedLayoutEngine(h_pad=0.12))
    for (left, right), (kind, scores) in zip(figure.subplots(len(kinds), 2, squeeze=False), kinds.items(), strict=True):
        left.plot([0, 1], [0, 1], color=REFERENCE, linewidth=0.8, linestyle="--", label="perfectly calibrated")
        for name, one in _calibrations(scores):
            _draw_reliability(left, name, one)
            _draw_coverage(right, name, one)
        right.axhline(scores.accuracy, color=REFERENCE, linewidth=0.8, linestyle="--", label="all answers")
        left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right")
        right.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the answers kept, most confident first")
        right.set_ylabel("share right of those kept")
        left.set_title(f"{evaluation.titles[kind]}: is the confidence true?", fontsize=10)
        right.set_title(f"{evaluation.titles[kind]}: what doubt is worth", fontsize=10)
        left.legend(loc="upper left", fontsize=8, frameon=False)
        right.legend(loc="lower left", fontsize=8, frameon=False)
        for axes in (left, right):
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.grid(color="0.92", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
    return figure


def _matrix_panels(evaluation: Evaluation) -> tuple[Figure, list[Axes]]:
    count = len(evaluation.scores)
    figure = Figure(figsize=(5.0 * count, 4.9), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    panels[0].set_ylabel("true crystal system")
    return figure, list(panels)


def _draw_matrix(axes: Axes, values: np.ndarray, systems: tuple[str, ...], totals: np.ndarray, colours: str) -> None:
    axes.set_facecolor(EMPTY)
    axes.imshow(values, cmap=colours, vmin=0, vmax=1)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        if np.isfinite(value):
            colour = "white" if value > 0.55 else "black"
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour, fontsize=9)
    labels = [f"{name}\n(n = {int(total):,})" for name, total in zip(systems, totals, strict=True)]
    axes.set_xticks(range(len(systems)), systems, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(len(systems)), labels, fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted crystal system")


def _calibrations(scores: Scores) -> list[tuple[str, Calibration]]:
    found = [("confidence", scores.confidence_calibration)]
    if scores.probability_calibration is not None:
        found.append(("probability", scores.probability_calibration))
    return found


def _draw_reliability(axes: Axes, name: str, one: Calibration) -> None:
    """Draw a point a bin, its area the share of the answers."""
    filled = [(part.confidence, part.accuracy, part.answers) for part in one.bins if part.answers]
    confidence, accuracy, answers = np.array(filled, dtype=float).T
    areas = 12 + 260 * answers / one.answers
    label = f"{CONFIDENCE_NAMES[name]}: calibration error {one.expected_error:.1%}"
    axes.plot(confidence, accuracy, color=CONFIDENCES[name], linewidth=0.8, label=label)
    axes.scatter(confidence, accuracy, s=areas, color=CONFIDENCES[name], alpha=0.75, linewidths=0, clip_on=False)


def _draw_coverage(axes: Axes, name: str, one: Calibration) -> None:
    shares, accuracies = [part.share for part in one.coverage], [part.accuracy for part in one.coverage]
    label = f"ranked by {CONFIDENCE_NAMES[name]}"
    axes.plot(
        shares, accuracies, color=CONFIDENCES[name], marker="o", markersize=4, linewidth=1.4, label=label, clip_on=False
    )
