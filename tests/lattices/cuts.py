"""Patterns made from a lattice and the Ewald sphere alone: no structure, no dynamical diffraction."""

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from gpuediff.lattices import refinement
from gpuediff.lattices.joint import Patterns
from gpuediff.peaks import PeakBatch

WAVELENGTH = 0.0196875  # Å, 300 keV


def random_lattice(rng, volume=(60, 250)):
    """A primitive cell, rows in Å, far from flat."""
    while True:
        rows = rng.normal(size=(3, 3))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rows *= rng.uniform(0.8, 1.3, size=(3, 1))
        if abs(np.linalg.det(rows)) > 0.5:
            return rows * (rng.uniform(*volume) / abs(np.linalg.det(rows))) ** (1 / 3)


def cut(direct, rotation, rng, *, thickness=200.0, g_max=1.6, weakest=1e-5, s_max=0.06, amplitude=None):
    """Places and intensities (peaks, 3), and the reciprocal basis in the detector frame.

    Every reflection has a strength of its own, which falls with |g|; its intensity is that of a thin crystal.
    `amplitude` says, of indices (n, 3), what the strengths are multiplied by.
    """
    basis = np.linalg.inv(direct).T @ rotation.T
    n = [np.arange(-reach, reach + 1) for reach in np.ceil(g_max * np.linalg.norm(direct, axis=1)).astype(int)]
    hkl = np.stack(np.meshgrid(*n, indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ basis
    size = np.linalg.norm(g, axis=1)
    s = (2 * g[:, 2] - WAVELENGTH * size**2) / (2 - 2 * WAVELENGTH * g[:, 2])
    seen = (size > 0) & (size < g_max) & (np.abs(s) < s_max)
    hkl, g, s, size = hkl[seen], g[seen], s[seen], size[seen]
    strength = 0.002 * np.exp(0.4 * rng.normal(size=len(g))) / (0.3 + size**2)
    if amplitude is not None:
        strength = strength * amplitude(hkl)
    width = np.hypot(s, 1 / thickness)  # without the zeros of sin², which a real crystal's wedge and bend smear out
    intensity = (strength / width) ** 2 / 10
    keep = intensity > weakest
    return np.column_stack([g[keep, :2], intensity[keep]]), basis


def patterns(count, seed, noise=0.0, **options):
    """Peaks of `count` random lattices at random orientations, and their reciprocal bases (count, 3, 3).

    No pattern is of one zone alone, which does not tell its lattice.
    """
    rng = np.random.default_rng(seed)
    lists, bases = [], []
    while len(lists) < count:
        peaks, basis = cut(random_lattice(rng), Rotation.random(random_state=rng).as_matrix(), rng, **options)
        if len(peaks) < 25 or outside_one_zone(peaks, basis) < 6:
            continue
        peaks[:, :2] += noise * rng.normal(size=(len(peaks), 2))
        lists.append(peaks)
        bases.append(basis)
    return PeakBatch.from_lists(lists), np.array(bases)


def gathered(lists):
    """Peaks (n, 3) of the patterns of a group, as the joint fit takes them: the strongest 60 of each first."""
    places, expected = [], []
    for peaks in lists:
        strongest = peaks[np.argsort(-peaks[:, 2])]
        share = strongest[:60, 2] / strongest[:, 2].sum()
        places.append(strongest[:60, :2])
        errors = np.empty(len(share))
        refinement.expected_errors(refinement.unit_errors(places[-1], share), refinement.SCALE, errors)
        expected.append(errors)
    starts = np.cumsum([0, *map(len, places)])
    return Patterns(np.ascontiguousarray(np.concatenate(places)), np.concatenate(expected), starts)


def outside_one_zone(peaks, basis):
    """How many of the 60 strongest reflections are not in the zone that holds most of them."""
    strongest = peaks[np.argsort(-peaks[:, 2])[:60], :2]
    n = np.arange(-9, 10)
    hkl = np.stack(np.meshgrid(n, n, n, indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ basis
    seen = np.abs(g[:, 2]) < 0.15
    nearest = KDTree(g[seen, :2]).query(strongest)[1]
    zones = hkl[np.abs(hkl).max(axis=1) <= 4]
    zones = zones[np.any(zones != 0, axis=1)]
    return len(strongest) - np.max(np.sum(hkl[seen][nearest] @ zones.T == 0, axis=0))


def steps_between(found, true, tolerance):
    """Integers that make the rows of `found` from those of `true`, in the detector plane; None if there are none.

    Many sums of three vectors come near a place of the plane; the nearest in height is meant.
    """
    n = np.arange(-9, 10)
    hkl = np.stack(np.meshgrid(n, n, n, indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ true
    rows = []
    for row in found:
        near = np.flatnonzero(np.hypot(*(g[:, :2] - row[:2]).T) < tolerance)
        if len(near) == 0:
            return None
        rows.append(hkl[near[np.argmin(np.abs(g[near, 2] - row[2]))]])
    return np.array(rows)
