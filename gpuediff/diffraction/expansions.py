"""What patterns share whose spectra have the same half-width: the steps through the crystal, and their coefficients.

Half-widths are rounded up to powers of `WIDTH_STEP`, so that a few tables of Bessel coefficients, computed by the
function of `chebyshev`, serve all patterns of a GPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpuediff.diffraction.chebyshev import OUTPUTS_MAX, STEP_MAX, TAIL, coefficients
from gpuediff.peaks import offsets_of

WIDTH_STEP = 1.02  # half-widths are rounded up to a power of this: 1 % more products on average
WIDTH_MIN = 1e-9  # Å⁻¹; a single beam: nothing to expand, but a bound must be positive


def plan_steps(thicknesses: Sequence[float], step_max: float, outputs_max: int) -> list[tuple[int, tuple[float, ...]]]:
    """Cut the way through the crystal into steps, as `chebyshev.expand` does.

    Returns
    -------
    list of (int, tuple of float)
        For each step, which thickness the first of its distances is (-1 where none is to be written), and the
        distances in Å from its start; the last of them is its end.
    """
    steps: list[tuple[int, tuple[float, ...]]] = []
    depth, done = 0.0, 0
    while done < len(thicknesses):
        stop = done
        while stop < len(thicknesses) and stop - done < outputs_max and thicknesses[stop] - depth <= step_max:
            stop += 1
        if stop > done:
            steps.append((done, tuple(thickness - depth for thickness in thicknesses[done:stop])))
            depth = thicknesses[stop - 1]
        else:
            way = thicknesses[done] - depth
            part = way / math.ceil(way / step_max)
            steps.append((-1, (part,)))
            depth += part
        done = stop
    return steps


class Expansion(NamedTuple):
    """What patterns of one half-width share."""

    inverse_half_width: float  # Å, a number that the kernel's type can hold
    steps: np.ndarray  # (steps, 5) int32, as the kernel's head has it, places counted from this expansion's own
    coefficients: np.ndarray  # flat float64
    distances: np.ndarray  # flat float64


@functools.lru_cache(maxsize=512)
def expansion(
    width_class: int, halvings: int, thicknesses: tuple[float, ...], outputs_max: int, precision: np.dtype
) -> Expansion:
    """Tabulate the expansion with half-width `WIDTH_STEP ** width_class` and steps of `STEP_MAX / 2 ** halvings`."""
    inverse = float(precision.type(1 / max(WIDTH_STEP**width_class, WIDTH_MIN)))
    tail = TAIL * float(np.finfo(precision).eps)
    rows = []
    tables: list[np.ndarray] = []
    places: dict[tuple[float, ...], tuple[int, int, int]] = {}
    used = count = 0
    for first, distances in plan_steps(thicknesses, STEP_MAX / 2**halvings, outputs_max):
        if distances not in places:
            table = coefficients(1 / inverse, np.array(distances), tail)
            places[distances] = (used, len(table), count)
            tables.append(table.ravel())
            used += table.size
            count += len(distances)
        rows.append((*places[distances], len(distances), first))
    return Expansion(
        inverse, np.array(rows, dtype=np.int32), np.concatenate(tables), np.concatenate([np.array(d) for d in places])
    )


def width_class(half_width: np.ndarray) -> np.ndarray:
    """Return the power of `WIDTH_STEP` to which each half-width (Å⁻¹) is rounded up, int64."""
    return np.ceil(np.log(np.maximum(half_width, WIDTH_MIN)) / math.log(WIDTH_STEP)).astype(np.int64)


def outputs_wanted(thicknesses: Sequence[float]) -> int:
    """Return how many thicknesses lie within one step at most."""
    return max((len(distances) for _, distances in plan_steps(thicknesses, STEP_MAX, OUTPUTS_MAX)), default=1)


class Tables(NamedTuple):
    """Several expansions one behind the other, as the kernel takes them."""

    inverse_half_width: np.ndarray  # (e,) float64
    first_step: np.ndarray  # (e + 1,) int32
    steps: np.ndarray  # flat int32
    coefficients: np.ndarray  # flat float64
    distances: np.ndarray  # flat float64


def concatenated(expansions: Sequence[Expansion]) -> Tables:
    """Put expansions one behind the other."""
    coefficient_starts = starts_of([len(each.coefficients) for each in expansions])
    distance_starts = starts_of([len(each.distances) for each in expansions])
    steps = [
        each.steps + np.array([coefficient_starts[e], 0, distance_starts[e], 0, 0], dtype=np.int32)
        for e, each in enumerate(expansions)
    ]
    return Tables(
        np.array([each.inverse_half_width for each in expansions]),
        starts_of([len(each.steps) for each in expansions]).astype(np.int32),
        np.concatenate(steps).ravel(),
        np.concatenate([each.coefficients for each in expansions]),
        np.concatenate([each.distances for each in expansions]),
    )


def starts_of(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Turn n counts into where each of them starts, and the end of the last, int64."""
    return offsets_of(np.asarray(counts, dtype=np.int64))
