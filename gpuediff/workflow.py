"""The main job in four calls: simulate, train, evaluate, and predict.

The command line does no more than call these; a notebook can do the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpuediff.arrays import CPU, Device
from gpuediff.errors import InvalidBundle, InvalidLibrary
from gpuediff.evaluation.metrics import Answers, Evaluation, TrainLabels
from gpuediff.evaluation.metrics import evaluate as evaluate_hierarchy
from gpuediff.features.blocks import block_of_run
from gpuediff.features.examples import KINDS, Examples, Kind, examples
from gpuediff.features.labelled import LabelledFeatures, labelled_features
from gpuediff.features.preparation import scale_intensity
from gpuediff.hierarchy.groups import predict_groups
from gpuediff.hierarchy.trained_on import TrainedOn, intensity_sum_for
from gpuediff.library.split import hash_fractions, split_materials
from gpuediff.progress import Track, silent
from gpuediff.settings import MEMORY, Run, Training

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.hierarchy.prediction import Prediction
    from gpuediff.library.reader import Library
    from gpuediff.library.writer import Outcome
    from gpuediff.peaks import PeakBatch


def simulate(
    run: Run,
    path: str | Path,
    *,
    executor: Executor | None = None,
    device: Device = CPU,
    memory: int = MEMORY,
    track: Track = silent,
) -> Outcome:
    """Read a run's structures and write their pattern library.

    Parameters
    ----------
    run : Run
    path : path
        Of the library to be; an interrupted simulation to the same path goes on where it stopped.
    executor : Executor, optional
        Whose workers simulate, on the CPU; this process if absent.
    device : Device
        Where this process simulates.
    memory : int
        Bytes that the simulation may take on the CPU, beside a shard of the library.

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
    return build_library(path, run, crystals, skipped, executor=executor, device=device, memory=memory, track=track)


