"""An evaluation on disk: metrics for programs, pictures for people."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

from gpuediff.durable import complete_or_absent
from gpuediff.evaluation.figures import confusion_figure, lattice_figure
from gpuediff.evaluation.metrics import Answers, Evaluation


def write_report(folder: str | Path, evaluation: Evaluation, answers: dict[str, Answers]) -> list[Path]:
    """Write metrics.json, confusion.png and lattice.png to a folder, replacing older ones.

    Returns
    -------
    list of Path
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metrics, confusion, lattice = (folder / name for name in ("metrics.json", "confusion.png", "lattice.png"))
    text = json.dumps(dataclasses.asdict(evaluation), indent=2) + "\n"
    complete_or_absent(metrics, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    for path, figure in ((confusion, confusion_figure(evaluation)), (lattice, lattice_figure(evaluation, answers))):
        complete_or_absent(path, partial(figure.savefig, dpi=160))
    return [metrics, confusion, lattice]
