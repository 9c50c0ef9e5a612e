"""How often the hierarchy is right, on materials it has never seen.

Every score is given twice: for single patterns, and for aggregates of several patterns of one material.
Space groups and lattices are scored with the true crystal system given, as in Gleason et al. 2024, so that
one model's errors are not charged to another; what a user meets, the system predicted, stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuediff.evaluation.calibration import Abstention, Calibration, abstentions, system_calibrations
from gpuediff.evaluation.lattice_errors import Closeness, by_system, closeness
from gpuediff.features.labelled import LabelledFeatures, aggregate_groups
from gpuediff.hierarchy.labels import crystal_systems_of
from gpuediff.settings import CRYSTAL_SYSTEMS, Side

if TYPE_CHECKING:
    from gpuediff.hierarchy.calibration import Learned
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.hierarchy.prediction import Prediction


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
    """Scores of n answers, in values that JSON knows; None stands for what has no answers to be counted among.

    Rows of matrices are the true crystal system, columns the predicted one, in the order of `Evaluation.systems`.

    Parameters
    ----------
    answers : int
    accuracy, accuracy_error : float
        Share right; its standard error over materials, because patterns of one material are not independent.
    accuracy_without_triclinic : float or None
        Of the answers whose truth is another system, the same models choosing among the other systems; None where
        triclinic is neither a truth nor known to the models.
    balanced_accuracy : float
        Mean of `recall` over the systems.
    recall, precision : dict of str to float or None
        Share right, of the answers whose truth is that system, and of those that name it.
    false_positive_rate : dict of str to float or None
        Of the answers whose truth is another system, the share that name this one.
    confusion : list of list of int
        Number of answers.
    confidence_matrix : list of list of float or None
        Mean confidence.
    mean_confidence : float
    confidence_calibration, probability_calibration : Calibration
        Of the confidence, and of the probability of the predicted system; None where answers have no probability.
    calibrated_on : int or None
        Validation materials that the probability was calibrated on; None where it is as the forest gives it.
    abstention : list of Abstention
        For each error rate that answers can be asked to keep to; empty where the probability is not calibrated.
    space_group_accuracy : dict of str to float
        With the true crystal system given; also `space_group_accuracy_overall`.
    space_group_accuracy_system_predicted : float
        With the predicted one.
    lattice_error, lattice_error_quartiles : dict of system to dict of parameter
        Median, and 25th, 50th and 75th percentile, of |predicted - true|, Å and degrees, with the true system given;
        an answer without a lattice is infinitely wrong, and an infinite percentile None.
    lattice_closeness : dict of str to Closeness
        With the true system given.
    lattice_closeness_system_predicted : Closeness
        Of all answers and all six parameters, with the predicted system.
    """

    answers: int
    accuracy: float
    accuracy_error: float
    accuracy_without_triclinic: float | None
    balanced_accuracy: float
    recall: dict[str, float]
    precision: dict[str, float | None]
    false_positive_rate: dict[str, float | None]
    confusion: list[list[int]]
    confidence_matrix: list[list[float | None]]
    mean_confidence: float
    confidence_calibration: Calibration
    probability_calibration: Calibration | None
    calibrated_on: int | None
    abstention: list[Abstention]
    space_group_accuracy: dict[str, float]
    space_group_accuracy_overall: float
    space_group_accuracy_system_predicted: float
    lattice_error: dict[str, dict[str, float | None]]
    lattice_error_quartiles: dict[str, dict[str, list[float | None]]]
    lattice_closeness: dict[str, Closeness]
    lattice_closeness_system_predicted: Closeness


@dataclass(frozen=True)
class Evaluation:
    """What is known about a hierarchy after it met a library's test, or validation, materials."""

    protocol: str
    thickness: float
    side: Side  # of the materials that it met, which the names below call test materials
    systems: tuple[str, ...]
    train_materials: int
    test_materials: int
    train_space_groups: dict[int, int]  # number of training materials of each space group, by its number
    train_patterns: int
    test_patterns: int
    untrained_space_groups: float  # share of test patterns whose space group no training material has
    aggregate_size: int
    single: Scores
    aggregate: Scores | None  # none where no test material has enough patterns

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores there are, by the names of `evaluate`'s answers: "single", "aggregate"."""
        return (
            {"single": self.single} if self.aggregate is None else {"single": self.single, "aggregate": self.aggregate}
        )

    @property
    def titles(self) -> dict[str, str]:
        """What an answer was made from, by the same names."""
        return {"single": "1 pattern", "aggregate": f"{self.aggregate_size} patterns"}


