"""Training on the CPU with scikit-learn; what comes back is a treelite forest at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuediff.errors import InvalidFeatures
from gpuediff.forests.treelite_forest import TreeliteForest, annotate, finite_float32
from gpuediff.settings import Forest as ForestSettings

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor


def hyper_parameters(settings: ForestSettings, *, criterion: str, seed: int) -> dict[str, Any]:
    """Return everything scikit-learn is told that can change a forest, so that no default of its can."""
    return {
        "n_estimators": settings.trees,
        "max_depth": settings.depth,
        "max_features": {"sqrt": "sqrt", "all": 1.0}[settings.max_features],
        "criterion": criterion,
        "random_state": seed,
        "bootstrap": True,
        "max_samples": None,
        "min_samples_split": 2,
        "min_samples_leaf": 1,
        "min_weight_fraction_leaf": 0.0,
        "max_leaf_nodes": None,
        "min_impurity_decrease": 0.0,
        "ccp_alpha": 0.0,
        "monotonic_cst": None,
        "oob_score": False,
    }


def fit_classifier(
    X: np.ndarray,
    labels: np.ndarray,
    settings: ForestSettings,
    *,
    seed: int,
    classes: Sequence[int] | Sequence[str] | None = None,
) -> TreeliteForest:
    """Train a classifier on all cores.

    Parameters
    ----------
    X : array, shape (n, features)
        Finite; trained on as float32.
    labels : array, shape (n,), integers or str
        Any labels, one of them alone included: the forest is then sure of it.
    settings : gpuediff.settings.Forest
        Number and depth of the trees, features tried at a split.
    seed : int
        Same seed, same forest, on any number of cores.
    classes : sequence, optional
        The distinct labels in the order of the forest's columns; rising if absent.

    Raises
    ------
    InvalidFeatures
        If the features are not finite or do not fit the labels, or `classes` are not the labels' own.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    X, labels = _checked(X, labels, "labels")
    present, position = np.unique(labels, return_inverse=True)
    columns = present if classes is None else np.asarray(classes)
    if len(columns) != len(present) or set(columns.tolist()) != set(present.tolist()):
        raise InvalidFeatures(f"classes {columns.tolist()}: the labels are {present.tolist()}")
    parameters = hyper_parameters(settings, criterion="gini", seed=seed) | {"class_weight": None}
    if len(columns) == 1:
        # treelite before 4.8 takes no classifier of a single class; a regressor of its probability is the same.
        parameters = hyper_parameters(settings, criterion="squared_error", seed=seed)
        return _trained(RandomForestRegressor, parameters, X, np.ones(len(X)), columns)
    # scikit-learn is given columns, not labels, so that its order of labels cannot become ours.
    return _trained(RandomForestClassifier, parameters, X, _columns_of(present, columns)[position], columns)


def fit_regressor(X: np.ndarray, targets: np.ndarray, settings: ForestSettings, *, seed: int) -> TreeliteForest:
    """Train a regressor of one number on all cores.

    Parameters
    ----------
    X : array, shape (n, features)
    targets : array, shape (n,), float
        Finite.
    settings, seed
        As for `fit_classifier`.

    Raises
    ------
    InvalidFeatures
        If a value is not finite, or the targets are not as many as the patterns.
    """
    from sklearn.ensemble import RandomForestRegressor

    X, targets = _checked(X, targets, "targets")
    if not np.isfinite(targets).all():
        pattern = int(np.argmin(np.isfinite(targets)))
        raise InvalidFeatures(f"pattern {pattern}: target {targets[pattern]}: expected a finite number")
    parameters = hyper_parameters(settings, criterion="squared_error", seed=seed)
    return _trained(RandomForestRegressor, parameters, X, targets.astype(np.float64), None)


def _trained(
    estimator: type[RandomForestClassifier | RandomForestRegressor],
    parameters: dict[str, Any],
    X: np.ndarray,
    targets: np.ndarray,
    classes: np.ndarray | None,
) -> TreeliteForest:
    from treelite.sklearn import import_model

    fitted = estimator(**parameters, n_jobs=-1, verbose=0, warm_start=False).fit(X, targets)
    model = import_model(fitted)
    annotate(model, fitted.feature_importances_)
    return TreeliteForest(model, classes=classes, hyper_parameters={"backend": "scikit-learn", **parameters})


def _columns_of(labels: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Give the column of each label."""
    order = np.argsort(columns)
    return order[np.searchsorted(columns[order], labels)]


def _checked(X: np.ndarray, targets: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    X, targets = np.asarray(X), np.asarray(targets)
    if X.ndim != 2 or 0 in X.shape:
        raise InvalidFeatures(f"features of shape {X.shape}: expected (patterns, features), neither of them 0")
    if targets.shape != (len(X),):
        raise InvalidFeatures(f"{what} of shape {targets.shape}: expected ({len(X)},), one for each pattern")
    return finite_float32(X), targets
