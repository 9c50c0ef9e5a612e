"""Maps of crystal system, space group and lattice over a 4D-STEM scan.

The steps are those of Gleason et al., Phys. Rev. Mater. 8, 093802 (2024): patterns with too few peaks are dropped, the
others predicted one by one, the difference confidence of every crystal system is median-filtered as an image of its
own, and a probe position takes the system whose filtered image is largest there. A feature block that describes
several patterns by one lattice can take each with its neighbours: noise of positions falls with their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import median_filter

from gpuediff.errors import InvalidScan
from gpuediff.features.groups import Groups
from gpuediff.features.preparation import scale_intensity
from gpuediff.hierarchy.trained_on import intensity_sum_for
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.progress import Track, silent
from gpuediff.scans.scan import Scan

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.hierarchy.prediction import Prediction

NEIGHBOURS_MAX = 5  # rows and columns: 121 patterns
PATTERNS_PER_BATCH = 16_384  # bounds the memory of features: 70 MB for the 1,066 of the paper


class Status(IntEnum):
    """What became of a probe position."""

    PREDICTED = 0
    TOO_FEW_PEAKS = 1
    INVALID_PEAKS = 2  # a value is not finite, an intensity negative, or all intensities zero
    BELOW_CONFIDENCE = 3  # predicted, but no system's filtered difference confidence is large enough


@dataclass(frozen=True)
class ScanMaps:
    """Predictions over all probe positions; every array has the scan's full shape.

    Where a pattern was not predicted, floats are NaN, system indices -1 and space group numbers 0.

    Parameters
    ----------
    systems : tuple of str
        Crystal systems that the indices count.
    status : array, shape (ny, nx), uint8
        `Status` of every probe position.
    n_peaks : array, shape (ny, nx), int32
        Peaks in the pattern, the direct beam included.
    raw_system : array, shape (ny, nx), int16
        System with most votes, before filtering; also where the status is BELOW_CONFIDENCE.
    filtered_system : array, shape (ny, nx), int16
        System after filtering; where the status is PREDICTED.
    confidence, difference_confidence : array, shape (ny, nx), float32
        Of `raw_system`: its share of the trees, and its lead over the next system.
    filtered_difference_confidence : array, shape (ny, nx), float32
        The largest filtered image.
    votes : array, shape (ny, nx, systems), float32
        Share of the trees.
    space_group_number : array, shape (ny, nx), int32
    space_group_confidence, space_group_difference_confidence : array, shape (ny, nx), float32
    lattice : array, shape (ny, nx, 6), float32
        a, b, c (Å), alpha, beta, gamma (degrees). Space group and lattice are by the models of `filtered_system`, or
        of `options["lattice_system"]`, and stand where the status is PREDICTED.
    options : dict
        What `map_scan` was asked for.
    source : str
        File and dataset of the scan.
    calibration : dict of str
        What was done to the stored positions.
    note : str
        What the reader of the scan had to assume.
    step_size : float, optional
        Distance between probe positions, Å.
    """

    systems: tuple[str, ...]
    status: np.ndarray
    n_peaks: np.ndarray
    raw_system: np.ndarray
    filtered_system: np.ndarray
    confidence: np.ndarray
    difference_confidence: np.ndarray
    filtered_difference_confidence: np.ndarray
    votes: np.ndarray
    space_group_number: np.ndarray
    space_group_confidence: np.ndarray
    space_group_difference_confidence: np.ndarray
    lattice: np.ndarray
    options: dict[str, float | int | str | None] = field(default_factory=dict)
    source: str = ""
    calibration: dict[str, str] = field(default_factory=dict)
    note: str = ""
    step_size: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Probe positions (ny, nx)."""
        return self.status.shape[0], self.status.shape[1]

    @property
    def crystal_system(self) -> np.ndarray:
        """Names of the filtered systems, shape (ny, nx), str; empty where there is none."""
        return np.array([*self.systems, ""])[self.filtered_system]

    def count(self, status: Status) -> int:
        """Count the probe positions of a status."""
        return int((self.status == status).sum())

    def raw_fractions(self) -> np.ndarray:
        """Share of each system among all patterns predicted, shape (systems,), float64; NaN if there are none."""
        return _shares(self.raw_system, np.ones(self.shape), len(self.systems))

    def weighted_fractions(self) -> np.ndarray:
        """Share of each system before filtering, a pattern counting by its difference confidence; NaN if none."""
        return _shares(self.raw_system, self.difference_confidence, len(self.systems))

    def filtered_fractions(self) -> np.ndarray:
        """Share of each system among the probe positions that passed the filter, shape (systems,); NaN if none did."""
        return _shares(self.filtered_system, np.ones(self.shape), len(self.systems))


