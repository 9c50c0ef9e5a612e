"""Rows of the experiment log: from structures to an evaluated bundle, each with one command.

    python benchmarks/accuracy/run.py paper-grid lattice
    python benchmarks/accuracy/run.py --log-only

What a row is stands in rows.toml. Each writes benchmarks/results/accuracy-<row>.json and, with all other records there,
the log README.md beside this file. A library that is already there is used again; its stage is then not timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from log import write_log  # noqa: E402
from record import ROOT, write_record  # noqa: E402

from gpuediff import workflow  # noqa: E402
from gpuediff.cli import show  # noqa: E402
from gpuediff.cli.progress import tracker  # noqa: E402
from gpuediff.evaluation.report import write_report  # noqa: E402
from gpuediff.hierarchy.bundle import load_bundle, save_bundle  # noqa: E402
from gpuediff.library.reader import Library  # noqa: E402
from gpuediff.settings import Run, Settings, load_run  # noqa: E402


class Row(Settings):
    """One table of rows.toml."""

    config: str
    protocols: tuple[str, ...]
    what: str
    train: int | None = None
    test: int | None = None
    orientations: int | None = None
    side: str = "test"
    run: dict[str, Any] = Field(default_factory=dict)


def main() -> None:
    rows = {
        name: Row.model_validate_json(json.dumps(row))
        for name, row in tomllib.loads((HERE / "rows.toml").read_text(encoding="utf-8")).items()
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *rows], metavar="ROW", help=", ".join(rows))
    parser.add_argument("--log-only", action="store_true", help="run nothing, write the log of the records there are")
    arguments = parser.parse_args()
    for name in [] if arguments.log_only else arguments.names:
        print("wrote", run_row(name, rows[name]).relative_to(ROOT))
    write_log({name: row.what for name, row in rows.items()})


def run_row(name: str, row: Row) -> Path:
    """Run one row and write its record."""
    config = ROOT / "configs" / row.config
    run = changed(load_run(config), row.run)
    library_path = ROOT / "runs" / config.stem / "library.h5"
    folder = ROOT / "runs" / f"accuracy-{name}"
    track = tracker(Console(stderr=True))
    seconds: dict[str, float] = {}

    def timed(stage, call):
        started = time.perf_counter()
        result = call()
        seconds[stage] = round(time.perf_counter() - started, 2)
        return result

    if not library_path.exists():
        library_path.parent.mkdir(parents=True, exist_ok=True)
        timed("structures and simulation", lambda: workflow.simulate(run, library_path, track=track))
    with Library(library_path) as library:
        hierarchy = timed(
            "features and training",
            lambda: workflow.train(run, library, materials=row.train, orientations=row.orientations, track=track),
        )
        save_bundle(hierarchy, folder / "model", library=library.info(), overwrite=True)
        loaded = timed("loading the bundle", lambda: load_bundle(folder / "model"))
        scored = [
            timed(
                f"evaluation, {protocol}",
                lambda protocol=protocol: workflow.evaluate(
                    library, loaded, protocol=protocol, side=row.side, materials=row.test, track=track
                ),
            )
            for protocol in row.protocols
        ]
        info = library.info()
    evaluations = [evaluation for evaluation, _ in scored]
    write_report(
        folder / "evaluation", evaluations, [answered for _, answered in scored], importances=loaded.importances()
    )
    for evaluation in evaluations:
        Console().print(show.overview(evaluation), show.by_system(evaluation))
    content = {
        "row": row.model_dump(mode="json"),
        "run": run.without_folders().model_dump(mode="json"),
        "library": {key: info[key] for key in ("materials", "patterns", "peaks")},
        "seconds": seconds,
        "evaluations": [dataclasses.asdict(evaluation) for evaluation in evaluations],
    }
    return write_record(f"accuracy-{name}", content)


def changed(run: Run, changes: dict[str, Any]) -> Run:
    """Return a run with tables replaced key by key."""
    tables = run.model_dump(mode="json")
    for key, values in changes.items():
        # Another kind of features has other keys.
        tables[key] = values if "block" in values else tables[key] | values
    return Run.model_validate_json(json.dumps(tables))


if __name__ == "__main__":
    main()