def answer(hierarchy: Hierarchy, test: LabelledFeatures) -> Answers:
    """Predict from every feature vector by itself, be it of one pattern or of several."""
    predicted = hierarchy.predict(test.features, patterns=test.patterns)
    given = _trained_or(predicted.crystal_system, crystal_systems_of(test.space_group_number), hierarchy.systems)
    in_true_system = hierarchy.in_systems(predicted, test.features, given)
    return Answers(predicted, in_true_system, test.material, test.space_group_number, test.lattice)


def answer_by_votes(hierarchy: Hierarchy, single: LabelledFeatures, size: int, seed: int) -> Answers | None:
    """Predict groups of `size` patterns of one material from their votes; None if no material has that many."""
    groups = aggregate_groups(single.material, size, seed)
    used = np.flatnonzero(groups >= 0)
    if used.size == 0:
        return None
    features, groups = single.features[used], groups[used]
    _, first = np.unique(groups, return_index=True)
    truth = single[used[first]]
    predicted = hierarchy.aggregate(features, groups)
    given = _trained_or(predicted.crystal_system, crystal_systems_of(truth.space_group_number), hierarchy.systems)
    in_true_system = hierarchy.in_systems(predicted, features, given, groups=groups)
    return Answers(predicted, in_true_system, truth.material, truth.space_group_number, truth.lattice)


def score(answers: Answers, systems: tuple[str, ...], learned: Learned | None = None) -> Scores:
    """Score answers whose true and predicted crystal systems are all among `systems`.

    `learned` is what the hierarchy knows of how far to trust answers of this kind.
    """
    true_system, predicted_system = crystal_systems_of(answers.space_group_number), answers.predicted.crystal_system
    right = predicted_system == true_system
    confusion, confidence_sum = _matrices(true_system, predicted_system, answers.predicted.confidence, systems)
    present = [name for name in systems if (true_system == name).any()]
    recall = {name: float(right[true_system == name].mean()) for name in present}
    space_group_right = answers.predicted_in_true_system.space_group_number == answers.space_group_number
    per_material = _mean_by(right, answers.material)
    confidence_calibration, probability_calibration = system_calibrations(answers.predicted, right, true_system)
    quartiles, close = by_system(answers.predicted_in_true_system.lattice, answers.lattice, true_system, systems)
    return Scores(
        answers=len(right),
        accuracy=float(right.mean()),
        accuracy_error=float(per_material.std(ddof=1) / np.sqrt(len(per_material))) if len(per_material) > 1 else 1.0,
        accuracy_without_triclinic=_accuracy_without("triclinic", answers.predicted, true_system),
        balanced_accuracy=float(np.mean(list(recall.values()))),
        recall=recall,
        precision=_by_name(systems, np.diag(confusion), confusion.sum(axis=0)),
        false_positive_rate=_by_name(
            systems, confusion.sum(axis=0) - np.diag(confusion), confusion.sum() - confusion.sum(axis=1)
        ),
        confusion=confusion.tolist(),
        confidence_matrix=[
            [_share(*cell) for cell in zip(*rows, strict=True)] for rows in zip(confidence_sum, confusion, strict=True)
        ],
        mean_confidence=float(answers.predicted.confidence.mean()),
        confidence_calibration=confidence_calibration,
        probability_calibration=probability_calibration,
        calibrated_on=learned.materials if learned is not None else None,
        abstention=abstentions(answers.predicted, right, learned),
        space_group_accuracy={name: float(space_group_right[true_system == name].mean()) for name in present},
        space_group_accuracy_overall=float(space_group_right.mean()),
        space_group_accuracy_system_predicted=float(
            (answers.predicted.space_group_number == answers.space_group_number).mean()
        ),
        lattice_error={
            system: {name: median for name, (_, median, _) in errors.items()} for system, errors in quartiles.items()
        },
        lattice_error_quartiles=quartiles,
        lattice_closeness=close,
        lattice_closeness_system_predicted=closeness(answers.predicted.lattice, answers.lattice),
    )


