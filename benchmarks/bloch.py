"""Bloch waves on the CPU: against py4DSTEM, and patterns a second against beams, thicknesses and threads.

    .venv-py4dstem/bin/python benchmarks/bloch.py [--repeats 5]

One core, both programs in one process, turn by turn, in py4DSTEM's scattering mode; a pattern is beams, matrix and
propagation, structure factors are not in it (benchmarks/structure_factors.py). Parity first: intensities must agree to
2e-6 before anything is timed. Warm, medians. py4DSTEM gets the cell as a CIF has it, gpuediff its primitive cell, as
`gpuediff simulate` makes it. Without py4DSTEM the comparison is left out, and the record says so.

Writes benchmarks/results/bloch-cpu.json and docs/images/bloch-scaling.png.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before NumPy is imported

import argparse
import dataclasses
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numba
import numpy as np
from matplotlib.ticker import NullFormatter
from pymatgen.core import Lattice, Structure
from record import ROOT, write_record

from gpuediff.crystals.crystal import Crystal
from gpuediff.crystals.labels import from_structure
from gpuediff.diffraction.beams import select_beams
from gpuediff.diffraction.data.tables import SYMBOLS
from gpuediff.diffraction.orientations import orientation_matrix
from gpuediff.diffraction.simulate import reflections_of, simulate, simulate_orientations
from gpuediff.settings import Simulation

sys.path.insert(0, str(ROOT))
from tests.oracle import py4dstem

TOLERANCE = 2e-6
ONE = (200.0,)
HUNDRED = tuple(np.arange(20.0, 2001, 20).tolist())
# The least that py4DSTEM's time over ours should be: for one thickness, for a hundred.
TARGETS = {"Au": (200, 40), "Si": (300, 60), "quartz": (50, 10), "GdFeO3": (70, 12), "orthoclase": (250, 45)}
TOGETHER = 16  # gpuediff gets the orientations this many times in one call: a crystal has about a hundred
PATTERNS = 96  # of a crystal, for the scaling
SIMULATION = Simulation(scattering="py4dstem", intensity_min=0.0)


def as_given(name: str) -> Crystal:
    """Return the conventional cell, as a CIF has it; the oracle's silicon is primitive."""
    crystal = py4dstem.load(name).crystal
    if name != "Si":
        return crystal
    edge = 5.431
    atoms = crystal.positions @ crystal.lattice / edge
    positions = np.concatenate([atoms + shift for shift in [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]])
    return dataclasses.replace(
        crystal,
        lattice=edge * np.eye(3),
        positions=positions % 1.0,
        atomic_numbers=np.full(8, 14),
        occupancies=np.ones(8),
    )


def as_simulated(crystal: Crystal) -> Crystal:
    """Return the primitive cell that gpuediff makes of it."""
    species: dict[tuple[float, ...], dict[str, float]] = {}
    for number, occupancy, position in zip(
        crystal.atomic_numbers, crystal.occupancies, crystal.positions.round(9).tolist(), strict=True
    ):
        species.setdefault(tuple(position), {})[SYMBOLS[number - 1]] = float(occupancy)
    structure = Structure(Lattice(crystal.lattice), list(species.values()), list(species))
    return from_structure(structure, material_id=crystal.material_id)


