"""The lattices that explain one pattern, ranked; compiled, one pattern at a time.

The way through: the noise and the shift of the centre from the differences of the peaks (`differences`), a few dozen
triples of vectors (`search`), each of the best fitted to the peaks (`refinement`), and ranked by evidence.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from gpuediff.lattices import basis, differences, refinement, search

INDEXED, TOO_FEW_PEAKS, ONE_ZONE, NO_LATTICE = 0, 1, 2, 3

# Columns of what is known about a fit
EVIDENCE, NOISE, SCALE, PEAKS_ON, INTENSITY_ON, LAYERS = range(6)
VALUES = 6

#: Rounds of giving the peaks indices and fitting the lattice to them.
TURNS = 4
#: Share of the peaks from which on a lattice is not fitted again from another basis.
COMPLETE = 0.96
BY_CHANCE = 0.1  # probability up to which a vector may look like one of a lattice
#: The noise from the differences is good to a third; the search must not lose peaks for it.
SEARCH_NOISE = 1.3
#: Å⁻¹. Positions come as float32, and hold no more than this at 2 Å⁻¹.
POSITION_ROUNDING = 6e-8
LAYERS_COUNTED = 32
#: Two bases are of one lattice if their rows are sums of each other's within this part of a step.
SAME = 0.2
#: Å⁻¹. A shift of the centre larger than this is a fault of calibration, and is not looked for.
SHIFT_MAX = 0.02


class Limits(NamedTuple):
    """What `gpuediff.lattices.indexing.Indexing` says, as compiled code takes it."""

    peaks_min: int
    clusters: int
    pairs: int
    trials: int
    noise_min: float
    centre_noise: float
    evidence_min: float


class Fit(NamedTuple):
    """One lattice fitted to a pattern; room for it is made once a pattern."""

    basis: np.ndarray  # (3, 3) rows, Å⁻¹
    covariance: np.ndarray  # (3, 3, 3) component, row, row; Å⁻²
    shift: np.ndarray  # (2,) Å⁻¹
    values: np.ndarray  # (VALUES,)
    hkl: np.ndarray  # (peaks, 3)
    on: np.ndarray  # (peaks,)
    gain: np.ndarray  # (peaks,) logarithm of probability against chance
    expected: np.ndarray  # (peaks,) excitation error, Å⁻¹


@njit(cache=True, nogil=True, error_model="numpy")
def index_pattern(places, intensity, wavelength, limits, bases, covariances, shifts, values, plane):
    """Index one pattern, strongest peak first; fill one row of each array per hypothesis; return (status, noise).

    `intensity` is a share of all that is diffracted. `plane` (2, 2) is filled with the two-dimensional cell that
    explains most. What is not found is nan.
    """
    bases[:], covariances[:], shifts[:], values[:], plane[:] = np.nan, np.nan, np.nan, np.nan, np.nan
    if len(places) < limits.peaks_min:
        return TOO_FEW_PEAKS, np.nan
    vectors, length = differences.differences(places)
    noise = differences.position_noise(vectors, length, limits.noise_min)
    shift = differences.centre_shift(places, vectors, length, noise, SHIFT_MAX)
    with_direct_beam = np.zeros((len(places) + 1, 2))
    with_direct_beam[1:] = places - shift
    centred = with_direct_beam[1:]
    vectors, length = differences.differences(with_direct_beam)
    common = differences.clusters(vectors, length, 4 * noise, limits.clusters)
    triples, scores = np.empty((limits.trials, 3, 2)), np.empty(limits.trials)
    found, best_plane = search.candidates(
        centred, common, limits.pairs, SEARCH_NOISE * noise, limits.trials, triples, scores
    )
    unit = refinement.unit_errors(centred, intensity)
    fit = _room(len(places))
    kept = 0
    for t in range(found):
        if _is_known(triples[t], bases[:kept], values[:kept, PEAKS_ON], wavelength, 1.5 * SEARCH_NOISE * noise):
            continue
        fit.basis[:, :2] = triples[t]
        fit.basis[:, 2] = 0.0
        fit.shift[:] = shift
        fit.values[NOISE], fit.values[SCALE] = noise, refinement.SCALE
        if _fit(places, unit, wavelength, limits, fit):
            _describe(fit, intensity)
            kept = _insert(fit, bases, covariances, shifts, values, kept)
    flat = _fit_plane(centred, best_plane, noise, limits.noise_min) if found >= 0 else -np.inf
    plane[:] = best_plane
    if kept and values[0, EVIDENCE] > max(flat, limits.evidence_min):
        return INDEXED, values[0, NOISE]
    bases[:], covariances[:], shifts[:], values[:] = np.nan, np.nan, np.nan, np.nan
    if flat > limits.evidence_min:
        return ONE_ZONE, noise
    plane[:] = np.nan
    return NO_LATTICE, noise


@njit(cache=True, nogil=True, error_model="numpy")
def _room(peaks):
    return Fit(
        np.zeros((3, 3)),
        np.zeros((3, 3, 3)),
        np.zeros(2),
        np.zeros(VALUES),
        np.zeros((peaks, 3)),
        np.zeros(peaks, np.bool_),
        np.zeros(peaks),
        np.zeros(peaks),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _is_known(triple, bases, peaks_on, wavelength, noise):
    """Whether three vectors of the detector plane are a basis of a lattice that explains nearly all peaks already.

    A lattice that explains fewer may be the right one badly fitted, and is worth another beginning; and where the
    places are noisy, vectors of another lattice would be taken for its own.
    """
    hkl, gain, on, expected = np.empty((3, 3)), np.empty(3), np.empty(3, np.bool_), np.full(3, refinement.S_CEILING)
    for k in range(len(bases)):
        plane, z = bases[k, :, :2].copy(), bases[k, :, 2].copy()
        area = abs(plane[0, 0] * plane[1, 1] - plane[0, 1] * plane[1, 0])
        places_of_layers = (2 * refinement.LAYER_MAX + 1) * math.pi * (search.RADII * noise) ** 2
        if peaks_on[k] < COMPLETE or places_of_layers > BY_CHANCE * area:
            continue
        number, _ = refinement.assign(triple, plane, z, wavelength, noise, expected, False, hkl, gain, on)
        if number == 3 and abs(basis.determinant(hkl)) == 1:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _fit(places, unit, wavelength, limits, fit):
    """Fit a lattice of which only the components in the detector plane are known; return whether it holds."""
    n = len(places)
    plane, z, z_below = np.empty((3, 2)), np.zeros(3), np.zeros(3)
    moved, rest = np.empty((n, 2)), np.zeros(2)
    in_plane, heights, change = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    noise, scale = fit.values[NOISE], fit.values[SCALE]
    squares, number, total, merit = 0.0, 0, 0.0, 0.0
    for turn in range(TURNS):
        plane[:] = fit.basis[:, :2]
        z[:] = fit.basis[:, 2]
        moved[:] = places - fit.shift
        known = turn > 0
        refinement.expected_errors(unit, scale, fit.expected)
        number, total = refinement.assign(
            moved, plane, z, wavelength, noise, fit.expected, known, fit.hkl, fit.gain, fit.on
        )
        if number < limits.peaks_min:
            return False
        squares = refinement.fit_plane(moved, fit.hkl, fit.on, noise, limits.centre_noise, plane, rest, in_plane)
        if squares < 0:
            return False
        fit.shift[:] += rest
        if known:
            scale, merit = refinement.fit_heights(
                moved, unit, fit.hkl, fit.on, plane, wavelength, 3, 0.0, scale, z, heights, fit.expected
            )
        else:
            # Which side of the plane the first layer is on, the curvature of the sphere alone may tell badly.
            scale_below, merit_below = refinement.fit_heights(
                moved, unit, fit.hkl, fit.on, plane, wavelength, 6, -1.0, scale, z_below, heights, fit.expected
            )
            scale, merit = refinement.fit_heights(
                moved, unit, fit.hkl, fit.on, plane, wavelength, 6, 1.0, scale, z, heights, fit.expected
            )
            if merit_below > merit:
                merit, scale = merit_below, scale_below
                z[:] = z_below
        if merit == -np.inf or not np.abs(z).max() < refinement.HEIGHT_MAX:
            return False
        fit.basis[:, :2] = plane
        fit.basis[:, 2] = z
        if turn < TURNS - 1 and not basis.shorten(fit.basis, change):
            return False
        freedom = 2 * number - 6
        if known and freedom > 6:
            noise = min(2 * noise, max(limits.noise_min, math.sqrt(squares / freedom)))
    if basis.determinant(fit.basis) < 0:
        fit.basis[:] *= -1
    fit.covariance[0] = in_plane * max(squares / max(2 * number - 6, 1), POSITION_ROUNDING**2)
    fit.covariance[1] = fit.covariance[0]
    fit.covariance[2] = heights
    determinant = basis.determinant(in_plane) * (2 * math.pi * noise * noise) ** 3
    heights_determinant = basis.determinant(heights) * (2 * math.pi) ** 3
    if not (determinant > 0 and heights_determinant > 0):
        return False
    fit.values[EVIDENCE] = total + math.log(determinant) + 0.5 * math.log(heights_determinant)
    fit.values[NOISE], fit.values[SCALE] = noise, scale
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_plane(places, plane, noise, noise_min):
    """Fit two vectors alone, in place; return the evidence."""
    evidence = -np.inf
    for _ in range(3):
        a0, a1, b0, b1 = plane[0, 0], plane[0, 1], plane[1, 0], plane[1, 1]
        det = a0 * b1 - a1 * b0
        if det == 0 or not np.isfinite(det):
            return -np.inf
        hh, hk, kk, hx, hy, kx, ky = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        total = 0.0
        for p in range(len(places)):
            x, y = places[p]
            h, k = np.rint((b1 * x - b0 * y) / det), np.rint((a0 * y - a1 * x) / det)
            dx, dy = x - h * a0 - k * b0, y - h * a1 - k * b1
            r2 = (dx * dx + dy * dy) / (noise * noise)
            ratio = abs(det) * math.exp(-0.5 * r2) / (2 * math.pi * noise * noise)
            total += math.log(search.OUTLIERS + (1 - search.OUTLIERS) * ratio)
            if r2 < search.RADII**2:
                hh += h * h
                hk += h * k
                kk += k * k
                hx += h * x
                hy += h * y
                kx += k * x
                ky += k * y
        area = hh * kk - hk * hk
        if not area > 0:
            return -np.inf
        evidence = total + math.log((2 * math.pi * noise * noise) ** 2 / area)
        plane[0, 0], plane[0, 1] = (kk * hx - hk * kx) / area, (kk * hy - hk * ky) / area
        plane[1, 0], plane[1, 1] = (hh * kx - hk * hx) / area, (hh * ky - hk * hy) / area
    return evidence


@njit(cache=True, nogil=True, error_model="numpy")
def _describe(fit, intensity):
    """Fill in shares of peaks and of intensity that are on the lattice, and the layers along the third row."""
    seen = np.zeros(2 * LAYERS_COUNTED + 1, np.bool_)
    number, bright, total = 0.0, 0.0, 0.0
    for p in range(len(fit.on)):
        total += intensity[p]
        if fit.on[p]:
            number += 1
            bright += intensity[p]
            l = int(fit.hkl[p, 2])
            seen[max(-LAYERS_COUNTED, min(LAYERS_COUNTED, l)) + LAYERS_COUNTED] = True
    seen[LAYERS_COUNTED] = True  # the direct beam
    fit.values[PEAKS_ON], fit.values[INTENSITY_ON] = number / len(fit.on), bright / total
    fit.values[LAYERS] = seen.sum()


@njit(cache=True, nogil=True, error_model="numpy")
def _insert(fit, bases, covariances, shifts, values, kept):
    """Put a fit into its place among the best, unless a better one has the same lattice; return how many there are."""
    evidence = fit.values[EVIDENCE]
    for k in range(kept):
        if basis.same_lattice(bases[k], fit.basis, SAME):
            if evidence <= values[k, EVIDENCE]:
                return kept
            for i in range(k, kept - 1):
                bases[i], covariances[i], shifts[i], values[i] = (
                    bases[i + 1],
                    covariances[i + 1],
                    shifts[i + 1],
                    values[i + 1],
                )
            kept -= 1
            break
    place = kept
    while place > 0 and values[place - 1, EVIDENCE] < evidence:
        place -= 1
    if place == len(bases):
        return kept
    for i in range(min(kept, len(bases) - 1), place, -1):
        bases[i], covariances[i], shifts[i], values[i] = (
            bases[i - 1],
            covariances[i - 1],
            shifts[i - 1],
            values[i - 1],
        )
    bases[place], covariances[place], shifts[place], values[place] = fit.basis, fit.covariance, fit.shift, fit.values
    return min(kept + 1, len(bases))
