"""Bragg disks in diffraction patterns: found by correlation with the probe, placed below a pixel, counted.

The kernel is zero-mean and normalised so that its correlation with a disk is the number of counts of that disk above
what surrounds it; a maximum is a disk if it stands out of the noise that its own pixels let expect. From frames to
peaks everything is computed in float32, in batches, by the array library that the frames belong to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntFlag
from typing import Annotated, Any, Literal

import numpy as np
import scipy.fft

from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.scans.detection.probe import GAP, RING, Probe
from gpuediff.scans.detection.sensor import Sensor, healthy_neighbours
from gpuediff.settings import Settings, within

CANDIDATES_PER_PEAK = 4  # maxima that are looked at, the largest, for every peak that may be kept
LARGEST_SHARE = 0.5  # of a disk's counts in one pixel, from which on it is a hit of that pixel and no disk
SECTORS = 12  # of the ring around a disk; the median over them passes over the neighbouring disks
BLOCK = 8  # pixels, side of the squares whose means tell roughly what noise to expect
FINE_STEP = 0.25  # pixels between the nine places where the correlation is evaluated from its spectrum
NEIGHBOURS = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])


class Detection(Settings):
    """What counts as a Bragg disk, and how it is measured."""

    corr_power: Annotated[float, within(0, 1, open_low=True)] = 1.0  # 1: cross-correlation; towards 0: phases only
    smoothing: Annotated[float, within(0, 20, "pixels")] = 0.5  # standard deviation, of the correlation
    min_relative: Annotated[float, within(0, 1)] = 5e-4  # of the correlation of the pattern's brightest disk
    min_significance: Annotated[float, within(0, 1e6)] = 4.5  # counts over their standard deviation
    min_counts: Annotated[float, within(0, 1e12, "counts")] = 0.0
    min_spacing: Annotated[float, within(0, 1e4, "pixels")] | None = None  # the brighter stays; 1.5 radii if absent
    edge: Annotated[int, within(1, 10_000, "pixels")] | None = None  # peaks keep off it; as far as the kernel if absent
    max_peaks: Annotated[int, within(1, 10_000)] = 100  # of a pattern, the brightest
    subpixel: Literal["parabola", "fourier"] = "parabola"
    intensity: Literal["correlation", "aperture"] = "correlation"


class Fault(IntFlag):
    """What is wrong with a frame."""

    NOT_FINITE = 1  # no peaks are looked for
    SATURATED = 2  # intensities and places of the brightest disks are not to be trusted


@dataclass(frozen=True, eq=False)
class Detected:
    """Peaks of frames.

    Parameters
    ----------
    peaks : PeakBatch
        In every pattern by the height of the correlation, the largest first; qx along axis 0 and qy along axis 1 of a
        frame, in pixels, the middle of the first pixel at zero; intensity in counts.
    significance : array, shape (peaks,), float32
        Counts over their standard deviation.
    fault : array, shape (n,), uint8
        `Fault` of every frame.
    """

    peaks: PeakBatch
    significance: Any
    fault: Any


class Detector:
    """Finds disks in frames of one shape.

    Parameters
    ----------
    probe : Probe
    frame_shape : tuple of int
        (nqx, nqy).
    settings : Detection, optional
    sensor : Sensor, optional
    xp : module
        numpy or cupy: to which the frames belong.

    Raises
    ------
    InvalidScan
        If the frames are too small for the probe, or the gain is not positive.
    """

    def __init__(
        self,
        probe: Probe,
        frame_shape: tuple[int, int],
        settings: Detection | None = None,
        sensor: Sensor | None = None,
        *,
        xp: Any = np,
    ) -> None:
        self.probe, self.frame_shape, self.xp = probe, frame_shape, xp
        self.settings = settings or Detection()
        self.sensor = sensor or Sensor()
        if not (math.isfinite(self.sensor.gain) and self.sensor.gain > 0):
            raise InvalidScan(f"detector gain = {self.sensor.gain}: must be > 0, variance over mean of the counts")
        self._fft = scipy.fft if xp is np else xp.fft  # numpy's own is several times slower in float32
        chosen = self.settings.min_spacing
        self.spacing = 1.5 * probe.radius if chosen is None else chosen
        kernel = probe.kernel()
        self._reach = kernel.shape[0] // 2 + math.ceil(2 * self.settings.smoothing)
        self.edge = self._reach if self.settings.edge is None else self.settings.edge
        if min(frame_shape) < 2 * max(self.edge, self._reach) + 3:
            raise InvalidScan(
                f"frames of {frame_shape[0]} x {frame_shape[1]} pixels are too small for a probe of radius "
                f"{probe.radius:.1f} and an edge of {self.edge} pixels"
            )
        self._shape = tuple(fast_length(length) for length in frame_shape)
        self._prepare_spectrum(kernel)
        self._prepare_patches()
        self._prepare_hot()

    def detect(self, frames: Any) -> Detected:
        """Find the disks of frames.

        Parameters
        ----------
        frames : array, shape (n, nqx, nqy), any real type
            A dozen at a time is fastest on a CPU: they stay in its cache.

        Returns
        -------
        Detected
        """
        if frames.ndim != 3 or tuple(frames.shape[1:]) != self.frame_shape:
            raise InvalidScan(f"frames of shape {frames.shape}: expected (n, *{self.frame_shape})")
        values, fault = self._clean(frames)
        spectrum = self._correlate(values)
        correlation = self._fft.irfft2(spectrum, s=self._shape)
        frame, row, column = self._maxima(values, correlation)
        counts, significance, kept = self._measure(values, frame, row, column)
        frame, row, column, counts, significance = (part[kept] for part in (frame, row, column, counts, significance))
        kept = self._spaced(frame, row, column, len(frames))
        frame, row, column, counts, significance = (part[kept] for part in (frame, row, column, counts, significance))
        x, y, height = self._place(spectrum, correlation, frame, row, column, len(frames))
        if self.settings.intensity == "correlation" and self.settings.corr_power == 1:
            counts = height
        number = self.xp.bincount(frame, minlength=len(frames)) if len(frame) else self.xp.zeros(len(frames), np.int64)
        peaks = PeakBatch(
            x.astype(np.float32),
            y.astype(np.float32),
            counts.astype(np.float32),
            offsets_of(number),
        )
        return Detected(peaks, significance, fault)

    def _prepare_spectrum(self, kernel: np.ndarray) -> None:
        """Transform kernel and smoothing once; the kernel as it works at one place, both together, is kept too."""
        shape, smoothing = self._shape, self.settings.smoothing
        fx, fy = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
        gauss = np.exp(-2 * (np.pi * smoothing) ** 2 * (fx**2 + fy**2))
        probe = _around_origin(self.probe.image, shape)
        whole = np.conj(scipy.fft.rfft2(_around_origin(kernel, shape)))
        effective = whole * gauss
        norm = scipy.fft.irfft2(scipy.fft.rfft2(probe) * effective, s=shape)[0, 0]
        # Smoothing is no part of what is raised to a power.
        factor = effective / norm if self.settings.corr_power == 1 else whole
        self._kernel = self.xp.asarray(factor.astype(np.complex64))
        self._gauss = self.xp.asarray(gauss.astype(np.float32))
        local = np.roll(scipy.fft.irfft2(np.conj(effective / norm), s=shape), (self._reach, self._reach), axis=(0, 1))
        side = 2 * self._reach + 1
        self._local = local[:side, :side]

    def _prepare_patches(self) -> None:
        """Lay out what is summed around a peak: correlation, its variance, the disk, and the sectors of a ring."""
        reach, radius = self._reach, self.probe.radius
        line = np.arange(-reach, reach + 1)
        x, y = (axis.reshape(-1) for axis in np.meshgrid(line, line, indexing="ij"))
        distance = np.hypot(x, y)
        inner, outer = radius + GAP, radius + GAP + RING
        disk = distance <= inner
        ring = (distance > inner) & (distance <= outer + 0.5)
        sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS
        local = self._local.reshape(-1)
        weights = np.zeros((len(x), 3 + SECTORS))
        weights[:, 0] = local
        weights[:, 1] = local**2
        weights[:, 2] = disk
        for number in range(SECTORS):
            part = ring & (sector == number)
            weights[part, 3 + number] = 1 / max(1, part.sum())
        used = disk | ring | (np.abs(local) > 1e-3 * local.max())
        self._disk_pixels = int(disk.sum())
        self._weights = self.xp.asarray(weights[used].astype(np.float32))
        self._in_disk = self.xp.asarray(np.flatnonzero(disk[used]))
        self._patch = self.xp.asarray(x[used]), self.xp.asarray(y[used])
        self._squares = float((local**2).sum())  # variance of the correlation over that of a pixel
        self._fit = self.xp.asarray(_quadratic_fit().astype(np.float32))

    def _prepare_hot(self) -> None:
        self._hot: tuple[Any, ...] | None = None
        hot = self.sensor.hot
        if hot is not None and len(hot):
            neighbours = healthy_neighbours(hot, self.frame_shape)
            self._hot = tuple(self.xp.asarray(part) for part in (*hot.T, *np.moveaxis(neighbours, -1, 0)))

    def _clean(self, frames: Any) -> tuple[Any, Any]:
        """Copy frames to float32, and take out what is no number or hot."""
        xp = self.xp
        fault = xp.zeros(len(frames), dtype=np.uint8)
        if self.sensor.saturation is not None:
            fault |= (frames >= self.sensor.saturation).any(axis=(1, 2)) * np.uint8(Fault.SATURATED)
        values = frames.astype(np.float32)
        if frames.dtype.kind == "f":
            bad = ~xp.isfinite(values.sum(axis=(1, 2)))
            values[bad] = 0
            fault |= bad * np.uint8(Fault.NOT_FINITE)
        if self._hot is not None:
            row, column, rows, columns = self._hot
            values[:, row, column] = xp.median(values[:, rows, columns], axis=2)
        return values, fault

    def _correlate(self, values: Any) -> Any:
        """Return the spectrum of the smoothed correlation."""
        spectrum = self._fft.rfft2(values, s=self._shape)
        spectrum *= self._kernel
        if self.settings.corr_power != 1:
            magnitude = self.xp.maximum(abs(spectrum), np.float32(1e-20))
            spectrum *= magnitude ** np.float32(self.settings.corr_power - 1) * self._gauss
        return spectrum

    def _maxima(self, values: Any, correlation: Any) -> tuple[Any, Any, Any]:
        """Find local maxima that may be disks, every frame's largest first: (frame, row, column)."""
        xp, settings = self.xp, self.settings
        rows, columns = self._shape
        near, far = self.edge, tuple(length - self.edge for length in self.frame_shape)  # beyond, it goes around
        brightest = correlation[:, near : far[0], near : far[1]].max(axis=(1, 2))
        least = xp.maximum(settings.min_relative * brightest, np.float32(1e-12))
        if settings.corr_power == 1:
            noise = 0.5 * settings.min_significance * self._rough_noise(values)
            least = xp.maximum(xp.maximum(least, noise.min(axis=(1, 2))), np.float32(settings.min_counts))
        place = xp.flatnonzero(correlation > least[:, None, None])
        pixel = place % (rows * columns)
        row, column = pixel // columns, pixel % columns
        place = place[(row >= near) & (row < far[0]) & (column >= near) & (column < far[1])]
        flat = correlation.reshape(-1)
        height = flat[place]
        for step in NEIGHBOURS @ (columns, 1):
            if step:
                other = flat[place + step]
                top = xp.flatnonzero(height > other if step > 0 else height >= other)
                place, height = place[top], height[top]
        frame, pixel = place // (rows * columns), place % (rows * columns)
        row, column = pixel // columns, pixel % columns
        if settings.corr_power == 1:
            block = (xp.minimum(axis // BLOCK, n - 1) for axis, n in zip((row, column), noise.shape[1:], strict=True))
            likely = xp.flatnonzero(height > noise[(frame, *block)])
            frame, row, column, height = frame[likely], row[likely], column[likely], height[likely]
        order = xp.lexsort(xp.stack([-height, frame.astype(np.float32)]))
        frame, row, column = frame[order], row[order], column[order]
        few = self._rank(frame, len(values)) < CANDIDATES_PER_PEAK * self.settings.max_peaks
        return frame[few], row[few], column[few]

    def _rough_noise(self, values: Any) -> Any:
        """Standard deviation of the correlation in squares of pixels, from their mean counts alone."""
        rows, columns = (length // BLOCK * BLOCK for length in self.frame_shape)  # the last squares speak for the rest
        sums = sum(values[:, step:rows:BLOCK] for step in range(BLOCK))
        sums = sum(sums[:, :, step:columns:BLOCK] for step in range(BLOCK))
        return self._noise(sums * (self._squares / BLOCK**2))

    def _noise(self, squares: Any) -> Any:
        """Standard deviation of the correlation, from the sum of counts weighted by the squares of the kernel."""
        sensor = self.sensor
        variance = squares * np.float32(sensor.gain) + np.float32(sensor.dark_variance * self._squares)
        return self.xp.sqrt(self.xp.maximum(variance, np.float32(max(sensor.least_variance * self._squares, 1e-20))))

    def _rank(self, frame: Any, frames: int) -> Any:
        """Number the entries of every frame from 0; entries of one frame stand together."""
        if not len(frame):
            return frame
        starts = offsets_of(self.xp.bincount(frame, minlength=frames))
        return self.xp.arange(len(frame)) - starts[frame]

    def _measure(self, values: Any, frame: Any, row: Any, column: Any) -> tuple[Any, Any, Any]:
        """Sum what is around every maximum; return counts, significance, and which maxima are disks."""
        xp = self.xp
        x, y = self._patch
        rows, columns = self.frame_shape
        if self.edge < self._reach:  # over the edge a frame goes on as it ends
            x = xp.clip(row[:, None] + x, 0, rows - 1)
            y = xp.clip(column[:, None] + y, 0, columns - 1)
            patch = values[frame[:, None], x, y]
        else:
            place = (frame * rows + row) * columns + column
            patch = values.reshape(-1)[place[:, None] + (x * columns + y)]
        sums = patch @ self._weights
        significance = sums[:, 0] / self._noise(sums[:, 1])
        surroundings = xp.sort(sums[:, 3:], axis=1)[:, (SECTORS - 1) // 2 : SECTORS // 2 + 1].mean(axis=1)  # median
        disk = sums[:, 2] - self._disk_pixels * surroundings
        largest = patch[:, self._in_disk].max(axis=1) - surroundings
        kept = (significance >= self.settings.min_significance) & (largest < LARGEST_SHARE * disk)
        kept &= sums[:, 0] >= self.settings.min_counts
        return (disk if self.settings.intensity == "aperture" else sums[:, 0]), significance, kept

    def _spaced(self, frame: Any, row: Any, column: Any, frames: int) -> Any:
        """Keep a maximum unless a kept one that is brighter is too near; then the brightest of every frame."""
        xp = self.xp
        if not len(frame):
            return xp.zeros(0, dtype=bool)
        rank = self._rank(frame, frames)
        most = int(rank.max()) + 1
        places = xp.full((2, frames, most), np.float32(1e9))
        places[0, frame, rank], places[1, frame, rank] = row, column
        square = (places[0, :, :, None] - places[0, :, None, :]) ** 2
        square += (places[1, :, :, None] - places[1, :, None, :]) ** 2
        brighter = xp.arange(most)[:, None] > xp.arange(most)[None, :]
        near = (square < np.float32(self.spacing**2)) & brighter
        kept = xp.ones((frames, most), dtype=bool)
        while True:  # every round settles at least the next brightest
            after = ~(near & kept[:, None, :]).any(axis=2)
            if bool((after == kept).all()):
                break
            kept = after
        kept = kept[frame, rank]
        number = xp.cumsum(kept) - 1
        firsts = number[xp.flatnonzero(rank == 0)]  # the first of a frame is always kept
        order = xp.cumsum(rank == 0) - 1
        return kept & (number - firsts[order] < self.settings.max_peaks)

    def _place(
        self, spectrum: Any, correlation: Any, frame: Any, row: Any, column: Any, frames: int
    ) -> tuple[Any, Any, Any]:
        """Place maxima below a pixel, and tell the correlation there."""
        x, y = row.astype(np.float32), column.astype(np.float32)
        around = self.xp.asarray(NEIGHBOURS)
        nine = correlation[frame[:, None], row[:, None] + around[:, 0], column[:, None] + around[:, 1]]
        dx, dy, height = self._top(nine)
        if self.settings.subpixel == "parabola" or not len(frame):
            return x + dx, y + dy, height
        x, y = x + dx, y + dy
        nine = self._upsampled(spectrum, frame, x, y, frames)
        dx, dy, height = self._top(nine)
        return x + FINE_STEP * dx, y + FINE_STEP * dy, height

    def _top(self, nine: Any) -> tuple[Any, Any, Any]:
        """Fit a paraboloid to nine values; its top, in steps from the middle, and the value there."""
        xp = self.xp
        c, cx, cy, cxx, cyy, cxy = (nine @ self._fit).T
        determinant = 4 * cxx * cyy - cxy**2
        convex = (determinant > 0) & (cxx < 0)
        scale = xp.where(convex, determinant, 1)
        dx = xp.where(convex, xp.clip((cxy * cy - 2 * cyy * cx) / scale, -1, 1), 0)
        dy = xp.where(convex, xp.clip((cxy * cx - 2 * cxx * cy) / scale, -1, 1), 0)
        return dx, dy, c + cx * dx + cy * dy + cxx * dx**2 + cyy * dy**2 + cxy * dx * dy

    def _upsampled(self, spectrum: Any, frame: Any, x: Any, y: Any, frames: int) -> Any:
        """Evaluate the correlation at nine places around each peak by its Fourier sum.

        Two matrix products a frame, as Guizar-Sicairos, Thurman & Fienup, Opt. Lett. 33, 156 (2008).
        """
        xp = self.xp
        rank = self._rank(frame, frames)
        most = int(rank.max()) + 1
        fine = xp.asarray(np.array([-FINE_STEP, 0, FINE_STEP], np.float32))
        half = np.full(self._shape[1] // 2 + 1, 2.0)  # the other half of a real image's spectrum is its conjugate
        half[0] = 1
        if self._shape[1] % 2 == 0:
            half[-1] = 1
        along_x = xp.asarray((2j * np.pi * np.fft.fftfreq(self._shape[0])).astype(np.complex64))
        along_y = xp.asarray((2j * np.pi * np.fft.rfftfreq(self._shape[1])).astype(np.complex64))
        places = xp.zeros((frames, most), np.float32)
        places[frame, rank] = x
        left = xp.exp((places[:, :, None] + fine)[..., None] * along_x).reshape(frames, 3 * most, -1)
        partial = (left @ spectrum).reshape(frames, most, 3, -1)[frame, rank]
        right = xp.exp((y[:, None] + fine)[..., None] * along_y) * xp.asarray(half.astype(np.float32))
        values = (partial @ right.transpose(0, 2, 1)).real / (self._shape[0] * self._shape[1])
        return values.reshape(-1, 9)


def fast_length(length: int) -> int:
    """Return the least even length >= `length` whose Fourier transform is fast, a product of 2, 3, 5 and 7."""
    while True:
        rest = length
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and length % 2 == 0:
            return length
        length += 1


def _around_origin(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Lay an image into a larger one, its middle at the first pixel, the rest wrapped around."""
    half = image.shape[0] // 2
    line = np.arange(-half, half + 1)
    laid = np.zeros(shape)
    laid[np.ix_(line % shape[0], line % shape[1])] = image
    return laid


def _quadratic_fit() -> np.ndarray:
    """Least squares of c + cx x + cy y + cxx x² + cyy y² + cxy x y on nine places; shape (9, 6)."""
    x, y = NEIGHBOURS.T
    return np.linalg.pinv(np.stack([np.ones(9), x, y, x * x, y * y, x * y], axis=1)).T