class Py4dstem:
    """One crystal in py4DSTEM."""

    def __init__(self, crystal: Crystal) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from py4DSTEM.process.diffraction import Crystal as TheirCrystal

        self.crystal = TheirCrystal(
            crystal.positions, crystal.atomic_numbers, crystal.lattice, occupancy=crystal.occupancies
        )
        self.crystal.calculate_structure_factors(k_max=2.0, tol_structure_factor=-1.0)
        self.structure_factors()

    def structure_factors(self) -> None:
        """Compute all U_g."""
        self.crystal.calculate_dynamical_structure_factors(
            300e3,
            method="WK-CP",
            k_max=4.0,
            thermal_sigma=0.08,
            tol_structure_factor=0.0,
            recompute_kinematic_structure_factors=False,
        )

    def pattern(self, zone_axis: np.ndarray, thicknesses: tuple[float, ...]) -> list:
        """Return py4DSTEM's peak lists, one a thickness."""
        beams = self.crystal.generate_diffraction_pattern(
            zone_axis_cartesian=zone_axis,
            sigma_excitation_error=0.02,
            tol_excitation_error_mult=3.0,
            tol_intensity=-1.0,
            k_max=2.0,
        )
        return self.crystal.generate_dynamical_diffraction_pattern(
            beams, thickness=np.array(thicknesses), zone_axis_cartesian=zone_axis, always_return_list=True
        )


def largest_difference(theirs: Py4dstem, crystal: Crystal, zone_axis: np.ndarray) -> float:
    """Largest |difference| of two intensities of the same reflection, at the hundred thicknesses."""
    settings = SIMULATION.model_copy(update={"thicknesses": HUNDRED})
    ours = simulate(crystal, orientation_matrix(zone_axis)[None], settings)
    expected = theirs.pattern(zone_axis, HUNDRED)
    place = {tuple(hkl): column for column, hkl in enumerate(ours.hkl.tolist())}
    difference = 0.0
    for row, peaks in enumerate(expected):
        hkl = np.stack([peaks.data[axis] for axis in "hkl"], axis=1).astype(int)
        own = np.array([ours.intensity[row, place[tuple(g)]] if tuple(g) in place else 0.0 for g in hkl.tolist()])
        difference = max(difference, float(np.abs(own - peaks.data["intensity"]).max()))
    return difference


def seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each call, turn by turn, after one turn that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn > 0:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def patterns(crystal: Crystal, orientations: np.ndarray, thicknesses: tuple[float, ...]) -> Callable[[], object]:
    """Return a call that computes patterns without structure factors, which are made here."""
    settings = SIMULATION.model_copy(update={"thicknesses": thicknesses})
    reflections = reflections_of(crystal, settings)
    return lambda: simulate_orientations(reflections, orientations, settings)


def compare(name: str, repeats: int) -> list[dict]:
    """Time both programs on the oracle's orientations of a crystal; one row for each number of thicknesses."""
    given = as_given(name)
    axes = np.array([pattern.orientation[2] for pattern in py4dstem.load(name).patterns])
    theirs = Py4dstem(given)
    difference = max(largest_difference(theirs, given, axis) for axis in axes[[0, -1]])
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: off py4DSTEM by {difference:.1e}: not timed")
    crystal = as_simulated(given)
    rows = []
    for thicknesses, target in zip((ONE, HUNDRED), TARGETS[name], strict=True):
        taken = seconds(
            {
                "py4DSTEM": lambda t=thicknesses: [theirs.pattern(axis, t) for axis in axes],
                "gpuediff": patterns(crystal, orientation_matrix(np.tile(axes, (TOGETHER, 1))), thicknesses),
            },
            repeats,
        )
        row = {
            "crystal": name,
            "thicknesses": len(thicknesses),
            "orientations": len(axes),
            "largest_difference": difference,
            "py4DSTEM_seconds_a_pattern": taken["py4DSTEM"] / len(axes),
            "gpuediff_seconds_a_pattern": taken["gpuediff"] / (TOGETHER * len(axes)),
            "ratio": TOGETHER * taken["py4DSTEM"] / taken["gpuediff"],
            "target": target,
        }
        print(
            f"{name}, {len(thicknesses)} thicknesses: py4DSTEM {1e3 * row['py4DSTEM_seconds_a_pattern']:,.1f} ms, "
            f"gpuediff {1e3 * row['gpuediff_seconds_a_pattern']:.3f} ms a pattern: {row['ratio']:.0f}x "
            f"(target {target}x)",
            flush=True,
        )
        rows.append(row)
    return rows


