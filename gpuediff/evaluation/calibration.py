"""Whether a confidence can be believed: calibration, log-loss, and what is gained by leaving out the doubtful answers.

A confidence is calibrated if of the answers given with confidence 0.7, 70 % are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gpuediff.hierarchy.calibration import Learned
    from gpuediff.hierarchy.prediction import Prediction

BINS = 10
COVERAGES = tuple(part / 10 for part in range(1, 11))
PROBABILITY_MIN = 1e-6  # a smaller probability of the truth counts as this one: log-loss stays finite


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence is in (low, high], the first bin with its lower edge."""

    low: float
    high: float
    answers: int
    confidence: float | None  # mean; None where there are no answers
    accuracy: float | None


@dataclass(frozen=True)
class Coverage:
    """What is right among the most confident part of the answers."""

    share: float
    answers: int
    confidence_min: float  # of the answers that are kept
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How a confidence in n answers compares with how often they are right.

    Parameters
    ----------
    answers : int
    expected_error : float
        Expected calibration error: |mean confidence - accuracy| of each of ten equally wide bins, averaged with the
        number of answers as weight (Naeini et al., AAAI 2015).
    bins : list of Bin
        From the least to the most confident.
    coverage : list of Coverage
        Of the most confident 10, 20, ... 100 %.
    log_loss : float or None
        Mean of -ln p of the true crystal system, p at least 1e-6; None for a confidence that is no probability.
    """

    answers: int
    expected_error: float
    bins: list[Bin]
    coverage: list[Coverage]
    log_loss: float | None


@dataclass(frozen=True)
class Abstention:
    """What came of leaving out the answers below the probability that promises an error rate.

    Parameters
    ----------
    error_rate : float
        As promised, by the validation materials.
    probability : float or None
        That is asked for; None where none promises the error rate, so that no answer is given.
    answers : int
        Given.
    coverage : float
        Share of all.
    error : float or None
        Share of the answers given that are wrong; None where none are given.
    """

    error_rate: float
    probability: float | None
    answers: int
    coverage: float
    error: float | None


def calibration(confidence: np.ndarray, right: np.ndarray, true_probability: np.ndarray | None = None) -> Calibration:
    """Compare the confidence in n > 0 answers with how often they are right.

    Parameters
    ----------
    confidence : array, shape (n,)
        In [0, 1], of the answer that was given.
    right : array, shape (n,), bool
    true_probability : array, shape (n,), optional
        Probability that was given to the truth; log-loss is asked for by giving it.
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    bins = _bins(confidence, right)
    gaps = [
        one.answers * abs(one.confidence - one.accuracy)
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]
    loss = None
    if true_probability is not None:
        probability = np.maximum(np.asarray(true_probability, dtype=np.float64), PROBABILITY_MIN)
        loss = float(-np.log(probability).mean())
    return Calibration(len(right), float(sum(gaps) / len(right)), bins, coverage_curve(confidence, right), loss)


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> list[Coverage]:
    """Score the most confident 10, 20, ... 100 % of n > 0 answers.

    Answers of one confidence cannot be told apart: where a part ends among them, they count with their common
    accuracy, so that the curve does not depend on the order of the answers.
    """
    levels, level = np.unique(-np.asarray(confidence, dtype=np.float64), return_inverse=True)
    answers, hits = np.bincount(level), np.bincount(level, weights=right)
    answers_before = np.concatenate([[0], np.cumsum(answers)])
    hits_before = np.concatenate([[0], np.cumsum(hits)])
    curve = []
    for share in COVERAGES:
        kept = max(1, round(share * len(right)))
        last = int(np.searchsorted(answers_before[1:], kept))
        inside = hits_before[last] + (kept - answers_before[last]) * hits[last] / answers[last]
        curve.append(Coverage(share, kept, float(-levels[last]), float(inside / kept)))
    return curve


def system_calibrations(
    prediction: Prediction, right: np.ndarray, true_system: np.ndarray
) -> tuple[Calibration, Calibration | None]:
    """Judge the two confidences in a crystal system: its share of what was counted, and its probability.

    Parameters
    ----------
    prediction : Prediction
        n answers.
    right : array, shape (n,), bool
        Of the crystal system.
    true_system : array, shape (n,), str
        A system that the models do not know has probability 0.

    Returns
    -------
    confidence : Calibration
    probability : Calibration or None
        Of the probability of the predicted system; None where no answer has one.
    """
    confidence = calibration(prediction.confidence, right)
    probability = prediction.probability
    known = np.isfinite(probability).all(axis=1)
    rows = np.flatnonzero(known)
    if not rows.size:
        return confidence, None
    of_truth = np.zeros(len(right))
    for column, system in enumerate(prediction.systems):
        of_truth = np.where(true_system == system, probability[:, column], of_truth)
    of_answer = probability[np.arange(len(right)), prediction.system_index]
    return confidence, calibration(of_answer[rows], right[rows], of_truth[rows])


def abstentions(prediction: Prediction, right: np.ndarray, learned: Learned | None) -> list[Abstention]:
    """Compare the error of the answers that are given at each threshold with what it promises.

    Parameters
    ----------
    prediction : Prediction
        n answers with probabilities.
    right : array, shape (n,), bool
    learned : Learned or None
        Has the thresholds; where there are none the list is empty.
    """
    probability, found = prediction.system_probability, []
    for one in learned.thresholds if learned is not None else ():
        given = probability >= (np.inf if one.probability is None else one.probability)
        answers = int(given.sum())
        error = float(1 - right[given].mean()) if answers else None
        found.append(Abstention(one.error_rate, one.probability, answers, answers / len(right), error))
    return found


def _bins(confidence: np.ndarray, right: np.ndarray) -> list[Bin]:
    # float32 votes such as 0.7 lie beside the edge: rounded, they fall on the side where the decimal number falls
    number = np.clip(np.ceil(np.round(confidence * BINS, 5)).astype(np.int64) - 1, 0, BINS - 1)
    answers = np.bincount(number, minlength=BINS)
    told = np.bincount(number, weights=confidence, minlength=BINS)
    hits = np.bincount(number, weights=right, minlength=BINS)
    return [
        Bin(
            index / BINS,
            (index + 1) / BINS,
            int(answers[index]),
            float(told[index] / answers[index]) if answers[index] else None,
            float(hits[index] / answers[index]) if answers[index] else None,
        )
        for index in range(BINS)
    ]
