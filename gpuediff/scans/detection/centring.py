"""Where the direct beam is in every frame.

The brightest peak near the mean centre is the direct beam; where there is none, or a diffracted beam was taken for it,
a plane over the scan, or the median, says where it is: descan moves the beam evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch

OUTLIER = 4.0  # robust standard deviations
LEAST_SCATTER = 0.05  # pixels; below that, no position is an outlier
ROUNDS = 20
ENOUGH = 50_000  # positions, for the first plane, which only says what is far off

Model = Literal["plane", "median", "frame", "given"]


@dataclass(frozen=True, eq=False)
class Centres:
    """The direct beam of every frame.

    Parameters
    ----------
    qx, qy : array, shape (ny, nx), float64
        Pixels; finite everywhere.
    measured : array, shape (ny, nx), bool
        Where a peak of that frame agrees with the model; elsewhere the model alone speaks.
    scatter : float
        Robust standard deviation of the measured positions around the model, along one axis, pixels; NaN where the
        model is the measurement itself.
    model : str
    """

    qx: np.ndarray
    qy: np.ndarray
    measured: np.ndarray
    scatter: float
    model: Model


def direct_beams(peaks: PeakBatch, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Pick the brightest peak near the mean centre of every pattern.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns, pixels.
    centre : tuple of float
        Mean direct beam (qx, qy), pixels.
    radius : float
        How far it may wander, pixels.

    Returns
    -------
    array, shape (n, 2), float64
        (qx, qy); NaN where there is no peak so near.
    """
    found = np.full((len(peaks), 2), np.nan)
    near = np.hypot(peaks.qx - centre[0], peaks.qy - centre[1]) <= radius
    pattern = peaks.pattern_of_peak[near]
    qx, qy, intensity = peaks.qx[near], peaks.qy[near], peaks.intensity[near]
    order = np.argsort(intensity, kind="stable")  # the brightest is written last
    found[pattern[order], 0] = qx[order]
    found[pattern[order], 1] = qy[order]
    return found


def fit_centres(found: np.ndarray, shape: tuple[int, int], model: Model = "plane") -> Centres:
    """Say where the direct beam is in every frame, from where it was found.

    Parameters
    ----------
    found : array, shape (ny * nx, 2)
        Of `direct_beams`, NaN where it was not found.
    shape : tuple of int
        Probe positions (ny, nx).
    model : "plane", "median" or "frame"
        plane: linear over the scan, without outliers. median: one for all frames. frame: each frame's own where it is
        within what the plane lets expect, else the plane's.

    Raises
    ------
    InvalidScan
        If the direct beam was found in no frame.
    """
    found = np.asarray(found, dtype=np.float64)
    if found.shape != (shape[0] * shape[1], 2):
        raise InvalidScan(f"centres: {found.shape} positions do not fill {shape[0]} x {shape[1]} probe positions")
    good = np.isfinite(found).all(axis=1)
    if not good.any():
        raise InvalidScan(
            "centres: the direct beam was found in no frame: pass --centre (qx qy, pixels), or a larger --max-wander"
        )
    row, column = (axis.reshape(-1).astype(float) for axis in np.indices(shape))
    design = np.ones((len(found), 1))
    if model != "median":
        # Of a scan with one row nothing is learned along it; least squares leaves that slope at zero.
        design = np.stack([np.ones_like(row), row - row.mean(), column - column.mean()], axis=1)
    expected = design @ _least_absolute(design[good], found[good])
    inlier = good
    for _ in range(ROUNDS):
        away = np.abs(found - expected)
        scatter = max(1.4826 * float(np.median(away[inlier])), LEAST_SCATTER)
        after = good & (np.nan_to_num(away, nan=np.inf) <= OUTLIER * scatter).all(axis=1)
        if (after == inlier).all() or not after.any():
            break
        inlier = after
        if model != "median":
            expected = design @ np.linalg.lstsq(design[inlier], found[inlier], rcond=None)[0]
    scatter = 1.4826 * float(np.median(np.abs(found - expected)[inlier]))
    centres = np.where(inlier[:, None], found, expected) if model == "frame" else expected
    qx, qy = (np.ascontiguousarray(axis).reshape(shape) for axis in centres.T)
    return Centres(qx, qy, inlier.reshape(shape), scatter, model)


def _least_absolute(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Minimise the sum of the distances, not of their squares: a third of the values may be far off."""
    stride = math.ceil(len(values) / ENOUGH)
    design, values = design[::stride], values[::stride]
    weight = np.ones(len(values))
    for _ in range(50):
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(root * design, root * values, rcond=None)[0]
        distance = np.hypot(*(values - design @ solution).T)
        weight = 1 / np.maximum(distance, 0.1 * LEAST_SCATTER)
    return solution
