"""What a fitted forest can be asked, whoever trained it.

A forest is a treelite checkpoint plus what it means. Training (`gpuediff.forests.training`) is a function of a backend,
scikit-learn for random forests and LightGBM for boosted ones, that returns a `Forest`; what was trained and what was
loaded from disk answer through the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np


class Forest(Protocol):
    """A fitted forest; X is (n, features), finite, taken as float32, and may be empty.

    A wrong shape or a value that is not finite raises `InvalidFeatures`. No answer depends on how many patterns are
    asked for at a time, on their order, or on the number of threads.
    """

    @property
    def kind(self) -> Literal["classifier", "regressor"]:
        """What its leaves hold: class probabilities, or a number."""
        ...

    @property
    def classes_(self) -> np.ndarray | None:
        """Labels, shape (classes,): column i of every answer is about `classes_[i]`; None for a regressor."""
        ...

    @property
    def features(self) -> int:
        """Number of features."""
        ...

    @property
    def trees(self) -> int:
        """Number of trees; a boosted forest has one for each round and class."""
        ...

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """Everything that was set to train it, as JSON values."""
        ...

    def votes(self, X: np.ndarray) -> np.ndarray:
        """Give the votes for each class, (n, classes) int32; the sum of a row is the same for every pattern.

        Random forest: the number of trees; a tree votes for its leaf's most probable class. Boosted forest: no tree
        speaks for itself, so 10,000 votes are divided in proportion to the probability, by largest remainders.
        """
        ...

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Give the probability of each class, (n, classes) float64.

        Random forest: the mean of the leaves' class probabilities over the trees. Boosted forest: the softmax of the
        summed scores.
        """
        ...

    def votes_and_probability(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give both, from one walk through the trees."""
        ...

    def values(self, X: np.ndarray) -> np.ndarray:
        """Give every tree's number, (n, trees) float32; regressors only."""
        ...

    def quantiles(self, X: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """Give quantiles over the trees' numbers, linearly interpolated, (n, shares) float32; regressors only."""
        ...

    def importances(self) -> np.ndarray:
        """Give each feature's share of what the splits gained in training, (features,) float64, summing to 1.

        Random forest: impurity removed. Boosted forest: loss reduced. All zero if no tree has a split.
        """
        ...

    def save(self, path: str | Path) -> None:
        """Write the treelite checkpoint."""
        ...