def _shares(system: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    found = system >= 0
    sums = np.bincount(system[found], weights=weights[found], minlength=count)
    return sums / sums.sum() if sums.sum() > 0 else np.full(count, np.nan)


def map_scan(
    scan: Scan,
    hierarchy: Hierarchy,
    *,
    intensity_sum: float | None = None,
    peaks_min: int = 5,
    filter_size: int = 5,
    difference_confidence_min: float = 0.005,
    lattice_system: str | None = None,
    neighbours: int = 0,
    track: Track = silent,
) -> ScanMaps:
    """Predict every probe position of a scan.

    Parameters
    ----------
    scan : Scan
        Calibrated peaks, the direct beam among them.
    hierarchy : Hierarchy
        Fitted; its feature block removes the direct beam.
    intensity_sum : float, optional
        To which every pattern's intensities are scaled, the direct beam included: 0.3 in the paper; the median of
        the patterns that the hierarchy was trained on if absent.
    peaks_min : int
        Patterns with fewer peaks, the direct beam counted, are not predicted.
    filter_size : int
        Side of the median filter, in probe positions; 1 leaves the images as they are. The scan is mirrored at its
        edges.
    difference_confidence_min : float
        Probe positions whose filtered difference confidence is smaller are dropped.
    lattice_system : str, optional
        Crystal system whose models predict space group and lattice everywhere; each probe position's own if absent.
    neighbours : int
        Every pattern is described together with those at most so many rows and columns away; only by feature blocks
        that can.
    track : Track, optional

    Returns
    -------
    ScanMaps
        A pattern that cannot be predicted keeps its place, with a status that says why.

    Raises
    ------
    InvalidScan
        If an option is out of range, or no pattern at all can be predicted.
    """
    intensity_sum = intensity_sum_for(hierarchy, intensity_sum)
    _check_options(intensity_sum, peaks_min, filter_size, difference_confidence_min, neighbours)
    if neighbours and not hierarchy.block.pools:
        raise InvalidScan(
            f"neighbours = {neighbours}: the model's features {hierarchy.block.name!r} describe every pattern by "
            f"itself: take 0, or a model of features 'lattice'"
        )
    status = classify(scan.peaks, peaks_min).reshape(scan.shape)
    usable = np.flatnonzero(status == Status.PREDICTED)
    if not len(usable):
        counts = ", ".join(f"{int((status == kind).sum())} {kind.name.lower()}" for kind in Status if kind in status)
        raise InvalidScan(f"{scan.source}: none of the {status.size} patterns can be predicted ({counts})")

    arrays: dict[str, np.ndarray] = {}
    systems: tuple[str, ...] = ()
    there = status == Status.PREDICTED
    for patterns, features, sizes in _features(scan.peaks, usable, there, neighbours, hierarchy, intensity_sum, track):
        prediction = hierarchy.predict(features, patterns=sizes, crystal_system=lattice_system)
        if not arrays:
            systems = tuple(prediction.systems)
            arrays = _empty_arrays(status.size, len(systems))
        _fill(arrays, patterns, prediction)

    raw_system = arrays["raw_system"].reshape(scan.shape)
    difference = arrays["difference_confidence"].reshape(scan.shape)
    filtered_system, filtered_difference = filter_systems(raw_system, difference, len(systems), filter_size)
    dropped = (status == Status.PREDICTED) & ~(filtered_difference >= difference_confidence_min)
    dropped |= (status == Status.PREDICTED) & (filtered_system < 0)
    filtered_system[status != Status.PREDICTED] = -1
    filtered_difference[status != Status.PREDICTED] = np.nan
    status[dropped] = Status.BELOW_CONFIDENCE
    filtered_system[dropped] = -1

    if lattice_system is None:
        # Where filtering changed the system, space group and lattice come from the models of the new one.
        changed = np.flatnonzero((filtered_system >= 0) & (filtered_system != raw_system))
        again = _features(scan.peaks, changed, there, neighbours, hierarchy, intensity_sum, track)
        for patterns, features, sizes in again:
            names = np.array(systems)[filtered_system.reshape(-1)[patterns]]
            _fill_structure(arrays, patterns, hierarchy.predict(features, patterns=sizes, crystal_system=names))
    _clear_structure(arrays, status.reshape(-1) != Status.PREDICTED)

    return ScanMaps(
        systems=systems,
        status=status,
        n_peaks=np.asarray(scan.peaks.counts, dtype=np.int32).reshape(scan.shape),
        filtered_system=filtered_system,
        filtered_difference_confidence=filtered_difference,
        options={
            "intensity_sum": intensity_sum,
            "peaks_min": peaks_min,
            "filter_size": filter_size,
            "difference_confidence_min": difference_confidence_min,
            "lattice_system": lattice_system,
            "neighbours": neighbours,
        },
        source=scan.source,
        calibration=dict(scan.calibration),
        note=scan.note,
        step_size=scan.step_size,
        **{name: values.reshape(scan.shape + values.shape[1:]) for name, values in arrays.items()},
    )


def _check_options(
    intensity_sum: float, peaks_min: int, filter_size: int, difference_confidence_min: float, neighbours: int
) -> None:
    for name, value, fits, expected in (
        ("intensity_sum", intensity_sum, np.isfinite(intensity_sum) and intensity_sum > 0, "> 0"),
        ("peaks_min", peaks_min, peaks_min >= 1, ">= 1"),
        ("filter_size", filter_size, filter_size >= 1 and filter_size % 2 == 1, "odd and >= 1"),
        (
            "difference_confidence_min",
            difference_confidence_min,
            0 <= difference_confidence_min <= 1,
            "between 0 and 1",
        ),
        ("neighbours", neighbours, 0 <= neighbours <= NEIGHBOURS_MAX, f"between 0 and {NEIGHBOURS_MAX}"),
    ):
        if not fits:
            raise InvalidScan(f"{name} = {value}: must be {expected}")


def classify(peaks: PeakBatch, peaks_min: int) -> np.ndarray:
    """Tell which patterns can be predicted.

    Returns
    -------
    array, shape (n,), uint8
        `Status`: PREDICTED (so far), TOO_FEW_PEAKS or INVALID_PEAKS; the last where both hold.
    """
    possible = np.isfinite(peaks.qx) & np.isfinite(peaks.qy) & np.isfinite(peaks.intensity) & (peaks.intensity >= 0)
    faults = np.bincount(peaks.pattern_of_peak[~possible], minlength=len(peaks))
    lit = np.bincount(peaks.pattern_of_peak[possible & (peaks.intensity > 0)], minlength=len(peaks))
    status = np.full(len(peaks), Status.PREDICTED, dtype=np.uint8)
    status[peaks.counts < peaks_min] = Status.TOO_FEW_PEAKS
    status[(faults > 0) | ((lit == 0) & (peaks.counts > 0))] = Status.INVALID_PEAKS
    return status


def filter_systems(
    system: np.ndarray, difference_confidence: np.ndarray, systems: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Median-filter each system's image of difference confidence, and let the largest win.

    Parameters
    ----------
    system : array, shape (ny, nx), integer
        Winner of each probe position, -1 where there is none.
    difference_confidence : array, shape (ny, nx), float32
        Its lead; the image of a system holds it where that system won, and 0 elsewhere.
    systems : int
        Number of systems.
    size : int
        Side of the filter, in probe positions.

    Returns
    -------
    system : array, shape (ny, nx), int16
        -1 where all filtered images are 0.
    difference_confidence : array, shape (ny, nx), float32
        The largest filtered image.
    """
    largest = np.zeros(system.shape, dtype=np.float32)
    winner = np.full(system.shape, -1, dtype=np.int16)
    for index in range(systems):
        image = np.where(system == index, difference_confidence, np.float32(0))
        image = median_filter(image, size=size, mode="reflect")
        larger = image > largest
        largest[larger] = image[larger]
        winner[larger] = index
    return winner, largest


def _features(
    peaks: PeakBatch,
    patterns: np.ndarray,
    usable: np.ndarray,
    neighbours: int,
    hierarchy: Hierarchy,
    intensity_sum: float,
    track: Track,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield batches of pattern indices, their features, and how many patterns each is described together with."""
    starts = range(0, len(patterns), PATTERNS_PER_BATCH)
    for start in track(starts, "predicting patterns"):
        batch = patterns[start : start + PATTERNS_PER_BATCH]
        if not neighbours:
            yield batch, hierarchy.block.compute(scale_intensity(peaks[batch], intensity_sum)), None
            continue
        windows = neighbourhoods(batch, usable, neighbours)
        needed, members = np.unique(windows.members, return_inverse=True)
        scaled = scale_intensity(peaks[needed], intensity_sum)
        yield batch, hierarchy.block.compute(scaled, Groups(members, windows.offsets)), windows.sizes


def neighbourhoods(patterns: np.ndarray, usable: np.ndarray, reach: int) -> Groups:
    """Group each of some patterns, (m,) places in the flat scan, with those at most `reach` rows and columns away.

    Only patterns that are `usable`, (ny, nx) bool, are taken; the scan ends at its edges. The pattern itself comes
    first.
    """
    steps = np.array([(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)])
    steps = steps[np.argsort(np.abs(steps).sum(axis=1), kind="stable")]
    ny, nx = usable.shape
    row = patterns[:, np.newaxis] // nx + steps[:, 0]
    column = patterns[:, np.newaxis] % nx + steps[:, 1]
    inside = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
    inside[inside] = usable[row[inside], column[inside]]
    return Groups((row * nx + column)[inside], offsets_of(inside.sum(axis=1)))


def _empty_arrays(count: int, systems: int) -> dict[str, np.ndarray]:
    nothing = {"confidence": (), "difference_confidence": (), "votes": (systems,), "lattice": (6,)}
    nothing |= {"space_group_confidence": (), "space_group_difference_confidence": ()}
    arrays = {name: np.full((count, *shape), np.nan, dtype=np.float32) for name, shape in nothing.items()}
    arrays["raw_system"] = np.full(count, -1, dtype=np.int16)
    arrays["space_group_number"] = np.zeros(count, dtype=np.int32)
    return arrays


def _fill(arrays: dict[str, np.ndarray], patterns: np.ndarray, prediction: Prediction) -> None:
    arrays["raw_system"][patterns] = prediction.system_index
    arrays["confidence"][patterns] = prediction.confidence
    arrays["difference_confidence"][patterns] = prediction.difference_confidence
    arrays["votes"][patterns] = prediction.system_votes
    _fill_structure(arrays, patterns, prediction)


def _fill_structure(arrays: dict[str, np.ndarray], patterns: np.ndarray, prediction: Prediction) -> None:
    arrays["space_group_number"][patterns] = prediction.space_group_number
    arrays["space_group_confidence"][patterns] = prediction.space_group_confidence
    arrays["space_group_difference_confidence"][patterns] = prediction.space_group_difference_confidence
    arrays["lattice"][patterns] = prediction.lattice


def _clear_structure(arrays: dict[str, np.ndarray], patterns: np.ndarray) -> None:
    arrays["space_group_number"][patterns] = 0
    for name in ("space_group_confidence", "space_group_difference_confidence", "lattice"):
        arrays[name][patterns] = np.nan
