"""Training a forest with the backend that its settings ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuediff.errors import InvalidConfig
from gpuediff.forests import lightgbm_forest, sklearn_forest
from gpuediff.forests.treelite_forest import BoostedForest, RandomForest
from gpuediff.settings import Boosting, Forest


def fit_classifier(
    X: np.ndarray,
    labels: np.ndarray,
    settings: Forest | Boosting,
    *,
    seed: int,
    classes: Sequence[int] | Sequence[str] | None = None,
    weight: np.ndarray | None = None,
) -> RandomForest | BoostedForest:
    """Train a classifier: a random forest with scikit-learn, or a boosted one with LightGBM.

    Parameters
    ----------
    X : array, shape (n, features)
        Finite; trained on as float32.
    labels : array, shape (n,), integers or str
        Any labels, one of them alone included: the forest is then sure of it.
    settings : gpuediff.settings.Forest or gpuediff.settings.Boosting
        Which backend, and what it is told.
    seed : int
        Same seed, same forest, on any number of cores.
    classes : sequence, optional
        The distinct labels in the order of the forest's columns; rising if absent.
    weight : array, shape (n,), optional
        How much each pattern counts, > 0; only the ratios matter. All the same if absent.

    Raises
    ------
    InvalidFeatures
        If the features are not finite or do not fit the labels, `classes` are not the labels' own, or a weight is
        not > 0.
    """
    if isinstance(settings, Boosting):
        return lightgbm_forest.fit_classifier(X, labels, settings, seed=seed, classes=classes, weight=weight)
    return sklearn_forest.fit_classifier(X, labels, settings, seed=seed, classes=classes, weight=weight)


def fit_regressor(X: np.ndarray, targets: np.ndarray, settings: Forest | Boosting, *, seed: int) -> RandomForest:
    """Train a regressor of one number: a random forest, whose trees each give a number of their own.

    Parameters
    ----------
    X : array, shape (n, features)
    targets : array, shape (n,), float
        Finite.
    settings, seed
        As for `fit_classifier`.

    Raises
    ------
    InvalidConfig
        If the settings are those of a boosted forest.
    InvalidFeatures
        If a value is not finite, or the targets are not as many as the patterns.
    """
    if isinstance(settings, Boosting):
        raise InvalidConfig(
            f"method = {settings.method!r}: a boosted forest has no number for each tree, of which a regressor takes "
            f"the median: use method = 'random-forest'"
        )
    return sklearn_forest.fit_regressor(X, targets, settings, seed=seed)