def evaluate(
    hierarchy: Hierarchy,
    train: TrainLabels,
    test: LabelledFeatures,
    *,
    protocol: str,
    thickness: float,
    side: Side = "test",
    aggregate_size: int = 10,
    seed: int = 0,
) -> tuple[Evaluation, dict[str, Answers]]:
    """Score a hierarchy on test materials; returns the answers too, for pictures.

    Parameters
    ----------
    train : TrainLabels
    test : LabelledFeatures
        No material may be in both. Of single patterns; and of `aggregate_size` patterns together, if the block pools.
    protocol : str
        How the test patterns were oriented and measured: no score means anything without it.
    thickness : float
        Å.
    side : "test" or "validation"
        Of the materials of `test`: what was chosen or learned on validation materials is not proved by them.

    Raises
    ------
    ValueError
        If a material is in both sets.
    """
    shared = np.intersect1d(train.material, test.material)
    if shared.size:
        raise ValueError(f"{shared.size} materials are in both the training and the {side} set")
    known = {*hierarchy.systems, *np.unique(crystal_systems_of(test.space_group_number)).tolist()}
    systems = tuple(name for name in CRYSTAL_SYSTEMS if name in known)
    single, together = test[test.patterns == 1], test[test.patterns == aggregate_size]
    answers = {"single": answer(hierarchy, single)}
    aggregates = answer(hierarchy, together) if len(together) else None
    if not hierarchy.block.pools:
        aggregates = answer_by_votes(hierarchy, single, aggregate_size, seed)
    if aggregates is not None:
        answers["aggregate"] = aggregates
    trust = hierarchy.calibration_
    of_groups = trust.groups if trust and hierarchy.block.pools else None
    _, first = np.unique(train.material, return_index=True)
    numbers, counts = np.unique(train.space_group_number[first], return_counts=True)
    evaluation = Evaluation(
        protocol=protocol,
        thickness=thickness,
        side=side,
        systems=systems,
        train_materials=len(first),
        test_materials=len(np.unique(test.material)),
        train_space_groups=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
        train_patterns=len(train.material),
        test_patterns=len(single),
        untrained_space_groups=float((~np.isin(single.space_group_number, train.space_group_number)).mean()),
        aggregate_size=aggregate_size,
        single=score(answers["single"], systems, trust.single if trust else None),
        aggregate=score(aggregates, systems, of_groups) if aggregates is not None else None,
    )
    return evaluation, answers


def _trained_or(otherwise: np.ndarray, systems: np.ndarray, trained: Any) -> np.ndarray:
    """Take the true system where the hierarchy has models of it: a small library may lack a system."""
    return np.where(np.isin(systems, trained), systems, otherwise)


def _mean_by(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    _, index = np.unique(key, return_inverse=True)
    return np.bincount(index, weights=values) / np.bincount(index)


def _matrices(
    true_system: np.ndarray, predicted_system: np.ndarray, confidence: np.ndarray, systems: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Count the answers of every true and predicted system, and sum their confidence."""
    position = {name: index for index, name in enumerate(systems)}
    cells = ([position[name] for name in true_system], [position[name] for name in predicted_system])
    counts = np.zeros((len(systems), len(systems)), dtype=np.int64)
    sums = np.zeros(counts.shape)
    np.add.at(counts, cells, 1)
    np.add.at(sums, cells, confidence.astype(np.float64))
    return counts, sums


def _accuracy_without(left_out: str, prediction: Prediction, true_system: np.ndarray) -> float | None:
    predicted = prediction.crystal_system
    rows = np.flatnonzero(true_system != left_out)
    others = [index for index, name in enumerate(prediction.systems) if name != left_out]
    if not rows.size or not others or (left_out not in prediction.systems and rows.size == len(true_system)):
        return None
    second = np.array(prediction.systems)[others][prediction.system_votes[:, others].argmax(axis=1)]
    answer = np.where(predicted == left_out, second, predicted)
    return float((answer[rows] == true_system[rows]).mean())


def _by_name(systems: tuple[str, ...], part: np.ndarray, whole: np.ndarray) -> dict[str, float | None]:
    return {name: _share(*counts) for name, *counts in zip(systems, part, whole, strict=True)}


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
