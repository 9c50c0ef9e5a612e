"""How far predicted lattice parameters are from the true ones; no lattice at all is infinitely far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters

LENGTHS = LATTICE_PARAMETERS[:3]
QUARTILES = (25, 50, 75)
TOLERANCES = (0.02, 0.05)


@dataclass(frozen=True)
class Closeness:
    """Shares of the answers.

    Parameters
    ----------
    found : float
        With a lattice.
    within_2_percent, within_5_percent : float
        With every length that close to the true one, relative to it, and every angle within 0.02 or 0.05 rad (1.1° or
        2.9°): the angle that moves the end of an axis by that part of its length.
    """

    found: float
    within_2_percent: float
    within_5_percent: float


def absolute_errors(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return |predicted - true|, shape (n, 6), Å and degrees; infinite where the prediction is not a number."""
    error = np.abs(np.asarray(predicted, dtype=np.float64) - true)
    return np.where(np.isnan(error), np.inf, error)


def quartiles(predicted: np.ndarray, true: np.ndarray, parameters: Sequence[str]) -> dict[str, list[float | None]]:
    """Give the 25th, 50th and 75th percentile of the absolute error of each parameter, over all n > 0 answers.

    Returns
    -------
    dict of str to list of float or None
        Å and degrees; None where the percentile is infinite, because too many answers have no lattice.
    """
    error = absolute_errors(predicted, true)
    return {
        name: [_percentile(error[:, LATTICE_PARAMETERS.index(name)], percent) for percent in QUARTILES]
        for name in parameters
    }


def closeness(predicted: np.ndarray, true: np.ndarray, parameters: Sequence[str] = LATTICE_PARAMETERS) -> Closeness:
    """Count the lattices that are close to the true ones in the given parameters, among n > 0 answers."""
    columns = [LATTICE_PARAMETERS.index(name) for name in parameters]
    scale = np.where(np.arange(len(LATTICE_PARAMETERS)) < len(LENGTHS), true, np.degrees(1.0))
    worst = (absolute_errors(predicted, true) / scale)[:, columns].max(axis=1)
    narrow, wide = (float((worst <= tolerance).mean()) for tolerance in TOLERANCES)
    return Closeness(float(np.isfinite(worst).mean()), narrow, wide)


def by_system(
    predicted: np.ndarray, true: np.ndarray, true_system: Any, systems: Sequence[str]
) -> tuple[dict[str, dict[str, list[float | None]]], dict[str, Closeness]]:
    """Give `quartiles` and `closeness` of the free parameters of each system that has an answer."""
    errors, close = {}, {}
    for system in systems:
        rows = np.flatnonzero(true_system == system)
        if rows.size:
            parameters = independent_parameters(system)
            errors[system] = quartiles(predicted[rows], true[rows], parameters)
            close[system] = closeness(predicted[rows], true[rows], parameters)
    return errors, close


def _percentile(error: np.ndarray, percent: int) -> float | None:
    """Interpolate between neighbours in order, as numpy does; None if the upper of them is infinite."""
    ordered = np.sort(error)
    place = (len(ordered) - 1) * percent / 100
    lower, upper = ordered[int(np.floor(place))], ordered[int(np.ceil(place))]
    if not np.isfinite(upper):
        return None
    return float(lower + (place % 1) * (upper - lower))
