"""How often the hierarchy is right, on materials it has never seen.

Every score is given twice: for single patterns, and for aggregates of several patterns of one material.
Space groups and lattices are scored with the true crystal system given, as in Gleason et al. 2024, so that
one model's errors are not charged to another; what a user meets, the system predicted, stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters
from gpuediff.hierarchy.labels import crystal_systems_of
from gpuediff.settings import CRYSTAL_SYSTEMS

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.hierarchy.prediction import Prediction


@dataclass(frozen=True)
class LabelledFeatures:
    """Feature vectors of n patterns with the truth about each.

    Parameters
    ----------
    features : array, shape (n, width), float32
    material : array, shape (n,), int64
        Which patterns belong together.
    space_group_number : array, shape (n,), int32
    lattice : array, shape (n, 6), float64
        a, b, c (Å), alpha, beta, gamma (degrees) of the conventional cell.
    intensity_sum : array, shape (n,), float64
        Of all peaks, the direct beam included.
    """

    features: np.ndarray
    material: np.ndarray
    space_group_number: np.ndarray
    lattice: np.ndarray
    intensity_sum: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    @property
    def crystal_system(self) -> np.ndarray:
        """True crystal system of every pattern, shape (n,), str."""
        return crystal_systems_of(self.space_group_number)


@dataclass(frozen=True)
class TrainLabels:
    """Material and space group number of every training pattern, shape (n,)."""

    material: np.ndarray
    space_group_number: np.ndarray


@dataclass(frozen=True)
class Answers:
    """Predictions beside the truth, for n patterns or n aggregates."""

    predicted: Prediction
    predicted_in_true_system: Prediction
    material: np.ndarray
    space_group_number: np.ndarray
    lattice: np.ndarray


@dataclass(frozen=True)
class Scores:
    """Scores of n answers; accuracies are fractions, lattice errors medians of |predicted - true|.

    `accuracy_error` is the standard error over materials: patterns of one material are not independent.
    """

    answers: int
    accuracy: float
    accuracy_error: float
    balanced_accuracy: float
    recall: dict[str, float]
    confusion: list[list[int]]
    mean_confidence: float
    space_group_accuracy: dict[str, float]
    space_group_accuracy_overall: float
    space_group_accuracy_system_predicted: float
    lattice_error: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """What is known about a hierarchy after it met a library's test materials."""

    protocol: str
    thickness: float
    systems: tuple[str, ...]
    train_materials: int
    test_materials: int
    train_patterns: int
    test_patterns: int
    untrained_space_groups: float  # share of test patterns whose space group no training material has
    aggregate_size: int
    single: Scores
    aggregate: Scores | None  # none where no test material has enough patterns


