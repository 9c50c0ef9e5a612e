"""One material for a person to look at: its pattern, and how the intensities swing with thickness."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gpuediff.crystals.sources import read_crystal
from gpuediff.diffraction.orientations import orientations_for
from gpuediff.diffraction.simulate import simulate
from gpuediff.durable import complete_or_absent
from gpuediff.errors import GpuediffError

if TYPE_CHECKING:
    from gpuediff.settings import Run, Simulation

# A beam of excitation error s swings with a period of at most 1/s: 17 Å at 0.06 Å⁻¹, which a step of 20 Å would miss.
CURVE_STEP, CURVE_END = 5.0, 2000.0  # Å


def plot_material(run: Run, material_id: str, orientation: int, folder: Path) -> Path:
    """Simulate one material of a run's structures in one orientation, and draw it.

    Parameters
    ----------
    run : Run
    material_id : str
        Of any structure of the source, also one that `structures.sample` does not draw.
    orientation : int
        Which of the run's, from 0.
    folder : Path
        Where the picture goes, under the name of the material.

    Returns
    -------
    Path
        Of the picture.

    Raises
    ------
    GpuediffError
        If there is no such orientation, or the material is unknown or cannot be simulated.
    """
    from gpuediff.diffraction.figures import pattern_figure

    count = run.simulation.orientations.count
    if not 0 <= orientation < count:
        raise GpuediffError(
            f"--orientation {orientation}: the run has {count}, from 0 to {count - 1}: "
            f"choose one of them, or raise simulation.orientations.count"
        )
    crystal = read_crystal(run.structures, material_id)
    rotations = orientations_for(crystal, run.simulation.orientations)[[orientation]]
    thicknesses, chosen = curve_thicknesses(run.simulation)
    settings = run.simulation.model_copy(update={"thicknesses": thicknesses})
    patterns = simulate(crystal, rotations, settings)
    figure = pattern_figure(crystal, patterns, settings, thickness_index=chosen)
    name = re.sub(r"[^\w.+()-]+", "_", material_id)  # a CIF's id may have a folder in it
    path = folder / f"{name}-orientation-{orientation}.png"
    folder.mkdir(parents=True, exist_ok=True)
    complete_or_absent(path, partial(figure.savefig, dpi=200))
    return path


def curve_thicknesses(settings: Simulation) -> tuple[tuple[float, ...], int]:
    """Choose the thicknesses of the curves, and which of them is that of the pattern.

    Returns
    -------
    thicknesses : tuple of float
        Every 5 Å to 2000 Å, or to the run's thickest, and the pattern's among them.
    index : int
        Of the run's thickness, the middle one where it has several.
    """
    own = settings.thicknesses[len(settings.thicknesses) // 2]
    steps = math.ceil(max(CURVE_END, settings.thicknesses[-1]) / CURVE_STEP)
    thicknesses = tuple(sorted({step * CURVE_STEP for step in range(1, steps + 1)} | {own}))
    return thicknesses, thicknesses.index(own)
