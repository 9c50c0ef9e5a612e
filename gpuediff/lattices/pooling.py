"""One lattice for several patterns of one material.

Candidates are what patterns found each by itself (`gpuediff.lattices.consensus`); every one is laid into all patterns
of its group and fitted to all their peaks (`gpuediff.lattices.joint`), with more points if peaks lie between its own
(`gpuediff.lattices.superlattices`). The one that makes the peaks most probable is the lattice of the group, and how it
lies in each pattern is known with it. A pattern alone keeps the lattice that it found, and of a few patterns the best
candidate is taken.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numba import get_num_threads, njit

from gpuediff.lattices import basis, consensus, joint, refinement, superlattices
from gpuediff.lattices.consensus import Limits
from gpuediff.lattices.indexing import Indexed, strongest
from gpuediff.lattices.reduction import PAIRS, factor
from gpuediff.lattices.reflections import oriented
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Settings, within

_AT_A_TIME = 32  # groups of a thread
_JOINT_MIN = 5  # members from which on all peaks together say more than what the members agree on
_FITTED = 2  # candidates that are followed to the end
_FINER = 2  # times that a lattice may get more points
_CLEAR, _SURE = 0.95, 3.0  # share of peaks on a lattice, and score for each, from which on no other is tried


class Pooling(Settings):
    """How the patterns of a group are brought together."""

    references: Annotated[int, within(1, 1000)] = 12  # hypotheses, the best of a group, that are tried as its lattice
    candidates: Annotated[int, within(1, 20)] = 4  # of them that are laid into the patterns
    deviations: Annotated[float, within(1, 20)] = 4.0  # standard, by which numbers of one metric may differ
    scale_noise: Annotated[float, within(0, 0.1)] = 3e-3  # relative, of the pixel size from pattern to pattern
    rounds: Annotated[int, within(1, 20)] = 3  # of matching all patterns to the average, and averaging again
    rival_weight: Annotated[float, within(0.1, 1000)] = 10.0  # score by which a worse hypothesis weighs 1/e
    peaks_max: Annotated[int, within(4, 200)] = 60  # of a pattern, the strongest


@dataclass(frozen=True, eq=False)
class Pooled:
    """Lattices of m groups with k members in all; nan where no pattern of a group has a lattice.

    Parameters
    ----------
    lattice : array, shape (m, 3, 3), float64
        Rows of the direct lattice, Å: shortest vectors, shortest first, the first along x and the second in the xy
        plane.
    metric : array, shape (m, 6), float64
        Of a reciprocal basis, Å⁻², in the order of `gpuediff.lattices.reduction.PAIRS`.
    covariance : array, shape (m, 6, 6), float64
        Of the metric, Å⁻⁴.
    support : array, shape (m,), int64
        Members whose peaks lie on the lattice.
    indexed : array, shape (m,), int64
        Members that have found a lattice by themselves.
    score : array, shape (m,), float64
        Natural logarithm of how much more probable the peaks are on the lattice than at random places.
    rival : array, shape (m,), float64
        The score of the second best lattice; nan where there is none, and for a pattern alone.
    noise : array, shape (m,), float64
        Standard deviation of a position along one axis, Å⁻¹.
    rows : array, shape (k, 3, 3), float64
        The basis of the metric in the frame of each member's detector, Å⁻¹; nan where its peaks are not on it.
    centre : array, shape (k, 2), float64
        Of the direct beam, Å⁻¹.
    scale : array, shape (k,), float64
        What the places of a member are larger by than its lattice says: the error of its pixel size.
    on : array, shape (k,), float64
        Share of a member's peaks that lie on the lattice.
    """

    lattice: np.ndarray
    metric: np.ndarray
    covariance: np.ndarray
    support: np.ndarray
    indexed: np.ndarray
    score: np.ndarray
    rival: np.ndarray
    noise: np.ndarray
    rows: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    on: np.ndarray

    def __len__(self) -> int:
        return len(self.support)


def pooled(
    peaks: PeakBatch,
    members: np.ndarray,
    group: np.ndarray,
    count: int,
    indexed: Indexed,
    settings: Pooling | None = None,
    *,
    wavelength: float,
) -> Pooled:
    """Find the lattice of each group.

    Neither the order of the patterns nor the number of threads makes a difference.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns, on the host.
    members : array, shape (k,), int64
        Pattern of every member of a group.
    group : array, shape (k,), int64
        Its group, 0 .. count - 1, rising.
    count : int
        Number of groups m.
    indexed : Indexed
        Of the k members.
    settings : Pooling, optional
    wavelength : float
        Å.

    Raises
    ------
    ValueError
        If there is not one group for each member, or the groups do not rise from 0 to at most count - 1.
    """
    settings = settings or Pooling()
    group = np.asarray(group)
    if group.shape != np.shape(members) or len(group) != len(indexed):
        raise ValueError(f"group: expected one for each of {len(indexed)} members, got shape {group.shape}")
    if len(group) and not (group[0] >= 0 and group[-1] < count and (np.diff(group) >= 0).all()):
        raise ValueError(f"group: expected rising numbers in 0 .. {count - 1}")
    k = len(group)
    numbers = np.full((count, 3), np.nan)
    counts = np.zeros((count, 2), dtype=np.int64)
    lattice, metric = np.full((count, 3, 3), np.nan), np.full((count, 6), np.nan)
    covariance = np.full((count, 6, 6), np.nan)
    rows, places = np.full((k, 3, 3), np.nan), np.full((k, 4), np.nan)
    arguments = (
        np.ascontiguousarray(peaks.qx, dtype=np.float64),
        np.ascontiguousarray(peaks.qy, dtype=np.float64),
        np.ascontiguousarray(peaks.intensity, dtype=np.float64),
        np.ascontiguousarray(peaks.offsets, dtype=np.int64),
        np.ascontiguousarray(members, dtype=np.int64),
        np.searchsorted(group, np.arange(count + 1)),
        indexed.basis,
        indexed.covariance,
        indexed.score,
        indexed.centre,
        indexed.peaks_on,
        indexed.position_noise,
        Limits(
            settings.references,
            settings.candidates,
            settings.deviations,
            settings.scale_noise,
            settings.rounds,
            settings.rival_weight,
        ),
        settings.peaks_max,
        float(wavelength),
        lattice,
        metric,
        covariance,
        numbers,
        counts,
        rows,
        places,
    )
    # Threads and not prange, whose two copies of all that is called would take minutes to compile.
    with ThreadPoolExecutor(get_num_threads()) as threads:
        done = [
            threads.submit(_pool_some, first, min(first + _AT_A_TIME, count), *arguments)
            for first in range(0, count, _AT_A_TIME)
        ]
        for part in done:
            part.result()
    return Pooled(
        lattice,
        metric,
        covariance,
        support=counts[:, 0],
        indexed=counts[:, 1],
        score=numbers[:, 0],
        rival=numbers[:, 1],
        noise=numbers[:, 2],
        rows=rows,
        centre=places[:, :2],
        scale=places[:, 2],
        on=places[:, 3],
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _pool_some(
    first, last, qx, qy, intensity, offsets, members, starts, bases, covariances, scores, centres, peaks_on, noises,
    limits, peaks_max, wavelength, lattice, metric, covariance, numbers, counts, rows, places,
):  # fmt: skip
    for g in range(first, last):
        own = slice(starts[g], starts[g + 1])
        counts[g, 1] = np.isfinite(scores[own, 0]).sum()
        if counts[g, 1] == 0:
            continue
        if starts[g + 1] - starts[g] == 1:
            m = starts[g]
            counts[g, 0] = _alone(bases[m, 0], covariances[m, 0], limits, lattice[g], metric[g], covariance[g], rows[m])
            numbers[g, 0], numbers[g, 2] = scores[m, 0], noises[m]
            if counts[g, 0]:
                places[m, :2], places[m, 2], places[m, 3] = centres[m, 0], 1.0, peaks_on[m, 0]
            continue
        candidate, spread = np.empty((limits.candidates, 6)), np.empty((limits.candidates, 6, 6))
        found = consensus.candidates(bases[own], covariances[own], scores[own], limits, candidate, spread)
        candidate, spread = candidate[:found], spread[:found]
        counts[g, 0], numbers[g, 2] = _agreement(
            candidate, spread, bases[own], covariances[own], scores[own], noises[own], centres[own], peaks_on[own],
            limits, lattice[g], metric[g], covariance[g], rows[own], places[own],
        )  # fmt: skip
        if starts[g + 1] - starts[g] < _JOINT_MIN:
            continue
        patterns, origins = _gather(qx, qy, intensity, offsets, members[own], peaks_max)
        fit = joint.room(len(origins), len(patterns.places))
        score, rival, noise = _best_fit(
            patterns, candidate, spread, bases[own], covariances[own], scores[own], noises[own], limits, wavelength, fit
        )
        root, direct = np.zeros((3, 3)), np.empty((3, 3))
        if score == -np.inf or not (factor(fit.metric, root) and _direct(root, direct)):
            continue  # too few peaks to decide: the agreement holds
        lattice[g], rows[own], places[own], counts[g, 0] = direct, np.nan, np.nan, 0
        metric[g], covariance[g] = fit.metric, fit.covariance
        numbers[g, 0], numbers[g, 2] = score, noise
        if rival > -np.inf:
            numbers[g, 1] = rival
        for p in range(len(origins)):
            peaks = slice(patterns.starts[p], patterns.starts[p + 1])
            if joint.takes_part(fit, peaks, p):
                m = starts[g] + p
                counts[g, 0] += 1
                rows[m] = fit.rows[p]
                places[m, :2] = origins[p] + fit.shift[p]
                places[m, 2] = fit.scale[p]
                places[m, 3] = fit.on[peaks].mean()


@njit(cache=True, nogil=True, error_model="numpy")
def _alone(rows, covariance, limits, lattice, metric, spread, oriented_rows):
    """Take the lattice of a pattern that has no others to agree with; return 1, or 0 where its metric is none."""
    consensus.metric_of(rows, covariance, np.eye(3), limits.scale_noise, metric, spread)
    root = np.zeros((3, 3))
    if not (factor(metric, root) and _direct(root, lattice)):
        lattice[:], metric[:], spread[:] = np.nan, np.nan, np.nan
        return 0
    oriented_rows[:] = oriented(root, rows)
    return 1


@njit(cache=True, nogil=True, error_model="numpy")
def _agreement(
    candidate, spread, bases, covariances, scores, noises, centres, peaks_on, limits, lattice, metric, covariance,
    rows, places,
):  # fmt: skip
    """Take the first candidate, the lattice that most patterns agree on.

    Returns how many agree, and their noise.
    """
    root, change = np.zeros((3, 3)), np.empty((3, 3))
    if not (len(candidate) > 0 and factor(candidate[0], root) and _direct(root, lattice)):
        lattice[:] = np.nan
        return 0, math.nan
    metric[:], covariance[:] = candidate[0], spread[0]
    count = 0
    for p in range(len(scores)):
        _, k = consensus.agreeing(bases[p], covariances[p], scores[p], limits, metric, covariance, change)
        if k >= 0:
            count += 1
            rows[p] = oriented(root, change @ bases[p, k])
            places[p, :2], places[p, 2], places[p, 3] = centres[p, k], 1.0, peaks_on[p, k]
    return count, np.nanmedian(noises)


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(qx, qy, intensity, offsets, members, peaks_max):
    """Put the peaks of a group together; return `joint.Patterns`, and where the direct beams are."""
    room = 0
    for p in members:
        room += min(peaks_max, offsets[p + 1] - offsets[p])
    places, expected = np.empty((room, 2)), np.empty(room)
    starts, origins = np.zeros(len(members) + 1, np.int64), np.empty((len(members), 2))
    for i in range(len(members)):
        own = slice(offsets[members[i]], offsets[members[i] + 1])
        place, strength, origins[i] = strongest(qx[own], qy[own], intensity[own], peaks_max)
        starts[i + 1] = starts[i] + len(place)
        there = slice(starts[i], starts[i + 1])
        places[there] = place
        refinement.expected_errors(refinement.unit_errors(place, strength), refinement.SCALE, expected[there])
    return joint.Patterns(places[: starts[-1]], expected[: starts[-1]], starts), origins


@njit(cache=True, nogil=True, error_model="numpy")
def _best_fit(patterns, metric, spread, bases, covariances, scores, noises, limits, wavelength, best):
    """Fill `best` with the candidate that explains the peaks of a group best; return its score, the next, the noise.

    `metric` (candidates, 6) and `spread` (candidates, 6, 6) are changed.
    """
    n, found = len(scores), len(metric)
    noise = np.full(found, np.nanmedian(noises))
    known = np.full((found, n, 3, 3), np.nan)
    values = np.full(found, -np.inf)
    fit = joint.room(n, len(patterns.places))
    change = np.empty((3, 3))
    once, twice = np.int64(1), np.int64(2)  # as numbers, not as constants: each would be compiled by itself
    for f in range(found):
        for p in range(n):
            _, k = consensus.agreeing(bases[p], covariances[p], scores[p], limits, metric[f], spread[f], change)
            if k >= 0:
                known[f, p] = change @ bases[p, k]
        values[f], noise[f] = joint.fit_group(patterns, known[f], noise[f], wavelength, metric[f], spread[f], once, fit)
        if values[f] == -np.inf:
            continue
        values[f] += superlattices.weaker_classes(patterns, fit)
        _keep(fit, metric[f], spread[f], known[f])
        on = fit.on.sum()
        if on > _CLEAR * len(fit.on) and values[f] > _SURE * on and (fit.score > 0).sum() > _CLEAR * n:
            break
    score, rival, least = -np.inf, -np.inf, math.nan
    for f in np.argsort(-values, kind="mergesort")[:_FITTED]:
        if values[f] == -np.inf:
            continue
        value, error = joint.fit_group(patterns, known[f], noise[f], wavelength, metric[f], spread[f], twice, fit)
        value += superlattices.weaker_classes(patterns, fit)
        if value > score:
            score, rival, least = value, score, error
            _copy(fit, best)
        else:
            rival = max(rival, value)
        for _ in range(_FINER):
            if not superlattices.finer(patterns, error, wavelength, fit, metric[f], spread[f], known[f]):
                break
            value, error = joint.fit_group(patterns, known[f], error, wavelength, metric[f], spread[f], once, fit)
            value += superlattices.weaker_classes(patterns, fit)
            if not value > score:
                break
            score, rival, least = value, score, error
            _copy(fit, best)
    return score, rival, least


@njit(cache=True, nogil=True, error_model="numpy")
def _keep(fit, metric, covariance, known):
    """Write down a fit as a better beginning."""
    metric[:], covariance[:] = fit.metric, fit.covariance
    for p in range(len(known)):
        known[p] = fit.rows[p] if fit.score[p] > 0 else np.full((3, 3), np.nan)


@njit(cache=True, nogil=True, error_model="numpy")
def _copy(fit, to):
    to.metric[:], to.covariance[:], to.rows[:], to.shift[:] = fit.metric, fit.covariance, fit.rows, fit.shift
    to.spread[:] = fit.spread
    to.scale[:], to.score[:], to.hkl[:], to.on[:], to.ratio[:] = fit.scale, fit.score, fit.hkl, fit.on, fit.ratio


@njit(cache=True, nogil=True, error_model="numpy")
def _direct(rows, lattice):
    """Fill the direct lattice of a reciprocal basis, its shortest vectors in standard position."""
    inverse, change, numbers = np.empty((3, 3)), np.empty((3, 3)), np.empty(6)
    if basis.invert(rows, inverse) == 0:
        return False
    direct = inverse.T.copy()
    if not basis.shorten(direct, change):
        return False
    for e in range(6):
        i, j = PAIRS[e]
        numbers[e] = (direct[i] * direct[j]).sum()
    standard = np.zeros((3, 3))
    if not factor(numbers, standard):
        return False
    lattice[:] = standard
    return True
