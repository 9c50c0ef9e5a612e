"""Particles: connected regions of one crystal system in a map, each predicted as a whole."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from gpuediff.errors import InvalidScan
from gpuediff.features.preparation import scale_intensity
from gpuediff.hierarchy.aggregation import median_aggregation
from gpuediff.hierarchy.groups import predict_groups
from gpuediff.progress import Track, silent
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.scan import PATTERNS_PER_BATCH, Scan

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy

PATTERNS_POOLED = 20  # of a particle, described together; more say little that is new
TOUCHING = np.ones((3, 3), dtype=int)  # probe positions that share an edge or a corner are connected


@dataclass(frozen=True)
class ParticlePredictions:
    """What a prediction says about each of p particles.

    Parameters
    ----------
    crystal_system : array, shape (p,), str
        System with most votes; it may differ from that of the region.
    confidence, difference_confidence : array, shape (p,), float32
        Of that system.
    space_group_number : array, shape (p,), int32
    space_group_confidence : array, shape (p,), float32
    lattice : array, shape (p, 6), float32
        a, b, c (Å), alpha, beta, gamma (degrees). Space group and lattice are by the models of the region's system;
        where patterns were described together (`Particles.by_pooling`), by those of the answer.
    """

    crystal_system: np.ndarray
    confidence: np.ndarray
    difference_confidence: np.ndarray
    space_group_number: np.ndarray
    space_group_confidence: np.ndarray
    lattice: np.ndarray


@dataclass(frozen=True)
class Particles:
    """Particles of a scan, largest first.

    Parameters
    ----------
    labels : array, shape (ny, nx), int32
        Particle of every probe position, 1 .. p; 0 where there is none.
    crystal_system : array, shape (p,), str
        System of the region.
    size : array, shape (p,), int64
        Number of probe positions.
    centroid : array, shape (p, 2), float64
        Row and column, in probe positions.
    brightest : array, shape (p, 2), int64
        Row and column of the pattern with most diffracted intensity: the sum of all peaks but the direct beam, as
        stored in the scan.
    by_brightest : ParticlePredictions
        What the maps say there.
    by_aggregation : ParticlePredictions
        From all patterns of the particle, by adding up what the maps say of each: the difference aggregation of
        `gpuediff.hierarchy.aggregation`, and medians of the lattices that there are.
    by_pooling : ParticlePredictions, optional
        From the `PATTERNS_POOLED` brightest, described together by one lattice; by feature blocks that can. Better
        than votes where single patterns say little, and worse where twins or few peaks leave no lattice to be found.
    step_size : float, optional
        Distance between probe positions, Å.
    """

    labels: np.ndarray
    crystal_system: np.ndarray
    size: np.ndarray
    centroid: np.ndarray
    brightest: np.ndarray
    by_brightest: ParticlePredictions
    by_aggregation: ParticlePredictions
    by_pooling: ParticlePredictions | None = None
    step_size: float | None = None

    def __len__(self) -> int:
        return len(self.size)


def label_particles(maps: ScanMaps, size_min: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Find connected regions of one filtered system.

    Parameters
    ----------
    maps : ScanMaps
    size_min : int
        Smaller regions are no particles; number of probe positions.

    Returns
    -------
    labels : array, shape (ny, nx), int32
        1 .. p from the largest to the smallest region, 0 elsewhere. Probe positions are connected if they
        share an edge or a corner. Regions of the same size are ordered by system, then by row.
    system : array, shape (p,), int64
        Index into `maps.systems`.
    """
    labels = np.zeros(maps.shape, dtype=np.int32)
    system: list[int] = []
    for index in range(len(maps.systems)):
        regions, count = ndimage.label(maps.filtered_system == index, structure=TOUCHING)
        labels[regions > 0] = regions[regions > 0] + len(system)
        system += [index] * count
    sizes = np.bincount(labels.reshape(-1), minlength=len(system) + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= size_min]
    rank = np.zeros(len(system) + 1, dtype=np.int32)
    rank[order + 1] = np.arange(1, len(order) + 1)
    return rank[labels], np.array(system, dtype=np.int64)[order]


