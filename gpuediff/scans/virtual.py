"""Virtual images of a scan: how bright the direct beam is at every probe position, and all that is diffracted."""

from __future__ import annotations

import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.features.preparation import intensity_sums, remove_direct_beam
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch
from gpuediff.scans.scan import PATTERNS_PER_BATCH


def virtual_images(
    peaks: PeakBatch, shape: tuple[int, int], radius: float = DIRECT_BEAM_RADIUS
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the intensities of the direct beam, and of all other peaks.

    Parameters
    ----------
    peaks : PeakBatch
        Patterns `row * nx + column`, the direct beam at the origin; they may be read from disk as they are needed.
    shape : tuple of int
        Probe positions (ny, nx).
    radius : float
        Å⁻¹ from the origin, within which the nearest peak is the direct beam: the one that the features leave out.

    Returns
    -------
    bright_field, dark_field : array, shape (ny, nx), float32
        In the unit of the intensities. A pattern without direct beam has the bright field 0; one without peaks, or
        with a value that is not finite, has NaN in both.

    Raises
    ------
    InvalidScan
        If the number of patterns is not ny * nx.
    InvalidConfig
        If the radius is negative or not a number.
    """
    if shape[0] * shape[1] != len(peaks):
        raise InvalidScan(f"shape = {shape}: {len(peaks)} patterns do not fill {shape[0]} x {shape[1]} positions")
    bright, dark = (np.full(len(peaks), np.nan, dtype=np.float32) for _ in range(2))
    for start in range(0, len(peaks), PATTERNS_PER_BATCH):
        block = peaks[start : start + PATTERNS_PER_BATCH]
        finite = np.isfinite(block.qx) & np.isfinite(block.qy) & np.isfinite(block.intensity)
        faults = np.bincount(block.pattern_of_peak[~finite], minlength=len(block))
        measured = np.flatnonzero((block.counts > 0) & (faults == 0))
        patterns = block[measured]
        diffracted = intensity_sums(remove_direct_beam(patterns, "centre", radius))
        bright[start + measured] = intensity_sums(patterns) - diffracted
        dark[start + measured] = diffracted
    return bright.reshape(shape), dark.reshape(shape)
