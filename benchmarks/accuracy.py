"""From structures to an evaluated bundle with one config; the accuracies and the time of every stage.

    python benchmarks/accuracy.py configs/materials-1000-grid.toml
    python benchmarks/accuracy.py configs/materials-12000-any.toml --protocols any measured hard

Works in runs/<config name>, where a library that is already there is used again (its stage is then not timed),
and writes benchmarks/results/accuracy-<config name>.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from record import ROOT, write_record
from rich.console import Console

from gpuediff import workflow
from gpuediff.cli import show
from gpuediff.cli.progress import tracker
from gpuediff.evaluation.report import write_report
from gpuediff.hierarchy.bundle import load_bundle, save_bundle
from gpuediff.library.reader import Library
from gpuediff.settings import load_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--protocols", nargs="+", help="what the detector does to the test patterns; nothing if absent")
    parser.add_argument("--train", type=int, help="only so many of the training materials")
    parser.add_argument("--test", type=int, help="only so many of the test materials")
    arguments = parser.parse_args()
    config = arguments.config
    run = load_run(config)
    folder = ROOT / "runs" / config.stem
    track = tracker(Console(stderr=True))
    seconds: dict[str, float | None] = {}

    def timed(stage, call):
        started = time.perf_counter()
        result = call()
        seconds[stage] = round(time.perf_counter() - started, 2)
        return result

    if not (folder / "library.h5").exists():
        timed("structures and simulation", lambda: workflow.simulate(run, folder / "library.h5", track=track))
    with Library(folder / "library.h5") as library:
        hierarchy = timed(
            "features and training", lambda: workflow.train(run, library, materials=arguments.train, track=track)
        )
        save_bundle(hierarchy, folder / "model", library=library.info(), overwrite=True)
        loaded = timed("loading the bundle", lambda: load_bundle(folder / "model"))
        scored = {}
        for protocol in arguments.protocols or [library.run.simulation.orientations.protocol]:
            scored[protocol] = timed(
                f"evaluation, {protocol}",
                lambda protocol=protocol: workflow.evaluate(
                    library, loaded, protocol=protocol, materials=arguments.test, track=track
                ),
            )
        info = library.info()
    evaluations = [evaluation for evaluation, _ in scored.values()]
    answers = [answered for _, answered in scored.values()]
    write_report(folder / "evaluation", evaluations, answers, importances=loaded.importances())
    for evaluation in evaluations:
        Console().print(show.overview(evaluation), show.by_system(evaluation))
    content = {
        "config": config.name,
        "materials": {"train": arguments.train, "test": arguments.test},
        "run": run.without_folders().model_dump(mode="json"),
        "library": {key: info[key] for key in ("materials", "patterns", "peaks")},
        "seconds": seconds,
        "evaluations": [dataclasses.asdict(evaluation) for evaluation in evaluations],
    }
    print("wrote", write_record(f"accuracy-{config.stem}", content).relative_to(ROOT))


if __name__ == "__main__":
    main()
