"""The demo: the whole way from built-in structures to a mapped scan, every answer beside the truth."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from gpuediff import workflow
from gpuediff.arrays import choose_device
from gpuediff.cli import show
from gpuediff.cli.library import library_table
from gpuediff.cli.scan import map_and_show, truth_table
from gpuediff.evaluation.metrics import Answers
from gpuediff.evaluation.report import write_report
from gpuediff.hierarchy.bundle import check_target, load_bundle, record_metrics, save_bundle
from gpuediff.library.reader import Library
from gpuediff.scans.simulated import simulated_scan
from gpuediff.settings import load_run
from gpuediff.shipped import shipped_file

if TYPE_CHECKING:
    from gpuediff.cli.screen import Screen
    from gpuediff.library.reader import Materials

UNKNOWNS_SHOWN = 8


def run_demo(folder: Path, seed: int | None, screen: Screen) -> None:
    """Simulate, train, evaluate, and map a simulated scan of twinned Au particles; show and write everything.

    Parameters
    ----------
    folder : Path
        A library of the same configuration that is already there is used again.
    seed : int, optional
        Instead of the configuration's seeds.
    screen : Screen
    """
    started = time.perf_counter()
    run = load_run(shipped_file("configs", "quickstart.toml"))
    if seed is not None:
        run = run.with_seed(seed)
    check_target(folder / "model", overwrite=True)
    screen.remark(str(choose_device("auto")))
    path = folder / "library.h5"
    workflow.simulate(run, path, track=screen.track)
    with Library(path) as library:
        info = library.info()
        screen.result(library_table(library), data=None)
        hierarchy = workflow.train(run, library, track=screen.track)
        save_bundle(hierarchy, folder / "model", library=info, overwrite=True)
        hierarchy = load_bundle(folder / "model")
        evaluation, answers = workflow.evaluate(library, hierarchy, track=screen.track)
        screen.result(show.overview(evaluation), show.by_system(evaluation), data=None)
        if "aggregate" in answers:
            screen.result(_unknowns(library.materials, answers["aggregate"]), data=None)
    written = write_report(folder / "evaluation", evaluation, answers, importances=hierarchy.importances())
    record_metrics(folder / "model", {evaluation.side: {evaluation.protocol: dataclasses.asdict(evaluation)}})

    screen.remark("a scan of twinned Au particles, in random orientations")
    scan, truth = simulated_scan(seed=0 if seed is None else seed, track=screen.track)
    maps, particles, scan_files = map_and_show(scan, hierarchy, folder / "scan", screen)
    screen.result(truth_table(maps, particles, truth), data=None)
    screen.written(path, folder / "model", *written, *scan_files)
    screen.remark(f"done in {time.perf_counter() - started:.0f} s")


def _unknowns(materials: Materials, answers: Answers) -> Table:
    """Lay out a few unseen materials with the answer to ten patterns of each below the truth."""
    table = Table(title="Some materials that were not trained on, ten patterns each", title_justify="left")
    for name in ("material", "", "crystal system", "confidence", "space group", "a, b, c (Å)"):
        table.add_column(name, justify="right" if name in ("confidence", "space group") else "left")
    _, rows = np.unique(answers.material, return_index=True)
    predicted = answers.predicted
    for row in rows[np.linspace(0, len(rows) - 1, min(UNKNOWNS_SHOWN, len(rows))).astype(int)]:
        material = answers.material[row]
        table.add_row(
            materials.formula[material],
            "true",
            str(materials.crystal_system[material]),
            "",
            str(materials.space_group_number[material]),
            show.lattice_cells(materials.conventional[material])[0],
        )
        table.add_row(
            "",
            "predicted",
            str(predicted.crystal_system[row]),
            f"{predicted.confidence[row]:.0%}",
            str(predicted.space_group_number[row]),
            show.lattice_cells(predicted.lattice[row])[0],
            end_section=True,
        )
    return table
