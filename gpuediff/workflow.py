"""The main job in four calls: simulate, train, evaluate, and predict.

The command line does no more than call these; a notebook can do the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpuediff.arrays import resolve_device
from gpuediff.errors import DeviceUnavailable, InvalidLibrary
from gpuediff.evaluation.metrics import Answers, Evaluation, LabelledFeatures
from gpuediff.evaluation.metrics import evaluate as evaluate_hierarchy
from gpuediff.features.blocks import FeatureBlock, RadialBasisBlock
from gpuediff.features.radial_basis import RadialBasis
from gpuediff.library.split import split_materials
from gpuediff.progress import Track, silent
from gpuediff.settings import Run

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.hierarchy.prediction import Prediction
    from gpuediff.library.reader import Library
    from gpuediff.library.writer import Outcome
    from gpuediff.peaks import PeakBatch

# Patterns whose peaks and features are held at a time beside the feature matrix itself.
PATTERNS_AT_A_TIME = 20_000


def feature_block(run: Run) -> RadialBasisBlock:
    """Return the features that a run asks for."""
    return RadialBasisBlock(RadialBasis.from_settings(run.features), direct_beam=run.features.direct_beam)


def choose_device(request: Literal["auto", "gpu", "cpu"]) -> str:
    """Say in one line where this version computes, and why.

    Raises
    ------
    DeviceUnavailable
        If the GPU is asked for: this version runs the whole of the main job on the CPU.
    """
    device = resolve_device(request)
    if device.kind == "cpu":
        return f"computing on the CPU: {device.reason}"
    only_cpu = f"this version runs the main job on the CPU only, although there is a GPU ({device.name})"
    if request == "gpu":
        raise DeviceUnavailable(f"--device gpu: {only_cpu}: use --device cpu")
    return f"computing on the CPU: {only_cpu}"


def simulate(run: Run, path: str | Path, *, executor: Executor | None = None, track: Track = silent) -> Outcome:
    """Read a run's structures and write their pattern library.

    Parameters
    ----------
    run : Run
    path : path
        Of the library to be; an interrupted simulation to the same path goes on where it stopped.
    executor : Executor, optional
        Whose workers simulate; this process if absent.

    Returns
    -------
    "built", "resumed" or "existed"

    Raises
    ------
    InvalidStructureSource, InvalidLibrary
    """
    from gpuediff.crystals.sources import read_crystals
    from gpuediff.library.writer import build_library

    crystals, skipped = read_crystals(run.structures, track=track)
    if not crystals:
        raise InvalidLibrary(f"no structure of source {run.structures.source!r} can be simulated: {_reasons(skipped)}")
    return build_library(path, run, crystals, skipped, executor=executor, track=track)


def labelled_features(
    library: Library, block: FeatureBlock, thickness: float, materials: np.ndarray, *, track: Track = silent
) -> LabelledFeatures:
    """Compute the features of some materials' patterns at one thickness.

    Parameters
    ----------
    materials : array, shape (materials of the library,), bool

    Returns
    -------
    LabelledFeatures
        In the library's order.
    """
    patterns = np.flatnonzero(materials[library.material_of_pattern])
    features = np.empty((len(patterns), block.width), dtype=block.dtype)
    starts = range(0, len(patterns), PATTERNS_AT_A_TIME)
    for start in track(starts, "features"):
        rows = slice(start, start + PATTERNS_AT_A_TIME)
        features[rows] = block.compute(library.peaks(thickness, patterns[rows]))
    material = library.material_of_pattern[patterns]
    return LabelledFeatures(
        features,
        material,
        library.materials.space_group_number[material],
        library.materials.conventional[material],
    )


def train(run: Run, library: Library, *, track: Track = silent) -> Hierarchy:
    """Train the hierarchy of forests on the training materials of a library.

    Raises
    ------
    InvalidLibrary
        If no material falls on the training side, or the thickness is not in the library.
    """
    from gpuediff.hierarchy.hierarchy import Hierarchy

    block = feature_block(run)
    sides = split_materials(library.materials.material_id, run.split)
    if not sides.any():
        raise InvalidLibrary(f"none of the {len(sides)} materials falls on the training side: simulate more materials")
    data = labelled_features(library, block, run.training.thickness, sides, track=track)
    hierarchy = Hierarchy(block, run.training)
    return hierarchy.fit(data.features, data.space_group_number, data.lattice, track=track)


def evaluate(
    run: Run, library: Library, hierarchy: Hierarchy, *, aggregate_size: int = 10, track: Track = silent
) -> tuple[Evaluation, dict[str, Answers]]:
    """Score a hierarchy on the test materials of a library.

    Raises
    ------
    InvalidLibrary
        If no material falls on the test side.
    """
    sides = split_materials(library.materials.material_id, run.split)
    if sides.all():
        raise InvalidLibrary(f"none of the {len(sides)} materials falls on the test side: simulate more materials")
    thickness = run.training.thickness
    test = labelled_features(library, hierarchy.block, thickness, ~sides, track=track)
    trained = np.flatnonzero(sides[library.material_of_pattern])
    material = library.material_of_pattern[trained]
    train_labels = LabelledFeatures(
        np.empty((len(trained), 0), dtype=np.float32),
        material,
        library.materials.space_group_number[material],
        library.materials.conventional[material],
    )
    return evaluate_hierarchy(
        hierarchy,
        train_labels,
        test,
        protocol=library.run.simulation.orientations.protocol,
        thickness=thickness,
        aggregate_size=aggregate_size,
        seed=run.split.seed,
    )


def predict(hierarchy: Hierarchy, peaks: PeakBatch, *, groups: np.ndarray | None = None) -> Prediction:
    """Predict patterns one by one, or in groups of patterns known to be of one material.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns; q in Å⁻¹ from the direct beam, which is among the peaks.
    groups : array, shape (n,), int64, optional
        Group of every pattern; the answer then has a row for each distinct group, in rising order.

    Raises
    ------
    InvalidPeaks
        If a peak is not finite or an intensity negative; names pattern and peak.
    """
    features = hierarchy.block.compute(peaks)
    return hierarchy.predict(features) if groups is None else hierarchy.aggregate(features, groups)


def _reasons(skipped: list) -> str:
    if not skipped:
        return "there is none"
    counts: dict[str, int] = {}
    for structure in skipped:
        counts[structure.reason] = counts.get(structure.reason, 0) + 1
    return "; ".join(f"{count} x {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])[:5])
