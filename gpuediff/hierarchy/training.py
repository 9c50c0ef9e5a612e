"""Training the models of a hierarchy, one after the other: those of the crystal, and those of the flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters
from gpuediff.errors import InvalidFeatures
from gpuediff.forests.samples import class_weights
from gpuediff.forests.training import fit_classifier, fit_regressor
from gpuediff.hierarchy.calibration import fitted_map
from gpuediff.hierarchy.flags import QUANTILES, FlagCalibration, odds_of_broken
from gpuediff.hierarchy.labels import (
    CRYSTAL_SYSTEM,
    FLAG_CLASSES,
    NOVELTY,
    SEVERAL_GRAINS,
    crystal_systems_of,
    lattice_model,
    model_seed,
    space_group_model,
    systems_among,
)
from gpuediff.progress import Track, silent
from gpuediff.settings import Training

if TYPE_CHECKING:
    from gpuediff.features.examples import Examples
    from gpuediff.forests.forest import Forest


def train_models(
    features: np.ndarray, numbers: np.ndarray, lattice: np.ndarray, names: Sequence[str], settings: Training
) -> Iterator[tuple[str, Forest]]:
    """Train the models of these names, in the order of `gpuediff.hierarchy.labels.model_names`.

    Parameters
    ----------
    features : array, shape (n, features), float32
    numbers : array, shape (n,), integers
        Space group numbers.
    lattice : array, shape (n, 6)
        a, b, c (Å), alpha, beta, gamma (degrees) of the conventional cell.
    names : sequence of str
        Of all models that there are to be; those of a crystal system that no pattern is of are not.
    settings : Training
        Size of the forests, and the seed from which each takes its own.

    Yields
    ------
    name, forest
        When it is trained.
    """
    wanted = set(names)
    system_of_pattern = crystal_systems_of(numbers)
    systems = systems_among(system_of_pattern)

    def seed(name: str) -> int:
        return model_seed(settings.seed, name)

    top, below = settings.crystal_system, settings.space_group
    weight = class_weights(system_of_pattern, top.class_weight)
    yield (
        CRYSTAL_SYSTEM,
        fit_classifier(features, system_of_pattern, top, seed=seed(CRYSTAL_SYSTEM), classes=systems, weight=weight),
    )
    for system in systems:
        rows = np.flatnonzero(system_of_pattern == system)
        part = features[rows]
        name = space_group_model(system)
        weight = class_weights(numbers[rows], below.class_weight)
        yield name, fit_classifier(part, numbers[rows], below, seed=seed(name), weight=weight)
        for parameter in independent_parameters(system):
            name = lattice_model(system, parameter)
            if name in wanted:
                target = lattice[rows, LATTICE_PARAMETERS.index(parameter)]
                yield name, fit_regressor(part, target, settings.lattice, seed=seed(name))


def learn_flags(
    training: Examples, validation: Examples, settings: Training, *, track: Track = silent
) -> tuple[dict[str, Forest], FlagCalibration]:
    """Train the two forests, and learn from the validation examples what they come to.

    Raises
    ------
    InvalidFeatures
        If there are no examples of a kind.
    """
    for name, features in (
        ("training patterns", training.one_grain),
        ("overlapping training patterns", training.several_grains),
        ("broken training patterns", training.broken),
        ("validation patterns", validation.one_grain),
        ("overlapping validation patterns", validation.several_grains),
    ):
        if not len(features):
            raise InvalidFeatures(f"no {name}: there is nothing to learn flags from")
    contrasts = {SEVERAL_GRAINS: training.several_grains, NOVELTY: training.broken}
    forests: dict[str, Forest] = {}
    for name, unusual in track(list(contrasts.items()), "flags"):
        label = np.repeat(FLAG_CLASSES[name], [len(training.one_grain), len(unusual)])
        forests[name] = fit_classifier(
            np.concatenate([training.one_grain, unusual]),
            label,
            settings.flags.forest,
            seed=model_seed(settings.seed, name),
            classes=FLAG_CLASSES[name],
        )
    materials = len(np.unique(validation.material))
    examples = np.concatenate([validation.one_grain, validation.several_grains])
    truth = np.repeat([0, 1], [len(validation.one_grain), len(validation.several_grains)])
    odds = odds_of_broken(forests[NOVELTY], validation.one_grain)
    calibration = FlagCalibration(
        several_grains=fitted_map(forests[SEVERAL_GRAINS].probability(examples), truth, materials),
        novelty=tuple(np.quantile(odds, np.linspace(0, 1, QUANTILES)).tolist()),
        patterns=len(validation.one_grain),
        materials=materials,
    )
    return forests, calibration
