"""What is known of the detector: its noise, and pixels that are not to be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

from gpuediff.errors import InvalidScan

HOT_RATIO = 5.0  # a hot pixel's counts over the median of its neighbours, in the mean as in the median of all frames


@dataclass(frozen=True, eq=False)
class Sensor:
    """What is known of the detector.

    Parameters
    ----------
    gain : float
        Variance over counts: 1 for a detector that counts electrons.
    dark_variance : float
        Variance of a pixel whose counts are 0: what reading adds; below 0 where a pedestal counts as counts.
    least_variance : float
        Variance of a pixel that is never fallen short of.
    hot : array, shape (h, 2), int64
        Pixels (row, column) whose counts are replaced by the median of their neighbours.
    saturation : float, optional
        Counts from which on a pixel tells no difference any more.
    """

    gain: float = 1.0
    dark_variance: float = 0.0
    least_variance: float = 0.0
    hot: np.ndarray | None = None
    saturation: float | None = None


def hot_pixels(frames: np.ndarray) -> np.ndarray:
    """Find pixels that stand far above their neighbours all the time.

    Parameters
    ----------
    frames : array, shape (n, nqx, nqy), float32

    Returns
    -------
    array, shape (h, 2), int64
        (row, column). Both the mean and the median over the frames must stand out: one frame's disk does not make a
        hot pixel, and neither do few counts.
    """
    footprint = np.ones((3, 3), dtype=bool)
    footprint[1, 1] = False
    hot = np.ones(frames.shape[1:], dtype=bool)
    for image in (frames.mean(axis=0), np.median(frames, axis=0)):
        around = median_filter(image, footprint=footprint)
        hot &= (image > HOT_RATIO * around) & (image > 0)
    return np.argwhere(hot).astype(np.int64)


def healthy_neighbours(hot: np.ndarray, frame_shape: tuple[int, int]) -> np.ndarray:
    """Choose the eight nearest pixels that are not hot themselves.

    Parameters
    ----------
    hot : array, shape (h, 2), int64
        Pixels (row, column).

    Returns
    -------
    array, shape (h, 8, 2), int64
    """
    listed = set(map(tuple, hot.tolist()))
    line = range(-4, 5)
    steps = sorted(((x, y) for x in line for y in line if x or y), key=lambda step: (math.hypot(*step), step))
    chosen = []
    for row, column in hot.tolist():
        near = [(row + x, column + y) for x, y in steps]
        near = [
            place
            for place in near
            if place not in listed and all(0 <= p < n for p, n in zip(place, frame_shape, strict=True))
        ]
        if not near:
            raise InvalidScan(f"hot pixel ({row}, {column}): all pixels around it are hot too: take a cleaner detector")
        chosen.append([near[number % len(near)] for number in range(8)])
    return np.array(chosen, dtype=np.int64)
