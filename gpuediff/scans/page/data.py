"""The numbers of a scan's page: rounded to small whole numbers and packed into compressed binaries.

A binary is the length of a header (uint32), the header as JSON, and the arrays one after the other; everything is
little-endian and compressed as one zlib stream. Of two-byte numbers all low bytes come first, then all high bytes,
because like bytes side by side compress better. The header says of every array where it lies and how its whole
numbers become values: value = low + step * code, and the largest code means that there is no value.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch
from gpuediff.scans.scan import PATTERNS_PER_BATCH

POSITION_STEP = 2e-4  # Å⁻¹, of peak positions; coarser only if a peak lies beyond 6.5 Å⁻¹
POSITION_CODE_MAX = 32_767
INTENSITY_CODES = 255
INTENSITY_RANGE_MAX = 1e8  # brightest over faintest peak that are told apart
LEVEL = 7  # of zlib: 9 takes 2.5 times as long for 0.2% less
LINE = 65_536  # characters of base64 in a line: a multiple of 4, so that a browser decodes line by line


@dataclass(frozen=True)
class Codes:
    """An array as whole numbers.

    Parameters
    ----------
    codes : array, uint8, uint16, int16 or uint32
    low, step : float
        value = low + step * code.
    missing : int, optional
        The code of no value.
    """

    codes: np.ndarray
    low: float = 0.0
    step: float = 1.0
    missing: int | None = None

    @property
    def bytes(self) -> bytes:
        """Little-endian; two-byte numbers as two planes of bytes."""
        flat = np.ascontiguousarray(self.codes).reshape(-1)
        flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
        return flat.view(np.uint8).reshape(-1, 2).T.tobytes() if flat.itemsize == 2 else flat.tobytes()

    def describe(self, offset: int) -> dict[str, Any]:
        """Tell where the array begins in the binary, and what its numbers mean."""
        told = {"type": self.codes.dtype.name, "offset": offset, "count": int(self.codes.size)}
        return told | {"low": self.low, "step": self.step, "missing": self.missing}


def rounded(values: np.ndarray, *, low: float | None = None, high: float | None = None, bits: int = 16) -> Codes:
    """Round values to evenly spaced ones between two limits.

    Parameters
    ----------
    values : array, floating
        NaN where there is none.
    low, high : float, optional
        Of the values, if absent; what lies outside is moved to the limit.
    bits : int
        8 or 16; the step is (high - low) / (2**bits - 2).
    """
    dtype = np.uint8 if bits == 8 else np.uint16
    missing = int(np.iinfo(dtype).max)
    there = np.isfinite(values)
    known = values[there].astype(np.float64)
    low = (float(known.min()) if known.size else 0.0) if low is None else low
    high = (float(known.max()) if known.size else 1.0) if high is None else high
    step = (high - low) / (missing - 1) or 1.0  # all values equal: any step will do
    codes = np.full(values.shape, missing, dtype)
    codes[there] = np.rint((np.clip(known, low, high) - low) / step)
    return Codes(codes, low, step, missing)


def whole(values: np.ndarray) -> Codes:
    """Store whole numbers >= 0 as they are, and -1 as no value, in as few bytes as they need."""
    largest = int(values.max(initial=0))
    dtype: type = np.uint8 if largest < 255 else np.uint16 if largest < 65_535 else np.uint32
    missing = int(np.iinfo(dtype).max)
    return Codes(np.where(values < 0, missing, values).astype(dtype), missing=missing)


def encode(header: dict[str, Any], arrays: dict[str, Codes]) -> bytes:
    """Pack a header and arrays into one compressed binary; the header gets the key `arrays`."""
    places, parts, end = {}, [], 0
    for name, array in arrays.items():
        places[name] = array.describe(end)
        parts.append(array.bytes)
        end += len(parts[-1])
    text = json.dumps(header | {"arrays": places}, ensure_ascii=False, allow_nan=False).encode()
    return zlib.compress(b"".join([len(text).to_bytes(4, "little"), text, *parts]), LEVEL)


def text_of(binary: bytes) -> str:
    """Write a binary as lines of base64."""
    text = base64.b64encode(binary).decode("ascii")
    return "\n".join(text[start : start + LINE] for start in range(0, len(text), LINE))


@dataclass(frozen=True)
class Rounding:
    """How peaks become whole numbers.

    Parameters
    ----------
    position : float
        Step of qx and qy, Å⁻¹.
    log_low, log_step : float
        ln(intensity) = log_low + log_step * (code - 1); code 0 is an intensity of zero.
    """

    position: float
    log_low: float
    log_step: float


class PeaksToPack:
    """Peaks of some patterns of a scan; they are read block by block, because they may lie on disk.

    Parameters
    ----------
    peaks : PeakBatch
        Of the whole scan, on the host. Peaks that no pattern can have are left out.
    patterns : array, shape (m,), integer
        Those to be packed, in this order.
    """

    def __init__(self, peaks: PeakBatch, patterns: np.ndarray) -> None:
        self._peaks = peaks
        self._patterns = patterns
        self.counts = np.asarray(peaks.counts)[patterns]

    def rounding(self) -> Rounding:
        """Choose the steps by the farthest peak, and the brightest and the faintest one."""
        farthest, brightest, faintest = 0.0, 0.0, np.inf
        for peaks in self._blocks():
            lit = peaks.intensity[peaks.intensity > 0]
            farthest = max(farthest, float(np.abs([peaks.qx, peaks.qy]).max(initial=0)))
            brightest = max(brightest, float(lit.max(initial=0)))
            faintest = min(faintest, float(lit.min(initial=np.inf)))
        if not brightest:
            return Rounding(max(POSITION_STEP, farthest / POSITION_CODE_MAX), 0.0, 0.0)
        faintest = max(faintest, brightest / INTENSITY_RANGE_MAX)
        log_step = float(np.log(brightest / faintest)) / (INTENSITY_CODES - 1)
        return Rounding(max(POSITION_STEP, farthest / POSITION_CODE_MAX), float(np.log(faintest)), log_step)

    def pack(self, rounding: Rounding, most: int) -> dict[str, Codes]:
        """Pack the `most` brightest peaks of every pattern, the direct beam always among them and first."""
        counts, columns = [], []
        for peaks in self._blocks():
            order, kept = _brightest(peaks, most)
            counts.append(kept)
            with np.errstate(divide="ignore"):
                level = (np.log(peaks.intensity[order]) - rounding.log_low) / (rounding.log_step or 1.0)
            level = np.where(peaks.intensity[order] > 0, 1 + np.clip(np.rint(level), 0, INTENSITY_CODES - 1), 0)
            places = [np.rint(axis[order] / rounding.position).astype(np.int16) for axis in (peaks.qx, peaks.qy)]
            columns.append((*places, level.astype(np.uint8)))
        qx, qy, intensity = (np.concatenate(column) for column in zip(*columns, strict=True))
        return {
            "peak_counts": whole(np.concatenate(counts)),
            "peak_qx": Codes(qx, step=rounding.position),
            "peak_qy": Codes(qy, step=rounding.position),
            "peak_intensity": Codes(intensity),
        }

    def most_for(self, peaks: int) -> int:
        """Find how many peaks of every pattern may be kept so that they are at most so many in all."""
        low, high = 0, int(self.counts.max(initial=0))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if np.minimum(self.counts, middle).sum() <= peaks else (low, middle - 1)
        return low

    def _blocks(self) -> Any:
        for start in range(0, len(self._patterns), PATTERNS_PER_BATCH):
            peaks = self._peaks[self._patterns[start : start + PATTERNS_PER_BATCH]]
            possible = np.isfinite(peaks.qx) & np.isfinite(peaks.qy) & np.isfinite(peaks.intensity)
            yield peaks.keep(possible & (peaks.intensity >= 0))


def _brightest(peaks: PeakBatch, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Order the peaks of every pattern, direct beam first, then by intensity; keep the first ones of each.

    Returns
    -------
    order : array, shape (kept,), int64
        Indices of the peaks that are kept.
    counts : array, shape (n,), int64
        How many are kept of every pattern.
    """
    pattern = peaks.pattern_of_peak
    radius = np.hypot(peaks.qx, peaks.qy)
    some = peaks.counts > 0
    nearest = np.full(len(peaks), np.inf, radius.dtype)
    if some.any():
        nearest[some] = np.minimum.reduceat(radius, peaks.offsets[:-1][some])
    direct = (radius == nearest[pattern]) & (radius <= DIRECT_BEAM_RADIUS)
    order = np.lexsort((-np.where(direct, np.inf, peaks.intensity), pattern))
    rank = np.arange(len(pattern)) - peaks.offsets[:-1][pattern]
    return order[rank < most], np.minimum(peaks.counts, most)


def pack_peaks(peaks: PeaksToPack, size_max: int) -> tuple[str, dict[str, Any]]:
    """Pack as many peaks of every pattern as fit, the brightest.

    Parameters
    ----------
    peaks : PeaksToPack
    size_max : int
        Of the text, bytes.

    Returns
    -------
    text : str
        By `encode` and `text_of`.
    kept : dict
        Its header. `most` peaks are kept of each pattern (0: no patterns at all); `complete` if that is all of them.
    """
    rounding = peaks.rounding()
    # Two bytes a peak is less than any real scan takes: it bounds the memory, not the page.
    most = peaks.most_for(size_max * 3 // 4 // 2)
    while most >= 1:
        kept = {
            "most": most,
            "complete": bool(most >= peaks.counts.max(initial=0)),
            "log_low": rounding.log_low,
            "log_step": rounding.log_step,
        }
        text = text_of(encode(kept, peaks.pack(rounding, most)))
        if len(text) <= size_max:
            return text, kept
        share = 0.99 * size_max / len(text)
        most = min(most - 1, peaks.most_for(int(share * np.minimum(peaks.counts, most).sum())))
    kept = {"most": 0, "complete": not peaks.counts.any()}
    return text_of(encode(kept, {})), kept
