"""The hierarchy's answer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

# Shares of the trees below the interval's lower end, the estimate, and the upper end: one standard deviation of a
# normal distribution to either side.
LATTICE_INTERVAL = (0.16, 0.5, 0.84)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Answers for n patterns, or for n groups of patterns.

    Parameters
    ----------
    systems : tuple of str
        The crystal systems that the hierarchy knows.
    system_votes : array, shape (n, systems), float32
        Share of the trees (one pattern), or of the summed difference confidence (a group); a row sums to 1.
    probability : array, shape (n, systems), float32
        Of each crystal system: what the forest gives (a random forest the mean of the leaves' shares), calibrated if
        the hierarchy is (`gpuediff.hierarchy.calibration`). NaN where the answer was put together from the votes of
        several patterns, which give none.
    system_index : array, shape (n,), int64
        Index of the predicted crystal system in `systems`.
    confidence, difference_confidence : array, shape (n,), float32
        Of the crystal system: its share, and its share less that of the second.
    space_group_number : array, shape (n,), int32
        From the model of the predicted crystal system, or of the one that the caller named.
    space_group_confidence, space_group_difference_confidence : array, shape (n,), float32
        Of the space group, given its crystal system.
    lattice : array, shape (n, 6), float32
        a, b, c (Å), alpha, beta, gamma (degrees) of the conventional cell, from the same system's models, or from the
        lattice that the features hold; NaN where no lattice was found.
    lattice_low, lattice_high : array, shape (n, 6), float32
        About two thirds of the trees lie between them (`LATTICE_INTERVAL`); of several patterns, the medians of
        their own. Where the features hold the lattice, a standard uncertainty to either side. Angles and lengths
        that the crystal system fixes have no width.
    """

    systems: tuple[str, ...]
    system_votes: np.ndarray
    probability: np.ndarray
    system_index: np.ndarray
    confidence: np.ndarray
    difference_confidence: np.ndarray
    space_group_number: np.ndarray
    space_group_confidence: np.ndarray
    space_group_difference_confidence: np.ndarray
    lattice: np.ndarray
    lattice_low: np.ndarray
    lattice_high: np.ndarray

    @property
    def crystal_system(self) -> np.ndarray:
        """Names of the predicted crystal systems, shape (n,), str."""
        return np.array(self.systems)[self.system_index]

    @property
    def system_probability(self) -> np.ndarray:
        """Probability of the predicted crystal systems, shape (n,), float32; NaN where there is none."""
        return self.probability[np.arange(len(self)), self.system_index]

    def __len__(self) -> int:
        return len(self.system_index)

    def __getitem__(self, rows: Any) -> Prediction:
        """Take rows by slice, index array, or boolean mask; one index gives a prediction of length 1."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return Prediction(self.systems, *(getattr(self, name)[rows] for name in _ARRAYS))


_ARRAYS = tuple(field.name for field in fields(Prediction) if field.name != "systems")
