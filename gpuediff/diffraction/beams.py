"""Which reflections become beams of the dynamical matrix.

A beam is a reciprocal lattice vector near the Ewald sphere: |g| <= g_max and |s_g| <= s_max. Of these, only the ones
are kept that a chain of non-zero couplings connects with the direct beam; the others carry exactly zero intensity.

Beam j scatters into beam i by U_{h_j - h_i}: the phase of U_g is exp(+2πi g·r), as crystallographers have it, that of
the electron wave exp(+2πi k·r), as physicists have it, so the difference of the indices is taken the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit

from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.potential import ROUNDING, StructurePotential
from gpuediff.errors import InvalidStructure
from gpuediff.peaks import offsets_of
from gpuediff.settings import Simulation

UNREACHABLE = 1e-9  # |U| below this part of the largest |U| is rounding, not scattering
_ROUNDED = 1e-12  # of the largest |U|: what differs by less is equal
ON_THE_LIMIT = 1 + ROUNDING  # equivalent reflections on a limit are taken or left together, whatever their rounding


@dataclass(frozen=True, eq=False)
class Reflections:
    """All reflections of a crystal that can become beams, and the couplings between them.

    Parameters
    ----------
    hkl : array, shape (r, 3), int64
        Indices in the primitive cell, rising (h slowest); |g| <= g_max.
    g : array, shape (r, 3), float64
        Reciprocal lattice vectors in the crystal's Cartesian frame, Å⁻¹.
    address : array, shape (r,), int64
        Beam j scatters into beam i by `coupling[centre + address[j] - address[i]]`.
    coupling : array, flat, complex128
        U_hkl in Å⁻² for every difference of two reflections.
    """

    hkl: np.ndarray
    g: np.ndarray
    address: np.ndarray
    coupling: np.ndarray

    @classmethod
    def of_potential(cls, potential: StructurePotential, g_max: float) -> Reflections:
        """List the reflections within `g_max` (Å⁻¹) and `potential.beam_extent`.

        Raises
        ------
        InvalidStructure
            If the potential is not finite.
        """
        if not np.isfinite(potential.table).all():
            raise InvalidStructure("the potential is not finite; check the atoms' positions, occupancies and elements")
        extent = np.asarray(potential.beam_extent, dtype=np.int64)
        hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in extent), indexing="ij"), axis=-1).reshape(-1, 3)
        g = hkl @ potential.reciprocal
        near = np.linalg.norm(g, axis=1) <= g_max * ON_THE_LIMIT
        hkl, g = hkl[near], g[near]
        # With room for every difference of two reflections, differences of addresses are addresses of differences.
        room = 4 * extent + 1
        strides = np.array([room[1] * room[2], room[2], 1])
        return cls(hkl, g, hkl @ strides, _resized(potential.table, room).ravel())

    @property
    def centre(self) -> int:
        """Where U_000 stands in `coupling`."""
        return len(self.coupling) // 2

    @property
    def direct(self) -> int:
        """Which reflection is the direct beam."""
        return len(self.hkl) // 2

    @cached_property
    def couples(self) -> np.ndarray:
        """Whether U differs from zero, in the shape of `coupling`, bool."""
        magnitude = np.abs(self.coupling)
        return magnitude > UNREACHABLE * magnitude.max()

    @cached_property
    def absorbs(self) -> bool:
        """Whether U_-g differs from the conjugate of U_g: then the dynamical matrices are not Hermitian."""
        return not _equal_up_to_rounding(self.coupling, self.coupling[::-1].conj())

    @cached_property
    def is_real(self) -> bool:
        """Whether all U are real: nothing is absorbed, and the origin is a centre of inversion."""
        return _equal_up_to_rounding(self.coupling, self.coupling.real)


@dataclass(frozen=True, eq=False)
class Beams:
    """The beams of n patterns; those of pattern i are `offsets[i]:offsets[i + 1]`, in the order of the reflections.

    Parameters
    ----------
    reflection : array, shape (beams,), int64
        Which of the `Reflections` each beam is.
    excitation_error : array, shape (beams,), float64
        s_g in Å⁻¹, positive inside the Ewald sphere.
    offsets : array, shape (n + 1,), int64
        Start of every pattern, and the end of the last.
    """

    reflection: np.ndarray
    excitation_error: np.ndarray
    offsets: np.ndarray


def excitation_errors(g: Any, zone_axis: Any, wavelength: float, *, incidence: Any = None) -> Any:
    """Compute how far reciprocal lattice points lie from the Ewald sphere, along the foil normal.

    s_g = (2 g·u - λ g²) / (2 u·n - 2 λ g·n) with the foil normal n, the zone axis, and the beam along -u: from
    |k + g - s n| = |k|, k = -u/λ, to first order in s. Where u = n this is Eq. 2.71 of M. De Graef, Introduction to
    conventional TEM, 2003.

    Parameters
    ----------
    g : array, shape (r, 3), float64
        Reciprocal lattice vectors, Å⁻¹.
    zone_axis : array, shape (n, 3), float64
        Unit vectors.
    wavelength : float
        Å.
    incidence : array, shape (n, 3), float64, optional
        Unit vectors u towards the source; the zone axes if absent.

    Returns
    -------
    array, shape (n, r), float64
        Å⁻¹, positive inside the sphere; on the device of the vectors.
    """
    along_normal = _products(zone_axis, g)
    along_beam = along_normal if incidence is None else _products(incidence, g)
    cosine = 1.0 if incidence is None else (zone_axis * incidence).sum(axis=1)[:, None]
    return (2 * along_beam - wavelength * (g * g).sum(axis=1)) / (2 * cosine - 2 * wavelength * along_normal)


def select_beams(
    reflections: Reflections, zone_axis: np.ndarray, settings: Simulation, *, incidence: np.ndarray | None = None
) -> Beams:
    """Select the beams of every zone axis.

    Parameters
    ----------
    reflections : Reflections
        Of one crystal.
    zone_axis : array, shape (n, 3), float64
        Unit vectors in the crystal's Cartesian frame, normal to the foil.
    settings : Simulation
        Beam energy and largest excitation error.
    incidence : array, shape (n, 3), float64, optional
        Unit vectors towards the source; the zone axes if absent.

    Returns
    -------
    Beams
        The direct beam is among the beams of every pattern.
    """
    normal = np.ascontiguousarray(np.atleast_2d(zone_axis), dtype=np.float64)
    reflection, errors, counts = _select(
        reflections.g,
        np.sum(reflections.g * reflections.g, axis=1),
        normal,
        normal if incidence is None else np.ascontiguousarray(incidence, dtype=np.float64),
        incidence is not None,
        wavelength(settings.beam_energy, scattering=settings.scattering),
        settings.excitation_error_max * ON_THE_LIMIT,
        reflections.direct,
        reflections.address,
        reflections.couples,
        reflections.centre,
    )
    return Beams(reflection, errors, offsets_of(counts))


def _products(vectors: Any, g: Any) -> Any:
    """Scalar products, shape (n, r)."""
    # Written out, because the last digits of a matrix product depend on how many vectors there are.
    x, y, z = vectors.T[:, :, None]
    return x * g[:, 0] + y * g[:, 1] + z * g[:, 2]


def _equal_up_to_rounding(first: np.ndarray, second: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # a potential that is not finite is found by who uses it
        return bool(np.abs(first - second).max() <= _ROUNDED * np.abs(first).max())


def _resized(table: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Cut or fill with zeros, about the middle; all lengths are odd."""
    resized = np.zeros(shape, dtype=table.dtype)
    half = np.minimum(table.shape, shape) // 2
    take = tuple(slice(n // 2 - m, n // 2 + m + 1) for n, m in zip(table.shape, half, strict=True))
    put = tuple(slice(n // 2 - m, n // 2 + m + 1) for n, m in zip(shape, half, strict=True))
    resized[put] = table[take]
    return resized


@njit(nogil=True, cache=True)
def _select(g, squared_length, zone_axis, incidence, tilted, wavelength, limit, direct, address, couples, centre):
    """Excitation errors as of `excitation_errors`, to the bit, and the beams among them, pattern after pattern."""
    patterns, size = len(zone_axis), len(g)
    reflection = np.empty(1024, dtype=np.int64)
    error = np.empty(1024)
    counts = np.empty(patterns, dtype=np.int64)
    near = np.empty(size, dtype=np.int64)
    errors = np.empty(size)
    total = 0
    for pattern in range(patterns):
        n_x, n_y, n_z = zone_axis[pattern]
        u_x, u_y, u_z = incidence[pattern]
        cosine = n_x * u_x + n_y * u_y + n_z * u_z if tilted else 1.0
        count = 0
        for j in range(size):
            along_normal = n_x * g[j, 0] + n_y * g[j, 1] + n_z * g[j, 2]
            along_beam = u_x * g[j, 0] + u_y * g[j, 1] + u_z * g[j, 2]
            value = (2 * along_beam - wavelength * squared_length[j]) / (2 * cosine - 2 * wavelength * along_normal)
            if abs(value) <= limit:
                near[count] = j
                count += 1
                errors[j] = value
        count = _reachable(near[:count], direct, address, couples, centre)
        beams = np.sort(near[:count])
        while total + count > len(reflection):
            reflection = np.concatenate((reflection, np.empty_like(reflection)))
            error = np.concatenate((error, np.empty_like(error)))
        for position in range(count):
            reflection[total + position] = beams[position]
            error[total + position] = errors[beams[position]]
        counts[pattern] = count
        total += count
    return reflection[:total].copy(), error[:total].copy(), counts


@njit(nogil=True, cache=True)
def _reachable(beams, direct, address, couples, centre):
    """Move the beams that a chain of couplings connects with the direct beam to the front, and count them.

    A search through a graph with one list: the reached beams in front, the others behind. In a primitive cell the
    direct beam couples to nearly all, so little is left to search for after the first step.
    """
    for position in range(len(beams)):
        if beams[position] == direct:
            beams[position] = beams[0]
            beams[0] = direct
    reached = 1
    visited = 0
    while visited < reached < len(beams):
        from_here = centre + address[beams[visited]]
        for position in range(reached, len(beams)):
            other = beams[position]
            if couples[from_here - address[other]]:
                beams[position] = beams[reached]
                beams[reached] = other
                reached += 1
        visited += 1
    return reached
