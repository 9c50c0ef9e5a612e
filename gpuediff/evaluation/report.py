"""An evaluation on disk: metrics for programs, pictures for people."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

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
    metrics.write_text(json.dumps(dataclasses.asdict(evaluation), indent=2) + "\n", encoding="utf-8")
    confusion_figure(evaluation).savefig(confusion, dpi=160)
    lattice_figure(evaluation, answers).savefig(lattice, dpi=160)
    return [metrics, confusion, lattice]
