"""What a fitted forest can be asked, whoever trained it.

A forest is a treelite checkpoint plus what it means. Training is a function of a backend
(`gpuediff.forests.sklearn_forest`) that returns a `Forest`; what was trained and what was loaded from disk answer
through the same code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np


class Forest(Protocol):
    """A fitted forest; X is (n, features), finite, taken as float32, and may be empty.

    A wrong shape or a value that is not finite raises `InvalidFeatures`. No answer depends on how many patterns are
    asked for at a time, or on the number of threads.
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
        """Number of trees."""
        ...

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """Everything that was set to train it, as JSON values."""
        ...

    def votes(self, X: np.ndarray) -> np.ndarray:
        """Count the trees for each class, (n, classes) int32; a tree votes for its leaf's most probable class."""
        ...

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Average the class probabilities of the leaves over the trees, (n, classes) float64."""
        ...

    def values(self, X: np.ndarray) -> np.ndarray:
        """Give every tree's number, (n, trees) float32; regressors only."""
        ...

    def importances(self) -> np.ndarray:
        """Give each feature's share of the impurity that the splits removed in training, (features,) float64."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the treelite checkpoint."""
        ...
