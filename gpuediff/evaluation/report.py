"""An evaluation on disk: metrics for programs, pictures and one HTML page for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpuediff.durable import complete_or_absent
from gpuediff.evaluation.metrics import Answers, Evaluation
from gpuediff.evaluation.page import Report, Tested, name_of, report_page

PNG_DPI = 160


def write_report(
    folder: str | Path,
    evaluation: Evaluation | Sequence[Evaluation],
    answers: dict[str, Answers] | Sequence[dict[str, Answers]],
    *,
    model: str | None = None,
    importances: Mapping[str, float] | None = None,
) -> list[Path]:
    """Write metrics.json, pictures and report.html to a folder, replacing older ones.

    Parameters
    ----------
    folder : path
    evaluation : Evaluation, or several of one model
        Several, of different protocols or thicknesses, stand side by side in the page.
    answers : dict of str to Answers, or as many of them
        As `gpuediff.evaluation.metrics.evaluate` returns them.
    model : str, optional
        What the page calls the model.
    importances : mapping of str to float, optional
        Of the features for the crystal system, by the names of the columns.

    Returns
    -------
    list of Path
        The files written: the pictures carry the name of protocol and thickness where there are several evaluations.

    Raises
    ------
    ValueError
        If there is no evaluation, there are not as many answers, two share protocol and thickness, or they are of
        different sides of the split.
    """
    tested = _tested(evaluation, answers)
    report = Report(tested, model, importances)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents: list[Any] = [dataclasses.asdict(one.evaluation) for one in tested]
    metrics = json.dumps(contents[0] if len(contents) == 1 else contents, indent=2, allow_nan=False)
    written = [_write_text(folder / "metrics.json", metrics + "\n")]
    pictures = dict(report.figures)
    for one in tested:
        prefix = "" if len(tested) == 1 else f"{name_of(one.evaluation)}-"
        pictures.update({f"{prefix}{name}": figure for name, figure in one.figures.items()})
    for name, figure in pictures.items():
        written.append(folder / f"{name}.png")
        complete_or_absent(written[-1], partial(figure.savefig, dpi=PNG_DPI))
        figure.set_layout_engine(None)  # what is laid out stays so on the page, and need not be computed again
    written.append(_write_text(folder / "report.html", report_page(report)))
    return written


def _tested(
    evaluation: Evaluation | Sequence[Evaluation], answers: dict[str, Answers] | Sequence[dict[str, Answers]]
) -> list[Tested]:
    evaluations = [evaluation] if isinstance(evaluation, Evaluation) else list(evaluation)
    answered = [answers] if isinstance(answers, dict) else list(answers)
    if not evaluations or len(evaluations) != len(answered):
        raise ValueError(f"{len(evaluations)} evaluations with {len(answered)} sets of answers: expected one for each")
    sides = sorted({one.side for one in evaluations})
    if len(sides) > 1:
        raise ValueError(f"evaluations of the sides {' and '.join(sides)}: expected a report for each")
    names = [name_of(one) for one in evaluations]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two evaluations of {twice[0]}: protocol and thickness must tell them apart")
    return [Tested(*pair) for pair in zip(evaluations, answered, strict=True)]


def _write_text(path: Path, text: str) -> Path:
    complete_or_absent(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
