"""From a treelite model to flat arrays, and from patterns to leaves.

Why not treelite's own interpreter (GTIL): 65,536 patterns x 1,066 features through 80 trees (depth 40, 715,000 nodes,
6 classes) took it 10.7 s of CPU time with `predict_per_tree` and 7.1 s with `predict_leaf`, scikit-learn's `predict`
2.9 s, and the arrays below, votes counted, 1.5 s. (Least of 6 runs each, side by side on two cores of a busy AMD EPYC;
treelite 4.8.1, scikit-learn 1.9.1, numba 0.68.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit, prange

from gpuediff.errors import InvalidBundle

if TYPE_CHECKING:
    import treelite

# A split sends x <= threshold to node `child`, all else to `child + 1`. A leaf has feature -1, and `child` is its row
# in the tables of leaves. 12 bytes, and one comparison without a branch: a tree's top stays in the L1 cache.
NODE = np.dtype([("threshold", np.float32), ("feature", np.int32), ("child", np.int32)])

ROWS_IN_A_BLOCK = 64  # patterns that walk through a tree together; their features must stay in the L2 cache

# treelite's enumerations, which its accessors give as numbers
_LEAF, _NUMERICAL = 0, 1
_LESS, _LESS_OR_EQUAL = 2, 3


@dataclass(frozen=True)
class FlatTrees:
    """All trees of a forest in one array.

    Parameters
    ----------
    nodes : array, shape (nodes,), `NODE`
        Tree after tree; siblings are neighbours.
    roots : array, shape (trees,), int64
        Where each tree starts.
    leaves : int
        Number of leaves; they are counted in the order in which treelite lists them, tree after tree.
    """

    nodes: np.ndarray
    roots: np.ndarray
    leaves: int


def flatten(model: treelite.Model, features: int) -> FlatTrees:
    """Lay the trees of a model out for `find_leaves`.

    Nothing in a checkpoint is trusted: what is returned can be walked through without leaving the arrays.

    Raises
    ------
    InvalidBundle
        If a tree is not a binary tree of numerical splits (`<` or `<=`) on the features 0 .. features - 1.
    """
    parts, roots, nodes_before, leaves_before = [], [], 0, 0
    for index in range(model.num_tree):
        try:
            part = _flatten_tree(model.get_tree_accessor(index), features)
        except InvalidBundle as error:
            raise InvalidBundle(f"tree {index}: {error}") from error
        if nodes_before + len(part) > np.iinfo(np.int32).max:
            raise InvalidBundle(f"more than {np.iinfo(np.int32).max:,} nodes: train fewer or shallower trees")
        is_leaf = part["feature"] < 0
        part["child"] += np.where(is_leaf, leaves_before, nodes_before).astype(np.int32)
        parts.append(part)
        roots.append(nodes_before)
        nodes_before += len(part)
        leaves_before += int(is_leaf.sum())
    if not parts:
        raise InvalidBundle("no trees")
    return FlatTrees(np.concatenate(parts), np.array(roots, dtype=np.int64), leaves_before)


def _flatten_tree(tree: treelite.model.TreeAccessor, features: int) -> np.ndarray:
    """Give the nodes of one tree, root first, children and leaves counted from 0."""
    left, right = tree.get_field("cleft"), tree.get_field("cright")
    node_type = tree.get_field("node_type")
    split = node_type == _NUMERICAL
    count = len(left)
    inner = np.flatnonzero(split)
    if count == 0 or not np.isin(node_type, (_LEAF, _NUMERICAL)).all():
        raise InvalidBundle("expected numerical splits and leaves only")
    children = np.concatenate([left[inner], right[inner]])
    if not np.array_equal(np.sort(children), np.arange(1, count)):
        raise InvalidBundle("not every node but the root is the child of exactly one other")
    feature, comparison = tree.get_field("split_index")[inner], tree.get_field("cmp")[inner]
    if not ((feature >= 0) & (feature < features)).all():
        raise InvalidBundle(f"a split on a feature that is not among the {features}")
    if not np.isin(comparison, (_LESS, _LESS_OR_EQUAL)).all():
        raise InvalidBundle("a comparison that is neither < nor <=")

    # The k-th split has its children at 2k + 1 and 2k + 2.
    place = np.zeros(count, dtype=np.int64)
    place[left[inner]] = 2 * np.arange(len(inner)) + 1
    place[right[inner]] = 2 * np.arange(len(inner)) + 2
    nodes = np.zeros(count, dtype=NODE)
    nodes["feature"][place] = -1
    nodes["feature"][place[inner]] = feature
    nodes["child"][place[inner]] = place[left[inner]]
    nodes["child"][place[~split]] = np.arange(count - len(inner))
    nodes["threshold"][place[inner]] = _float32_thresholds(tree.get_field("threshold")[inner], comparison == _LESS)
    return nodes


def _float32_thresholds(threshold: np.ndarray, strict: np.ndarray) -> np.ndarray:
    """Give t32 such that, for every float32 x, x <= t32 is the same as x <= t (or x < t where strict)."""
    if np.isnan(threshold).any():
        raise InvalidBundle("a threshold is not a number")
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    too_high = (rounded > threshold) | (strict & (rounded >= threshold))
    rounded[too_high] = np.nextafter(rounded[too_high], np.float32(-np.inf))
    return rounded


def leaf_vectors(model: treelite.Model, outputs: int) -> Iterator[np.ndarray]:
    """Yield each tree's leaves, shape (leaves of the tree, outputs), float64, in the order of `FlatTrees`.

    Raises
    ------
    InvalidBundle
        If a leaf does not hold `outputs` finite numbers.
    """
    for index in range(model.num_tree):
        tree = model.get_tree_accessor(index)
        leaves = np.flatnonzero(tree.get_field("node_type") == _LEAF)
        flat = tree.get_field("leaf_vector")
        if outputs == 1 and len(flat) == 0:
            vectors = tree.get_field("leaf_value")[leaves, np.newaxis]
        else:
            begin = tree.get_field("leaf_vector_begin")[leaves].astype(np.int64)
            end = tree.get_field("leaf_vector_end")[leaves].astype(np.int64)
            if not ((begin >= 0) & (end - begin == outputs) & (end <= len(flat))).all():
                raise InvalidBundle(f"tree {index}: a leaf that does not hold {outputs} numbers")
            vectors = flat[begin[:, np.newaxis] + np.arange(outputs)]
        if not np.isfinite(vectors).all():
            raise InvalidBundle(f"tree {index}: a leaf with a value that is not finite")
        yield vectors.astype(np.float64)


@njit(cache=True)
def _walk(X, nodes, root, first, size, row, node, reached):
    """Take patterns first .. first + size - 1 down one tree; what they reach goes to `reached`, the rest is scratch.

    A block of patterns takes one step after the other down a tree, those that arrived leaving the queue: the steps
    do not wait for each other, which hides the time that a node takes to come from memory.
    """
    for index in range(size):
        row[index] = index
        node[index] = root
    walking = size
    while walking > 0:
        kept = 0
        for index in range(walking):
            here = nodes[node[index]]
            pattern = row[index]
            if here["feature"] < 0:
                reached[pattern] = here["child"]
            else:
                goes_right = not X[first + pattern, here["feature"]] <= here["threshold"]
                node[kept] = here["child"] + goes_right
                row[kept] = pattern
                kept += 1
        walking = kept


@njit(parallel=True, cache=True)
def find_leaves(X, nodes, roots):
    """Find the leaf that each pattern reaches in each tree.

    Parameters
    ----------
    X : array, shape (n, features), float32
        Finite; features as `flatten` was told.
    nodes, roots : array
        Of `FlatTrees`.

    Returns
    -------
    array, shape (n, trees), int32
        Rows in the tables of leaves.
    """
    patterns, trees = X.shape[0], roots.shape[0]
    leaves = np.empty((patterns, trees), dtype=np.int32)
    for block in prange((patterns + ROWS_IN_A_BLOCK - 1) // ROWS_IN_A_BLOCK):
        first = block * ROWS_IN_A_BLOCK
        size = min(ROWS_IN_A_BLOCK, patterns - first)
        row = np.empty(ROWS_IN_A_BLOCK, dtype=np.int64)
        node = np.empty(ROWS_IN_A_BLOCK, dtype=np.int64)
        reached = np.empty(ROWS_IN_A_BLOCK, dtype=np.int32)
        for tree in range(trees):
            _walk(X, nodes, roots[tree], first, size, row, node, reached)
            for index in range(size):
                leaves[first + index, tree] = reached[index]
    return leaves


@njit(parallel=True, cache=True)
def sum_scores(X, nodes, roots, score_of_leaf, class_of_tree, scores):
    """Add the score of the leaf that each pattern reaches in each tree to that tree's class, in the trees' order.

    Parameters
    ----------
    X, nodes, roots : array
        As for `find_leaves`; a boosted model has many small trees, so that their leaves are not kept.
    score_of_leaf : array, shape (leaves,), float64
    class_of_tree : array, shape (trees,), int64
        Columns of `scores`.
    scores : array, shape (n, classes), float64
        Added to.
    """
    patterns, trees = X.shape[0], roots.shape[0]
    for block in prange((patterns + ROWS_IN_A_BLOCK - 1) // ROWS_IN_A_BLOCK):
        first = block * ROWS_IN_A_BLOCK
        size = min(ROWS_IN_A_BLOCK, patterns - first)
        row = np.empty(ROWS_IN_A_BLOCK, dtype=np.int64)
        node = np.empty(ROWS_IN_A_BLOCK, dtype=np.int64)
        reached = np.empty(ROWS_IN_A_BLOCK, dtype=np.int32)
        for tree in range(trees):
            _walk(X, nodes, roots[tree], first, size, row, node, reached)
            column = class_of_tree[tree]
            for index in range(size):
                scores[first + index, column] += score_of_leaf[reached[index]]


@njit(parallel=True, cache=True)
def count_votes(leaves, vote_of_leaf, votes):
    """Add one vote a tree to `votes`, shape (n, classes), int32."""
    for pattern in prange(leaves.shape[0]):
        for tree in range(leaves.shape[1]):
            votes[pattern, vote_of_leaf[leaves[pattern, tree]]] += 1


@njit(parallel=True, cache=True)
def mean_of_leaves(leaves, leaf_vectors, mean):
    """Average the leaves' vectors over the trees, in their order, into `mean`, shape (n, outputs), float64."""
    trees = leaves.shape[1]
    for pattern in prange(leaves.shape[0]):
        for tree in range(trees):
            for output in range(mean.shape[1]):
                mean[pattern, output] += leaf_vectors[leaves[pattern, tree], output]
        for output in range(mean.shape[1]):
            mean[pattern, output] /= trees


@njit(parallel=True, cache=True)
def quantiles_of_leaves(leaves, value_of_leaf, shares, quantiles):
    """Interpolate linearly between the trees' sorted values, into `quantiles`, shape (n, shares), float32."""
    trees = leaves.shape[1]
    for pattern in prange(leaves.shape[0]):
        values = np.empty(trees, dtype=np.float32)
        for tree in range(trees):
            values[tree] = value_of_leaf[leaves[pattern, tree]]
        values.sort()
        for column in range(len(shares)):
            place = shares[column] * (trees - 1)
            below = min(int(place), trees - 1)
            above = min(below + 1, trees - 1)
            part = place - below
            quantiles[pattern, column] = (1 - part) * np.float64(values[below]) + part * np.float64(values[above])
