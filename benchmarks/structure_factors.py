"""Structure factors on the CPU, against py4DSTEM in the same process: one core, warm medians, and cold times.

    .venv-py4dstem/bin/python benchmarks/structure_factors.py [--repeats 5]

Both compute all U_g within 4 Å⁻¹, of the oracle's cells, gpuediff in both scattering modes. Parity first, in
py4DSTEM's own. Warm: the table of every element is in memory. Cold: made anew (nothing on the disk). Writes
benchmarks/results/structure-factors-cpu.json.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before NumPy is imported
os.environ["GPUEDIFF_CACHE"] = ""

import argparse
import sys
import time

import numpy as np
from bloch import Py4dstem, seconds
from record import ROOT, write_record

from gpuediff.diffraction import factor_tables
from gpuediff.diffraction.potential import structure_potential

sys.path.insert(0, str(ROOT))
from tests.oracle import py4dstem

NAMES = ("Au", "Si", "quartz", "GdFeO3", "orthoclase")
TOLERANCE = 1e-10  # of the largest |U_g|
TARGET = 100  # py4DSTEM's time over ours, for the largest two


def largest_difference(theirs: Py4dstem, potential) -> float:
    """Largest |difference| of two U_g over the largest |U_g|."""
    values = theirs.crystal.Ug_dict
    ours = np.array([potential.table[tuple(np.array(hkl, dtype=int) + potential.extent)] for hkl in values])
    expected = np.array(list(values.values()))
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


def measure(name: str, repeats: int) -> dict:
    """Time one crystal in both programs."""
    reference = py4dstem.load(name)
    default = reference.settings.model_copy(update={"scattering": "default"})
    theirs = Py4dstem(reference.crystal)
    difference = largest_difference(theirs, structure_potential(reference.crystal, reference.settings))
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: off py4DSTEM by {difference:.1e}: not timed")
    factor_tables._kept_table.cache_clear()
    started = time.perf_counter()
    structure_potential(reference.crystal, reference.settings)
    cold = time.perf_counter() - started
    taken = seconds(
        {
            "py4DSTEM": theirs.structure_factors,
            "ours": lambda: structure_potential(reference.crystal, reference.settings),
            "default": lambda: structure_potential(reference.crystal, default),
        },
        repeats,
    )
    row = {
        "crystal": name,
        "largest_difference": difference,
        "py4DSTEM_seconds": taken["py4DSTEM"],
        "gpuediff_seconds": taken["ours"],
        "gpuediff_seconds_default_mode": taken["default"],
        "gpuediff_seconds_cold": cold,
        "ratio": taken["py4DSTEM"] / taken["ours"],
        "target": TARGET if name in NAMES[3:] else None,
    }
    print(
        f"{name}: py4DSTEM {1e3 * taken['py4DSTEM']:,.0f} ms, gpuediff {1e3 * taken['ours']:.2f} ms "
        f"(default mode {1e3 * taken['default']:.2f}, cold {1e3 * cold:.0f}): {row['ratio']:.0f}x",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows = [measure(name, repeats) for name in NAMES]
    path = write_record("structure-factors-cpu", {"repeats": repeats, "rows": rows})
    print("wrote", path.relative_to(ROOT))


if __name__ == "__main__":
    main()
