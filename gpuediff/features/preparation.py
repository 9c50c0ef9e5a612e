"""What is done to peak lists before they are expanded: the direct beam removed, intensities scaled."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numba import njit, prange

from gpuediff import arrays
from gpuediff.errors import InvalidConfig
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch


def remove_direct_beam(
    peaks: PeakBatch, how: Literal["centre", "brightest"], radius: float = DIRECT_BEAM_RADIUS
) -> PeakBatch:
    """Remove at most one peak from every pattern; empty patterns stay empty.

    Parameters
    ----------
    peaks : PeakBatch
        On either device.
    how : "centre" or "brightest"
        "centre" removes the peak nearest to the origin, if it is within `radius`. "brightest" removes the most intense
        peak wherever it is, as Gleason et al. (2024) do; in a thick crystal that may be a diffracted beam. Of
        equals, the first is removed.
    radius : float
        Å⁻¹, for "centre".

    Returns
    -------
    PeakBatch
        As many patterns, on the same device.

    Raises
    ------
    InvalidConfig
        If `how` is neither, or the radius is negative or not a number.
    """
    if how not in ("centre", "brightest"):
        raise InvalidConfig(f"direct_beam = {how!r}: expected 'centre' or 'brightest'")
    if not radius >= 0:
        raise InvalidConfig(f"radius = {radius}: must be >= 0 Å⁻¹")
    if how == "centre":
        # Squares in float64 neither overflow nor vanish, and keep the order of the float32 positions.
        rank = peaks.qx.astype(np.float64) ** 2 + peaks.qy.astype(np.float64) ** 2
        limit = radius * radius
    else:
        rank, limit = -peaks.intensity.astype(np.float64), math.inf
    xp = arrays.namespace(rank)
    first = _first_lowest(rank, peaks.offsets) if xp is np else _first_lowest_by_sorting(rank, peaks.offsets)
    first = first[first >= 0]
    kept = xp.ones(len(rank), dtype=bool)
    kept[first[rank[first] <= limit]] = False
    return peaks.keep(kept)


@njit(parallel=True, cache=True)
def _first_lowest(rank, offsets):
    """Index of every pattern's lowest rank, the first of equals; -1 for an empty pattern."""
    lowest = np.full(len(offsets) - 1, -1, np.int64)
    for p in prange(len(offsets) - 1):
        for j in range(offsets[p], offsets[p + 1]):
            if lowest[p] < 0 or rank[j] < rank[lowest[p]]:
                lowest[p] = j
    return lowest


def _first_lowest_by_sorting(rank: Any, offsets: Any) -> Any:
    """Do the same on either device, with whole-array functions alone."""
    xp = arrays.namespace(rank)
    lowest = xp.full(len(offsets) - 1, -1, dtype=np.int64)
    if len(rank) == 0:
        return lowest
    peak = xp.arange(len(rank))
    pattern = PeakBatch(rank, rank, rank, offsets).pattern_of_peak
    order = xp.lexsort(xp.stack([peak.astype(np.float64), rank, pattern.astype(np.float64)]))
    filled = offsets[1:] > offsets[:-1]
    lowest[filled] = order[offsets[:-1][filled]]
    return lowest


def intensity_sums(peaks: PeakBatch) -> Any:
    """Return the sum of every pattern's intensities, shape (n,), float64."""
    xp = arrays.namespace(peaks.intensity)
    if len(peaks.intensity) == 0:
        return xp.zeros(len(peaks))
    return xp.bincount(peaks.pattern_of_peak, weights=peaks.intensity.astype(np.float64), minlength=len(peaks))


def intensity_scale(peaks: PeakBatch, total: float) -> Any:
    """Return the factor, shape (n,), float64, that makes every pattern's intensities sum to `total`.

    A pattern without intensity has the factor 1.

    Raises
    ------
    InvalidConfig
        If `total` is not positive and finite.
    """
    if not (math.isfinite(total) and total > 0):
        raise InvalidConfig(f"total intensity = {total}: must be > 0 and finite")
    xp = arrays.namespace(peaks.intensity)
    sums = intensity_sums(peaks)
    return xp.where(sums > 0, total / xp.where(sums > 0, sums, 1.0), 1.0)


def scale_intensity(peaks: PeakBatch, total: float) -> PeakBatch:
    """Scale every pattern so that its intensities sum to `total`; the paper takes 0.3 for experiments.

    The direct beam belongs to that sum: scale before removing it. Parameters, errors: as for `intensity_scale`.
    """
    factor = intensity_scale(peaks, total)[peaks.pattern_of_peak]
    return PeakBatch(peaks.qx, peaks.qy, (peaks.intensity * factor).astype(np.float32), peaks.offsets)
