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
ATOMS_AT_ONCE = 64  # bounds the memory of the phase factors

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
    indices = [np.arange(-n, n + 1) for n in box.extent]
    # U_-g follows from U_g: only h >= 0 is computed.
    indices[0] = np.arange(box.extent[0] + 1)
    squared_length = _squared_length(indices, box.metric)
    inside = squared_length <= box.squared_limit
    for axis in range(3):
        within = np.abs(indices[axis]) <= box.within[axis]
        inside &= within.reshape([-1 if other == axis else 1 for other in range(3)])
    return StructurePotential(
        crystal.reciprocal, box.extent, _table(crystal, indices, inside, squared_length, settings), box.beam_extent
    )


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


def _table(
    crystal: Crystal, indices: list[np.ndarray], inside: np.ndarray, squared_length: np.ndarray, settings: Simulation
) -> np.ndarray:
    """Sum over the elements for h >= 0, and complete the table by S_-g = conj(S_g); f depends on |g| alone."""
    volume = abs(np.linalg.det(crystal.lattice))
    forward = np.zeros(inside.shape, dtype=np.complex128)
    backward = np.zeros(inside.shape, dtype=np.complex128)
    for atomic_number in np.unique(crystal.atomic_numbers):
        atoms = crystal.atomic_numbers == atomic_number
        sums = _geometric_structure_factor(crystal.positions[atoms], crystal.occupancies[atoms], indices)
        _add_element(
            squared_length.ravel(),
            inside.ravel(),
            sums.ravel(),
            *factor_table(int(atomic_number), settings).arrays,
            1 / volume,
            forward.ravel(),
            backward.ravel(),
        )
    return np.concatenate([backward[:0:-1, ::-1, ::-1], forward])


@njit(nogil=True, cache=True, error_model="numpy")
def _add_element(
    squared_length, inside, sums, intervals, coefficients, first, cells_per_square, density, forward, backward
):
    """Add f S / V to U_g, and f conj(S) / V to U_-g, for one element."""
    for n in range(len(inside)):
        if inside[n]:
            real, imaginary = factor_at(squared_length[n], intervals, coefficients, first, cells_per_square)
            factor = complex(density * real, density * imaginary)
            forward[n] += factor * sums[n]
            backward[n] += factor * sums[n].conjugate()


def _geometric_structure_factor(
    positions: np.ndarray, occupancies: np.ndarray, indices: list[np.ndarray]
) -> np.ndarray:
    """Σ_j o_j exp(2πi (h x_j + k y_j + l z_j)) on the grid of all h, k, l; the phases separate by axis."""
    shape = tuple(len(values) for values in indices)
    sums = np.zeros((shape[0] * shape[1], shape[2]), dtype=np.complex128)
    for start in range(0, len(positions), ATOMS_AT_ONCE):
        chunk = slice(start, start + ATOMS_AT_ONCE)
        along = [np.exp(2j * np.pi * np.outer(indices[axis], positions[chunk, axis])) for axis in range(3)]
        along[0] *= occupancies[chunk]
        plane = along[0][:, None, :] * along[1][None, :, :]
        sums += plane.reshape(shape[0] * shape[1], -1) @ along[2].T
    return sums.reshape(shape)


def _squared_length(indices: list[np.ndarray], metric: np.ndarray) -> np.ndarray:
    """|g|² in Å⁻² on the grid of all h, k, l."""
    h, k, l = np.ix_(*(values.astype(np.float64) for values in indices))
    return (
        metric[0] * h * h
        + metric[1] * k * k
        + metric[2] * l * l
        + (metric[3] * h * k + metric[4] * h * l + metric[5] * k * l)
    )


def _largest_indices(lattice: np.ndarray, limit: float) -> np.ndarray:
    """Largest |h|, |k|, |l| with |g| <= limit: h = g·a, so |h| <= |g| |a| in any metric."""
    lengths = np.linalg.norm(lattice, axis=1)
    return np.floor(lengths * limit * (1 + ROUNDING)).astype(np.int64)


def _py4dstem_largest_index(basis: np.ndarray, limit: float) -> int:
    """Bound on every index from the shortest of ten combinations of the rows of `basis`."""
    return int(np.ceil(limit / np.linalg.norm(_PY4DSTEM_TRIALS @ basis, axis=1).min()))
