"""Fourier coefficients U_g of the potential that a fast electron sees in a crystal.

U_g = (1/V) Σ_j o_j f_j(|g|) exp(2πi g·r_j) in Å⁻², with the factors of `scattering_factors`. The crystal comes with
one table for all differences of two beams, so that a dynamical matrix is a matter of looking up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from gpuediff.diffraction.factor_tables import factor_at, factor_table
from gpuediff.settings import Simulation

if TYPE_CHECKING:
    from gpuediff.crystals.crystal import Crystal

ROUNDING = 1e-9  # relative: a lattice point on the sphere |g| = limit counts as inside

# The ten lattice vectors of which py4DSTEM takes the shortest to bound its Miller indices.
_PY4DSTEM_TRIALS = np.array(
    [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 1, 0],
        [1, 0, 1],
        [0, 1, 1],
        [1, 1, 1],
        [1, -1, 1],
        [1, 1, -1],
        [1, -1, -1],
    ]
)


@dataclass(frozen=True)
class StructurePotential:
    """U_g of one crystal, tabulated for every difference of two beams.

    Parameters
    ----------
    reciprocal : array, shape (3, 3), float64
        Rows a*, b*, c* in Å⁻¹ (no 2π), in the crystal's Cartesian frame.
    extent : array, shape (3,), int64
        The table covers h = -extent[0] .. extent[0], and k and l likewise.
    table : array, shape (2 extent[0] + 1, 2 extent[1] + 1, 2 extent[2] + 1), complex128
        U_hkl in Å⁻² at [h + extent[0], k + extent[1], l + extent[2]]; zero where |g| > 2 g_max.
    beam_extent : array, shape (3,), int64
        The largest |h|, |k|, |l| that a beam with |g| <= g_max may have.
    """

    reciprocal: np.ndarray
    extent: np.ndarray
    table: np.ndarray
    beam_extent: np.ndarray


def structure_potential(crystal: Crystal, settings: Simulation) -> StructurePotential:
    """Tabulate U_g for |g| <= 2 g_max.

    With `settings.scattering = "py4dstem"` the Miller indices are bounded as in py4DSTEM 0.14.18: too tightly in
    oblique cells, so that beams are missing, and couplings between beams are taken for zero.

    Parameters
    ----------
    crystal : Crystal
        Any cell, primitive or not; mixed sites as one atom for each element, with its occupancy.
    settings : Simulation
        Beam energy, g_max, thermal displacement, form factors and scattering mode.

    Returns
    -------
    StructurePotential

    Raises
    ------
    InvalidStructure
        If an element has no parameters in the chosen form factors.
    """
    box = box_of(crystal, settings)
    table = np.zeros(tuple(2 * box.extent + 1), dtype=np.complex128)
    density = 1 / abs(np.linalg.det(crystal.lattice))
    for atomic_number in np.unique(crystal.atomic_numbers):
        atoms = crystal.atomic_numbers == atomic_number
        along_h, along_k, along_l = _phases(crystal.positions[atoms], box.within)
        along_h *= crystal.occupancies[atoms]
        along_l = np.ascontiguousarray(along_l.T)
        _add_element(
            box.metric,
            box.squared_limit,
            along_h[box.within[0] :],
            along_k,
            along_l.real.copy(),
            along_l.imag.copy(),
            *factor_table(int(atomic_number), settings).arrays,
            density,
            table,
        )
    return StructurePotential(crystal.reciprocal, box.extent, table, box.beam_extent)


@dataclass(frozen=True)
class Box:
    """Which h, k, l a table of U_g covers, and for which of them U_g is computed.

    Parameters
    ----------
    extent, beam_extent : array, shape (3,), int64
        As of `StructurePotential`.
    within : array, shape (3,), int64
        Bounds on |h|, |k|, |l|: `extent`, but for the scattering mode "py4dstem".
    metric : array, shape (6,), float64
        a*², b*², c*², 2 a*·b*, 2 a*·c*, 2 b*·c* in Å⁻².
    squared_limit : float
        Largest |g|², Å⁻².
    """

    extent: np.ndarray
    beam_extent: np.ndarray
    within: np.ndarray
    metric: np.ndarray
    squared_limit: float


def box_of(crystal: Crystal, settings: Simulation) -> Box:
    """Bound the Miller indices of the couplings and of the beams of a crystal."""
    reciprocal = crystal.reciprocal
    limit = 2 * settings.g_max
    extent = _largest_indices(crystal.lattice, limit)
    beam_extent = _largest_indices(crystal.lattice, settings.g_max)
    within = extent
    if settings.scattering == "py4dstem":
        # Its beams are bounded by rows of the reciprocal basis, its U_g by columns.
        beam_extent = np.minimum(beam_extent, _py4dstem_largest_index(reciprocal, settings.g_max))
        within = np.minimum(extent, _py4dstem_largest_index(reciprocal.T, limit))
    products = reciprocal @ reciprocal.T
    metric = np.array([*np.diag(products), 2 * products[0, 1], 2 * products[0, 2], 2 * products[1, 2]])
    return Box(extent, beam_extent, within, metric, (limit * (1 + ROUNDING)) ** 2)


def _phases(positions: np.ndarray, within: np.ndarray) -> list[np.ndarray]:
    """exp(2πi h x_j) for |h| <= within[0], shape (2 within[0] + 1, atoms), and likewise along k and l."""
    turns = [np.outer(np.arange(-n, n + 1), positions[:, axis]) for axis, n in enumerate(within)]
    # Whole turns are taken off first: they would cost digits of the angle.
    return [np.exp(2j * np.pi * (turn - np.rint(turn))) for turn in turns]


@njit(nogil=True, cache=True, error_model="numpy")
def _add_element(
    metric,
    squared_limit,
    along_h,
    along_k,
    real_along_l,
    imaginary_along_l,
    intervals,
    coefficients,
    first,
    cells_per_square,
    density,
    table,
):
    """Add f S / V of one element to U_g for h >= 0, and f conj(S) / V to U_-g; f depends on |g| alone.

    S = Σ_j o_j exp(2πi g·r_j), whose phases separate by axis. Not a product of matrices: only about half of the box is
    inside, and the last bits of a product depend on the number of threads.
    """
    atoms, width = real_along_l.shape
    middle_h, middle_k, middle_l = table.shape[0] // 2, table.shape[1] // 2, table.shape[2] // 2
    last_k, last_l = len(along_k) // 2, width // 2
    square, real, imaginary = np.empty(width), np.empty(width), np.empty(width)
    for h in range(len(along_h)):
        for k in range(-last_k, last_k + 1):
            start, stop = width, 0  # a line cuts a sphere once
            for n in range(width):
                l = n - last_l
                square[n] = (
                    metric[0] * h * h
                    + metric[1] * k * k
                    + metric[2] * l * l
                    + (metric[3] * h * k + metric[4] * h * l + metric[5] * k * l)
                )
                if square[n] <= squared_limit:
                    start, stop = min(start, n), n + 1
            if stop == 0:
                continue
            row_real, row_imaginary = real[start:stop], imaginary[start:stop]
            row_real[:] = 0.0
            row_imaginary[:] = 0.0
            for j in range(atoms):
                phase = along_h[h, j] * along_k[last_k + k, j]
                phase_real, phase_imaginary = phase.real, phase.imag
                cosine, sine = real_along_l[j, start:stop], imaginary_along_l[j, start:stop]
                for n in range(stop - start):
                    row_real[n] += phase_real * cosine[n] - phase_imaginary * sine[n]
                    row_imaginary[n] += phase_real * sine[n] + phase_imaginary * cosine[n]
            for n in range(start, stop):
                f_real, f_imaginary = factor_at(square[n], intervals, coefficients, first, cells_per_square)
                factor = complex(density * f_real, density * f_imaginary)
                l = n - last_l
                table[middle_h + h, middle_k + k, middle_l + l] += factor * complex(real[n], imaginary[n])
                if h > 0:
                    table[middle_h - h, middle_k - k, middle_l - l] += factor * complex(real[n], -imaginary[n])


def _largest_indices(lattice: np.ndarray, limit: float) -> np.ndarray:
    """Largest |h|, |k|, |l| with |g| <= limit: h = g·a, so |h| <= |g| |a| in any metric."""
    lengths = np.linalg.norm(lattice, axis=1)
    return np.floor(lengths * limit * (1 + ROUNDING)).astype(np.int64)


def _py4dstem_largest_index(basis: np.ndarray, limit: float) -> int:
    """Bound on every index from the shortest of ten combinations of the rows of `basis`."""
    return int(np.ceil(limit / np.linalg.norm(_PY4DSTEM_TRIALS @ basis, axis=1).min()))
