"""Which of some known lattices explains a pattern: a question that few and scattered peaks can answer.

To find a lattice in a pattern takes many good peaks; to tell known ones apart takes few. Each candidate is laid into
every pattern as well as it can be (`gpuediff.lattices.orienting`), and the score says how much more probable that makes
the places of the peaks than chance does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from gpuediff.crystals.crystal import cell_vectors
from gpuediff.lattices import orienting, refinement
from gpuediff.lattices.indexing import strongest
from gpuediff.lattices.reduction import reduced
from gpuediff.peaks import PeakBatch

# Primitive vectors in terms of the conventional ones, rows; R obverse.
CENTRINGS = {
    "P": np.eye(3),
    "C": np.array([[1, -1, 0], [1, 1, 0], [0, 0, 2]]) / 2,
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}
_PEAKS_MIN = 4  # diffracted, of a pattern


@dataclass(frozen=True, eq=False)
class Explained:
    """How well each of k lattices explains each of n patterns.

    Parameters
    ----------
    score : array, shape (k, n), float64
        Natural logarithm of how much more probable the peaks are on the lattice, in its best orientation, than at
        random places; the number of orientations is paid for. -inf where no orientation fits, or a pattern has fewer
        than four diffracted peaks.
    on : array, shape (k, n), float64
        Share of the peaks that lie on it.
    rows : array, shape (k, n, 3, 3), float64
        Reciprocal basis in the frame of the detector, Å⁻¹; nan where there is none.
    """

    score: np.ndarray
    on: np.ndarray
    rows: np.ndarray


def primitive(parameters: np.ndarray, centring: str) -> np.ndarray:
    """Return the rows of a primitive basis, (3, 3) Å, of a, b, c (Å), alpha, beta, gamma (degrees) and a centring.

    Raises
    ------
    ValueError
        If the centring is not one of P, C, I, F, R.
    """
    if centring not in CENTRINGS:
        raise ValueError(f"centring = {centring!r}: expected one of {', '.join(CENTRINGS)}")
    return CENTRINGS[centring] @ cell_vectors(np.asarray(parameters, dtype=np.float64))


def explain(
    peaks: PeakBatch,
    lattices: np.ndarray,
    *,
    wavelength: float,
    noise: float,
    uncertainty: float = 0.01,
    peaks_max: int = 60,
) -> Explained:
    """Lay known lattices into patterns.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns on the host; q in Å⁻¹, intensity in any unit. A direct beam within `DIRECT_BEAM_RADIUS` of the origin
        is taken for the centre.
    lattices : array, shape (k, 3, 3)
        Rows of primitive direct bases, Å, as by `primitive`.
    wavelength : float
        Of the electrons, Å.
    noise : float
        Standard deviation of a position along one axis, Å⁻¹, as `Indexed.position_noise` estimates it.
    uncertainty : float
        Relative error of the lattices, and of the pixel size.
    peaks_max : int
        Of a pattern, the strongest are taken.

    Raises
    ------
    InvalidPeaks
        If a position or an intensity is not finite, or an intensity is negative.
    ValueError
        If a basis spans no lattice, or a number is not positive and finite.
    """
    for name, value in (("wavelength", wavelength), ("noise", noise), ("uncertainty", uncertainty)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value}: must be > 0 and finite")
    peaks.validate()
    cells = reduced(np.asarray(lattices, dtype=np.float64)).basis
    if not np.isfinite(cells).all():
        raise ValueError(f"lattices[{int(np.argmin(np.isfinite(cells).all(axis=(1, 2))))}]: spans no lattice")
    reciprocal = np.ascontiguousarray(np.linalg.inv(cells).swapaxes(-1, -2))
    k, n = len(cells), len(peaks)
    score, on = np.full((k, n), -np.inf), np.zeros((k, n))
    rows = np.full((k, n, 3, 3), np.nan)
    _explain_all(
        np.ascontiguousarray(peaks.qx, dtype=np.float64),
        np.ascontiguousarray(peaks.qy, dtype=np.float64),
        np.ascontiguousarray(peaks.intensity, dtype=np.float64),
        np.ascontiguousarray(peaks.offsets, dtype=np.int64),
        reciprocal,
        float(wavelength),
        float(noise),
        float(uncertainty),
        peaks_max,
        score,
        on,
        rows,
    )
    return Explained(score, on, rows)


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _explain_all(qx, qy, intensity, offsets, reciprocal, wavelength, noise, uncertainty, peaks_max, score, on, rows):
    for p in prange(len(offsets) - 1):
        own = slice(offsets[p], offsets[p + 1])
        places, strength, _ = strongest(qx[own], qy[own], intensity[own], peaks_max)
        count = len(places)
        if count < _PEAKS_MIN:
            continue
        expected = np.empty(count)
        refinement.expected_errors(refinement.unit_errors(places, strength), refinement.SCALE, expected)
        hkl, is_on, ratio = np.empty((count, 3)), np.empty(count, np.bool_), np.empty(count)
        indices, turned = np.empty((orienting.VECTORS, 3)), np.empty((3, 3))
        for f in range(len(reciprocal)):
            found = orienting.shortest_vectors(reciprocal[f], indices)
            vectors = indices[:found] @ reciprocal[f]
            lengths = np.sqrt((vectors * vectors).sum(axis=1))
            best = orienting.orient(
                places, expected, reciprocal[f], vectors, lengths, uncertainty * lengths, noise, uncertainty,
                uncertainty, wavelength, turned,
            )  # fmt: skip
            if best == -np.inf:
                continue
            value = orienting.score(
                places, expected, count, turned, noise, uncertainty, wavelength, orienting.LAYERS, hkl, is_on, ratio
            )
            score[f, p] = value - orienting.ORIENTATIONS
            on[f, p] = is_on.mean()
            rows[f, p] = turned
