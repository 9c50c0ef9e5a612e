"""What the page of an evaluation says: the paper's tables and figures, made anew for one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gpuediff.evaluation import published
from gpuediff.evaluation.calibration import Abstention
from gpuediff.evaluation.data_figures import class_figure, importance_figure, radial_grids, space_group_figure
from gpuediff.evaluation.html import Page, Row
from gpuediff.evaluation.lattice_figures import DRAWN_MAX, lattice_error_figure, lattice_figure
from gpuediff.evaluation.metrics import Answers, Evaluation, Scores
from gpuediff.evaluation.system_figures import CONFIDENCE_NAMES, calibration_figure, confidence_figure, confusion_figure
from gpuediff.evaluation.terms import PROTOCOLS, TERMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNS = {"alpha": "α", "beta": "β", "gamma": "γ"}
NOTHING = "–"
MATERIALS = {"test": "unseen materials", "validation": "validation materials"}


@dataclass(frozen=True, eq=False)
class Tested:
    """One evaluation with its answers."""

    evaluation: Evaluation
    answers: dict[str, Answers]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The pictures of it, by the names of their files."""
        return {
            "confusion": confusion_figure(self.evaluation),
            "confidence": confidence_figure(self.evaluation),
            "calibration": calibration_figure(self.evaluation),
            "space_groups": space_group_figure(self.evaluation),
            "lattice": lattice_figure(self.evaluation, self.answers),
            "lattice_errors": lattice_error_figure(self.evaluation, self.answers),
        }


