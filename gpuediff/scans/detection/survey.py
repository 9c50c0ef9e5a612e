"""What a sample of a scan's frames tells before its disks are looked for: probe, direct beam, and detector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import binary_dilation, gaussian_filter, median_filter, shift

from gpuediff.errors import InvalidScan
from gpuediff.scans.detection.probe import Probe, measure_disk
from gpuediff.scans.detection.sensor import Sensor, hot_pixels

SAMPLE = 256  # frames; what is learned from them does not become better with more
SAMPLE_PIXELS = 2**24  # of all of them, but for LEAST frames
LEAST = 16
RUN = 8  # frames that are read together
QUARTILE = 0.10153  # of the square of a normal deviate
EVEN = 0.2  # of the counts where they are many, by which they must exceed those where they are few to tell a gain
LEAST_PIXELS = 200  # between disks, of a frame
CLEAR = 5.0  # standard deviations, from which on a correlation is that of a disk


@dataclass(frozen=True, eq=False)
class Survey:
    """What a sample of frames tells.

    Parameters
    ----------
    mean : array, shape (nqx, nqy), float64
        Mean of the finite frames of the sample; hot pixels replaced by the median of their neighbours.
    radius : float
        Of the probe, pixels.
    centre : tuple of float
        Of the direct beam in the mean pattern, (qx, qy), pixels.
    sensor : Sensor
    frames : int
        In the sample.
    """

    mean: np.ndarray
    radius: float
    centre: tuple[float, float]
    sensor: Sensor
    frames: int


def sample_of(count: int, frame_shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Choose frames spread evenly over a scan, in runs; a list of (first, last + 1).

    Parameters
    ----------
    count : int
        Frames in the scan.
    frame_shape : tuple of int
        Of large frames fewer are taken.
    """
    sample = max(LEAST, min(SAMPLE, SAMPLE_PIXELS // (frame_shape[0] * frame_shape[1])))
    runs = max(1, min(sample, count) // RUN)
    starts = np.linspace(0, max(0, count - RUN), runs).astype(int)
    return [(int(start), min(count, int(start) + RUN)) for start in starts]


def survey(
    frames: np.ndarray,
    *,
    radius: float | None = None,
    centre: tuple[float, float] | None = None,
    gain: float | None = None,
    saturation: float | None = None,
) -> Survey:
    """Learn from a sample of frames what their detection needs.

    Parameters
    ----------
    frames : array, shape (n, nqx, nqy), any real type
        Of the whole scan, see `sample_of`.
    radius, centre, gain : optional
        Known, and not to be estimated: of the probe, pixels; direct beam (qx, qy), pixels; variance over mean of the
        counts.
    saturation : float, optional
        Counts from which on a pixel is saturated; the largest number of an integer type of 8 or 16 bits if absent.

    Raises
    ------
    InvalidScan
        If no frame is finite, or there is no direct beam to be seen; says what to pass instead.
    """
    if saturation is None and frames.dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
        saturation = float(np.iinfo(frames.dtype).max)
    values = frames.astype(np.float32)
    values = values[np.isfinite(values.sum(axis=(1, 2), dtype=np.float64))]
    if not len(values):
        raise InvalidScan(f"none of the {len(frames)} frames looked at is finite: is this the right dataset?")
    hot = hot_pixels(values)
    mean = values.mean(axis=0, dtype=np.float64)
    for number, (row, column) in enumerate(hot.tolist()):
        if number == 0:
            calm = median_filter(mean, 5)
        mean[row, column] = calm[row, column]
    if radius is None:
        radius = measure_disk(_aligned(values, mean))[0]
    if centre is None:
        centre = measure_disk(mean)[1]
    noise = estimate_noise(values, Probe.disk(radius)) if gain is None else (gain, 0.0, 0.0)
    return Survey(mean, radius, centre, Sensor(*noise, hot=hot, saturation=saturation), len(values))


def _aligned(frames: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Average frames with their direct beams on each other, so that its wandering does not widen it."""
    smooth = gaussian_filter(mean, 2.0)
    middle = np.unravel_index(smooth.argmax(), smooth.shape)
    x, y = np.indices(mean.shape)
    distance = np.hypot(x - middle[0], y - middle[1])
    near = np.exp(-0.5 * (distance / (min(mean.shape) / 8)) ** 2)
    total = np.zeros(mean.shape)
    for frame in frames:
        weighted = gaussian_filter(frame, 2.0) * near
        place = np.unravel_index(weighted.argmax(), weighted.shape)
        total += shift(frame, [int(m) - int(p) for m, p in zip(middle, place, strict=True)], order=0, mode="nearest")
    return total / len(frames)


def estimate_noise(frames: np.ndarray, probe: Probe, *, most: int = 32) -> tuple[float, float, float]:
    """Estimate how the variance of a pixel depends on its counts, from how the correlation scatters between disks.

    Where counts are few and where they are many two values each are compared, so that what is added to all pixels,
    noise of reading or a pedestal, is told from what grows with the counts.

    Parameters
    ----------
    frames : array, shape (n, nqx, nqy), float32
    probe : Probe
    most : int
        Frames that are used.

    Returns
    -------
    gain, dark_variance, least_variance : float
        As of `Sensor`. Of counted electrons about 1, 0 and half of the variance where counts are few; a gain of at
        least 1e-6, where there is no noise, or nothing but disks.
    """
    kernel = probe.kernel()
    half = kernel.shape[0] // 2
    shape = tuple(length + 2 * half for length in frames.shape[1:])
    if min(frames.shape[1:]) <= 2 * half:
        raise InvalidScan(
            f"frames of {frames.shape[1]} x {frames.shape[2]} pixels are too small for a radius of {probe.radius:g}"
        )
    squares = float((kernel**2).sum())
    transforms = [scipy.fft.rfft2(part, s=shape) for part in (kernel[::-1, ::-1], kernel[::-1, ::-1] ** 2 / squares)]
    inside = tuple(slice(2 * half, length) for length in frames.shape[1:])  # where the kernel is within the frame
    levels = []
    for frame in frames[:: math.ceil(len(frames) / most)]:
        spectrum = scipy.fft.rfft2(frame.astype(np.float64), s=shape)
        correlation, counts = (scipy.fft.irfft2(spectrum * part, s=shape)[inside] for part in transforms)
        correlation /= math.sqrt(squares)
        # The transform is exact to a part of the largest value, and what is left of an even frame is that.
        free = np.abs(correlation) + np.abs(counts) > 1e-10 * np.abs(counts).max()
        if free.sum() < LEAST_PIXELS:
            continue
        # At first with the disks among it, of which a quartile knows little.
        ratio = np.quantile(correlation[free] ** 2 / np.maximum(counts[free], 1e-30), 0.25) / QUARTILE
        expected = np.maximum(ratio * counts, _variance(correlation[free]))
        for _ in range(2):
            disks = correlation > CLEAR * np.sqrt(np.maximum(expected, 0))
            free &= ~binary_dilation(disks, np.ones((3, 3), dtype=bool), iterations=2 * half)
            if free.sum() < LEAST_PIXELS:
                break
            gain, dark, least = _noise_line(_noise_levels(counts[free], correlation[free]))
            expected = np.maximum(gain * counts + dark, least)
        if free.sum() >= LEAST_PIXELS:
            levels.append(_noise_levels(counts[free], correlation[free]))
    gain, dark, least = _noise_line(np.median(levels, axis=0)) if levels else (0.0, 0.0, 0.0)
    return max(1e-6, gain), dark, least


def _noise_levels(counts: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Mean counts and variance where counts are few, where they are many, and of all; shape (3, 2)."""
    low, high = np.quantile(counts, (1 / 3, 2 / 3))
    parts = counts <= low, counts >= high, np.ones(len(counts), dtype=bool)
    return np.array([(counts[part].mean(), _variance(deviation[part])) for part in parts])


def _noise_line(levels: np.ndarray) -> tuple[float, float, float]:
    """Fit variance = gain * counts + dark; return gain, dark, and half of the least variance."""
    (few, low), (many, high), (whole, middle) = levels.tolist()
    least = 0.5 * min(low, high)
    if many > 0 and many - few > EVEN * many and high > low:
        gain = (high - low) / (many - few)
        return gain, low - gain * few, least
    # With hardly a difference in counts, one number is all that can be told: electrons, if there are any.
    return (middle / whole, 0.0, least) if whole > 0 and few > 0 else (0.0, middle, least)


def _variance(deviation: np.ndarray) -> float:
    """Variance about 0, of which disks that are still there make less.

    The quartile passes over faint disks, the mean is right where counts are too few for a normal deviate; what is wrong
    with either makes it larger.
    """
    square = deviation**2
    return min(float(square.mean()), float(np.quantile(square, 0.25)) / QUARTILE)
