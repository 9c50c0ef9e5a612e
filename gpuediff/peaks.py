"""Many ragged peak lists in flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuediff.errors import InvalidPeaks


@dataclass(frozen=True)
class PeakBatch:
    """Peak lists of n patterns; pattern i holds the peaks `offsets[i]:offsets[i + 1]`.

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
        """Gather patterns, each (qx, qy, intensity) or an array of shape (peaks, 3)."""
        columns = []
        for index, pattern in enumerate(patterns):
            values = np.asarray(pattern, dtype=np.float32)
            if isinstance(pattern, (tuple, list)) and len(pattern) == 3 and values.ndim == 2 and values.shape[0] == 3:
                values = values.T
            if values.size == 0:
                values = values.reshape(0, 3)
            if values.ndim != 2 or values.shape[1] != 3:
                raise InvalidPeaks(f"pattern {index}: expected (qx, qy, intensity), got shape {values.shape}")
            columns.append(values)
        counts = np.array([len(values) for values in columns], dtype=np.int64)
        flat = np.concatenate(columns) if columns else np.empty((0, 3), np.float32)
        return cls(*(np.ascontiguousarray(column) for column in flat.T), offsets=offsets_of(counts))

    @classmethod
    def concatenate(cls, batches: Sequence[PeakBatch]) -> PeakBatch:
        """Join batches, in order."""
        if not batches:
            return cls.from_lists([])
        return cls(
            np.concatenate([batch.qx for batch in batches]),
            np.concatenate([batch.qy for batch in batches]),
            np.concatenate([batch.intensity for batch in batches]),
            offsets_of(np.concatenate([batch.counts for batch in batches])),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        return (self.pattern(index) for index in range(len(self)))

    def __getitem__(self, patterns: slice | Any) -> PeakBatch:
        """Take patterns by slice, index array or boolean mask; the result is ragged too."""
        if isinstance(patterns, slice):
            start, stop, step = patterns.indices(len(self))
            if step == 1:
                bounds = self.offsets[start : max(start, stop) + 1]
                peaks = slice(int(bounds[0]), int(bounds[-1]))
                return PeakBatch(self.qx[peaks], self.qy[peaks], self.intensity[peaks], bounds - bounds[0])
            patterns = np.arange(start, stop, step)
        patterns = np.asarray(patterns)
        if patterns.dtype == bool:
            patterns = np.flatnonzero(patterns)
        patterns = patterns.astype(np.int64)
        counts = self.counts[patterns]
        offsets = offsets_of(counts)
        peaks = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][patterns] - offsets[:-1], counts)
        return PeakBatch(self.qx[peaks], self.qy[peaks], self.intensity[peaks], offsets)

    @property
    def counts(self) -> Any:
        """Number of peaks in every pattern, shape (n,), int64."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def pattern_of_peak(self) -> np.ndarray:
        """Index of the pattern that every peak belongs to, shape (peaks,), int64."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)

    def pattern(self, index: int) -> tuple[Any, Any, Any]:
        """Return (qx, qy, intensity) of one pattern, views of the flat arrays."""
        peaks = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.qx[peaks], self.qy[peaks], self.intensity[peaks]

    def keep(self, peaks: np.ndarray) -> PeakBatch:
        """Keep the peaks of a mask, shape (peaks,), bool; patterns may become empty."""
        cumulative = offsets_of(np.asarray(peaks, dtype=np.int64))
        return PeakBatch(self.qx[peaks], self.qy[peaks], self.intensity[peaks], cumulative[self.offsets])

    def validate(self) -> PeakBatch:
        """Return the batch if every value is possible.

        Raises
        ------
        InvalidPeaks
            If a position or an intensity is not finite, or an intensity is negative; names the first such peak.
        """
        finite = np.isfinite(self.qx) & np.isfinite(self.qy) & np.isfinite(self.intensity)
        bad = np.flatnonzero(~finite | (self.intensity < 0))
        if bad.size:
            peak = int(bad[0])
            pattern = int(np.searchsorted(self.offsets, peak, side="right")) - 1
            raise InvalidPeaks(
                f"pattern {pattern}, peak {peak - int(self.offsets[pattern])}: qx = {self.qx[peak]}, "
                f"qy = {self.qy[peak]}, intensity = {self.intensity[peak]}: positions must be finite and "
                f"intensities finite and not negative"
            )
        return self


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Turn the number of peaks in every pattern, shape (n,), into offsets, shape (n + 1,), int64."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