@dataclass(frozen=True, eq=False)
class Report:
    """All that is known about one model; see `gpuediff.evaluation.report.write_report`."""

    tested: Sequence[Tested]
    model: str | None
    importances: Mapping[str, float] | None

    @property
    def train_space_groups(self) -> np.ndarray:
        """Space group number of every training material."""
        counts = self.tested[0].evaluation.train_space_groups
        return np.repeat(np.array(list(counts), dtype=np.int64), list(counts.values()))

    @property
    def test_space_groups(self) -> np.ndarray:
        """Space group number of every test material of the first evaluation."""
        single = self.tested[0].answers["single"]
        return single.space_group_number[np.unique(single.material, return_index=True)[1]]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The pictures of what it was trained with, by the names of their files."""
        figures = {"classes": class_figure(self.train_space_groups, self.test_space_groups)}
        if self.importances:
            figures["importances"] = importance_figure(self.importances)
        return figures


def name_of(evaluation: Evaluation) -> str:
    """Name an evaluation by what its scores depend on, fit for the name of a file."""
    return f"{evaluation.protocol}-{evaluation.thickness:g}A"


def report_page(report: Report) -> str:
    """Return the page as HTML."""
    page = Page("Crystal structure from electron diffraction patterns: how often the model is right")
    _add_head(page, report)
    _add_overview(page, [one.evaluation for one in report.tested])
    for tested in report.tested:
        _add_evaluation(page, tested)
    _add_data(page, report)
    page.heading("What the words mean")
    page.definitions(TERMS, terms=True)
    return page.render()


def _add_head(page: Page, report: Report) -> None:
    evaluations = [one.evaluation for one in report.tested]
    first = evaluations[0]
    pairs = [("model", report.model)] if report.model else []
    pairs += [
        ("crystal systems", ", ".join(first.systems)),
        ("trained on", f"{first.train_patterns:,} patterns of {first.train_materials:,} materials"),
    ]
    if report.importances:
        pairs.append(("features", f"{len(report.importances):,} of a pattern"))
    for one in evaluations:
        of = f"{one.test_materials:,} {MATERIALS[one.side]}"
        told = f"{one.test_patterns:,} patterns of {of}, {one.thickness:g} Å thick"
        pairs.append((f"tested, “{one.protocol}”", told))
    page.definitions(pairs)
    if first.side == "validation":
        page.text(
            "These are the validation materials. No forest was trained on them, but how far to trust a probability was "
            "learned from them, and models may be chosen by them: how good the chosen one is, only the test materials "
            "tell."
        )


def _add_overview(page: Page, evaluations: Sequence[Evaluation]) -> None:
    page.heading("Overview")
    page.text(
        "A score means nothing without its protocol: the orientations and the disturbances that it was measured with. "
        "Models are to be compared under one protocol; that of the paper is “grid”."
    )
    protocols = dict.fromkeys(one.protocol for one in evaluations)
    page.definitions([(f"“{name}”", PROTOCOLS[name]) for name in protocols if name in PROTOCOLS])
    rows = []
    for one in evaluations:
        for kind, scores in one.scores.items():
            cells = [
                f"{scores.answers:,}",
                f"{scores.accuracy:.1%} ± {scores.accuracy_error:.1%}",
                f"{scores.balanced_accuracy:.1%}",
                f"{scores.space_group_accuracy_overall:.1%}",
                f"{scores.space_group_accuracy_system_predicted:.1%}",
                f"{scores.lattice_closeness_system_predicted.found:.1%}",
                f"{scores.lattice_closeness_system_predicted.within_2_percent:.1%}",
                f"{scores.lattice_closeness_system_predicted.within_5_percent:.1%}",
            ]
            rows.append(Row(f"“{one.protocol}”, {one.thickness:g} Å, {one.titles[kind]}", cells))
    for kind, share in published.SYSTEM_RIGHT.items():
        title = {"single": "1 pattern", "aggregate": "10 patterns"}[kind]
        rows.append(Row(f"the paper, “grid”, 200 Å, {title}", [NOTHING, share, *[NOTHING] * 6], other=True))
    page.table(
        f"Share right on {MATERIALS[evaluations[0].side]}",
        "Protocol, thickness and number of patterns in an answer are in the first column, the number of answers n in "
        f"the second. In italics, as published by {published.SOURCE}, with the paper’s own materials and models.",
        [
            "protocol",
            "n",
            "crystal system",
            "mean over systems",
            "space group, system given",
            "space group, system predicted",
            "has a lattice",
            "lattice within 2%",
            "lattice within 5%",
        ],
        rows,
    )
    page.table(
        "The paper’s numbers",
        f"As printed in {published.SOURCE}; protocol “grid”, 200 Å; n is the paper’s own.",
        ["quantity", "as published"],
        [Row(one.quantity, [one.value], other=True) for one in published.PUBLISHED],
    )


def _add_evaluation(page: Page, tested: Tested) -> None:
    evaluation = tested.evaluation
    page.heading(f"Protocol “{evaluation.protocol}”, {evaluation.thickness:g} Å")
    page.text(
        f"{evaluation.untrained_space_groups:.0%} of the patterns are of space groups that no training material "
        "has: their space group cannot be right."
    )
    if evaluation.aggregate is None:
        page.text(f"No test material has {evaluation.aggregate_size} patterns: there are no aggregates.")
    _add_systems(page, tested)
    _add_calibration(page, tested)
    _add_space_groups(page, tested)
    _add_lattices(page, tested)


def _add_systems(page: Page, tested: Tested) -> None:
    evaluation, where = tested.evaluation, _where(tested.evaluation)
    page.heading("Crystal system", level=3)
    header = ["crystal system"]
    for kind in evaluation.scores:
        title = evaluation.titles[kind]
        header += [f"n, {title}", f"recall, {title}", f"precision, {title}", f"false positives, {title}"]
    rows = [
        Row(name, [cell for scores in evaluation.scores.values() for cell in _system_cells(scores, name, place)])
        for place, name in enumerate(evaluation.systems)
    ]
    page.table("Recall, precision and false positives of each crystal system", where, header, rows)
    for kind, scores in evaluation.scores.items():
        if scores.accuracy_without_triclinic is not None:
            page.text(
                f"Triclinic in and out ({evaluation.titles[kind]}): {scores.accuracy:.1%} of all answers are right; "
                f"without the triclinic materials, and with the same models choosing among the other systems, "
                f"{scores.accuracy_without_triclinic:.1%}."
            )
    page.figure(
        "Confusion of crystal systems",
        f"Every row is a true system and sums to 100%. {where}",
        tested.figures["confusion"],
    )
    page.figure(
        "Confidence matrix",
        "Mean confidence of the answers in each cell of the confusion; grey where there are none. A "
        f"model that knows when it is wrong is pale off the diagonal. {where}",
        tested.figures["confidence"],
    )


def _system_cells(scores: Scores, system: str, place: int) -> list[str]:
    shares = [scores.recall.get(system), scores.precision[system], scores.false_positive_rate[system]]
    return [f"{sum(scores.confusion[place]):,}", *map(_percent, shares)]


def _add_calibration(page: Page, tested: Tested) -> None:
    evaluation, where = tested.evaluation, _where(tested.evaluation)
    page.heading("Confidence", level=3)
    rows = []
    for kind, scores in evaluation.scores.items():
        calibrations = {"confidence": scores.confidence_calibration, "probability": scores.probability_calibration}
        for name, one in calibrations.items():
            if one is None:
                continue
            at = {part.share: part.accuracy for part in one.coverage}
            loss = NOTHING if one.log_loss is None else f"{one.log_loss:.3f}"
            cells = [
                f"{one.answers:,}",
                f"{one.expected_error:.1%}",
                loss,
                *(f"{at[part]:.1%}" for part in (0.1, 0.3, 0.5, 1.0)),
            ]
            rows.append(Row(f"{evaluation.titles[kind]}, {CONFIDENCE_NAMES[name]}", cells))
    without = [
        evaluation.titles[kind] for kind, scores in evaluation.scores.items() if not scores.probability_calibration
    ]
    if without:
        page.text(
            f"Answers from {' and '.join(without)} have no probability: their confidence ranks them, but does not say "
            "how often they are right."
        )
    for kind, scores in evaluation.scores.items():
        if scores.probability_calibration is not None:
            page.text(f"Probability, {evaluation.titles[kind]}: {_calibrated(scores)}.")
    page.table(
        "How far to trust the confidence",
        f"Share right among the most confident 10, 30 and 50% of the answers, and among all. {where}",
        [
            "answer from, confidence",
            "n",
            "calibration error",
            "log-loss",
            "right, top 10%",
            "top 30%",
            "top 50%",
            "all",
        ],
        rows,
    )
    page.figure(
        "Reliability, and accuracy against coverage",
        "Left: share right at each confidence, the area of a point is the share of the answers; on the dashed line the "
        "confidence is true. Right: share right if only the most confident answers are kept. " + where,
        tested.figures["calibration"],
    )
    rows = [
        Row(f"{one.error_rate:.0%}, {evaluation.titles[kind]}", _abstention_cells(one))
        for kind, scores in evaluation.scores.items()
        for one in scores.abstention
    ]
    if rows:
        page.table(
            "Errors promised and kept",
            "Answers below the least probability are left undecided. Promised by the validation materials, "
            f"with which it was found; kept here. {where}",
            ["wrong, as promised; answer from", "least probability", "n given", "share given", "wrong of those given"],
            rows,
        )


def _calibrated(scores: Scores) -> str:
    if scores.calibrated_on is None:
        return "as the forest gives it, there were no validation materials to calibrate it on"
    return f"calibrated on {scores.calibrated_on:,} validation materials"


def _abstention_cells(one: Abstention) -> list[str]:
    if one.probability is None:
        return ["not to be had", *[NOTHING] * 3]
    return [f"{one.probability:.3f}", f"{one.answers:,}", f"{one.coverage:.1%}", _percent(one.error)]


def _add_space_groups(page: Page, tested: Tested) -> None:
    page.heading("Space group", level=3)
    page.figure(
        "Space groups of each crystal system",
        "Share right with the true crystal system given; under the names the number of answers of each kind. "
        + _where(tested.evaluation),
        tested.figures["space_groups"],
    )


def _add_lattices(page: Page, tested: Tested) -> None:
    evaluation, where = tested.evaluation, _where(tested.evaluation)
    page.heading("Lattice", level=3)
    titles = [evaluation.titles[kind] for kind in evaluation.scores]
    close, errors = [], []
    for system in evaluation.systems:
        cells = []
        for scores in evaluation.scores.values():
            one = scores.lattice_closeness.get(system)
            cells += [_percent(getattr(one, name, None)) for name in ("found", "within_2_percent", "within_5_percent")]
        close.append(Row(system, cells))
        for parameter in evaluation.single.lattice_error_quartiles.get(system, {}):
            cells = [
                value
                for scores in evaluation.scores.values()
                for value in _quartile_cells(scores.lattice_error_quartiles.get(system, {}).get(parameter), parameter)
            ]
            errors.append(Row(f"{system}, {SIGNS.get(parameter, parameter)}", cells))
    page.table(
        "Errors of the lattice parameters",
        "25th, 50th (median) and 75th percentile of |predicted − true|, true crystal system given; lengths in Å, "
        f"angles in degrees. {where}",
        ["crystal system, parameter", *(f"{name}, {title}" for title in titles for name in ("25%", "median", "75%"))],
        errors,
    )
    page.table(
        "Lattices that are close to the true one",
        "Share of the answers that have a lattice, and whose free parameters are all close; true crystal system "
        f"given. {where}",
        [
            "crystal system",
            *(f"{name}, {title}" for title in titles for name in ("has one", "within 2%", "within 5%")),
        ],
        close,
    )
    page.figure(
        "Predicted against true lattice lengths",
        f"True crystal system given; on the grey line the prediction is true. At most {DRAWN_MAX:,} answers are drawn "
        f"in a panel. {where}",
        tested.figures["lattice"],
    )
    page.figure(
        "Errors of the lattice lengths",
        "Distribution of |predicted − true|, true crystal system given; dotted: median; in the corner, where "
        "there are any, the share without a lattice. What is smaller than 0.001 Å "
        f"or larger than 30 Å counts in the outermost bin. {where}",
        tested.figures["lattice_errors"],
    )


def _add_data(page: Page, report: Report) -> None:
    evaluation = report.tested[0].evaluation
    page.heading("Materials")
    page.figure(
        "Materials of each crystal system and space group",
        f"n = {len(report.train_space_groups):,} for training, {len(report.test_space_groups):,} for "
        f"{'testing' if evaluation.side == 'test' else 'validation'} "
        f"(protocol “{evaluation.protocol}”, {evaluation.thickness:g} Å).",
        report.figures["classes"],
    )
    if report.importances and "importances" in report.figures:
        page.heading("Features")
        grid = " Right: the same by ring and angular order." if radial_grids(report.importances) else ""
        page.figure(
            "Importance of the features for the crystal system",
            "Share of what all splits gained in training that those on a feature gained, "
            f"n = {evaluation.train_patterns:,} patterns, {evaluation.thickness:g} Å.{grid}",
            report.figures["importances"],
        )


def _where(evaluation: Evaluation) -> str:
    """State what every caption must: protocol, thickness, number."""
    counts = f"n\u00a0=\u00a0{evaluation.single.answers:,} patterns"
    if evaluation.aggregate is not None:
        counts += f" and {evaluation.aggregate.answers:,} groups of {evaluation.aggregate_size}"
    return (
        f"Protocol “{evaluation.protocol}”, {evaluation.thickness:g}\u00a0Å, {counts}, "
        f"of {evaluation.test_materials:,} {MATERIALS[evaluation.side]}."
    )


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _quartile_cells(values: Sequence[float | None] | None, parameter: str) -> list[str]:
    if values is None:
        return [NOTHING] * 3
    digits = 2 if parameter in SIGNS else 3
    return ["unknown" if value is None else f"{value:.{digits}f}" for value in values]
