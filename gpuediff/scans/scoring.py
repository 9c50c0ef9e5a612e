"""Maps of a simulated scan against what it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.particles import Particles
from gpuediff.scans.simulated import Truth

LATTICE_TOLERANCE = 0.1  # Å, within which a length counts as right

# Zone axes of a cubic crystal along which patterns are easily taken for those of other crystals.
ZONE_AXES = {"<111>": (1, 1, 1), "<110>": (1, 1, 0), "<100>": (1, 0, 0)}
ZONE_AXIS_MAX = 10.0  # degrees from the beam


@dataclass(frozen=True)
class Score:
    """How many answers are right, of those that there are.

    Parameters
    ----------
    there : int
        Probe positions, or particles, with crystal.
    answered : int
        Of these, with a crystal system.
    right : int
        Of the answered, with the right one.
    near : int
        Of the right, with a within `LATTICE_TOLERANCE`.
    """

    there: int
    answered: int
    right: int
    near: int


def score_positions(maps: ScanMaps, truth: Truth, *, where: np.ndarray | None = None) -> Score:
    """Score the labels of the map, of all probe positions with crystal or of those `where`, (ny, nx) bool.

    Raises
    ------
    InvalidScan
        If map and truth are of different shapes.
    """
    crystal = _crystal(maps, truth) if where is None else _crystal(maps, truth) & where
    answered = crystal & (maps.filtered_system >= 0)
    right = answered & (maps.crystal_system == truth.crystal_system)
    near = right & (np.abs(maps.lattice[..., 0] - truth.crystal.conventional[0]) <= LATTICE_TOLERANCE)
    return Score(*(int(mask.sum()) for mask in (crystal, answered, right, near)))


def false_labels(maps: ScanMaps, truth: Truth) -> tuple[int, int]:
    """Count the probe positions without crystal that got a label, and all without crystal."""
    film = ~_crystal(maps, truth)
    return int((film & (maps.filtered_system >= 0)).sum()), int(film.sum())


def score_particles(particles: Particles, truth: Truth, *, pooled: bool = False) -> Score:
    """Score what the regions of a map answer by all votes, or described together; regions mostly of film do not count.

    Raises
    ------
    InvalidScan
        If their patterns were not described together.
    """
    predicted = particles.by_pooling if pooled else particles.by_aggregation
    if predicted is None:
        raise InvalidScan("the particles' patterns were not described together: take a model of features 'lattice'")
    inside = particles.labels > 0
    region = particles.labels[inside] - 1
    crystal = np.bincount(region, weights=truth.grain[inside] >= 0, minlength=len(particles)) > particles.size / 2
    right = crystal & (predicted.crystal_system == truth.crystal.crystal_system)
    near = right & (np.abs(predicted.lattice[:, 0] - truth.crystal.conventional[0]) <= LATTICE_TOLERANCE)
    return Score(int(crystal.sum()), int(crystal.sum()), int(right.sum()), int(near.sum()))


def zone_axis_angles(truth: Truth) -> dict[str, np.ndarray]:
    """Angle between the beam and the nearest zone axis of each kind, (ny, nx) degrees; NaN without crystal.

    The crystal is cubic; kinds are those of `ZONE_AXES`.
    """
    beam = truth.orientation[:, 2]
    angles = {}
    for name, indices in ZONE_AXES.items():
        # The largest of all equivalents' cosines: sorted magnitudes against sorted indices.
        cosine = np.sort(np.abs(beam), axis=1) @ np.sort(indices) / np.linalg.norm(indices)
        of_grain = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        angles[name] = np.where(truth.grain >= 0, of_grain[truth.grain], np.nan)
    return angles


def answers_near_zone_axes(maps: ScanMaps, truth: Truth) -> dict[str, dict[str, int]]:
    """Count the systems that single patterns of crystal got, by the zone axis within `ZONE_AXIS_MAX` of the beam.

    Returns
    -------
    dict of str to dict
        Kind of the nearest zone axis, "between" where none is near; system to number of patterns, before filtering.
    """
    angles = zone_axis_angles(truth)
    nearest = np.stack(list(angles.values()))
    kind = np.where(nearest.min(axis=0) <= ZONE_AXIS_MAX, nearest.argmin(axis=0), len(angles))
    kind[(truth.grain < 0) | (maps.raw_system < 0)] = -1
    return {
        name: {system: int(((kind == k) & (maps.raw_system == s)).sum()) for s, system in enumerate(maps.systems)}
        for k, name in enumerate((*angles, "between"))
    }


def _crystal(maps: ScanMaps, truth: Truth) -> np.ndarray:
    if maps.shape != truth.grain.shape:
        raise InvalidScan(f"maps of {maps.shape} probe positions against a truth of {truth.grain.shape}")
    return truth.grain >= 0