def innermost(labels: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Find the probe position of each of the first `count` particles that is farthest from its edge: row and column.

    A centroid may lie outside.

    Parameters
    ----------
    labels : array, shape (ny, nx), int32
        Of `Particles`.
    """
    places = []
    for number, box in enumerate(ndimage.find_objects(labels)[:count], start=1):
        depth = ndimage.distance_transform_edt(np.pad(labels[box] == number, 1))
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        places.append((int(row) - 1 + box[0].start, int(column) - 1 + box[1].start))
    return places


def find_particles(
    scan: Scan, maps: ScanMaps, hierarchy: Hierarchy, *, size_min: int = 5, track: Track = silent
) -> Particles:
    """Find the particles of a mapped scan and predict each as a whole.

    Parameters
    ----------
    scan : Scan
        The scan that was mapped.
    maps : ScanMaps
        Its maps, from `map_scan` with the same hierarchy.
    hierarchy : Hierarchy
    size_min : int
        Of the smallest particle; number of probe positions.
    track : Track, optional

    Returns
    -------
    Particles

    Raises
    ------
    InvalidScan
        If the maps are not of this scan's shape, or `size_min` < 1.
    """
    if maps.shape != scan.shape:
        raise InvalidScan(f"{scan.source}: {scan.shape} probe positions, but the maps have {maps.shape}")
    if size_min < 1:
        raise InvalidScan(f"size_min = {size_min}: must be >= 1 probe position")
    labels, system = label_particles(maps, size_min)
    names = np.array(maps.systems)[system]
    positions = np.flatnonzero(labels)
    particle = labels.reshape(-1)[positions] - 1
    size = np.bincount(particle, minlength=len(system))
    row, column = np.divmod(positions, scan.shape[1])
    sums = [np.bincount(particle, weights=axis, minlength=len(system)) for axis in (row, column)]
    centroid = np.stack(sums, axis=1) / size[:, None]
    diffracted = maps.dark_field.reshape(-1)[positions]
    first = np.flatnonzero(_brightest_of(diffracted, particle, 1))
    brightest = positions[first[np.argsort(particle[first])]]
    pooled = None
    if hierarchy.block.pools and len(system):
        chosen = _brightest_of(diffracted, particle, PATTERNS_POOLED)
        pooled = _pooled(scan, maps, hierarchy, positions[chosen], particle[chosen], track)
    return Particles(
        labels,
        names,
        size,
        centroid,
        np.stack(np.divmod(brightest, scan.shape[1]), axis=1),
        _of_positions(maps, brightest),
        _added_up(maps, positions, particle, len(system)),
        pooled,
        scan.step_size,
    )


def _of_positions(maps: ScanMaps, positions: np.ndarray) -> ParticlePredictions:
    """Take what the maps say at one flat position of each particle."""

    def at(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, *values.shape[2:])[positions]

    return ParticlePredictions(
        np.array([*maps.systems, ""])[at(maps.raw_system)],
        at(maps.confidence),
        at(maps.difference_confidence),
        at(maps.space_group_number),
        at(maps.space_group_confidence),
        at(maps.lattice),
    )


def _added_up(maps: ScanMaps, positions: np.ndarray, particle: np.ndarray, count: int) -> ParticlePredictions:
    """Add up what the maps say of all patterns, (n,) flat positions and the particle of each."""
    patterns = _of_positions(maps, positions)
    index = maps.raw_system.reshape(-1)[positions]
    leads = patterns.difference_confidence
    system, share, lead = _winners(index, leads, len(maps.systems), particle, count)
    numbers = np.unique(maps.space_group_number)
    place = np.searchsorted(numbers, patterns.space_group_number)
    leads = maps.space_group_difference_confidence.reshape(-1)[positions]
    group, group_share, _ = _winners(place, leads, len(numbers), particle, count)
    lattice = np.full((count, patterns.lattice.shape[1]), np.nan, dtype=np.float32)
    found = np.isfinite(patterns.lattice).all(axis=1)
    known, member = np.unique(particle[found], return_inverse=True)
    for column, values in enumerate(patterns.lattice[found].T):
        lattice[known, column] = median_aggregation(values, member, len(known))
    return ParticlePredictions(
        np.array(maps.systems)[system],
        share,
        lead,
        numbers[group],
        group_share,
        lattice,
    )


def _winners(
    index: np.ndarray, lead: np.ndarray, classes: int, particle: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum each class's leads over the patterns that it wins, (count,) class, share and lead over the next.

    Where no pattern of a particle has a lead, each counts as one.
    """
    lead = np.where(np.bincount(particle, weights=lead, minlength=count)[particle] > 0, lead, 1.0)
    # Shares of trees are sums of a few hundred equal parts: rounding must not decide between equals.
    sums = np.bincount(particle * classes + index, weights=lead, minlength=count * classes).reshape(count, classes)
    share = (sums / sums.sum(axis=1, keepdims=True)).round(6)
    winner = share.argmax(axis=1)
    ordered = np.sort(np.pad(share, ((0, 0), (1, 0))), axis=1)  # where there is one class, the second has nothing
    return winner, ordered[:, -1].astype(np.float32), (ordered[:, -1] - ordered[:, -2]).astype(np.float32)


def _pooled(
    scan: Scan,
    maps: ScanMaps,
    hierarchy: Hierarchy,
    positions: np.ndarray,
    particle: np.ndarray,
    track: Track,
) -> ParticlePredictions:
    """Describe each particle's patterns together, and predict from that."""
    parts = []
    order = np.argsort(particle, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(particle[order])) + 1, len(order))
    last = np.append(np.diff(ends // PATTERNS_PER_BATCH) > 0, True)
    batches = list(pairwise([0, *ends[last].tolist()]))
    for start, end in track(batches, "predicting particles"):
        rows = order[start:end]
        peaks = scale_intensity(scan.peaks[positions[rows]], float(maps.options["intensity_sum"] or 0))
        parts.append(predict_groups(hierarchy, peaks, particle[rows]))

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return ParticlePredictions(**{field.name: joined(field.name) for field in fields(ParticlePredictions)})


def _brightest_of(diffracted: np.ndarray, particle: np.ndarray, count: int) -> np.ndarray:
    """Choose each particle's patterns with most diffracted intensity, `count` of them at most, (n,) bool."""
    order = np.lexsort((-diffracted, particle))
    ordered = particle[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[rank < count]] = True
    return chosen
