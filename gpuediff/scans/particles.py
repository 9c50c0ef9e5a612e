"""Particles: connected regions of one crystal system in a map, each predicted as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from gpuediff.errors import InvalidScan
from gpuediff.features.preparation import remove_direct_beam, scale_intensity
from gpuediff.hierarchy.groups import predict_groups
from gpuediff.progress import Track, silent
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.scan import PATTERNS_PER_BATCH, Scan

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.hierarchy.prediction import Prediction

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
        a, b, c (Å), alpha, beta, gamma (degrees). Space group and lattice are by the models of the region's system.
    """

    crystal_system: np.ndarray
    confidence: np.ndarray
    difference_confidence: np.ndarray
    space_group_number: np.ndarray
    space_group_confidence: np.ndarray
    lattice: np.ndarray

    @classmethod
    def empty(cls, count: int) -> ParticlePredictions:
        """Make room for the predictions of `count` particles."""
        return cls(
            np.full(count, "", dtype="<U12"),
            np.full(count, np.nan, np.float32),
            np.full(count, np.nan, np.float32),
            np.zeros(count, np.int32),
            np.full(count, np.nan, np.float32),
            np.full((count, 6), np.nan, np.float32),
        )

    def fill(self, particles: np.ndarray, prediction: Prediction) -> None:
        """Enter predictions, one for each of the particles with these indices."""
        self.crystal_system[particles] = np.asarray(prediction.systems)[prediction.system_index]
        self.confidence[particles] = prediction.confidence
        self.difference_confidence[particles] = prediction.difference_confidence
        self.space_group_number[particles] = prediction.space_group_number
        self.space_group_confidence[particles] = prediction.space_group_confidence
        self.lattice[particles] = prediction.lattice


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
        From that pattern alone.
    by_aggregation : ParticlePredictions
        From all patterns of the particle together; of a feature block that describes several patterns by one lattice,
        from the `PATTERNS_POOLED` brightest.
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
    diffracted = _diffracted(scan, positions)
    first = np.flatnonzero(_brightest_of(diffracted, particle, 1))
    brightest = positions[first[np.argsort(particle[first])]]

    intensity_sum = float(maps.options["intensity_sum"] or 0)
    by_brightest, by_aggregation = ParticlePredictions.empty(len(system)), ParticlePredictions.empty(len(system))
    for index, members in track(list(_batches(system, size)), "predicting particles"):
        name = maps.systems[index]
        peaks = scale_intensity(scan.peaks[brightest[members]], intensity_sum)
        by_brightest.fill(members, hierarchy.predict(hierarchy.block.compute(peaks), crystal_system=name))
        inside = np.isin(particle, members)
        if hierarchy.block.pools:
            inside[inside] = _brightest_of(diffracted[inside], particle[inside], PATTERNS_POOLED)
        peaks, groups = scale_intensity(scan.peaks[positions[inside]], intensity_sum), particle[inside]
        by_aggregation.fill(members, predict_groups(hierarchy, peaks, groups, crystal_system=name))

    return Particles(
        labels,
        names,
        size,
        centroid,
        np.stack(np.divmod(brightest, scan.shape[1]), axis=1),
        by_brightest,
        by_aggregation,
        scan.step_size,
    )


def _diffracted(scan: Scan, positions: np.ndarray) -> np.ndarray:
    """Sum of all intensities but the direct beam's, (n,) float64."""
    diffracted = remove_direct_beam(scan.peaks[positions], "centre")
    return np.bincount(diffracted.pattern_of_peak, weights=diffracted.intensity, minlength=len(positions))


def _brightest_of(diffracted: np.ndarray, particle: np.ndarray, count: int) -> np.ndarray:
    """Choose each particle's patterns with most diffracted intensity, `count` of them at most, (n,) bool."""
    order = np.lexsort((-diffracted, particle))
    ordered = particle[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[rank < count]] = True
    return chosen


def _batches(system: np.ndarray, size: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Group particles of one system so that a batch has PATTERNS_PER_BATCH patterns, or is one larger particle."""
    batches = []
    for index in np.unique(system):
        members = np.flatnonzero(system == index)
        batch = (np.cumsum(size[members]) - 1) // PATTERNS_PER_BATCH
        batches += [(int(index), members[batch == number]) for number in np.unique(batch)]
    return batches
