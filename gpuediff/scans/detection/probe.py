"""The probe on the detector: the disk that every Bragg peak repeats, and the kernel that looks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, label, shift
from scipy.special import erf

from gpuediff.errors import InvalidScan

GAP, RING = 1.0, 2.0  # pixels between a disk and the ring that tells its surroundings, and the width of that ring
EDGE = 0.6  # pixels, standard deviation by which the detector's point spread softens a disk
SMALLEST_RADIUS = 1.0  # pixels; a smaller disk is one pixel, and its place cannot be told from that


@dataclass(frozen=True, eq=False)
class Probe:
    """The shape of a disk, around the middle pixel of an image.

    Parameters
    ----------
    image : array, shape (2 k + 1, 2 k + 1), float64
        Its sum is 1; its centre of mass is the middle pixel.
    radius : float
        Pixels, to half of the height.

    Raises
    ------
    InvalidScan
        If the image has no middle pixel, or the radius is less than a pixel.
    """

    image: np.ndarray
    radius: float

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.shape[0] != self.image.shape[1] or not self.image.shape[0] % 2:
            raise InvalidScan(f"probe: image of shape {self.image.shape}: expected (2 k + 1, 2 k + 1)")
        if not (math.isfinite(self.radius) and self.radius >= SMALLEST_RADIUS):
            raise InvalidScan(f"probe: radius = {self.radius:g}: must be >= {SMALLEST_RADIUS:g} pixel")

    @classmethod
    def disk(cls, radius: float, *, edge: float = EDGE) -> Probe:
        """Draw an even disk with a soft edge.

        Parameters
        ----------
        radius : float
            Pixels.
        edge : float
            Standard deviation of the edge, an error function, pixels.
        """
        if not (math.isfinite(radius) and radius >= SMALLEST_RADIUS):
            raise InvalidScan(f"probe: radius = {radius:g}: must be >= {SMALLEST_RADIUS:g} pixel")
        distance = _distances(math.ceil(radius + 3 * edge))
        image = 0.5 - 0.5 * erf((distance - radius) / (math.sqrt(2) * edge))
        return cls(image / image.sum(), float(radius))

    @classmethod
    def from_vacuum(cls, pattern: np.ndarray) -> Probe:
        """Cut the probe out of a pattern without a specimen, or out of the average of several.

        Parameters
        ----------
        pattern : array, shape (nqx, nqy)

        Raises
        ------
        InvalidScan
            If there is no one bright disk in it.
        """
        pattern = np.asarray(pattern, dtype=np.float64)
        if pattern.ndim != 2 or not np.isfinite(pattern).all():
            raise InvalidScan(f"vacuum probe: expected finite numbers of shape (nqx, nqy), got {pattern.shape}")
        radius, centre = measure_disk(pattern)
        size = math.ceil(radius + 4 * EDGE)
        middle = [round(value) for value in centre]
        if any(not size <= place < count - size for place, count in zip(middle, pattern.shape, strict=True)):
            raise InvalidScan(f"vacuum probe: the disk at {_pair(centre)} is cut by the edge of the pattern")
        rows, columns = (slice(place - size, place + size + 1) for place in middle)
        image = pattern[rows, columns] - np.median(pattern)
        image[_distances(size) > radius + 3 * EDGE] = 0
        image = np.clip(
            shift(image, [place - value for place, value in zip(middle, centre, strict=True)], order=3), 0, None
        )
        return cls(image / image.sum(), radius)

    def kernel(self) -> np.ndarray:
        """Make the kernel whose correlation with a disk is the disk's counts above its surroundings.

        Returns
        -------
        array, shape (2 m + 1, 2 m + 1), float64
            The probe less a ring around it; the sum is 0, and the sum of its product with the probe 1.
        """
        inner = self.radius + GAP
        outer = inner + RING
        half = self.image.shape[0] // 2
        size = max(half, math.ceil(outer))
        distance = _distances(size)
        ring = np.clip(distance - inner + 0.5, 0, 1) * np.clip(outer - distance + 0.5, 0, 1)
        disk = np.pad(self.image, size - half)
        kernel = disk - ring / ring.sum()
        return kernel / (kernel * disk).sum()


def measure_disk(pattern: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Measure the brightest disk of a pattern.

    Parameters
    ----------
    pattern : array, shape (nqx, nqy), float
        Best an average, because the disk's edge is to be seen in it.

    Returns
    -------
    radius : float
        Where the radial profile falls to half of the height inside, pixels.
    centre : tuple of float
        Centre of mass, (qx, qy), pixels.

    Raises
    ------
    InvalidScan
        If the brightest place is not a disk of at least a pixel that ends within the pattern.
    """
    smooth = gaussian_filter(pattern, 1.0)
    base = float(np.median(smooth))
    height = float(smooth.max()) - base
    if height <= 0:
        raise InvalidScan("probe: the pattern is even, there is no direct beam in it: pass --radius and --centre")
    x, y = np.indices(pattern.shape)[0], np.indices(pattern.shape)[1]
    parts: np.ndarray = np.asarray(label(smooth > base + height / 2)[0])
    disk = parts == parts[np.unravel_index(smooth.argmax(), smooth.shape)]
    radius = math.sqrt(disk.sum() / math.pi)
    centre = (float(x[disk].mean()), float(y[disk].mean()))
    for _ in range(3):  # height, radius and centre depend on each other
        distance = np.hypot(x - centre[0], y - centre[1])
        height = float(pattern[distance <= max(0.7 * radius, 1.0)].mean()) - base
        radius = _half_height(distance, pattern - base, height, rough=radius)
        if not math.isfinite(radius):
            break
        weight = np.where(distance < radius + 3 * EDGE, np.maximum(pattern - base, 0), 0)
        centre = (float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum()))
    reach = min(min(value, count - 1 - value) for value, count in zip(centre, pattern.shape, strict=True))
    if not SMALLEST_RADIUS <= radius <= reach:
        raise InvalidScan(
            f"probe: what is brightest, at {_pair(centre)}, has a radius of {radius:.1f} pixels and is "
            f"{reach:.0f} pixels from the edge: that is no disk: pass --radius and --centre"
        )
    return radius, centre


def _half_height(distance: np.ndarray, values: np.ndarray, height: float, *, rough: float) -> float:
    """Find where the mean over circles falls below half of the height, pixels."""
    step = 0.5
    index = (distance / step + 0.5).astype(int).reshape(-1)
    counts = np.bincount(index)
    profile = np.bincount(index, values.reshape(-1)) / np.maximum(counts, 1)
    places = np.flatnonzero(counts)
    profile = profile[places]
    below = np.flatnonzero((profile < height / 2) & (places * step > rough / 2))
    if not len(below) or below[0] == 0:
        return math.inf
    first = below[0]
    before, after = profile[first - 1], profile[first]
    part = (before - height / 2) / (before - after) if before > after else 0.5
    return step * float(places[first - 1] + part * (places[first] - places[first - 1]))


def _distances(size: int) -> np.ndarray:
    """Distances from the middle of (2 size + 1, 2 size + 1) pixels."""
    line = np.arange(-size, size + 1)
    return np.hypot(line[:, None], line[None, :])


def _pair(place: tuple[float, float]) -> str:
    return f"({place[0]:.1f}, {place[1]:.1f})"
