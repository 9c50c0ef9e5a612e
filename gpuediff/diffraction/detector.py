"""What a measurement does to a pattern: effects for training and testing on patterns that are not perfect.

Every function takes peak lists and returns new ones on the same device. Those with chance in them take a `seed`: a
number, or a `numpy.random.Generator` to go on with. One number gives independent chance to different effects.

Chance is drawn by NumPy on the host and moved to the peaks, so that a seed means the same patterns, to the last bit, on
either device. A counter-based generator on the device would move nothing, but a normal or a Poisson number made of it
takes logarithms and cosines, whose last bits differ between devices, and a Poisson number is a staircase over them.
The price is some 10 to 100 ns a number on one core. Chance depends on a pattern's place in its batch: whoever cuts work
into batches by the memory there is draws other numbers for other memory.

Sums are taken in the order of the peaks, never by atomic additions, so that these too have the same bits everywhere.

The order of nature: `overlap` (in the specimen), `count_electrons`, `shift_centre`, `scale_pixel_size`, `jitter`,
`vary_intensity`, `lose_peaks`, `add_spurious_peaks`, `limit_dynamic_range` (in the detector and the peak finder).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from gpuediff.arrays import namespace, to_host
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch, offsets_of

Seed = int | np.random.Generator


def limit_dynamic_range(peaks: PeakBatch, ratio: float) -> PeakBatch:
    """Drop peaks too weak beside the brightest peak of the same pattern, be it the direct beam or not.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns.
    ratio : float
        Brightest over weakest intensity that one exposure records, above 1; 1e3 for a good peak finder.

    Raises
    ------
    ValueError
        If `ratio` is not above 1.
    """
    _check("ratio", ratio, ratio > 1, "above 1")
    xp = namespace(peaks.intensity)
    pattern = peaks.pattern_of_peak
    brightest = xp.zeros(len(peaks), dtype=np.float64)
    xp.maximum.at(brightest, pattern, peaks.intensity.astype(np.float64))
    return peaks.keep(peaks.intensity.astype(np.float64) * ratio >= brightest[pattern])


def count_electrons(peaks: PeakBatch, dose: float, seed: Seed) -> PeakBatch:
    """Replace intensities by numbers of electrons, which fluctuate (Poisson); peaks without an electron are lost.

    Parameters
    ----------
    peaks : PeakBatch
        Intensities as fractions of the incident beam.
    dose : float
        Electrons that hit the specimen while one pattern is recorded, above 0.
    seed : int or numpy.random.Generator

    Returns
    -------
    PeakBatch
        Intensities are whole numbers of electrons.

    Raises
    ------
    ValueError
        If `dose` is not above 0 or not finite.
    """
    _check("dose", dose, 0 < dose < np.inf, "above 0 and finite")
    mean = dose * to_host(peaks.intensity).astype(np.float64)
    counts = _beside(_generator(seed, "count_electrons").poisson(mean).astype(np.float32), peaks)
    return PeakBatch(peaks.qx, peaks.qy, counts, peaks.offsets).keep(counts > 0)


def jitter(peaks: PeakBatch, sigma: float, seed: Seed) -> PeakBatch:
    """Move every peak on its own: the error of the peak finder.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns.
    sigma : float
        Standard deviation along x and along y, Å⁻¹; a tenth of a detector pixel is usual, about 0.002 Å⁻¹.
    seed : int or numpy.random.Generator

    Raises
    ------
    ValueError
        If `sigma` is negative or not finite.
    """
    _check("sigma", sigma, 0 <= sigma < np.inf, "at least 0 Å⁻¹ and finite")
    moves = _beside(_generator(seed, "jitter").normal(scale=sigma, size=(2, len(peaks.qx))), peaks)
    return _at(peaks, peaks.qx + moves[0], peaks.qy + moves[1])


def shift_centre(peaks: PeakBatch, sigma: float, seed: Seed) -> PeakBatch:
    """Move every pattern as a whole: the centre was not found exactly.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns.
    sigma : float
        Standard deviation of the shift along x and along y, Å⁻¹.
    seed : int or numpy.random.Generator

    Raises
    ------
    ValueError
        If `sigma` is negative or not finite.
    """
    _check("sigma", sigma, 0 <= sigma < np.inf, "at least 0 Å⁻¹ and finite")
    shifts = _beside(_generator(seed, "shift_centre").normal(scale=sigma, size=(2, len(peaks))), peaks)
    return _at(peaks, peaks.qx + shifts[0, peaks.pattern_of_peak], peaks.qy + shifts[1, peaks.pattern_of_peak])


def scale_pixel_size(peaks: PeakBatch, sigma: float, seed: Seed) -> PeakBatch:
    """Stretch every pattern by its own factor: the calibrated pixel size is wrong.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns.
    sigma : float
        Standard deviation of the relative error of the pixel size, below 0.2; 0.01 for a careful calibration.
    seed : int or numpy.random.Generator

    Raises
    ------
    ValueError
        If `sigma` is negative, or so large that a factor could come near 0.
    """
    _check("sigma", sigma, 0 <= sigma < 0.2, "at least 0 and below 0.2")
    factors = _beside(1 + _generator(seed, "scale_pixel_size").normal(scale=sigma, size=len(peaks)), peaks)
    return _at(peaks, peaks.qx * factors[peaks.pattern_of_peak], peaks.qy * factors[peaks.pattern_of_peak])


def vary_intensity(peaks: PeakBatch, sigma: float, seed: Seed) -> PeakBatch:
    """Multiply every intensity by its own factor: bending, tilt within the probe, and the error of integration.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns.
    sigma : float
        Standard deviation of the factor's logarithm, about the relative error of an intensity; 0.1 is usual. The
        factor's median is 1.
    seed : int or numpy.random.Generator

    Raises
    ------
    ValueError
        If `sigma` is negative or above 3.
    """
    _check("sigma", sigma, 0 <= sigma <= 3, "between 0 and 3")
    factors = _beside(_generator(seed, "vary_intensity").lognormal(sigma=sigma, size=len(peaks.qx)), peaks)
    return PeakBatch(peaks.qx, peaks.qy, (peaks.intensity * factors).astype(np.float32), peaks.offsets)


def lose_peaks(peaks: PeakBatch, probability: float, seed: Seed) -> PeakBatch:
    """Lose peaks at random, strong or weak; the direct beam is never lost.

    Parameters
    ----------
    peaks : PeakBatch
        Peaks within `DIRECT_BEAM_RADIUS` of the centre are the direct beam.
    probability : float
        That a peak is lost, 0 .. 1.
    seed : int or numpy.random.Generator

    Raises
    ------
    ValueError
        If `probability` is not between 0 and 1.
    """
    _check("probability", probability, 0 <= probability <= 1, "between 0 and 1")
    kept = _beside(_generator(seed, "lose_peaks").random(len(peaks.qx)) >= probability, peaks)
    xp = namespace(peaks.qx)
    # Squares in float64 are exact; the last bit of a hypotenuse or of a power differs between devices.
    squared = xp.square(peaks.qx.astype(np.float64)) + xp.square(peaks.qy.astype(np.float64))
    return peaks.keep(kept | (squared < DIRECT_BEAM_RADIUS * DIRECT_BEAM_RADIUS))


def add_spurious_peaks(
    peaks: PeakBatch,
    rate: float | np.ndarray,
    seed: Seed,
    *,
    q_max: float = 2.0,
    intensity: tuple[float, float] = (1e-5, 1e-2),
) -> PeakBatch:
    """Add peaks that are not the crystal's: contamination, a neighbour, hot pixels.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns; theirs come first in the patterns that are returned.
    rate : float or array, shape (n,)
        Mean number of spurious peaks in a pattern (Poisson); 0.03 * peaks.counts are three in a hundred.
    seed : int or numpy.random.Generator
    q_max : float
        They lie anywhere on the disc of this radius with the same probability, Å⁻¹.
    intensity : tuple of float
        Weakest and strongest, in the unit of the peaks; any ratio is as likely as any other in between.

    Raises
    ------
    ValueError
        If a value is out of range.
    """
    weakest, strongest = intensity
    rates = _of_every_pattern("rate", rate, len(peaks))
    _check("rate", rate, bool(np.all((rates >= 0) & (rates < np.inf))), "at least 0 and finite")
    _check("q_max", q_max, 0 < q_max < np.inf, "above 0 Å⁻¹ and finite")
    _check("intensity", intensity, 0 < weakest <= strongest < np.inf, "0 < weakest <= strongest, finite")
    rng = _generator(seed, "add_spurious_peaks")
    counts = rng.poisson(rates)
    total = int(counts.sum())
    radius, azimuth = q_max * np.sqrt(rng.random(total)), 2 * np.pi * rng.random(total)
    values = np.exp(rng.uniform(np.log(weakest), np.log(strongest), size=total))
    qx, qy = radius * np.cos(azimuth), radius * np.sin(azimuth)
    x, y, strength = (_beside(column.astype(np.float32), peaks) for column in (qx, qy, values))
    spurious = PeakBatch(x, y, strength, _beside(offsets_of(counts), peaks))
    return _side_by_side(peaks, spurious)


def overlap(
    first: PeakBatch, second: PeakBatch, *, weight: float | np.ndarray = 0.5, radius: float = 0.02
) -> PeakBatch:
    """Lay the patterns of two grains over each other, pattern i of one over pattern i of the other.

    Peaks that a peak finder could not tell apart become one: their intensities add up, its place is their centre of
    mass. Chains of such peaks become one too, also of peaks of the same grain. All other peaks stay exactly where they
    are. A peak of a grain without beam stays in the list, with intensity 0: where there is no second grain, let its
    pattern be empty, as by `second.keep(is_there[second.pattern_of_peak])`.

    Parameters
    ----------
    first, second : PeakBatch
        n patterns each.
    weight : float or array, shape (n,)
        Share of the beam that hits the second grain, 0 .. 1; the first has the rest.
    radius : float
        Largest distance of peaks that become one, Å⁻¹: about the diameter of a diffraction disk.

    Returns
    -------
    PeakBatch
        n patterns; in each, a merged peak stands where the first of its parts was.

    Raises
    ------
    ValueError
        If the numbers of patterns differ, or a value is out of range.
    """
    if len(first) != len(second):
        raise ValueError(f"overlap: {len(first)} patterns cannot be laid over {len(second)}")
    share = _of_every_pattern("weight", weight, len(first))
    _check("weight", weight, bool(np.all((share >= 0) & (share <= 1))), "between 0 and 1")
    _check("radius", radius, 0 <= radius < np.inf, "at least 0 Å⁻¹ and finite")
    both = _side_by_side(_weighted(first, _beside(1 - share, first)), _weighted(second, _beside(share, first)))
    return _merged(both, radius)


def _merged(peaks: PeakBatch, radius: float) -> PeakBatch:
    """Unite peaks of the same pattern that a chain of distances of at most `radius` connects."""
    xp = namespace(peaks.qx)
    first = _first_of_chain(len(peaks.qx), *_near_pairs(peaks, radius))
    leads = (first == xp.arange(len(first))).astype(np.int64)
    offsets = offsets_of(leads)
    group = offsets[first]  # in the order of their first peaks, so that patterns stay together
    count = int(offsets[-1])
    intensity = peaks.intensity.astype(np.float64)
    (united,) = _sums(group, count, intensity)
    # Peaks without any intensity still have a place: the plain mean.
    mass = xp.where(united[group] > 0, intensity, 1.0)
    total, qx, qy = _sums(group, count, mass, mass * peaks.qx, mass * peaks.qy)
    qx, qy, united = (column.astype(np.float32) for column in (qx / total, qy / total, united))
    return PeakBatch(qx, qy, united, offsets[peaks.offsets])


def _near_pairs(peaks: PeakBatch, radius: float) -> tuple[Any, Any]:
    """List all pairs of peaks of a pattern that are at most `radius` apart: their indices, two arrays.

    With the peaks of a pattern sorted by qx, every peak is compared to the next, the next but one, and so on, until
    the next ones are too far along x alone.
    """
    xp = namespace(peaks.qx)
    order = xp.argsort(peaks.qx, kind="stable")
    pattern = peaks.pattern_of_peak[order]
    by_pattern = xp.argsort(pattern, kind="stable")
    order, pattern = order[by_pattern], pattern[by_pattern]
    x, y = (column[order].astype(np.float64) for column in (peaks.qx, peaks.qy))
    limit = radius * radius
    pairs = [(order[:0], order[:0])]
    step, start = 1, xp.arange(max(len(order) - 1, 0))
    while len(start):
        along_x = xp.square(x[start + step] - x[start])
        within = (pattern[start + step] == pattern[start]) & (along_x <= limit)
        start, along_x = start[within], along_x[within]
        near = start[along_x + xp.square(y[start + step] - y[start]) <= limit]
        pairs.append((order[near], order[near + step]))
        step += 1
        start = start[start + step < len(order)]
    first, second = zip(*pairs, strict=True)
    return xp.concatenate(first), xp.concatenate(second)


def _first_of_chain(count: int, first: Any, second: Any) -> Any:
    """Return the lowest index among all that pairs connect to each of 0 .. count - 1, shape (count,), int64."""
    xp = namespace(first)
    label = xp.arange(count, dtype=np.uint64)  # CuPy's `minimum.at` takes no int64
    while len(first):
        a, b = label[first], label[second]
        lower = xp.minimum(a, b)
        xp.minimum.at(label, a, lower)
        xp.minimum.at(label, b, lower)
        while bool((label[label] != label).any()):
            label = label[label]
        apart = label[first] != label[second]
        first, second = first[apart], second[apart]
    return label.astype(np.int64)


def _sums(group: Any, count: int, *columns: Any) -> list[Any]:
    """Add up columns within groups, in the order of the peaks; of each, shape (count,), float64."""
    xp = namespace(group)
    sums = [xp.zeros(count, dtype=np.float64) for _ in columns]
    order = xp.argsort(group, kind="stable")
    sorted_group = group[order]
    starts = xp.searchsorted(sorted_group, sorted_group)
    place = xp.arange(len(order)) - starts  # of a peak in its group
    turn = 0
    while len(order):
        now = place == turn  # no group twice, so nothing is added to the same sum at the same time
        members = order[now]
        for total, column in zip(sums, columns, strict=True):
            total[group[members]] += column[members]
        order, place = order[~now], place[~now]
        turn += 1
    return sums


def _side_by_side(first: PeakBatch, second: PeakBatch) -> PeakBatch:
    """Join pattern i of one to pattern i of the other."""
    xp = namespace(first.qx)
    order = xp.argsort(xp.concatenate([first.pattern_of_peak, second.pattern_of_peak]), kind="stable")
    qx, qy, intensity = (
        xp.concatenate(pair)[order]
        for pair in ((first.qx, second.qx), (first.qy, second.qy), (first.intensity, second.intensity))
    )
    return PeakBatch(qx, qy, intensity, first.offsets + second.offsets)


def _beside(array: np.ndarray, peaks: PeakBatch) -> Any:
    """Bring an array of the host to where the peaks are."""
    return namespace(peaks.qx).asarray(array)


def _of_every_pattern(name: str, value: Any, count: int) -> np.ndarray:
    """Bring a number, or one number a pattern, to the host: shape (count,), float64."""
    dimensions = getattr(value, "ndim", None)
    on_host = value if dimensions is None else to_host(value) if dimensions else float(value)
    numbers = np.asarray(on_host, dtype=np.float64)
    if numbers.shape not in ((), (count,)):
        raise ValueError(f"{name}: must be a number or one for each of {count} patterns, got shape {numbers.shape}")
    return np.broadcast_to(numbers, (count,))


def _weighted(peaks: PeakBatch, weight: Any) -> PeakBatch:
    intensity = peaks.intensity * weight[peaks.pattern_of_peak]
    return PeakBatch(peaks.qx, peaks.qy, intensity.astype(np.float32), peaks.offsets)


def _at(peaks: PeakBatch, qx: Any, qy: Any) -> PeakBatch:
    return PeakBatch(qx.astype(np.float32), qy.astype(np.float32), peaks.intensity, peaks.offsets)


def _generator(seed: Seed, effect: str) -> np.random.Generator:
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng([seed, zlib.crc32(effect.encode())])


def _check(name: str, value: object, allowed: bool, rule: str) -> None:
    if not allowed:
        raise ValueError(f"{name} = {value}: must be {rule}")
