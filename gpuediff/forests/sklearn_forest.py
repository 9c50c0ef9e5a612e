"""Training on the CPU with scikit-learn; what comes back is a treelite forest at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuediff.errors import InvalidFeatures
from gpuediff.forests.samples import check_samples, check_weight, columns_of_labels
from gpuediff.forests.treelite_forest import RandomForest, annotate
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
    weight: np.ndarray | None = None,
) -> RandomForest:
    """Train a classifier on all cores.

    Parameters and errors are those of `gpuediff.forests.training.fit_classifier`.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    X, labels = check_samples(X, labels, "labels")
    column, columns = columns_of_labels(labels, classes)
    weight = check_weight(weight, len(X))
    parameters = hyper_parameters(settings, criterion="gini", seed=seed) | {"class_weight": None}
    if len(columns) == 1:
        # treelite before 4.8 takes no classifier of a single class; a regressor of its probability is the same.
        parameters = hyper_parameters(settings, criterion="squared_error", seed=seed)
        return _trained(RandomForestRegressor, parameters, X, np.ones(len(X)), columns)
    # scikit-learn is given columns, not labels, so that its order of labels cannot become ours.
    return _trained(RandomForestClassifier, parameters, X, column, columns, weight)


def fit_regressor(X: np.ndarray, targets: np.ndarray, settings: ForestSettings, *, seed: int) -> RandomForest:
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

    X, targets = check_samples(X, targets, "targets")
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
    weight: np.ndarray | None = None,
) -> RandomForest:
    from treelite.sklearn import import_model

    fitted = estimator(**parameters, n_jobs=-1, verbose=0, warm_start=False).fit(X, targets, sample_weight=weight)
    model = import_model(fitted)
    annotate(model, fitted.feature_importances_)
    return RandomForest(model, classes=classes, hyper_parameters={"backend": "scikit-learn", **parameters})
