"""A forest that answers from a treelite model: the one way to predict on the CPU.

A forest is turned into treelite as soon as it is trained, so that the trained and the loaded one are the same thing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuediff.errors import InvalidBundle, InvalidFeatures
from gpuediff.forests.traversal import count_votes, find_leaves, flatten, leaf_vectors, mean_of_leaves

if TYPE_CHECKING:
    import treelite

# What a chunk of patterns may take beside the answer: their float32 features and their leaves.
CHUNK_BYTES = 2**27

_IMPORTANCES = "gpuediff_importances"


class TreeliteForest:
    """A `gpuediff.forests.forest.Forest` on a treelite model.

    Parameters
    ----------
    model : treelite.Model
        Averaging trees with numerical splits. It carries the importances among its attributes (`annotate`).
    classes : sequence of int or str, optional
        Label of every column of a classifier's leaves; without it, the forest is a regressor.
    hyper_parameters : dict, optional
        What it was trained with, as JSON values.

    Raises
    ------
    InvalidBundle
        If the model is not such a forest, or has not as many classes.
    """

    def __init__(
        self,
        model: treelite.Model,
        *,
        classes: Sequence[int] | Sequence[str] | np.ndarray | None = None,
        hyper_parameters: dict[str, Any] | None = None,
    ) -> None:
        self._model = model
        self.classes_ = None if classes is None else np.asarray(classes)
        self.hyper_parameters = dict(hyper_parameters or {})
        self.features = int(model.num_feature)
        self.trees = int(model.num_tree)
        outputs = 1 if self.classes_ is None else len(self.classes_)
        _check_header(model, outputs)
        self._flat = flatten(model, self.features)
        table: Iterator[np.ndarray] = leaf_vectors(model, outputs)
        if self.classes_ is None:
            self._value_of_leaf = np.concatenate([vectors[:, 0].astype(np.float32) for vectors in table])
        else:
            # From the model's own precision: float32 would make ties of probabilities that differ.
            self._vote_of_leaf = np.concatenate([vectors.argmax(axis=1).astype(np.int32) for vectors in table])

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        classes: Sequence[int] | Sequence[str] | None = None,
        hyper_parameters: dict[str, Any] | None = None,
    ) -> TreeliteForest:
        """Read a checkpoint; treelite parses it unchecked, so it must come from a trusted place.

        Raises
        ------
        InvalidBundle
            If it is not a checkpoint that this version of treelite can read, or not such a forest.
        """
        import treelite

        try:
            model = treelite.Model.deserialize(path)
        except treelite.TreeliteError as error:
            raise InvalidBundle(f"treelite {treelite.__version__} cannot read it: {error}") from error
        return cls(model, classes=classes, hyper_parameters=hyper_parameters)

    @property
    def kind(self) -> Literal["classifier", "regressor"]:
        """What its leaves hold."""
        return "regressor" if self.classes_ is None else "classifier"

    def votes(self, X: np.ndarray) -> np.ndarray:
        """Count the trees for each class, (n, classes) int32; of a leaf's equally probable classes the first."""
        votes = np.zeros((len(X), self._class_count), dtype=np.int32)
        for rows, leaves in self._leaves(X):
            count_votes(leaves, self._vote_of_leaf, votes[rows])
        return votes

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Average the class probabilities of the leaves over the trees, (n, classes) float64."""
        mean = np.zeros((len(X), self._class_count), dtype=np.float64)
        for rows, leaves in self._leaves(X):
            mean_of_leaves(leaves, self._probability_of_leaf, mean[rows])
        return mean

    def values(self, X: np.ndarray) -> np.ndarray:
        """Give every tree's number, (n, trees) float32."""
        if self.kind != "regressor":
            raise TypeError("a classifier has votes and probabilities, no values")
        values = np.empty((len(X), self.trees), dtype=np.float32)
        for rows, leaves in self._leaves(X):
            np.take(self._value_of_leaf, leaves, out=values[rows])
        return values

    def importances(self) -> np.ndarray:
        """Give each feature's share of the impurity that the splits removed in training, (features,) float64.

        All zero if no tree has a split.

        Raises
        ------
        InvalidBundle
            If the model does not carry them.
        """
        try:
            # What treelite keeps of each split is not enough: it counts samples without their bootstrap weights.
            importances = np.array(json.loads(_header(self._model, "attributes"))[_IMPORTANCES], dtype=np.float64)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidBundle(f"the checkpoint carries no importances ({error!r}): train the forest anew") from error
        if importances.shape != (self.features,) or not np.isfinite(importances).all():
            raise InvalidBundle(f"the checkpoint's importances are not {self.features} finite numbers")
        return importances

    def save(self, path: str | Path) -> None:
        """Write the treelite checkpoint."""
        self._model.serialize(path)

    @cached_property
    def _probability_of_leaf(self) -> np.ndarray:
        """Of shape (leaves, classes), float64: by far the largest table, and votes do without it."""
        return np.concatenate(list(leaf_vectors(self._model, self._class_count)))

    @property
    def _class_count(self) -> int:
        if self.classes_ is None:
            raise TypeError("a regressor has values, no votes or probabilities")
        return len(self.classes_)

    def _leaves(self, X: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield chunks of patterns and the leaves they reach, shape (chunk, trees)."""
        check_shape(X, self.features)
        chunk = max(1, CHUNK_BYTES // (4 * (self.features + self.trees)))
        for start in range(0, len(X), chunk):
            rows = slice(start, start + chunk)
            yield rows, find_leaves(finite_float32(X[rows], first=start), self._flat.nodes, self._flat.roots)


def annotate(model: treelite.Model, importances: np.ndarray) -> None:
    """Let a model carry the importances of its features, shape (features,), in its checkpoint."""
    attributes = json.dumps({_IMPORTANCES: np.asarray(importances, dtype=np.float64).tolist()})
    model.get_header_accessor().set_field("attributes", attributes)


def check_shape(X: np.ndarray, features: int) -> None:
    """Refuse what is not an array of shape (n, features).

    Raises
    ------
    InvalidFeatures
    """
    shape = np.shape(X)
    if len(shape) != 2 or shape[1] != features:
        raise InvalidFeatures(f"features of shape {shape}: expected (patterns, {features})")


def finite_float32(X: np.ndarray, *, first: int = 0) -> np.ndarray:
    """Return features as float32, C-contiguous, all finite; `first` is the number of the first pattern.

    Raises
    ------
    InvalidFeatures
        If a value is not finite, or too large for float32; names the first such pattern and feature.
    """
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(X, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        pattern, feature = np.unravel_index(int(np.argmin(finite)), finite.shape)
        raise InvalidFeatures(
            f"pattern {first + pattern}, feature {feature}: {np.asarray(X)[pattern, feature]}: "
            f"features must be finite float32 numbers"
        )
    return values


def _check_header(model: treelite.Model, outputs: int) -> None:
    found = [int(size) for size in np.ravel(_header(model, "leaf_vector_shape"))]
    if found != [1, outputs]:
        raise InvalidBundle(f"leaves of shape {found}: expected [1, {outputs}], one number for each class")
    if np.any(_header(model, "base_scores")):
        raise InvalidBundle("a model with base scores: expected a forest, whose answer is the mean of its trees")


def _header(model: treelite.Model, field: str) -> Any:
    return model.get_header_accessor().get_field(field)
