"""From votes to an answer: of one pattern, and of many patterns of one material.

Everything is counted in whole votes, so that no answer depends on the order of the patterns. Groups are numbered
0 .. count - 1, and none is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Decision:
    """What votes come to, for n patterns or groups.

    Parameters
    ----------
    share : array, shape (n, classes), float64
        Each class's share of all that was counted; a row sums to 1.
    index : array, shape (n,), int64
        The class with the largest share, of equal ones the first.
    confidence : array, shape (n,), float64
        Its share.
    difference_confidence : array, shape (n,), float64
        Its share less that of the second.
    """

    share: np.ndarray
    index: np.ndarray
    confidence: np.ndarray
    difference_confidence: np.ndarray


def decide(counts: np.ndarray) -> Decision:
    """Take the class that counts most.

    Parameters
    ----------
    counts : array, shape (n, classes), integers
        Trees that vote for each class (then the shares are shares of the trees), or the result of one of the rules
        below. No row is all zero.
    """
    counts = np.asarray(counts, dtype=np.int64)
    total = counts.sum(axis=1)
    index, top, margin = winners(counts)
    return Decision(counts / total[:, np.newaxis], index, top / total, margin / total)


def winners(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first largest class of each row, its count, and its count less that of the second; (n,) int64."""
    rows = np.arange(len(counts))
    index = counts.argmax(axis=1)
    top = counts[rows, index].astype(np.int64)
    others = np.array(counts, dtype=np.int64)
    others[rows, index] = 0  # where there is no other class, the second has nothing
    return index, top, top - others.max(axis=1)


def difference_aggregation(votes: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Sum, for each class, the difference confidence of the patterns that it wins.

    The rule of Gleason et al. 2024: a pattern gives (top - second) / trees to its winner. A group in which every
    pattern is undecided between two classes has nothing to sum; there the votes themselves are summed.

    Parameters
    ----------
    votes : array, shape (n, classes), integers
        Trees for each class.
    group : array, shape (n,), integers
        Group of every pattern, 0 .. count - 1.

    Returns
    -------
    array, shape (count, classes), int64
        The sums in units of one tree, for `decide`.
    """
    classes = votes.shape[1]
    index, _, margin = winners(votes)
    # bincount adds in float64, exact for whole numbers below 2**53
    sums = np.bincount(group * classes + index, weights=margin, minlength=count * classes)
    sums = sums.astype(np.int64).reshape(count, classes)
    undecided = ~sums.any(axis=1)
    if undecided.any():
        sums[undecided] = vote_aggregation(votes, group, count)[undecided]
    return sums


def vote_aggregation(votes: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Sum the votes of each group's patterns, as if its patterns' trees were one large forest.

    Returns
    -------
    array, shape (count, classes), int64
        For `decide`.
    """
    sums = np.zeros((count, votes.shape[1]), dtype=np.int64)
    np.add.at(sums, group, votes)
    return sums


def median_aggregation(values: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Take the median of each group's values; of an even number, the mean of the middle two.

    Parameters
    ----------
    values : array, shape (n,), float32
    group : array, shape (n,), integers
        Group of every value, 0 .. count - 1; each has at least one.

    Returns
    -------
    array, shape (count,), float32
    """
    ordered = np.asarray(values, dtype=np.float64)[np.lexsort((values, group))]
    sizes = np.bincount(group, minlength=count)
    start = np.cumsum(sizes) - sizes
    lower, upper = ordered[start + (sizes - 1) // 2], ordered[start + sizes // 2]
    return ((lower + upper) / 2).astype(np.float32)
