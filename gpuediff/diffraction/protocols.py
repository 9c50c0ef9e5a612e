"""Protocols: from where crystals are seen, and what the detector does to their patterns.

A score means nothing without its protocol. `PROTOCOLS` names the four that are used, `observe` makes measured patterns
of simulated ones. The effects are those of `gpuediff.diffraction.detector`; what is added here is that chance belongs
to a pattern, not to a batch: pattern 17 of a library is disturbed in the same way, to the last bit, whatever else is
observed with it, in which order, and cut into which batches.

Every number comes from a counter, not from a sequence: the seed, the effect, the pattern's number in its library and
the number's place in the pattern are mixed by the finaliser of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, OOPSLA
2014, 453), which passes the usual batteries of tests of randomness. It yields a uniform number of 52 bits; normal and
Poisson numbers are its images under their inverse distribution functions, so one draw each, and nothing is rejected.
Streams begin at random places of one cycle of 2⁶⁴: with 10⁷ of them of 100 numbers, the chance that any two share a
piece is about 5e-4, and then two patterns have a little noise in common.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numba import njit
from pydantic import AfterValidator
from scipy.special import ndtri, pdtrik

from gpuediff.arrays import namespace, to_host
from gpuediff.diffraction import detector as effects
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.settings import Protocol, Settings, within

SPURIOUS_Q_MAX = 2.0  # Å⁻¹, radius of the disc on which spurious peaks lie
SPURIOUS_FAINTEST = 1e-5  # of the pattern's brightest peak, where the dynamic range sets no limit
SPURIOUS_BRIGHTEST = 1e-2  # of the pattern's brightest peak

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # step of SplitMix64, 2⁶⁴ over the golden ratio
_FIRST_FACTOR, _SECOND_FACTOR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ONE, _12, _27, _30, _31 = (np.uint64(number) for number in (1, 12, 27, 30, 31))


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("expected the smallest share of the beam before the largest")
    return limits


class Detector(Settings):
    """What a measurement does to a pattern; the defaults do nothing."""

    jitter: Annotated[float, within(0, 0.1, "Å⁻¹")] = 0.0  # standard deviation of a peak along x and along y
    # A peak weaker than this share of the brightest peak of its pattern is lost; none is lost if absent.
    dynamic_range: Annotated[float, within(0, 0.5, open_low=True)] | None = None
    lost: Annotated[float, within(0, 1)] = 0.0  # probability that a peak is lost, whatever its intensity
    spurious: Annotated[float, within(0, 1)] = 0.0  # mean number over the number of true peaks that are left
    pixel_size_error: Annotated[float, within(0, 0.19)] = 0.0  # standard deviation of a pattern's relative scale
    intensity_noise: Annotated[float, within(0, 3)] = 0.0  # standard deviation of the logarithm of a peak's factor
    centre_error: Annotated[float, within(0, 0.1, "Å⁻¹")] = 0.0  # standard deviation of a pattern along x and along y
    second_grain: Annotated[float, within(0, 1)] = 0.0  # share of the patterns in which a second grain is seen
    # Smallest and largest share of the beam on the second grain; the first keeps the rest, the larger share.
    second_grain_weight: Annotated[
        tuple[Annotated[float, within(0, 0.5, open_low=True)], Annotated[float, within(0, 0.5, open_low=True)]],
        AfterValidator(_rising),
    ] = (0.1, 0.4)


class Conditions(NamedTuple):
    """What a protocol stands for: `simulation.orientations.protocol` of the library that it needs, and the detector."""

    orientations: Literal["grid", "any"]
    detector: Detector


_MEASURED = Detector(
    jitter=0.002,
    dynamic_range=1e-3,
    lost=0.1,
    spurious=0.03,
    pixel_size_error=0.01,
    intensity_noise=0.1,
    centre_error=0.001,
)

PROTOCOLS: Mapping[Protocol, Conditions] = MappingProxyType(
    {
        "grid": Conditions("grid", Detector()),
        "any": Conditions("any", Detector()),
        "measured": Conditions("any", _MEASURED),
        "hard": Conditions("any", Detector(**(_MEASURED.model_dump() | {"jitter": 0.005, "second_grain": 0.2}))),
    }
)


def observe(
    peaks: PeakBatch, detector: Detector, *, seed: int, pattern: np.ndarray, partners: PeakBatch | None = None
) -> PeakBatch:
    """Turn simulated patterns into measured ones.

    The effects follow each other as in nature (see `gpuediff.diffraction.detector`), but for one: which peaks are lost
    is drawn before they move. Then the direct beam is known by where it truly is, and is never lost at random, however
    large the errors of position; all else is the same in distribution, for no chance depends on another.

    Parameters
    ----------
    peaks : PeakBatch
        n simulated patterns, the direct beam included; on either device.
    detector : Detector
        Where it does nothing, `peaks` themselves are returned.
    seed : int
        At least 0.
    pattern : array, shape (n,), int64
        Number of every pattern in its library. Chance depends on it and the seed alone.
    partners : PeakBatch, optional
        n patterns, each of another grain of the same material, as by `partners_of`. A partner is only looked at where
        `second_grain_share` is above 0, and an empty one is no grain.

    Returns
    -------
    PeakBatch
        n patterns on the device of `peaks`. In each, spurious peaks come last.

    Raises
    ------
    ValueError
        If `pattern` or `partners` do not fit `peaks`, a number is negative, or partners are needed and absent.
    """
    number = _pattern_numbers(pattern)
    if len(number) != len(peaks):
        raise ValueError(f"pattern: {len(number)} numbers do not fit {len(peaks)} patterns")

    def chance(effect: str, counts: Any = None) -> _Chance:
        return _Chance(seed, effect, number, None if counts is None else to_host(counts))

    if detector.second_grain > 0:
        if partners is None or len(partners) != len(peaks):
            raise ValueError(
                f"partners = {partners if partners is None else f'{len(partners)} patterns'}: a detector with "
                f"second_grain = {detector.second_grain:g} needs one for each of {len(peaks)} patterns, empty where "
                f"there is none"
            )
        peaks = _with_second_grains(peaks, partners, second_grain_share(detector, seed=seed, pattern=number))
    if detector.lost > 0:
        peaks = effects.lose_peaks(peaks, detector.lost, chance("lose_peaks", peaks.counts))
    if detector.centre_error > 0:
        peaks = effects.shift_centre(peaks, detector.centre_error, chance("shift_centre"))
    if detector.pixel_size_error > 0:
        peaks = effects.scale_pixel_size(peaks, detector.pixel_size_error, chance("scale_pixel_size"))
    if detector.jitter > 0:
        peaks = effects.jitter(peaks, detector.jitter, chance("jitter", peaks.counts))
    if detector.intensity_noise > 0:
        peaks = effects.vary_intensity(peaks, detector.intensity_noise, chance("vary_intensity", peaks.counts))
    # Before the spurious peaks, so that these are a share of the peaks that can be seen; and after them.
    if detector.dynamic_range is not None:
        peaks = effects.limit_dynamic_range(peaks, 1 / detector.dynamic_range)
    if detector.spurious > 0:
        peaks = _with_spurious_peaks(peaks, detector, chance("add_spurious_peaks"))
        if detector.dynamic_range is not None:
            peaks = effects.limit_dynamic_range(peaks, 1 / detector.dynamic_range)
    return peaks


def second_grain_share(detector: Detector, *, seed: int, pattern: np.ndarray) -> np.ndarray:
    """Draw the share of the beam on a second grain, so that a caller knows which partners to read.

    Parameters
    ----------
    detector : Detector
    seed : int
        At least 0.
    pattern : array, shape (n,), int64
        Number of every pattern in its library.

    Returns
    -------
    array, shape (n,), float64
        0 where there is no second grain, else within `detector.second_grain_weight`.

    Raises
    ------
    ValueError
        If a number is negative, or not an integer.
    """
    chance = _Chance(seed, "second_grain", _pattern_numbers(pattern))
    is_there = chance.random(len(pattern)) < detector.second_grain
    return np.where(is_there, chance.uniform(*detector.second_grain_weight, size=len(pattern)), 0.0)


def partners_of(material: np.ndarray, pattern: np.ndarray, seed: int) -> np.ndarray:
    """Choose for patterns of a library another pattern of the same material: the other grain in the beam.

    Parameters
    ----------
    material : array, shape (patterns,), int64
        Of every pattern of the library, as `Library.material_of_pattern`.
    pattern : array, shape (n,), int64
        Numbers of the patterns to choose for. A choice depends on its number, the seed, and the patterns of its
        material alone; every other one of them is as likely.
    seed : int
        At least 0.

    Returns
    -------
    array, shape (n,), int64
        Numbers of patterns of the library; -1 where a material has no other pattern. Take care not to index by -1.

    Raises
    ------
    ValueError
        If a number is negative, not an integer, or beyond the library.
    """
    number = _pattern_numbers(pattern)
    material = np.asarray(material)
    if len(number) and number.max() >= len(material):
        raise ValueError(f"pattern = {number.max()}: the library holds {len(material)} patterns")
    order = np.argsort(material, kind="stable")
    ordered = material[order]
    first = np.searchsorted(ordered, material[number])
    others = np.searchsorted(ordered, material[number], side="right") - first - 1
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    # A fraction next to 1 times a large number may round up to it.
    step = np.minimum((_Chance(seed, "partner", number).random(len(number)) * others).astype(np.int64), others - 1)
    chosen = first + step + (step >= place[number] - first)  # past the pattern itself
    partner = np.full(len(number), -1, dtype=np.int64)
    partner[others > 0] = order[chosen[others > 0]]
    return partner


def _with_second_grains(peaks: PeakBatch, partners: PeakBatch, share: np.ndarray) -> PeakBatch:
    """Lay the partners over those patterns that have a second grain; the others keep their bits."""
    xp = namespace(peaks.qx)
    is_there = xp.asarray(share > 0) & (partners.counts > 0)
    both = xp.flatnonzero(is_there)
    if len(both) == 0:
        return peaks
    overlapping = effects.overlap(peaks[both], partners[both], weight=xp.asarray(share)[both])
    source = xp.arange(len(peaks))
    source[both] = len(peaks) + xp.arange(len(both))
    return PeakBatch.concatenate([peaks, overlapping])[source]


def _with_spurious_peaks(peaks: PeakBatch, detector: Detector, chance: _Chance) -> PeakBatch:
    """Add spurious peaks whose intensities are shares of the brightest peak of the same pattern."""
    xp = namespace(peaks.qx)
    brightest = xp.zeros(len(peaks), dtype=np.float64)
    xp.maximum.at(brightest, peaks.pattern_of_peak, peaks.intensity.astype(np.float64))
    faintest = SPURIOUS_FAINTEST if detector.dynamic_range is None else detector.dynamic_range
    limits = min(faintest, SPURIOUS_BRIGHTEST), SPURIOUS_BRIGHTEST
    rate = detector.spurious * peaks.counts
    dirty = effects.add_spurious_peaks(peaks, rate, chance, q_max=SPURIOUS_Q_MAX, intensity=limits)
    pattern = dirty.pattern_of_peak
    is_spurious = xp.arange(len(pattern)) - dirty.offsets[pattern] >= peaks.counts[pattern]
    intensity = xp.where(is_spurious, dirty.intensity * brightest[pattern], dirty.intensity)
    return PeakBatch(dirty.qx, dirty.qy, intensity.astype(np.float32), dirty.offsets)


class _Chance(np.random.Generator):
    """Numbers as the effects ask a generator for them, those of every pattern from its own streams.

    Where `counts` is absent every pattern gets one number, else as many as it says; after `poisson`, as many as that
    has counted. Every call, and every row of a call, has its own streams. Only what the effects call is overridden: any
    other method would draw by batch.

    Parameters
    ----------
    seed : int
    effect : str
        Different effects draw independent numbers.
    pattern : array, shape (n,), int64
    counts : array, shape (n,), int64, optional
    """

    def __init__(self, seed: int, effect: str, pattern: np.ndarray, counts: np.ndarray | None = None) -> None:
        super().__init__(np.random.PCG64(0))
        if seed < 0:
            raise ValueError(f"seed = {seed}: must be at least 0")
        base = np.random.SeedSequence([seed, zlib.crc32(effect.encode())]).generate_state(1, np.uint64)[0]
        self._keys = _stream_keys(base, pattern.astype(np.uint64))
        self._offsets = offsets_of(np.ones(len(pattern), dtype=np.int64) if counts is None else counts)
        self._streams = 0

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        shape = (size,) if isinstance(size, int) else size
        rows = int(np.prod(shape[:-1]))
        if shape[-1] != self._offsets[-1] or dtype is not np.float64 or out is not None:
            raise ValueError(f"size = {size}: {self._offsets[-1]} numbers are there to be drawn, in float64")
        values = np.empty((rows, shape[-1]))
        _fill(self._keys, self._offsets, np.uint64(self._streams), values)
        self._streams += rows
        return values.reshape(shape)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return low + (high - low) * self.random(size)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        return loc + scale * ndtri(self.random(size))

    def lognormal(self, mean: Any = 0.0, sigma: Any = 1.0, size: Any = None) -> Any:
        return np.exp(self.normal(mean, sigma, size))

    def poisson(self, lam: Any = 1.0, size: Any = None) -> Any:
        fraction = self.random(len(self._keys))
        counts = np.zeros(len(fraction), dtype=np.int64)
        some = lam > 0
        counts[some] = np.ceil(pdtrik(fraction[some], lam[some]))
        self._offsets = offsets_of(counts)
        return counts


def _pattern_numbers(pattern: Any) -> np.ndarray:
    number = np.asarray(pattern)
    if number.ndim != 1 or (number.size and number.dtype.kind not in "iu"):
        raise ValueError(f"pattern: must be flat and of integers, got {number.dtype} of shape {number.shape}")
    if number.size and number.min() < 0:
        raise ValueError(f"pattern = {number.min()}: a number in a library is at least 0")
    return number.astype(np.int64)


@njit(inline="always")
def _mixed(state: Any) -> Any:
    state = (state ^ (state >> _30)) * _FIRST_FACTOR
    state = (state ^ (state >> _27)) * _SECOND_FACTOR
    return state ^ (state >> _31)


@njit(cache=True)
def _stream_keys(base: Any, pattern: np.ndarray) -> np.ndarray:
    keys = np.empty(len(pattern), dtype=np.uint64)
    for index in range(len(pattern)):
        keys[index] = _mixed(base + (pattern[index] + _ONE) * _GOLDEN)
    return keys


@njit(nogil=True, cache=True)
def _fill(keys: np.ndarray, offsets: np.ndarray, streams: Any, values: np.ndarray) -> None:
    """Fill rows with uniform numbers between 0 and 1, both excluded, so that no normal number is infinite."""
    for row in range(len(values)):
        stream = _mixed((streams + np.uint64(row) + _ONE) * _GOLDEN)
        for index in range(len(keys)):
            state = _mixed(keys[index] ^ stream)
            for place in range(offsets[index], offsets[index + 1]):
                state += _GOLDEN
                values[row, place] = (np.float64(_mixed(state) >> _12) + 0.5) * 2.0**-52