def train(
    run: Run,
    library: Library,
    *,
    materials: int | None = None,
    orientations: int | None = None,
    track: Track = silent,
) -> Hierarchy:
    """Train the hierarchy of forests on the training materials of a library, and calibrate it on the validation ones.

    Flags (`Hierarchy.flags`) are learned only where there are validation materials.

    Parameters
    ----------
    materials : int, optional
        Of the training materials only so many, for a learning curve, and of the validation materials the same part,
        drawn at random; all if absent.
    orientations : int, optional
        Of each training material only so many patterns, spread evenly over its orientations; all if absent.

    Raises
    ------
    InvalidLibrary
        If the library is not the run's, no material falls on the training side, the thickness is not there, or a
        protocol needs other orientations.
    """
    from gpuediff.hierarchy.hierarchy import Hierarchy

    other = library.differences(run)
    if other:
        raise InvalidLibrary(f"{library.path}: made by another configuration ({'; '.join(other)}): simulate it anew")
    block, settings = block_of_run(run), run.training
    side, known = split_materials(library.materials.material_id, run.split), _told_apart(library, settings)
    training, validation = (side == "train") & known, (side == "validation") & known
    if not training.any():
        raise InvalidLibrary(f"none of the {len(side)} materials falls on the training side: simulate more materials")
    if materials is not None:
        part = min(1.0, materials / np.count_nonzero(training))
        fraction = hash_fractions(library.materials.material_id, run.split)
        training = _some(training, materials, fraction)
        validation = _some(validation, math.ceil(part * validation.sum()), fraction)

    protocols = settings.protocols or (library.run.simulation.orientations.protocol,)

    def by_protocol(chosen: np.ndarray, orientations: int | None) -> list[LabelledFeatures]:
        return [
            labelled_features(
                library,
                block,
                settings.thickness,
                chosen,
                protocol=protocol,
                sizes=settings.group_sizes,
                orientations=orientations,
                seed=settings.seed,
                track=track,
            )
            for protocol in protocols
        ]

    def made(chosen: np.ndarray, kinds: Sequence[Kind]) -> Examples:
        count = math.ceil(settings.flags.patterns / len(protocols))
        return Examples.join(
            [
                examples(
                    library,
                    block,
                    settings.thickness,
                    chosen,
                    protocol=protocol,
                    count=count,
                    kinds=kinds,
                    seed=settings.seed,
                    track=track,
                )
                for protocol in protocols
            ]
        )

    data = LabelledFeatures.join(by_protocol(training, orientations))
    trained_on = TrainedOn(
        split=run.split,
        crystals_checksum=library.crystals_checksum,
        intensity_sum=float(np.median(data.intensity_sum)),
        materials=materials,
    )
    hierarchy = Hierarchy(block, settings, trained_on)
    hierarchy.fit(data.features, data.space_group_number, data.lattice, track=track)
    if validation.any():
        parts = by_protocol(validation, None)
        data, protocol = LabelledFeatures.join(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        hierarchy.calibrate(
            data.features,
            data.space_group_number,
            material=data.material,
            patterns=data.patterns,
            protocol=protocol,
        )
    if validation.any() and settings.flags.patterns:
        learned, asked = made(training, KINDS), made(validation, ("one_grain", "several_grains"))
        if len(learned) and len(asked):
            hierarchy.learn_flags(learned, asked, track=track)
    return hierarchy


def evaluate(
    library: Library,
    hierarchy: Hierarchy,
    *,
    protocol: str | None = None,
    side: Literal["test", "validation"] = "test",
    aggregate_size: int = 10,
    materials: int | None = None,
    track: Track = silent,
) -> tuple[Evaluation, dict[str, Answers]]:
    """Score a hierarchy on those materials of a library that it was not trained on.

    The split and the thickness are the hierarchy's own, whatever a configuration says by now.

    Parameters
    ----------
    protocol : str, optional
        What the detector does to the patterns; nothing if absent.
    side : "test" or "validation"
        Which materials: a model is chosen on the validation materials, and scored once on the test materials.
    materials : int, optional
        Of these materials only so many, drawn at random; all if absent.

    Raises
    ------
    InvalidLibrary
        If it holds other structures than the hierarchy was trained on, in whatever orientations, or other orientations
        than the protocol needs; no material falls on that side; or the thickness is not there.
    InvalidBundle
        If the hierarchy does not know what it was trained on.
    """
    if hierarchy.trained_on is None:
        raise InvalidBundle("the model does not say which materials it was trained on: train it again")
    if library.crystals_checksum != hierarchy.trained_on.crystals_checksum:
        raise InvalidLibrary(
            f"{library.path}: holds other structures than the library that the model was trained on: which of them "
            f"it has seen is not known; simulate the structures of its own configuration"
        )
    split, thickness = hierarchy.trained_on.split, hierarchy.settings.thickness
    protocol = protocol or library.run.simulation.orientations.protocol
    sides, known = split_materials(library.materials.material_id, split), _told_apart(library, hierarchy.settings)
    if not ((sides == side) & known).any():
        more = "" if side == "test" or split.validation_fraction else " with split.validation_fraction > 0"
        raise InvalidLibrary(
            f"none of the {len(sides)} materials falls on the {side} side: "
            + (f"train the model again{more}" if more else "simulate more materials")
        )
    fraction = hash_fractions(library.materials.material_id, split)
    test = labelled_features(
        library,
        hierarchy.block,
        thickness,
        _some((sides == side) & known, materials, fraction),
        protocol=protocol,
        sizes=(1, aggregate_size),
        seed=split.seed,
        track=track,
    )
    seen = _some((sides == "train") & known, hierarchy.trained_on.materials, fraction)
    patterns = np.flatnonzero(seen[library.material_of_pattern])
    material = library.material_of_pattern[patterns]
    return evaluate_hierarchy(
        hierarchy,
        TrainLabels(material, library.materials.space_group_number[material]),
        test,
        protocol=protocol,
        thickness=thickness,
        side=side,
        aggregate_size=aggregate_size,
        seed=split.seed,
    )


def _some(chosen: np.ndarray, count: int | None, fraction: np.ndarray) -> np.ndarray:
    """Keep `count` of the materials that are chosen, (materials,) bool: those of the smallest hash fractions."""
    if count is None:
        return chosen
    kept = np.zeros(len(chosen), dtype=bool)
    places = np.flatnonzero(chosen)
    kept[places[np.argsort(fraction[places], kind="stable")][:count]] = True
    return kept


def _told_apart(library: Library, settings: Training) -> np.ndarray:
    """Say which materials are of the crystal systems that a model tells apart, (materials,) bool."""
    system = library.materials.crystal_system
    return np.isin(system, settings.crystal_systems) if settings.crystal_systems else np.ones(len(system), dtype=bool)


def describe(hierarchy: Hierarchy, peaks: PeakBatch, *, intensity_sum: float | None = None) -> np.ndarray:
    """Compute the features of single patterns, for `Hierarchy.predict` and `Hierarchy.flags`.

    Parameters and errors are those of `predict`.

    Returns
    -------
    array, shape (n, width), float32
    """
    return hierarchy.block.compute(_scaled(hierarchy, peaks, intensity_sum))


def predict(
    hierarchy: Hierarchy, peaks: PeakBatch, *, groups: np.ndarray | None = None, intensity_sum: float | None = None
) -> Prediction:
    """Predict patterns one by one, or in groups of patterns known to be of one material.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns; q in Å⁻¹ from the direct beam, which is among the peaks; intensities in any unit.
    groups : array, shape (n,), int64, optional
        Group of every pattern; the answer then has a row for each distinct group, in rising order.
    intensity_sum : float, optional
        To which every pattern's intensities are scaled, the direct beam included; the median of the patterns that
        the hierarchy was trained on if absent.

    Raises
    ------
    InvalidPeaks
        If a peak is not finite or an intensity negative; names pattern and peak.
    InvalidBundle
        If no sum is given and the hierarchy does not know that of its training patterns.
    """
    if groups is not None:
        return predict_groups(hierarchy, _scaled(hierarchy, peaks, intensity_sum), groups)
    return hierarchy.predict(describe(hierarchy, peaks, intensity_sum=intensity_sum))


def _scaled(hierarchy: Hierarchy, peaks: PeakBatch, intensity_sum: float | None) -> PeakBatch:
    return scale_intensity(peaks.validate(), intensity_sum_for(hierarchy, intensity_sum))


def _reasons(skipped: list) -> str:
    if not skipped:
        return "there is none"
    counts: dict[str, int] = {}
    for structure in skipped:
        counts[structure.reason] = counts.get(structure.reason, 0) + 1
    return "; ".join(f"{count} x {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])[:5])
