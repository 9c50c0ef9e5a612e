"""Reflections that should be there and are weak: what glide planes and screw axes leave behind in dynamical patterns.

Multiple scattering puts intensity where a structure factor is zero, but off the zone axes little of it. So nothing is
called extinct here: for each condition of the International Tables (A, 1.6.4) the strength of the reflections that
break it is compared with that of the others on the same plane or line, over all patterns of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from gpuediff.lattices.pooling import Pooled
from gpuediff.lattices.reflections import REACH, brightness, reflections_of_pattern
from gpuediff.peaks import PeakBatch
from gpuediff.settings import CrystalSystem

S_MAX = 0.01  # Å⁻¹, of their excitation errors: beyond, even strong reflections are often not seen
FAINT = 1e-3  # of the mean strength, added to both sides of a ratio

# Lines and planes of reflections, with the two indices (u, v) that are left free on them.
AXIS_H, AXIS_K, AXIS_L, PLANE_KL, PLANE_HL, PLANE_HK = range(6)  # h00, 0k0, 00l: u; 0kl, h0l, hk0: u, v as written
TWO_AXES, TWO_PLANES, DIAGONAL = range(6, 9)  # tetragonal: h00 and 0k0; 0kl and h0l; hhl
HEX_PLANES, HEX_DIAGONALS = range(9, 11)  # h0l, 0kl, h-hl; hhl, h-2hl, -2hhl
CUBIC_AXES, CUBIC_PLANES, CUBIC_DIAGONALS = range(11, 14)


@dataclass(frozen=True)
class Condition:
    """Reflections of a zone whose `u`, `v` do not make `multiples · (u, v)` a multiple of `modulus` are weak."""

    name: str
    zone: int
    multiples: tuple[int, int]
    modulus: int


def _screws(name: str, zone: int, *moduli: int) -> tuple[Condition, ...]:
    return tuple(Condition(f"{name}_{n}", zone, (1, 0), n) for n in moduli)


def _glides(name: str, zone: int, first: str, second: str, *, diamond: bool = False) -> tuple[Condition, ...]:
    glides = [
        Condition(f"{name}_{first}", zone, (1, 0), 2),
        Condition(f"{name}_{second}", zone, (0, 1), 2),
        Condition(f"{name}_{first}{second}", zone, (1, 1), 2),
    ]
    return (*glides, *([Condition(f"{name}_{first}{second}_4", zone, (1, 1), 4)] if diamond else []))


CONDITIONS: dict[CrystalSystem, tuple[Condition, ...]] = {
    "triclinic": (),
    "monoclinic": (*_screws("0k0", AXIS_K, 2), *_glides("h0l", PLANE_HL, "h", "l")),
    "orthorhombic": (
        *_screws("h00", AXIS_H, 2),
        *_screws("0k0", AXIS_K, 2),
        *_screws("00l", AXIS_L, 2),
        *_glides("0kl", PLANE_KL, "k", "l", diamond=True),
        *_glides("h0l", PLANE_HL, "h", "l", diamond=True),
        *_glides("hk0", PLANE_HK, "h", "k", diamond=True),
    ),
    "tetragonal": (
        *_screws("00l", AXIS_L, 2, 4),
        *_screws("h00", TWO_AXES, 2),
        *_glides("0kl", TWO_PLANES, "k", "l"),
        *_glides("hk0", PLANE_HK, "h", "k"),
        Condition("hhl_l", DIAGONAL, (0, 1), 2),
        Condition("hhl_2hl_4", DIAGONAL, (2, 1), 4),
    ),
    "trigonal": (
        *_screws("00l", AXIS_L, 2, 3),
        Condition("h0l_l", HEX_PLANES, (0, 1), 2),
        Condition("hhl_l", HEX_DIAGONALS, (0, 1), 2),
    ),
    "hexagonal": (
        *_screws("00l", AXIS_L, 2, 3),
        Condition("h0l_l", HEX_PLANES, (0, 1), 2),
        Condition("hhl_l", HEX_DIAGONALS, (0, 1), 2),
    ),
    "cubic": (
        *_screws("h00", CUBIC_AXES, 2, 4),
        *_glides("0kl", CUBIC_PLANES, "k", "l", diamond=True),
        Condition("hhl_l", CUBIC_DIAGONALS, (0, 1), 2),
        Condition("hhl_2hl_4", CUBIC_DIAGONALS, (2, 1), 4),
    ),
}


@dataclass(frozen=True, eq=False)
class Strengths:
    """How strong the reflections are that break each condition of a system.

    Parameters
    ----------
    ratio : array, shape (m, conditions), float64
        Decimal logarithm of the mean strength of those that break it over that of those on the same line or plane
        that do not; NaN where there are not both.
    breaking : array, shape (m, conditions), int64
        Number of times that a reflection that breaks it was near the Ewald sphere.
    """

    ratio: np.ndarray
    breaking: np.ndarray


def strengths(
    peaks: PeakBatch,
    members: np.ndarray,
    group: np.ndarray,
    found: Pooled,
    transformations: Mapping[CrystalSystem, np.ndarray],
    *,
    wavelength: float,
) -> dict[CrystalSystem, Strengths]:
    """Compare reflections of groups of patterns by the conditions of crystal systems.

    A reflection's strength is its intensity, freed of the mean effect of excitation error and |q| (see
    `gpuediff.lattices.refinement`), as a multiple of the mean of its pattern. A reflection near the Ewald sphere
    without a peak has the strength zero.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns.
    members : array, shape (k,), int64
        Pattern of every member of a group.
    group : array, shape (k,), int64
        Its group, rising.
    found : Pooled
        Lattices of m groups.
    transformations : mapping of crystal system to array, shape (m, 3, 3), integers
        Rows of the system's conventional basis in terms of the basis dual to that of `found.metric`; 0 where there is
        none.
    wavelength : float
        Å.

    Returns
    -------
    dict of crystal system to Strengths
    """
    systems = tuple(transformations)
    table = np.array(
        [(s, c.zone, *c.multiples, c.modulus) for s, system in enumerate(systems) for c in CONDITIONS[system]],
        dtype=np.int64,
    ).reshape(-1, 5)
    changes = np.array([transformations[system] for system in systems], dtype=np.float64)
    sums, counts = np.zeros((len(found), len(table), 2)), np.zeros((len(found), len(table), 2), np.int64)
    _sum_groups(
        np.ascontiguousarray(peaks.qx, dtype=np.float64),
        np.ascontiguousarray(peaks.qy, dtype=np.float64),
        np.ascontiguousarray(peaks.intensity, dtype=np.float64),
        peaks.offsets,
        members,
        np.searchsorted(group, np.arange(len(found) + 1)),
        found.rows,
        found.centre,
        found.scale,
        found.noise,
        changes,
        table,
        wavelength,
        sums,
        counts,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / counts + FAINT
        ratio = np.log10(mean[..., 1] / mean[..., 0])
    return {
        system: Strengths(ratio[:, table[:, 0] == s], counts[:, table[:, 0] == s, 1])
        for s, system in enumerate(systems)
    }


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _sum_groups(
    qx, qy, intensity, offsets, members, starts, rows, centre, scale, noise, changes,
    table, wavelength, sums, counts,
):  # fmt: skip
    for g in prange(len(starts) - 1):
        for m in range(starts[g], starts[g + 1]):
            if not np.isfinite(rows[m, 0, 0]):
                continue
            own = slice(offsets[members[m]], offsets[members[m] + 1])
            places = np.stack((qx[own] - centre[m, 0], qy[own] - centre[m, 1]), axis=1) / scale[m]
            _sum_pattern(
                places, intensity[own], rows[m], changes[:, g], table, wavelength, REACH * noise[g], sums[g], counts[g]
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_pattern(places, intensity, rows, changes, table, wavelength, reach, sums, counts):
    hkl, strength = strengths_of_pattern(places, intensity, rows, wavelength, reach)
    indices = np.empty((len(changes), 3), np.int64)
    for r in range(len(hkl)):
        for s in range(len(changes)):
            for i in range(3):
                value = changes[s, i, 0] * hkl[r, 0] + changes[s, i, 1] * hkl[r, 1] + changes[s, i, 2] * hkl[r, 2]
                indices[s, i] = int(np.rint(value))
        for c in range(len(table)):
            h, k, l = indices[table[c, 0]]
            on, u, v = free_indices(table[c, 1], h, k, l)
            if on:
                breaks = int((table[c, 2] * u + table[c, 3] * v) % table[c, 4] != 0)
                sums[c, breaks] += strength[r]
                counts[c, breaks] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def strengths_of_pattern(places, intensity, rows, wavelength, reach):
    """Reflections near the Ewald sphere, (n, 3), and their strengths as multiples of their mean, (n,)."""
    hkl, square, s, peak = reflections_of_pattern(places, rows, wavelength, reach, S_MAX)
    strength = np.zeros(len(hkl))
    total = 0.0
    for r in range(len(hkl)):
        if peak[r] >= 0:
            spread, steep = brightness(square[r], s[r])
            strength[r] = intensity[peak[r]] * spread * steep
            total += strength[r]
    if total > 0:
        strength *= len(hkl) / total
    return hkl, strength


@njit(cache=True, nogil=True, error_model="numpy")
def free_indices(zone, h, k, l):
    """Whether a reflection is of a zone, and the two indices that are left free there."""
    if h == 0 and k == 0 and l == 0:
        return False, 0, 0
    if zone == AXIS_H:
        return k == 0 and l == 0, h, 0
    if zone == AXIS_K:
        return h == 0 and l == 0, k, 0
    if zone == AXIS_L:
        return h == 0 and k == 0, l, 0
    if zone == PLANE_KL:
        return h == 0, k, l
    if zone == PLANE_HL:
        return k == 0, h, l
    if zone == PLANE_HK:
        return l == 0, h, k
    if zone == TWO_AXES:
        return l == 0 and h * k == 0, h + k, 0
    if zone == TWO_PLANES:
        return h * k == 0, h + k, l
    if zone == DIAGONAL:
        return h == k or h == -k, h, l
    if zone == HEX_PLANES:
        return h == 0 or k == 0 or h == -k, h if h != 0 else k, l
    if zone == HEX_DIAGONALS:
        return h == k or h == -2 * k or k == -2 * h, h, l
    return _cubic_free_indices(zone, abs(h), abs(k), abs(l))


@njit(cache=True, nogil=True, error_model="numpy")
def _cubic_free_indices(zone, h, k, l):
    zeros = int(h == 0) + int(k == 0) + int(l == 0)
    if zone == CUBIC_AXES:
        return zeros == 2, h + k + l, 0
    if zone == CUBIC_PLANES:
        # Cyclic, so that the glides b and c of the class m-3 do not mix.
        if h == 0:
            return True, k, l
        if k == 0:
            return True, l, h
        return l == 0, h, k
    if h == k:
        return True, h, l
    if k == l:
        return True, k, h
    return h == l, h, k
