"""Results as tables for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters
from gpuediff.settings import CRYSTAL_SYSTEMS

if TYPE_CHECKING:
    import numpy as np

    from gpuediff.evaluation.metrics import Evaluation, Scores
    from gpuediff.hierarchy.prediction import Prediction

WIDE = 100  # columns, from which on the whole lattice is shown


def key_values(title: str, pairs: dict[str, Any]) -> Group:
    """Lay out names and values in two columns."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for name, value in pairs.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    return Group(_title(title), table)


def overview(evaluation: Evaluation) -> Group:
    """Lay out the accuracies over all materials."""
    table = Table()
    table.add_column("share right")
    columns = _columns(evaluation)
    for heading, _ in columns:
        table.add_column(heading, justify="right")
    rows = {
        "crystal system": lambda scores: f"{scores.accuracy:.1%} ± {scores.accuracy_error:.1%}",
        "crystal system, mean over systems": lambda scores: f"{scores.balanced_accuracy:.1%}",
        "confidence in it, mean": lambda scores: f"{scores.mean_confidence:.1%}",
        "space group, true system given": lambda scores: f"{scores.space_group_accuracy_overall:.1%}",
        "space group, system predicted": lambda scores: f"{scores.space_group_accuracy_system_predicted:.1%}",
    }
    for name, value in rows.items():
        table.add_row(name, *(value(scores) for _, scores in columns))
    materials = "Unseen materials" if evaluation.side == "test" else "Validation materials"
    title = f"{materials}, protocol “{evaluation.protocol}”, {evaluation.thickness:g} Å thick"
    remark = (
        f"trained on {evaluation.train_patterns:,} patterns of {evaluation.train_materials:,} materials, "
        f"tested on {evaluation.test_patterns:,} of {evaluation.test_materials:,} others\n"
        f"± is the standard error over materials; {evaluation.untrained_space_groups:.0%} of the patterns "
        f"are of space groups that no training material has\n" + _calibrated(evaluation.single.calibrated_on)
    )
    if evaluation.aggregate is None:
        size = evaluation.aggregate_size
        remark += f"\nno test material has {size} patterns to aggregate: ask for fewer with --aggregate"
    return Group(_title(title), table, Text(remark, style="dim"))


def by_system(evaluation: Evaluation) -> Group:
    """Lay out accuracy and median lattice error of each crystal system."""
    columns = _columns(evaluation)
    accuracy, lattice = Table(), Table()
    for table in (accuracy, lattice):
        table.add_column("crystal system")
    for what in ("system", "space group"):
        for heading, _ in columns:
            accuracy.add_column(f"{what},\n{heading}", justify="right")
    for heading, _ in columns:
        lattice.add_column(heading)
    for system in evaluation.systems:
        shares = [scores.recall.get(system) for _, scores in columns]
        shares += [scores.space_group_accuracy.get(system) for _, scores in columns]
        accuracy.add_row(system, *("–" if share is None else f"{share:.0%}" for share in shares))
        errors = [scores.lattice_error.get(system, {}) for _, scores in columns]
        lattice.add_row(system, *("  ".join(_median(*item) for item in error.items()) or "–" for error in errors))
    return Group(
        _title("Share right by crystal system; space group: true system given"),
        accuracy,
        Text(),
        _title("Median error of the lattice parameters, Å and degrees; true system given"),
        lattice,
    )


def predictions(
    names: Sequence[str],
    prediction: Prediction,
    *,
    title: str,
    heading: str = "pattern",
    width: int = WIDE,
    decided: np.ndarray | None = None,
) -> Group:
    """Lay out one answer a row; where there is little width, only the lattice parameters that are free.

    What is not `decided`, (n,) bool, is said to be undecided.
    """
    table = answer_table(width)
    table.add_column(heading, overflow="fold")
    columns = ("crystal system", "space\ngroup", *(("a, b, c (Å)", "α, β, γ (°)") if width >= WIDE else ("lattice",)))
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row, name in enumerate(names):
        if decided is not None and not decided[row]:
            table.add_row(name, "undecided")
            continue
        system, lattice = str(prediction.crystal_system[row]), prediction.lattice[row]
        table.add_row(
            name,
            answer(system, prediction.confidence[row], 12),
            answer(str(prediction.space_group_number[row]), prediction.space_group_confidence[row], 3),
            *(lattice_cells(lattice) if width >= WIDE else (free_lattice(system, lattice),)),
        )
    remark = "%: confidence" + ("" if width >= WIDE else "; lattice in Å and degrees")
    return Group(_title(title), table, Text(remark, style="dim"))


def answer_table(width: int) -> Table:
    """Begin a table of answers; where there is little width, without lines at its edges."""
    return Table() if width >= WIDE else Table(box=box.SIMPLE_HEAD, show_edge=False)


def answer(text: str, confidence: float, width: int) -> str:
    """Format an answer with its confidence, so that both stand in line with those of other rows."""
    return f"{text:<{width}} {confidence:>4.0%}"


