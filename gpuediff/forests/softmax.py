"""From the scores of a boosted model to probabilities, and from these to whole votes."""

import math

import numpy as np
from numba import njit, prange


@njit(parallel=True, cache=True)
def softmax(scores):
    """Turn scores, shape (n, classes), float64, finite, into probabilities in place; a row sums to 1."""
    for pattern in prange(scores.shape[0]):
        largest = scores[pattern].max()
        total = 0.0
        for column in range(scores.shape[1]):
            scores[pattern, column] = math.exp(scores[pattern, column] - largest)
            total += scores[pattern, column]
        for column in range(scores.shape[1]):
            scores[pattern, column] /= total


@njit(parallel=True, cache=True)
def divide_votes(probability, votes_of_a_pattern):
    """Divide a number of votes in proportion to each pattern's probabilities.

    By largest remainders (Hamilton's method): every class has its share rounded down, and the votes that are left go
    one by one to the classes that lost most, of equal ones to the first. A more probable class never has fewer votes.

    Parameters
    ----------
    probability : array, shape (n, classes), float64
        Rows sum to 1, but for rounding.
    votes_of_a_pattern : int
        At most 2**30.

    Returns
    -------
    array, shape (n, classes), int32
        Rows sum to `votes_of_a_pattern`.
    """
    patterns, classes = probability.shape
    votes = np.empty((patterns, classes), dtype=np.int32)
    for pattern in prange(patterns):
        lost = np.empty(classes)
        left = votes_of_a_pattern
        for column in range(classes):
            share = probability[pattern, column] * votes_of_a_pattern
            votes[pattern, column] = math.floor(share)
            lost[column] = share - votes[pattern, column]
            left -= votes[pattern, column]
        for _ in range(left):
            most = np.argmax(lost)
            votes[pattern, most] += 1
            lost[most] = -1.0
    return votes
