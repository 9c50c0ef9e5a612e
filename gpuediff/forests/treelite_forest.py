"""Forests that answer from a treelite model: the one way to predict on the CPU.

A forest is turned into treelite as soon as it is trained, so that the trained and the loaded one are the same thing.
Where a checkpoint's trees are averaged it is a random forest, where they are summed a boosted one.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuediff.errors import InvalidBundle, InvalidFeatures
from gpuediff.forests.softmax import divide_votes, softmax
from gpuediff.forests.traversal import (
    count_votes,
    find_leaves,
    flatten,
    leaf_vectors,
    mean_of_leaves,
    quantiles_of_leaves,
    sum_scores,
)

if TYPE_CHECKING:
    import treelite

# What a chunk of patterns may take beside the answer: their float32 features, and their leaves or probabilities.
CHUNK_BYTES = 2**27

VOTES_OF_A_PATTERN = 10_000  # that a boosted forest divides among the classes

_IMPORTANCES = "gpuediff_importances"


class TreeliteForest(ABC):
    """A `gpuediff.forests.forest.Forest` on a treelite model: what random and boosted forests have in common.

    Parameters
    ----------
    model : treelite.Model
        Trees with numerical splits. It carries the importances among its attributes (`annotate`).
    classes : sequence of int or str, optional
        Label of every column of a classifier's answers; without it, the forest is a regressor.
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
        if np.any(_header(model, "base_scores")):
            raise InvalidBundle("a model with base scores: expected one whose answer comes from its trees alone")
        self._take_trees(model)

    @staticmethod
    def load(
        path: str | Path,
        *,
        classes: Sequence[int] | Sequence[str] | None = None,
        hyper_parameters: dict[str, Any] | None = None,
    ) -> TreeliteForest:
        """Read a checkpoint; treelite parses it unchecked, so it must come from a trusted place.

        Returns
        -------
        RandomForest or BoostedForest
            As the checkpoint itself says.

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
        kind = RandomForest if _is_averaging(model) else BoostedForest
        return kind(model, classes=classes, hyper_parameters=hyper_parameters)

    @property
    def kind(self) -> Literal["classifier", "regressor"]:
        """What its leaves hold."""
        return "regressor" if self.classes_ is None else "classifier"

    @abstractmethod
    def votes(self, X: np.ndarray) -> np.ndarray:
        """Give the votes for each class, (n, classes) int32."""

    @abstractmethod
    def probability(self, X: np.ndarray) -> np.ndarray:
        """Give the probability of each class, (n, classes) float64."""

    @abstractmethod
    def votes_and_probability(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give both at the price of one."""

    @abstractmethod
    def values(self, X: np.ndarray) -> np.ndarray:
        """Give every tree's number, (n, trees) float32; regressors only."""

    @abstractmethod
    def quantiles(self, X: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """Give quantiles over the trees' numbers, (n, shares) float32; regressors only."""

    def importances(self) -> np.ndarray:
        """Give each feature's share of what the splits gained in training, (features,) float64.

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

    @abstractmethod
    def _take_trees(self, model: treelite.Model) -> None:
        """Check that the model is of this kind, and lay its trees out."""

    @property
    def _class_count(self) -> int:
        if self.classes_ is None:
            raise TypeError("a regressor has values, no votes or probabilities")
        return len(self.classes_)

    def _chunks(self, X: np.ndarray, *, bytes_of_a_pattern: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the patterns in chunks, checked; a pattern takes so many bytes beside its features."""
        check_shape(X, self.features)
        chunk = max(1, CHUNK_BYTES // (4 * self.features + bytes_of_a_pattern))
        for start in range(0, len(X), chunk):
            rows = slice(start, start + chunk)
            yield rows, finite_float32(X[rows], first=start)


class RandomForest(TreeliteForest):
    """A forest whose answer is the mean, or the majority, of its trees."""

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

    def votes_and_probability(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count and average over the same leaves: most of the time goes into finding them."""
        votes = np.zeros((len(X), self._class_count), dtype=np.int32)
        mean = np.zeros(votes.shape, dtype=np.float64)
        for rows, leaves in self._leaves(X):
            count_votes(leaves, self._vote_of_leaf, votes[rows])
            mean_of_leaves(leaves, self._probability_of_leaf, mean[rows])
        return votes, mean

    def values(self, X: np.ndarray) -> np.ndarray:
        """Give every tree's number, (n, trees) float32."""
        self._require_regressor()
        values = np.empty((len(X), self.trees), dtype=np.float32)
        for rows, leaves in self._leaves(X):
            np.take(self._value_of_leaf, leaves, out=values[rows])
        return values

    def quantiles(self, X: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """Give quantiles over the trees' numbers, linearly interpolated, (n, shares) float32."""
        self._require_regressor()
        quantiles = np.empty((len(X), len(shares)), dtype=np.float32)
        for rows, leaves in self._leaves(X):
            quantiles_of_leaves(leaves, self._value_of_leaf, np.array(shares, dtype=np.float64), quantiles[rows])
        return quantiles

    def _require_regressor(self) -> None:
        if self.kind != "regressor":
            raise TypeError("a classifier has votes and probabilities, no values")

    def _take_trees(self, model: treelite.Model) -> None:
        if not _is_averaging(model):
            raise InvalidBundle("a model that sums its trees: expected a random forest, which averages them")
        outputs = 1 if self.classes_ is None else len(self.classes_)
        _check_leaves(model, outputs)
        self._flat = flatten(model, self.features)
        table: Iterator[np.ndarray] = leaf_vectors(model, outputs)
        if self.classes_ is None:
            self._value_of_leaf = np.concatenate([vectors[:, 0].astype(np.float32) for vectors in table])
        else:
            # From the model's own precision: float32 would make ties of probabilities that differ.
            self._vote_of_leaf = np.concatenate([vectors.argmax(axis=1).astype(np.int32) for vectors in table])

    @cached_property
    def _probability_of_leaf(self) -> np.ndarray:
        """Of shape (leaves, classes), float64: by far the largest table, and votes do without it."""
        return np.concatenate(list(leaf_vectors(self._model, self._class_count)))

    def _leaves(self, X: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield chunks of patterns and the leaves they reach, shape (chunk, trees)."""
        for rows, values in self._chunks(X, bytes_of_a_pattern=4 * self.trees):
            yield rows, find_leaves(values, self._flat.nodes, self._flat.roots)


class BoostedForest(TreeliteForest):
    """A classifier whose trees each add to the score of one class; the softmax of the scores is the probability."""

    def votes(self, X: np.ndarray) -> np.ndarray:
        """Divide `VOTES_OF_A_PATTERN` votes in proportion to the probability, (n, classes) int32.

        By largest remainders, of equal ones the first: every row sums to exactly that number.
        """
        return self.votes_and_probability(X)[0]

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Give the softmax of the scores, (n, classes) float64."""
        answer = np.empty((len(X), self._class_count), dtype=np.float64)
        for rows, probability in self._probabilities(X):
            answer[rows] = probability
        return answer

    def votes_and_probability(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the probabilities, and the votes that are divided by them."""
        probability = self.probability(X)
        return divide_votes(probability, VOTES_OF_A_PATTERN), probability

    def values(self, X: np.ndarray) -> np.ndarray:
        """Refuse: boosted forests are classifiers."""
        raise TypeError("a classifier has votes and probabilities, no values")

    def quantiles(self, X: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """Refuse: boosted forests are classifiers."""
        raise TypeError("a classifier has votes and probabilities, no values")

    def _take_trees(self, model: treelite.Model) -> None:
        if self.classes_ is None:
            raise InvalidBundle("a model that sums its trees, and no classes: boosted forests are classifiers only")
        if _is_averaging(model) or _header(model, "postprocessor") != "softmax":
            raise InvalidBundle("expected a boosted forest: trees that are summed, and the softmax of the sums")
        found = np.ravel(_header(model, "num_class")).tolist()
        if found != [len(self.classes_)]:
            raise InvalidBundle(f"scores for {found} classes: expected [{len(self.classes_)}]")
        _check_leaves(model, 1)
        self._class_of_tree = np.array(_header(model, "class_id"), dtype=np.int64)
        known = (self._class_of_tree >= 0) & (self._class_of_tree < len(self.classes_))
        if self._class_of_tree.shape != (self.trees,) or not known.all():
            raise InvalidBundle("not every tree adds to the score of one class")
        self._flat = flatten(model, self.features)
        self._score_of_leaf = np.concatenate([vectors[:, 0] for vectors in leaf_vectors(model, 1)])

    def _probabilities(self, X: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield chunks of patterns and their probabilities, shape (chunk, classes)."""
        classes = self._class_count
        for rows, values in self._chunks(X, bytes_of_a_pattern=8 * classes):
            scores = np.zeros((len(values), classes), dtype=np.float64)
            sum_scores(values, self._flat.nodes, self._flat.roots, self._score_of_leaf, self._class_of_tree, scores)
            softmax(scores)
            yield rows, scores


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


def _check_leaves(model: treelite.Model, outputs: int) -> None:
    found = [int(size) for size in np.ravel(_header(model, "leaf_vector_shape"))]
    if found != [1, outputs]:
        raise InvalidBundle(f"leaves of shape {found}: expected [1, {outputs}], one number for each class")


def _is_averaging(model: treelite.Model) -> bool:
    return bool(np.any(_header(model, "average_tree_output")))


def _header(model: treelite.Model, field: str) -> Any:
    return model.get_header_accessor().get_field(field)