def free_lattice(crystal_system: str, lattice: np.ndarray) -> str:
    """Format the lattice parameters that a crystal system leaves free; all six take two lines."""
    free = independent_parameters(crystal_system)
    signs = zip(LATTICE_PARAMETERS, ("a", "b", "c", "α", "β", "γ"), lattice, strict=True)
    parts = [f"{sign} {value:.{2 if name == sign else 1}f}" for name, sign, value in signs if name in free]
    return " ".join(parts) if len(parts) < 6 else " ".join(parts[:3]) + "\n" + " ".join(parts[3:])


def lattice_cells(lattice: np.ndarray) -> tuple[str, str]:
    """Format six lattice parameters as lengths and angles; dashes where no lattice was found."""
    if not all(map(math.isfinite, lattice[:3])):
        return "–", "–"
    lengths = "  ".join(f"{value:.2f}" for value in lattice[:3])
    angles = "  ".join(f"{value:.1f}".removesuffix(".0") for value in lattice[3:])
    return lengths, angles


def _title(text: str) -> Text:
    """A title that is not squeezed into the width of what stands below it."""
    return Text(text, style="italic")


def _columns(evaluation: Evaluation) -> list[tuple[str, Scores]]:
    columns = [("1 pattern", evaluation.single)]
    if evaluation.aggregate is not None:
        columns.append((f"{evaluation.aggregate_size} patterns", evaluation.aggregate))
    return columns


def doctor(report: dict[str, Any]) -> list[Group]:
    """Lay out hardware, packages and the path taken."""
    machine = key_values(
        "This machine",
        {
            "gpuediff": report["gpuediff"],
            "Python": report["python"],
            "platform": report["platform"],
            "cores": report["cores"],
            "memory": f"{report['memory_gib']:g} GiB",
            "GPU": report["gpu"] or "–",
            "path taken": report["path"],
        },
    )
    packages = key_values("Packages", {name: version or "–" for name, version in report["packages"].items()})
    return [machine, packages]


def bundle(path: Path, info: dict[str, Any]) -> Group:
    """Lay out what a model bundle predicts and what it was trained on."""
    models = info["models"]
    systems = [name for name in CRYSTAL_SYSTEMS if name in models["crystal_system"]["classes"]]
    space_groups = sum(len(model["classes"]) for name, model in models.items() if name.startswith("space_group"))
    pairs: dict[str, Any] = {
        "crystal systems": ", ".join(systems),
        "space groups": space_groups,
        "forests": len(models),
        "trees": sum(model["trees"] for model in models.values()),
        "features": ", ".join(f"{name} {value}" for name, value in info["features"].items()),
        "thickness": f"{info['training']['thickness']:g} Å",
        "size": f"{info['size'] / 1e6:,.1f} MB",
    }
    if info["library"] and "configuration" in info["library"]:
        orientations = info["library"]["configuration"]["simulation"]["orientations"]
        pairs["library"] = (
            f"{info['library']['patterns']:,} patterns of {info['library']['materials']:,} materials, "
            f"protocol “{orientations['protocol']}”"
        )
    pairs["calibration"] = _calibration(info)
    for side, metrics in (info["metrics"] or {}).items():
        for protocol, scores in metrics.items():
            told = f"{scores['single']['accuracy']:.1%} with one pattern"
            if scores["aggregate"]:
                told += f", {scores['aggregate']['accuracy']:.1%} with {scores['aggregate_size']}"
            materials = "unseen" if side == "test" else side
            pairs[f"system right, {side}, “{protocol}”"] = f"{told}, on {materials} materials"
    pairs["made by"] = ", ".join(f"{name} {version}" for name, version in info["software"].items())
    return key_values(str(path), pairs)


def _calibrated(materials: int | None) -> str:
    if materials is None:
        return "probabilities are as the forest gives them: there were no validation materials to calibrate them on"
    return f"probabilities are calibrated on {materials:,} validation materials"


def _calibration(info: dict[str, Any]) -> str:
    """Tell what a bundle knows about its probabilities."""
    told = []
    for kind, learned in (info["calibration"] or {}).items():
        if learned is not None:
            rates = [one["error_rate"] for one in learned["thresholds"] if one["probability"] is not None]
            kept = f"error rates {', '.join(f'{rate:g}' for rate in rates)}" if rates else "no error rate"
            patterns = {"single": "single patterns", "groups": "groups"}[kind]
            told.append(f"{patterns}: gamma {learned['map']['gamma']:.2f}, {kept}")
    if not told:
        return "none (gamma 1): there were no validation materials"
    materials = max(learned["materials"] for learned in info["calibration"].values() if learned)
    return f"on {materials:,} validation materials; {'; '.join(told)}"


def _median(parameter: str, error: float | None) -> str:
    """Tell a median error; more than half of the answers have no lattice where it is None."""
    return f"{parameter} none" if error is None else f"{parameter} {error:.3f}"