def aggregate_groups(material: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Divide each material's patterns into disjoint random groups.

    Returns
    -------
    array, shape (n,), int64
        Group of every pattern; -1 for those left over when a group could not be filled.
    """
    shuffled = np.random.default_rng(seed).permutation(len(material))
    order = shuffled[np.argsort(material[shuffled], kind="stable")]
    groups = np.full(len(material), -1, dtype=np.int64)
    next_group = 0
    boundaries = np.flatnonzero(np.diff(material[order])) + 1
    for patterns in np.split(order, boundaries):
        full = len(patterns) // size
        groups[patterns[: full * size]] = next_group + np.repeat(np.arange(full), size)
        next_group += full
    return groups


def answer_single(hierarchy: Hierarchy, test: LabelledFeatures) -> Answers:
    """Predict every test pattern by itself."""
    predicted = hierarchy.predict(test.features)
    given = _trained_or(predicted.crystal_system, test.crystal_system, hierarchy.systems)
    return Answers(
        predicted,
        hierarchy.predict(test.features, crystal_system=given),
        test.material,
        test.space_group_number,
        test.lattice,
    )


def answer_aggregates(hierarchy: Hierarchy, test: LabelledFeatures, size: int, seed: int) -> Answers | None:
    """Predict groups of `size` patterns of one material; None if no material has that many."""
    groups = aggregate_groups(test.material, size, seed)
    used = np.flatnonzero(groups >= 0)
    if used.size == 0:
        return None
    features, groups = test.features[used], groups[used]
    _, first = np.unique(groups, return_index=True)
    representative = used[first]
    predicted = hierarchy.aggregate(features, groups)
    given = _trained_or(predicted.crystal_system, test.crystal_system[representative], hierarchy.systems)
    return Answers(
        predicted,
        hierarchy.aggregate(features, groups, crystal_system=given),
        test.material[representative],
        test.space_group_number[representative],
        test.lattice[representative],
    )


def score(answers: Answers, systems: tuple[str, ...]) -> Scores:
    """Score answers whose true crystal systems are all among `systems`."""
    true_system = crystal_systems_of(answers.space_group_number)
    right = answers.predicted.crystal_system == true_system
    position = {name: index for index, name in enumerate(systems)}
    confusion = np.zeros((len(systems), len(systems)), dtype=np.int64)
    np.add.at(
        confusion,
        (
            [position[name] for name in true_system],
            [position[name] for name in answers.predicted.crystal_system],
        ),
        1,
    )
    present = [name for name in systems if (true_system == name).any()]
    recall = {name: float(right[true_system == name].mean()) for name in present}
    space_group_right = answers.predicted_in_true_system.space_group_number == answers.space_group_number
    per_material = _mean_by(right, answers.material)
    return Scores(
        answers=len(right),
        accuracy=float(right.mean()),
        accuracy_error=float(per_material.std(ddof=1) / np.sqrt(len(per_material))) if len(per_material) > 1 else 1.0,
        balanced_accuracy=float(np.mean(list(recall.values()))),
        recall=recall,
        confusion=confusion.tolist(),
        mean_confidence=float(answers.predicted.confidence.mean()),
        space_group_accuracy={name: float(space_group_right[true_system == name].mean()) for name in present},
        space_group_accuracy_overall=float(space_group_right.mean()),
        space_group_accuracy_system_predicted=float(
            (answers.predicted.space_group_number == answers.space_group_number).mean()
        ),
        lattice_error={name: _lattice_error(answers, true_system == name, name) for name in present},
    )


def evaluate(
    hierarchy: Hierarchy,
    train: TrainLabels,
    test: LabelledFeatures,
    *,
    protocol: str,
    thickness: float,
    aggregate_size: int = 10,
    seed: int = 0,
) -> tuple[Evaluation, dict[str, Answers]]:
    """Score a hierarchy on test materials; returns the answers too, for pictures.

    Parameters
    ----------
    train : TrainLabels
    test : LabelledFeatures
        No material may be in both.
    protocol : str
        How the test patterns were oriented: no score means anything without it.
    thickness : float
        Å.

    Raises
    ------
    ValueError
        If a material is in both sets.
    """
    shared = np.intersect1d(train.material, test.material)
    if shared.size:
        raise ValueError(f"{shared.size} materials are in both the training and the test set")
    known = {*hierarchy.systems, *np.unique(test.crystal_system)}
    systems = tuple(name for name in CRYSTAL_SYSTEMS if name in known)
    answers = {"single": answer_single(hierarchy, test)}
    aggregates = answer_aggregates(hierarchy, test, aggregate_size, seed)
    if aggregates is not None:
        answers["aggregate"] = aggregates
    evaluation = Evaluation(
        protocol=protocol,
        thickness=thickness,
        systems=systems,
        train_materials=len(np.unique(train.material)),
        test_materials=len(np.unique(test.material)),
        train_patterns=len(train.material),
        test_patterns=len(test),
        untrained_space_groups=float((~np.isin(test.space_group_number, train.space_group_number)).mean()),
        aggregate_size=aggregate_size,
        single=score(answers["single"], systems),
        aggregate=score(aggregates, systems) if aggregates is not None else None,
    )
    return evaluation, answers


def _trained_or(otherwise: np.ndarray, systems: np.ndarray, trained: Any) -> np.ndarray:
    """Take the true system where the hierarchy has models of it: a small library may lack a system."""
    return np.where(np.isin(systems, trained), systems, otherwise)


def _mean_by(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    _, index = np.unique(key, return_inverse=True)
    return np.bincount(index, weights=values) / np.bincount(index)


def _lattice_error(answers: Answers, rows: Any, system: str) -> dict[str, float]:
    error = np.abs(answers.predicted_in_true_system.lattice[rows] - answers.lattice[rows])
    return {name: float(np.median(error[:, LATTICE_PARAMETERS.index(name)])) for name in independent_parameters(system)}
