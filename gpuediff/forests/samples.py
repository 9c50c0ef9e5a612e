"""What every backend checks of the patterns that it is to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gpuediff.errors import InvalidFeatures
from gpuediff.forests.treelite_forest import finite_float32


def check_samples(X: np.ndarray, targets: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features, shape (n, features), as finite float32, and their n labels or targets.

    Raises
    ------
    InvalidFeatures
        If a shape does not fit, or a feature is not finite; `what` names the targets.
    """
    X, targets = np.asarray(X), np.asarray(targets)
    if X.ndim != 2 or 0 in X.shape:
        raise InvalidFeatures(f"features of shape {X.shape}: expected (patterns, features), neither of them 0")
    if targets.shape != (len(X),):
        raise InvalidFeatures(f"{what} of shape {targets.shape}: expected ({len(X)},), one for each pattern")
    return finite_float32(X), targets


def columns_of_labels(
    labels: np.ndarray, classes: Sequence[int] | Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Give each pattern's column, (n,) integers, and each column's label, (classes,).

    Parameters
    ----------
    labels : array, shape (n,), integers or str
    classes : sequence, optional
        The distinct labels in the order of the columns; rising if absent.

    Raises
    ------
    InvalidFeatures
        If `classes` are not the labels' own.
    """
    present, position = np.unique(labels, return_inverse=True)
    columns = present if classes is None else np.asarray(classes)
    if len(columns) != len(present) or set(columns.tolist()) != set(present.tolist()):
        raise InvalidFeatures(f"classes {columns.tolist()}: the labels are {present.tolist()}")
    order = np.argsort(columns)
    return order[np.searchsorted(columns[order], present)][position], columns


def check_weight(weight: np.ndarray | None, patterns: int) -> np.ndarray | None:
    """Return the weights as float64 of mean 1, or None if there are none or all are the same.

    Raises
    ------
    InvalidFeatures
        If they are not as many as the patterns, or one is not finite and > 0; names the first such pattern.
    """
    if weight is None:
        return None
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (patterns,):
        raise InvalidFeatures(f"weight of shape {weight.shape}: expected ({patterns},), one for each pattern")
    allowed = np.isfinite(weight) & (weight > 0)
    if not allowed.all():
        pattern = int(np.argmin(allowed))
        raise InvalidFeatures(
            f"pattern {pattern}: weight {weight[pattern]}: expected a finite number > 0; leave out what is not to count"
        )
    # scikit-learn draws other samples for equal weights than for none.
    return None if (weight == weight[0]).all() else weight / weight.mean()


def class_weights(labels: np.ndarray, kind: Literal["balanced"] | None) -> np.ndarray | None:
    """Weigh each pattern, (n,), so that all classes weigh the same; None if no weights are asked for.

    A pattern's weight is one over the number of training patterns of its class, times n over the number of classes.
    """
    if kind is None:
        return None
    _, position, count = np.unique(labels, return_inverse=True, return_counts=True)
    return (len(labels) / len(count) / count)[position]
