"""What is said of a single pattern beside its crystal: is it of several grains, and is it like any that is known?

Two classifiers learn from examples that are made of the training patterns (`gpuediff.features.examples`): one tells
patterns of one grain from overlapping ones, the other patterns of crystals from broken ones, whose peaks lie at random
or whose scale is wrong. Validation materials then say what their answers come to: the probability of several grains is
calibrated as that of a crystal system is, and the odds of being broken become the share of validation patterns with
smaller odds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator

from gpuediff.hierarchy.calibration import ProbabilityMap
from gpuediff.hierarchy.labels import NOVELTY, SEVERAL_GRAINS
from gpuediff.settings import Settings, within

if TYPE_CHECKING:
    from gpuediff.forests.forest import Forest

QUANTILES = 201  # of the odds of the validation patterns that are kept, the least and the largest among them
ODDS_MAX = 100.0  # natural logarithm; a random forest's may be infinite


@dataclass(frozen=True, eq=False)
class Flags:
    """What is said of n patterns; NaN where nothing is known.

    Parameters
    ----------
    several_grains : array, shape (n,), float32
        Probability that the pattern is of more than one grain, if every second pattern is.
    novelty : array, shape (n,), float32
        Share of the validation patterns, which are of materials never trained on, that are nearer to the training
        patterns than this one, 0 .. 1.
    """

    several_grains: np.ndarray
    novelty: np.ndarray

    @classmethod
    def unknown(cls, count: int) -> Flags:
        """Say nothing of so many patterns."""
        return cls(*(np.full(count, np.nan, dtype=np.float32) for _ in range(2)))

    def __len__(self) -> int:
        return len(self.novelty)

    def __getitem__(self, rows: Any) -> Flags:
        """Take rows by slice, index array, or boolean mask; one index gives flags of length 1."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return Flags(self.several_grains[rows], self.novelty[rows])


def _quantiles(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != QUANTILES or any(after < before for before, after in pairwise(values)):
        raise ValueError(f"expected {QUANTILES} numbers that do not fall")
    return values


class FlagCalibration(Settings):
    """What the validation patterns taught; kept in the bundle's manifest."""

    several_grains: ProbabilityMap
    # Of the logarithm of the odds that a validation pattern is broken, at equally spaced shares from 0 to 1.
    novelty: Annotated[tuple[Annotated[float, within(-ODDS_MAX, ODDS_MAX)], ...], AfterValidator(_quantiles)]
    patterns: Annotated[int, within(1, 10**9)]  # of one grain, and as many overlapping ones
    materials: Annotated[int, within(1, 10**9)]  # that they are of

    def share_nearer(self, odds: np.ndarray) -> np.ndarray:
        """Turn the logarithm of the odds into the share of validation patterns with smaller ones, (n,).

        Of those with equal ones, half.
        """
        levels, place = np.unique(self.novelty, return_inverse=True)
        share = np.bincount(place, np.linspace(0, 1, QUANTILES)) / np.bincount(place)
        return np.interp(odds, levels, share)


def ask_flags(
    forests: Mapping[str, Forest], calibration: FlagCalibration, features: np.ndarray, alone: np.ndarray
) -> Flags:
    """Say of n feature vectors what the forests say; nothing of those that describe several patterns together.

    Parameters
    ----------
    features : array, shape (n, features), float32
    alone : array, shape (n,), bool
        Which of them are of one pattern.
    """
    flags = Flags.unknown(len(features))
    part = features if alone.all() else features[alone]
    probability = calibration.several_grains.apply(forests[SEVERAL_GRAINS].probability(part))
    flags.several_grains[alone] = probability[:, 1]
    flags.novelty[alone] = calibration.share_nearer(odds_of_broken(forests[NOVELTY], part))
    return flags


def odds_of_broken(forest: Forest, features: np.ndarray) -> np.ndarray:
    """Give the logarithm of the odds that patterns are broken, (n,) float64."""
    probability = forest.probability(features)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(probability[:, 1]) - np.log(probability[:, 0]), -ODDS_MAX, ODDS_MAX)
