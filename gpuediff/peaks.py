"""Many ragged peak lists in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuediff.arrays import Device, namespace, to_device
from gpuediff.errors import InvalidPeaks

#: Å⁻¹, half a ring of the paper's basis. No diffracted beam comes so near the origin: that would take lattice planes
#: 40 Å apart. A direct beam farther out is a calibration fault, and would count to ring 1 more than to ring 0.
DIRECT_BEAM_RADIUS = 0.025
Q_PLAUSIBLE = 3.0  # Å⁻¹; electron diffraction ends below, peaks in pixels of a detector end far above


@dataclass(frozen=True, eq=False)
class PeakBatch:
    """Peak lists of n patterns; pattern i holds the peaks `offsets[i]:offsets[i + 1]`.

    The arrays are NumPy's or CuPy's, all four alike; what is made from a batch stays on its device.

    Parameters
    ----------
    qx, qy : array, shape (peaks,), float32
        Peak position in the detector plane, Å⁻¹, the direct beam at the origin.
    intensity : array, shape (peaks,), float32
        Fraction of the incident beam, or counts.
    offsets : array, shape (n + 1,), int64
        Start of every pattern, and the end of the last.

    Raises
    ------
    InvalidPeaks
        If the arrays do not fit each other. Values are checked by `validate`.
    """

    qx: Any
    qy: Any
    intensity: Any
    offsets: Any

    def __post_init__(self) -> None:
        if not (self.qx.shape == self.qy.shape == self.intensity.shape) or self.qx.ndim != 1:
            raise InvalidPeaks(
                f"qx, qy and intensity must be flat and of one length, "
                f"got {self.qx.shape}, {self.qy.shape}, {self.intensity.shape}"
            )
        if self.offsets.ndim != 1 or len(self.offsets) == 0:
            raise InvalidPeaks(f"offsets must be flat and hold n + 1 values, got shape {self.offsets.shape}")
        falls = self.offsets[1:] < self.offsets[:-1]
        if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != len(self.qx) or bool(falls.any()):
            raise InvalidPeaks(f"offsets must rise from 0 to the number of peaks, {len(self.qx)}")

    @classmethod
    def from_lists(cls, patterns: Iterable[Sequence[Any]]) -> PeakBatch:
        """Gather patterns: each a tuple or list (qx, qy, intensity), or an array of shape (peaks, 3).

        Raises
        ------
        InvalidPeaks
            If a pattern is neither; names it by its index.
        """
        columns = []
        for index, pattern in enumerate(patterns):
            try:
                values = np.asarray(pattern, dtype=np.float32)
            except ValueError as error:
                raise InvalidPeaks(f"pattern {index}: qx, qy and intensity differ in length: {error}") from error
            # Never by shape alone: three peaks make a square, which reads both ways.
            if isinstance(pattern, (tuple, list)) and values.ndim == 2 and len(values) == 3:
                values = values.T
            elif isinstance(pattern, (tuple, list)) and values.size:
                raise InvalidPeaks(f"pattern {index}: expected (qx, qy, intensity), got shape {values.shape}")
            if values.size == 0:
                values = values.reshape(0, 3)
            if values.ndim != 2 or values.shape[1] != 3:
                raise InvalidPeaks(f"pattern {index}: expected an array of shape (peaks, 3), got {values.shape}")
            columns.append(values)
        counts = np.array([len(values) for values in columns], dtype=np.int64)
        flat = np.concatenate(columns) if columns else np.empty((0, 3), np.float32)
        qx, qy, intensity = (np.ascontiguousarray(column) for column in flat.T)
        return cls(qx, qy, intensity, offsets_of(counts))

    @classmethod
    def concatenate(cls, batches: Sequence[PeakBatch]) -> PeakBatch:
        """Join batches of one device, in order."""
        if not batches:
            return cls.from_lists([])
        xp = namespace(batches[0].qx)
        return cls(
            xp.concatenate([batch.qx for batch in batches]),
            xp.concatenate([batch.qy for batch in batches]),
            xp.concatenate([batch.intensity for batch in batches]),
            offsets_of(xp.concatenate([batch.counts for batch in batches])),
        )

    def to(self, device: Device) -> PeakBatch:
        """Return the batch on `device`."""
        arrays = (self.qx, self.qy, self.intensity, self.offsets)
        return PeakBatch(*(to_device(array, device) for array in arrays))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        return (self.pattern(index) for index in range(len(self)))

    def __getitem__(self, patterns: slice | Any) -> PeakBatch:
        """Take patterns by slice, index array or boolean mask; the result is ragged too.

        Raises
        ------
        IndexError
            If a mask does not have one value for every pattern, or indices are not integers. One pattern is
            `pattern(index)`.
        """
        xp = namespace(self.qx)
        if isinstance(patterns, slice):
            start, stop, step = patterns.indices(len(self))
            if step == 1:
                bounds = self.offsets[start : max(start, stop) + 1]
                peaks = slice(int(bounds[0]), int(bounds[-1]))
                return PeakBatch(self.qx[peaks], self.qy[peaks], self.intensity[peaks], bounds - bounds[0])
            patterns = xp.arange(start, stop, step)
        patterns = xp.asarray(patterns)
        if patterns.ndim != 1:
            raise IndexError(f"expected a slice or a flat array of patterns, got shape {patterns.shape}")
        if patterns.dtype == bool:
            if len(patterns) != len(self):
                raise IndexError(f"a mask of {len(patterns)} values does not fit {len(self)} patterns")
            patterns = xp.flatnonzero(patterns)
        elif patterns.size and patterns.dtype.kind not in "iu":
            raise IndexError(f"patterns are taken by integers, got {patterns.dtype}")
        patterns = patterns.astype(np.int64)
        offsets = offsets_of(self.counts[patterns])
        shift = self.offsets[:-1][patterns] - offsets[:-1]
        peaks = xp.arange(int(offsets[-1])) + shift[pattern_of_peak(offsets)]
        return PeakBatch(self.qx[peaks], self.qy[peaks], self.intensity[peaks], offsets)

    @property
    def counts(self) -> Any:
        """Number of peaks in every pattern, shape (n,), int64."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def pattern_of_peak(self) -> Any:
        """Index of the pattern that every peak belongs to, shape (peaks,), int64."""
        return pattern_of_peak(self.offsets)

    def pattern(self, index: int) -> tuple[Any, Any, Any]:
        """Return (qx, qy, intensity) of one pattern, views of the flat arrays."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"no pattern {index} among {len(self)}")
        index %= len(self)
        peaks = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.qx[peaks], self.qy[peaks], self.intensity[peaks]

    def keep(self, peaks: Any) -> PeakBatch:
        """Keep the peaks of a mask, shape (peaks,), bool; patterns may become empty."""
        if peaks.dtype != bool or peaks.shape != self.qx.shape:
            raise IndexError(f"expected a mask of {len(self.qx)} peaks, got {peaks.dtype} of shape {peaks.shape}")
        cumulative = offsets_of(peaks.astype(np.int64))
        return PeakBatch(self.qx[peaks], self.qy[peaks], self.intensity[peaks], cumulative[self.offsets])

    def validate(self) -> PeakBatch:
        """Return the batch if every value is possible.

        Raises
        ------
        InvalidPeaks
            If a position or an intensity is not finite, or an intensity is negative; names the first such peak.
        """
        xp = namespace(self.qx)
        good = xp.isfinite(self.qx) & xp.isfinite(self.qy) & xp.isfinite(self.intensity) & (self.intensity >= 0)
        if not bool(good.all()):
            peak = int(xp.flatnonzero(~good)[0])
            pattern = int(pattern_of_peak(self.offsets)[peak])
            raise InvalidPeaks(
                f"pattern {pattern}, peak {peak - int(self.offsets[pattern])}: qx = {self.qx[peak]}, "
                f"qy = {self.qy[peak]}, intensity = {self.intensity[peak]}: positions must be finite and "
                f"intensities finite and not negative"
            )
        return self


def offsets_of(counts: Any) -> Any:
    """Turn the number of peaks in every pattern, shape (n,), into offsets, shape (n + 1,), int64."""
    xp = namespace(counts)
    offsets = xp.zeros(len(counts) + 1, dtype=np.int64)
    offsets[1:] = xp.cumsum(counts)
    return offsets


def pattern_of_peak(offsets: Any) -> Any:
    """Turn offsets, shape (n + 1,), into the pattern of every peak, shape (peaks,), int64."""
    xp = namespace(offsets)
    peaks = int(offsets[-1])
    if peaks == 0:
        return xp.zeros(0, dtype=np.int64)
    # The first pattern is counted as well, for CuPy's bincount takes no empty array.
    starts = xp.bincount(offsets[:-1], minlength=peaks)  # patterns that start at this peak
    return (xp.cumsum(starts[:peaks]) - 1).astype(np.int64)
