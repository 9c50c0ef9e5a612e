"""The experiment log: a table of all records of accuracy that there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from record import RESULTS

LOG = Path(__file__).resolve().parent / "README.md"

_HEAD = """# Experiment log

Written by `python benchmarks/accuracy/run.py`, from the records in `benchmarks/results`; what each row is stands in
[rows.toml](rows.toml), and its name runs it again. Materials of the scores are of the test side and were never trained
on, but for rows of the validation side, by which choices were made. ± is the standard error over materials. Times are
of the machine of the record and say little: it was seldom alone.

What was tried and has no record of its own, with random forests on features saved for 1,500 random materials of
configs/materials-12000-any.toml, three folds by material, `measured` alone, share of crystal systems that are right for
groups of ten patterns (standard error about one point):

| groups are described by | right |
|---|---|
| the average of what their patterns found (before) | 79.5 % |
| the lattice that fits all peaks best, heights of all patterns equally sure | 78.4 % |
| the same, a spread of the heights for every pattern (now) | 80.4 % |
| and equivalents of the Laue classes | 81.3 % |

More lattices were right in the second row than in the first, and less sure of their symmetry than they said: a fifth of
the cubic ones had a χ² above 3 for each number.

"""
_COLUMNS = (
    "row",
    "protocol, side",
    "training: materials x orientations",
    "scored materials",
    "crystal system, 1 pattern",
    "10 patterns",
    "space group, system predicted, 1",
    "10",
    "calibration error, 1",
    "10",
    "seeds",
    "time, s",
)


def write_log(what: dict[str, str]) -> Path:
    """Write the log of the rows that have a record, in the order of `what`, which says what each is."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    said = []
    for name in what:
        path = RESULTS / f"accuracy-{name}.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            lines += [f"| {' | '.join(cells)} |" for cells in _rows(name, record)]
            said.append(f"- [{name}](../results/{path.name}): {what[name]} ({record['date']})")
    LOG.write_text(_HEAD + "\n".join(lines) + "\n\n" + "\n".join(said) + "\n", encoding="utf-8")
    return LOG


def _rows(name: str, record: dict[str, Any]) -> list[list[str]]:
    seconds = record["seconds"]
    run = record["run"]
    seeds = {run["simulation"]["orientations"]["seed"], run["split"]["seed"], run["training"]["seed"]}
    rows = []
    for number, one in enumerate(record["evaluations"]):
        single, many = one["single"], one["aggregate"]
        per_material = one["train_patterns"] // one["train_materials"]
        training = f"{one['train_materials']:,} x {record['row']['orientations'] or per_material}"
        rows.append(
            [
                name if number == 0 else "",
                f"`{one['protocol']}`, {one['side']}",
                training if number == 0 else "",
                f"{one['test_materials']:,}",
                f"{100 * single['accuracy']:.1f} ± {100 * single['accuracy_error']:.1f} %",
                f"{100 * many['accuracy']:.1f} ± {100 * many['accuracy_error']:.1f} %",
                _percent(single["space_group_accuracy_system_predicted"]),
                _percent(many["space_group_accuracy_system_predicted"]),
                _calibration(single),
                _calibration(many),
                ", ".join(map(str, sorted(seeds))) if number == 0 else "",
                f"{sum(seconds.values()):,.0f}" if number == 0 else "",
            ]
        )
    return rows


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _calibration(scores: dict[str, Any]) -> str:
    """Of the probability where there is one, else of the share of the votes, which is said."""
    probability, votes = scores["probability_calibration"], scores["confidence_calibration"]
    return f"{probability['expected_error']:.3f}" if probability else f"{votes['expected_error']:.3f} (votes)"