def scaling(repeats: int) -> dict[str, list[dict]]:
    """Patterns a second of the crystals against beams and thicknesses on one thread, and against threads."""
    orientations = orientation_matrix(np.random.default_rng(0).normal(size=(PATTERNS, 3)))
    beams, outputs, threads = [], [], []
    for name in TARGETS:
        crystal = as_simulated(as_given(name))
        for count in (1, 10, 100):
            thicknesses = tuple(np.linspace(2000 / count, 2000, count).tolist()) if count > 1 else ONE
            call = patterns(crystal, orientations, thicknesses)
            taken = seconds({name: call}, repeats)[name]
            row = {"crystal": name, "beams": mean_beams(crystal, orientations), "thicknesses": count}
            row["patterns_per_second"] = len(orientations) / taken
            outputs.append(row)
            if count == 1:
                beams.append(row)
        alone, both = (threaded(crystal, orientations, count, repeats) for count in (1, 2))
        threads.append({"crystal": name, "seconds_1": alone, "seconds_2": both, "efficiency": alone / (2 * both)})
        print(f"{name}: {row['beams']:.0f} beams, two threads at {100 * threads[-1]['efficiency']:.0f} % of twice one")
    return {"beams": beams, "thicknesses": outputs, "threads": threads}


def mean_beams(crystal: Crystal, orientations: np.ndarray) -> float:
    """Return the mean number of beams of a pattern."""
    beams = select_beams(reflections_of(crystal, SIMULATION), orientations[:, 2], SIMULATION)
    return float(np.diff(beams.offsets).mean())


def threaded(crystal: Crystal, orientations: np.ndarray, threads: int, repeats: int) -> float:
    """Median time of all patterns at 200 Å on some threads."""
    numba.set_num_threads(threads)
    try:
        return seconds({"": patterns(crystal, orientations, ONE)}, repeats)[""]
    finally:
        numba.set_num_threads(1)


def draw(measured: dict[str, list[dict]], path: Path) -> None:
    """Draw patterns a second against the number of beams, a line for each number of thicknesses."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for count, colour, marker in ((1, "#0072B2", "o"), (10, "#E69F00", "s"), (100, "#009E73", "^")):
        rows = sorted((row for row in measured["thicknesses"] if row["thicknesses"] == count), key=lambda r: r["beams"])
        label = "1 thickness, 200 Å, one thread" if count == 1 else f"{count} thicknesses to 2000 Å"
        axes.loglog(
            [row["beams"] for row in rows],
            [row["patterns_per_second"] for row in rows],
            color=colour,
            marker=marker,
            label=label,
        )
    beams = [row["beams"] for row in measured["beams"]]
    two = [PATTERNS / row["seconds_2"] for row in measured["threads"]]
    axes.loglog(beams, two, color="#0072B2", linestyle=(0, (4, 2)), label="1 thickness, two threads")
    axes.set_xticks([25, 50, 100, 200, 400], ["25", "50", "100", "200", "400"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    for row in measured["beams"]:
        axes.annotate(
            row["crystal"],
            (row["beams"], row["patterns_per_second"]),
            (-4, -13),
            textcoords="offset points",
            fontsize=8,
            ha="right",
        )
    axes.set(xlabel="Beams in a pattern", ylabel="Patterns a second")
    axes.grid(which="major", color="0.88")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    numba.set_num_threads(1)
    compared: list[dict] | str = "not measured: py4DSTEM is not installed"
    if find_spec("py4DSTEM"):
        compared = [row for name in TARGETS for row in compare(name, repeats)]
    else:
        print(compared)
    measured = scaling(repeats)
    draw(measured, ROOT / "docs" / "images" / "bloch-scaling.png")
    content = {"repeats": repeats, "against_py4DSTEM": compared, **measured}
    print("wrote", write_record("bloch-cpu", content).relative_to(ROOT))


if __name__ == "__main__":
    main()
