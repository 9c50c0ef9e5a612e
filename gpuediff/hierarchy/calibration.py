"""How far to trust a probability, learned from materials that no forest was trained on.

A forest's probability p_k of the crystal systems becomes p_k^gamma / Σ p^gamma: gamma > 1 for a forest that knows more
than it says, gamma < 1 for one that says more than it knows (temperature scaling, Guo et al., ICML 2017). A random
forest is both, the one where it is sure and the other where it is not, and gives a probability of nothing to what its
few trees have not met; so gamma may grow with the largest p_k, and a small number is added to every p_k before. Within
an answer the order of the systems stays.

Then the probability itself is asked: from which on are answers wrong no more often than is allowed, under each of the
protocols that were trained for? Single patterns and groups of several are learned apart, because forests doubt them
differently.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, model_validator

from gpuediff.errors import InvalidBundle
from gpuediff.settings import Settings, within

ERROR_RATES = (0.01, 0.02, 0.05, 0.1, 0.2)  # that answers can be asked to keep to
# Where gamma, slope and floor of a `ProbabilityMap` are searched.
GAMMA_MAX = 16.0
SLOPE_MAX = 4.0
FLOOR_RANGE = (1e-6, 0.1)


def _rising_rates(thresholds: tuple[Threshold, ...]) -> tuple[Threshold, ...]:
    rates = [one.error_rate for one in thresholds]
    if not rates or sorted(set(rates)) != rates:
        raise ValueError(f"error rates {rates}: expected at least one, rising")
    return thresholds


class Threshold(Settings):
    """The least probability to ask for, so that of the answers given no larger share is wrong."""

    error_rate: Annotated[float, within(0, 1, open_low=True)]
    probability: Annotated[float, within(0, 1)] | None  # None: not to be had, however few answers are given
    coverage: Annotated[float, within(0, 1)]  # share of the validation answers that are given

    @model_validator(mode="after")
    def _given_or_not(self) -> Threshold:
        if (self.probability is None) != (self.coverage == 0):
            raise ValueError("answers are given if and only if there is a least probability")
        return self


class ProbabilityMap(Settings):
    """Turns p_k into (p_k + floor)^g / Σ (p + floor)^g with g = gamma · max(p)^slope."""

    gamma: Annotated[float, within(1 / GAMMA_MAX, GAMMA_MAX)]
    slope: Annotated[float, within(-SLOPE_MAX, SLOPE_MAX)]
    floor: Annotated[float, within(*FLOOR_RANGE)]

    def apply(self, probability: np.ndarray) -> np.ndarray:
        """Calibrate the probabilities of each row, (n, classes) float64."""
        if not len(probability):
            return probability
        return np.exp(_log_powers(probability, self.gamma, self.slope, self.floor))


class Learned(Settings):
    """What the validation answers of one kind taught.

    Kept in the bundle's manifest.
    """

    map: ProbabilityMap
    answers: Annotated[int, within(1, 10**12)]
    materials: Annotated[int, within(1, 10**9)]  # that they are of
    thresholds: Annotated[tuple[Threshold, ...], AfterValidator(_rising_rates)]

    @model_validator(mode="after")
    def _materials_have_answers(self) -> Learned:
        if self.materials > self.answers:
            raise ValueError(f"{self.materials} materials with {self.answers} answers")
        return self

    def least_probability(self, error_rate: float) -> float:
        """Return the least probability for an error rate.

        Raises
        ------
        InvalidBundle
            If it is not among the error rates that were asked for in training, or could not be kept to.
        """
        stated = {one.error_rate: one.probability for one in self.thresholds}
        if error_rate not in stated:
            raise InvalidBundle(f"error rate {error_rate:g}: the model knows {', '.join(f'{one:g}' for one in stated)}")
        probability = stated[error_rate]
        if probability is None:
            reachable = ", ".join(f"{rate:g}" for rate, least in stated.items() if least is not None)
            raise InvalidBundle(
                f"error rate {error_rate:g}: no probability promises it, by {self.answers:,} validation answers of "
                f"{self.materials:,} materials; "
                + (f"those that can be kept to: {reachable}" if reachable else "nor any larger one that was looked at")
            )
        return probability


class Calibration(Settings):
    """Of answers from single patterns, and from groups of several; None where there was nothing to learn from."""

    single: Learned | None
    groups: Learned | None

    def apply(self, probability: np.ndarray, patterns: np.ndarray) -> np.ndarray:
        """Calibrate probabilities, (n, systems), of answers from so many patterns each, (n,)."""
        calibrated = probability.copy()
        for rows, learned in ((patterns == 1, self.single), (patterns > 1, self.groups)):
            if learned is not None:
                calibrated[rows] = learned.map.apply(probability[rows])
        return calibrated


def learn(
    probability: np.ndarray,
    answer: np.ndarray,
    truth: np.ndarray,
    *,
    material: np.ndarray,
    patterns: np.ndarray,
    protocol: np.ndarray,
) -> Calibration:
    """Learn from n answers whose truth is known.

    Parameters
    ----------
    probability : array, shape (n, classes)
        As the forest gives it.
    answer : array, shape (n,), integers
        Column of the answer.
    truth : array, shape (n,), integers
        Column of the true class; -1 for one that the forest does not know, so that no answer can be right.
    material : array, shape (n,), integers
        Answers of one material are not independent.
    patterns : array, shape (n,), integers
        That each answer is from.
    protocol : array, shape (n,), integers
        Under which of several protocols: an error rate must be kept to under each of them, because a user's patterns
        are of one.
    """
    kinds = (np.flatnonzero(patterns == 1), np.flatnonzero(patterns > 1))
    single, groups = (
        _learn(probability[rows], answer[rows], truth[rows], material[rows], protocol[rows]) for rows in kinds
    )
    return Calibration(single=single, groups=groups)


def _learn(
    probability: np.ndarray, answer: np.ndarray, truth: np.ndarray, material: np.ndarray, protocol: np.ndarray
) -> Learned | None:
    answers, materials = len(truth), len(np.unique(material))
    if not answers:
        return None
    found = fitted_map(probability, truth, materials)
    # In the precision of a `Prediction`, whose probabilities are compared with the thresholds.
    of_answer = found.apply(probability).astype(np.float32)[np.arange(answers), answer]
    thresholds = _thresholds(of_answer, answer == truth, material, protocol)
    return Learned(map=found, answers=answers, materials=materials, thresholds=thresholds)


def fitted_map(probability: np.ndarray, truth: np.ndarray, materials: int) -> ProbabilityMap:
    """Return the map of least log-loss, near gamma = 1 and slope = 0 where few materials speak for another.

    Minimised is the mean log-loss of the answers times the number of materials, which are what is independent, plus
    (ln gamma)² / 2 + slope² / 2. Answers whose truth the forest does not know are left out: no map makes them better.
    """
    from scipy.optimize import minimize

    known = truth >= 0
    rows, columns = np.arange(known.sum()), truth[known]
    probability = probability[known]

    def loss(parameters: np.ndarray) -> float:
        log_gamma, slope, log_floor = parameters
        surprise = -_log_powers(probability, np.exp(log_gamma), slope, np.exp(log_floor))[rows, columns]
        return float(materials * (surprise.mean() if len(rows) else 0.0) + (log_gamma**2 + slope**2) / 2)

    ends = np.log(GAMMA_MAX), SLOPE_MAX
    bounds = [(-ends[0], ends[0]), (-ends[1], ends[1]), tuple(np.log(FLOOR_RANGE))]
    log_gamma, slope, log_floor = minimize(loss, [0.0, 0.0, np.log(1e-3)], method="L-BFGS-B", bounds=bounds).x
    # A bound may be missed by a rounding error when its logarithm is taken back.
    gamma = np.clip(np.exp(log_gamma), 1 / GAMMA_MAX, GAMMA_MAX)
    return ProbabilityMap(gamma=float(gamma), slope=float(slope), floor=float(np.clip(np.exp(log_floor), *FLOOR_RANGE)))


def _log_powers(probability: np.ndarray, gamma: float, slope: float, floor: float) -> np.ndarray:
    """Return the logarithm of the mapped probabilities, (n, classes)."""
    power = gamma * probability.max(axis=1, keepdims=True) ** slope
    scores = power * np.log(probability + floor)
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def _thresholds(
    probability: np.ndarray, right: np.ndarray, material: np.ndarray, protocol: np.ndarray
) -> tuple[Threshold, ...]:
    """Find the least probability at which the answers given keep to each error rate, under every protocol.

    They must keep to it even with one material more, all of whose answers are wrong: a few answers that happen to be
    right promise nothing.
    """
    levels, level = np.unique(-probability, return_inverse=True)
    kept = np.ones((len(ERROR_RATES), len(levels)), dtype=bool)
    for one in np.unique(protocol):
        of = protocol == one
        given = np.cumsum(np.bincount(level[of], minlength=len(levels)))
        wrong = np.cumsum(np.bincount(level[of], weights=~right[of], minlength=len(levels)))
        one_material = of.sum() / len(np.unique(material[of]))
        kept &= wrong + one_material <= np.array(ERROR_RATES)[:, np.newaxis] * (given + one_material)
    thresholds = []
    for rate, promised in zip(ERROR_RATES, kept, strict=True):
        last = np.flatnonzero(promised)[-1:]
        least = float(-levels[last[0]]) if last.size else None
        coverage = 0.0 if least is None else float((probability >= least).mean())
        thresholds.append(Threshold(error_rate=rate, probability=least, coverage=coverage))
    return tuple(thresholds)
