"""Maps of crystal system, space group and lattice over a 4D-STEM scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class Status(IntEnum):
    """What became of a probe position."""

    PREDICTED = 0
    TOO_FEW_PEAKS = 1
    INVALID_PEAKS = 2  # a value is not finite, an intensity negative, or all intensities zero
    BELOW_CONFIDENCE = 3  # predicted, but no system's filtered difference confidence is large enough
    UNDECIDED = 4  # the map would have a label, but the pattern does not bear it out as surely as was asked for


@dataclass(frozen=True)
class ScanMaps:
    """Predictions over all probe positions; every array has the scan's full shape.

    Where a pattern was not predicted, floats are NaN, system indices -1 and space group numbers 0.

    Parameters
    ----------
    systems : tuple of str
        Crystal systems that the indices count.
    status : array, shape (ny, nx), uint8
        `Status` of every probe position.
    n_peaks : array, shape (ny, nx), int32
        Peaks in the pattern, the direct beam included.
    raw_system : array, shape (ny, nx), int16
        System with most votes, before filtering; also where the status is BELOW_CONFIDENCE.
    filtered_system : array, shape (ny, nx), int16
        System after filtering; where the status is PREDICTED.
    confidence, difference_confidence : array, shape (ny, nx), float32
        Of `raw_system`: its share of the trees, and its lead over the next system.
    filtered_difference_confidence : array, shape (ny, nx), float32
        The largest filtered image.
    probability : array, shape (ny, nx), float32
        Of `raw_system`; what the forest gives, calibrated where `options["calibrated"]` says so.
    votes : array, shape (ny, nx, systems), float32
        Share of the trees.
    space_group_number : array, shape (ny, nx), int32
    space_group_confidence, space_group_difference_confidence : array, shape (ny, nx), float32
    lattice : array, shape (ny, nx, 6), float32
        a, b, c (Å), alpha, beta, gamma (degrees). Space group and lattice are by the models of `filtered_system`, or
        of `options["lattice_system"]`, and stand where the status is PREDICTED.
    lattice_low, lattice_high : array, shape (ny, nx, 6), float32
        Interval of every lattice parameter, as in `gpuediff.hierarchy.prediction.Prediction`.
    several_grains : array, shape (ny, nx), float32
        Probability that the pattern is of more than one grain, as if every second one were.
    novelty : array, shape (ny, nx), float32
        Share of the validation patterns that look more like training patterns than this one. Both are of
        `gpuediff.hierarchy.flags`; NaN where the hierarchy cannot say, and where patterns are described together.
    bright_field, dark_field : array, shape (ny, nx), float32
        Intensity of the direct beam, and of all other peaks, as stored in the scan; NaN where there are no peaks.
    options : dict
        What `map_scan` was asked for.
    source : str
        File and dataset of the scan.
    calibration : dict of str
        What was done to the stored positions.
    note : str
        What the reader of the scan had to assume.
    step_size : float, optional
        Distance between probe positions, Å.
    """

    systems: tuple[str, ...]
    status: np.ndarray
    n_peaks: np.ndarray
    raw_system: np.ndarray
    filtered_system: np.ndarray
    confidence: np.ndarray
    difference_confidence: np.ndarray
    filtered_difference_confidence: np.ndarray
    probability: np.ndarray
    votes: np.ndarray
    space_group_number: np.ndarray
    space_group_confidence: np.ndarray
    space_group_difference_confidence: np.ndarray
    lattice: np.ndarray
    lattice_low: np.ndarray
    lattice_high: np.ndarray
    several_grains: np.ndarray
    novelty: np.ndarray
    bright_field: np.ndarray
    dark_field: np.ndarray
    options: dict[str, float | int | str | None] = field(default_factory=dict)
    source: str = ""
    calibration: dict[str, str] = field(default_factory=dict)
    note: str = ""
    step_size: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Probe positions (ny, nx)."""
        return self.status.shape[0], self.status.shape[1]

    @property
    def crystal_system(self) -> np.ndarray:
        """Names of the filtered systems, shape (ny, nx), str; empty where there is none."""
        return np.array([*self.systems, ""])[self.filtered_system]

    def count(self, status: Status) -> int:
        """Count the probe positions of a status."""
        return int((self.status == status).sum())

    def raw_fractions(self) -> np.ndarray:
        """Share of each system among all patterns predicted, shape (systems,), float64; NaN if there are none."""
        return _shares(self.raw_system, np.ones(self.shape), len(self.systems))

    def weighted_fractions(self) -> np.ndarray:
        """Share of each system before filtering, a pattern counting by its difference confidence; NaN if none."""
        return _shares(self.raw_system, self.difference_confidence, len(self.systems))

    def filtered_fractions(self) -> np.ndarray:
        """Share of each system among the probe positions that passed the filter, shape (systems,); NaN if none did."""
        return _shares(self.filtered_system, np.ones(self.shape), len(self.systems))


def _shares(system: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    found = system >= 0
    sums = np.bincount(system[found], weights=weights[found], minlength=count)
    return sums / sums.sum() if sums.sum() > 0 else np.full(count, np.nan)
