"""Three-dimensional reciprocal lattices of single patterns.

A pattern off a zone axis is a thin, slightly curved cut through the reciprocal lattice. In the detector plane the
peaks are h b1 + k b2 + l b3 for three vectors b; along the beam the Ewald sphere gives each of them its height, strong
peaks best. `index_patterns` finds such lattices and says how far each is to be trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import njit, prange

from gpuediff import arrays
from gpuediff.lattices import hypotheses
from gpuediff.lattices.hypotheses import Limits
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch
from gpuediff.settings import Settings, within


class Status(IntEnum):
    """What became of a pattern."""

    INDEXED = hypotheses.INDEXED
    TOO_FEW_PEAKS = hypotheses.TOO_FEW_PEAKS
    ONE_ZONE = hypotheses.ONE_ZONE  # a two-dimensional cell explains the peaks at least as well as any lattice
    NO_LATTICE = hypotheses.NO_LATTICE  # nothing explains them better than chance


class Indexing(Settings):
    """How patterns are indexed."""

    peaks_min: Annotated[int, within(4, 64)] = 5  # diffracted peaks, and as many of them on the lattice
    peaks_max: Annotated[int, within(4, 200)] = 60  # the strongest; weaker ones say less about heights, and mislead
    hypotheses: Annotated[int, within(1, 20)] = 3  # lattices that are kept for a pattern
    clusters: Annotated[int, within(3, 200)] = 20  # short difference vectors that are kept
    pairs: Annotated[int, within(2, 60)] = 12  # how many of them are combined to planes
    trials: Annotated[int, within(1, 100)] = 10  # triples of vectors that are fitted
    noise_min: Annotated[float, within(1e-6, 0.01, "Å⁻¹")] = 2e-4  # no detector gives positions better than this
    centre_noise: Annotated[float, within(1e-6, 0.02, "Å⁻¹")] = 3e-3  # of the direct beam, before it is refined
    score_min: Annotated[float, within(0, 1000)] = 5.0  # a lattice below is not told from chance


@dataclass(frozen=True, eq=False)
class Indexed:
    """Lattices of n patterns, h hypotheses each, the best first; nan where there is none.

    Parameters
    ----------
    status : array, shape (n,), int64
        `Status` of every pattern.
    basis : array, shape (n, h, 3, 3), float64
        Rows b1, b2, b3 of the reciprocal lattice, Å⁻¹ (1/d), in the frame of the detector: x, y, and z against the
        beam. The rows are right-handed, and the shortest vectors, the shortest first, but for what the last fit
        changed.
    covariance : array, shape (n, h, 3, 3, 3), float64
        Å⁻²; [..., c, i, j] is the covariance of component c of b_i and of b_j. Components do not correlate.
    score : array, shape (n, h), float64
        Natural logarithm of how much more probable the peaks are on this lattice, whose vectors were not known
        beforehand, than at random places. The finer a lattice, the less it gains by a peak that lies on it.
    peaks_on, intensity_on : array, shape (n, h), float64
        Share of the peaks, and of their intensity, that lie on the lattice.
    layers : array, shape (n, h), int64
        Layers along b3, that of the direct beam among them, to which peaks belong; 0 where there is no hypothesis.
    position_noise : array, shape (n,), float64
        Standard deviation of a position along one axis, Å⁻¹, not below `Indexing.noise_min`.
    centre : array, shape (n, h, 2), float64
        Where the direct beam is, Å⁻¹.
    plane : array, shape (n, 2, 2), float64
        Rows of the two-dimensional cell that explains most, Å⁻¹.
    """

    status: np.ndarray
    basis: np.ndarray
    covariance: np.ndarray
    score: np.ndarray
    peaks_on: np.ndarray
    intensity_on: np.ndarray
    layers: np.ndarray
    position_noise: np.ndarray
    centre: np.ndarray
    plane: np.ndarray

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, patterns: Any) -> Indexed:
        """Take patterns by slice, index array or mask."""
        return Indexed(*(getattr(self, field.name)[patterns] for field in fields(self)))

    @property
    def uncertainty(self) -> np.ndarray:
        """Standard uncertainty of every component of `basis`, shape (n, h, 3, 3), Å⁻¹."""
        return np.sqrt(np.diagonal(self.covariance, axis1=-2, axis2=-1)).swapaxes(-1, -2)


class Found(NamedTuple):
    """What is filled for n patterns of h hypotheses, in the order in which `_index_all` and the kernel take it."""

    status: Any
    noise: Any
    basis: Any
    covariance: Any
    centre: Any
    values: Any
    plane: Any

    @classmethod
    def empty(cls, xp: Any, n: int, h: int) -> Found:
        """Make room in the arrays of a namespace."""
        shapes = ((n,), (n, h, 3, 3), (n, h, 3, 3, 3), (n, h, 2), (n, h, hypotheses.VALUES), (n, 2, 2))
        return cls(xp.empty((n,), dtype=np.int64), *(xp.empty(shape, dtype=np.float64) for shape in shapes))

    def indexed(self) -> Indexed:
        """Give the columns their names; arrays of the host."""
        return Indexed(
            status=self.status,
            basis=self.basis,
            covariance=self.covariance,
            score=self.values[..., hypotheses.EVIDENCE].copy(),
            peaks_on=self.values[..., hypotheses.PEAKS_ON].copy(),
            intensity_on=self.values[..., hypotheses.INTENSITY_ON].copy(),
            layers=np.nan_to_num(self.values[..., hypotheses.LAYERS]).astype(np.int64),
            position_noise=self.noise,
            centre=self.centre,
            plane=self.plane,
        )


def index_patterns(peaks: PeakBatch, settings: Indexing | None = None, *, wavelength: float) -> Indexed:
    """Find the reciprocal lattices that explain each pattern.

    Every pattern is indexed alone; neither the order of its peaks nor the number of threads makes a difference.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns; q in Å⁻¹, intensity in any unit. A direct beam within `DIRECT_BEAM_RADIUS` of the origin is taken
        for the centre; without it the centre is taken to be the origin. Either is refined. Arrays of a GPU are indexed
        there, by kernels/lattice_index.cu.
    settings : Indexing, optional
    wavelength : float
        Of the electrons, Å.

    Returns
    -------
    Indexed
        On the host, where all that uses lattices computes.

    Raises
    ------
    InvalidPeaks
        If a position or an intensity is not finite, or an intensity is negative.
    ValueError
        If the wavelength is not positive and finite.
    """
    if not (math.isfinite(wavelength) and wavelength > 0):
        raise ValueError(f"wavelength = {wavelength}: must be > 0 Å and finite")
    if arrays.namespace(peaks.qx) is not np:
        from gpuediff.lattices.gpu_indexing import index_patterns_on_gpu

        return index_patterns_on_gpu(peaks, settings, wavelength=wavelength)
    settings = settings or Indexing()
    peaks.validate()
    found = Found.empty(np, len(peaks), settings.hypotheses)
    limits = Limits(
        peaks_min=settings.peaks_min,
        clusters=settings.clusters,
        pairs=settings.pairs,
        trials=settings.trials,
        noise_min=settings.noise_min,
        centre_noise=settings.centre_noise,
        evidence_min=settings.score_min,
    )
    _index_all(
        np.ascontiguousarray(peaks.qx, dtype=np.float64),
        np.ascontiguousarray(peaks.qy, dtype=np.float64),
        np.ascontiguousarray(peaks.intensity, dtype=np.float64),
        np.ascontiguousarray(peaks.offsets, dtype=np.int64),
        float(wavelength),
        limits,
        settings.peaks_max,
        *found,
    )
    return found.indexed()


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _index_all(
    qx, qy, intensity, offsets, wavelength, limits, peaks_max, status, noise, basis, covariance, centre, values, plane
):
    for p in prange(len(offsets) - 1):
        own = slice(offsets[p], offsets[p + 1])
        places, strength, origin = strongest(qx[own], qy[own], intensity[own], peaks_max)
        status[p], noise[p] = hypotheses.index_pattern(
            places, strength, wavelength, limits, basis[p], covariance[p], centre[p], values[p], plane[p]
        )
        centre[p, :, 0] += origin[0]
        centre[p, :, 1] += origin[1]


@njit(cache=True, nogil=True, error_model="numpy")
def strongest(qx, qy, intensity, peaks_max):
    """The strongest peaks but the direct beam: places, intensities as shares of all that is diffracted, and origin."""
    # Places decide between equals, so that the order in the list does not.
    order = np.argsort(qy, kind="mergesort")
    order = order[np.argsort(qx[order], kind="mergesort")]
    order = order[np.argsort(-intensity[order], kind="mergesort")]
    origin = np.zeros(2)
    nearest = DIRECT_BEAM_RADIUS**2
    diffracted, total = 0, 0.0
    for j in order:
        square = qx[j] * qx[j] + qy[j] * qy[j]
        if square < nearest:
            nearest = square
            origin[0], origin[1] = qx[j], qy[j]
        if square >= DIRECT_BEAM_RADIUS**2:
            diffracted += 1
            total += intensity[j]
    count = min(diffracted, peaks_max)
    places, strength = np.empty((count, 2)), np.empty(count)
    n = 0
    for j in order:
        if n < count and qx[j] * qx[j] + qy[j] * qy[j] >= DIRECT_BEAM_RADIUS**2:
            places[n, 0], places[n, 1] = qx[j] - origin[0], qy[j] - origin[1]
            strength[n] = intensity[j] / total if total > 0 else 1.0 / count
            n += 1
    return places, strength, origin
