"""From the peak lists of a scan to its maps.

The steps are those of Gleason et al., Phys. Rev. Mater. 8, 093802 (2024): patterns with too few peaks are dropped, the
others predicted one by one, the difference confidence of every crystal system is median-filtered as an image of its
own, and a probe position takes the system whose filtered image is largest there. A feature block that describes
several patterns by one lattice can take each with its neighbours: noise of positions falls with their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import median_filter

from gpuediff.errors import InvalidScan
from gpuediff.features.groups import Groups
from gpuediff.features.preparation import scale_intensity
from gpuediff.hierarchy.trained_on import intensity_sum_for
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.progress import Track, silent
from gpuediff.scans.maps import ScanMaps, Status
from gpuediff.scans.scan import PATTERNS_PER_BATCH, Scan
from gpuediff.scans.virtual import virtual_images

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.hierarchy.prediction import Prediction

NEIGHBOURS_MAX = 5  # rows and columns: 121 patterns

# Fields of `Prediction` and of `ScanMaps` alike.
_OF_SYSTEM = ("confidence", "difference_confidence", "probability")
_OF_STRUCTURE = ("space_group_confidence", "space_group_difference_confidence")
_LATTICES = ("lattice", "lattice_low", "lattice_high")


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
    error_rate: float | None = None,
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
    error_rate : float, optional
        Leave a probe position undecided unless its own pattern says what the filtered map says, and so surely that at
        most this share of such answers is wrong, by the hierarchy's validation materials; one of
        `gpuediff.hierarchy.calibration.ERROR_RATES`.
    track : Track, optional

    Returns
    -------
    ScanMaps
        A pattern that cannot be predicted keeps its place, with a status that says why.

    Raises
    ------
    InvalidScan
        If an option is out of range, or no pattern at all can be predicted.
    InvalidBundle
        If the hierarchy does not know from which probability on answers keep to the error rate.
    """
    intensity_sum = intensity_sum_for(hierarchy, intensity_sum)
    _check_options(intensity_sum, peaks_min, filter_size, difference_confidence_min, neighbours)
    if neighbours and not hierarchy.block.pools:
        raise InvalidScan(
            f"neighbours = {neighbours}: the model's features {hierarchy.block.name!r} describe every pattern by "
            f"itself: take 0, or a model of features 'lattice'"
        )
    least = 0.0 if error_rate is None else hierarchy.least_probability(error_rate, together=neighbours > 0)
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
        flags = hierarchy.flags(features, patterns=sizes)
        arrays["several_grains"][patterns], arrays["novelty"][patterns] = flags.several_grains, flags.novelty

    raw_system = arrays["raw_system"].reshape(scan.shape)
    difference = arrays["difference_confidence"].reshape(scan.shape)
    filtered_system, filtered_difference = filter_systems(raw_system, difference, len(systems), filter_size)
    dropped = (status == Status.PREDICTED) & ~(filtered_difference >= difference_confidence_min)
    dropped |= (status == Status.PREDICTED) & (filtered_system < 0)
    filtered_difference[status != Status.PREDICTED] = np.nan
    status[dropped] = Status.BELOW_CONFIDENCE
    if error_rate is not None:
        sure = (filtered_system == raw_system) & (arrays["probability"].reshape(scan.shape) >= least)
        status[(status == Status.PREDICTED) & ~sure] = Status.UNDECIDED
    filtered_system[status != Status.PREDICTED] = -1

    if lattice_system is None:
        # Where filtering changed the system, space group and lattice come from the models of the new one.
        changed = np.flatnonzero((filtered_system >= 0) & (filtered_system != raw_system))
        again = _features(scan.peaks, changed, there, neighbours, hierarchy, intensity_sum, track)
        for patterns, features, sizes in again:
            names = np.array(systems)[filtered_system.reshape(-1)[patterns]]
            _fill_structure(arrays, patterns, hierarchy.predict(features, patterns=sizes, crystal_system=names))
    _clear_structure(arrays, status.reshape(-1) != Status.PREDICTED)

    bright_field, dark_field = virtual_images(scan.peaks, scan.shape)
    return ScanMaps(
        systems=systems,
        status=status,
        n_peaks=np.asarray(scan.peaks.counts, dtype=np.int32).reshape(scan.shape),
        filtered_system=filtered_system,
        filtered_difference_confidence=filtered_difference,
        bright_field=bright_field,
        dark_field=dark_field,
        options={
            "intensity_sum": intensity_sum,
            "peaks_min": peaks_min,
            "filter_size": filter_size,
            "difference_confidence_min": difference_confidence_min,
            "lattice_system": lattice_system,
            "neighbours": neighbours,
            "error_rate": error_rate,
            "calibrated": hierarchy.calibration_ is not None,
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
    status = np.full(len(peaks), Status.PREDICTED, dtype=np.uint8)
    for start in range(0, len(peaks), PATTERNS_PER_BATCH):
        block = peaks[start : start + PATTERNS_PER_BATCH]
        possible = np.isfinite(block.qx) & np.isfinite(block.qy) & np.isfinite(block.intensity) & (block.intensity >= 0)
        faults = np.bincount(block.pattern_of_peak[~possible], minlength=len(block))
        lit = np.bincount(block.pattern_of_peak[possible & (block.intensity > 0)], minlength=len(block))
        part = status[start : start + PATTERNS_PER_BATCH]
        part[block.counts < peaks_min] = Status.TOO_FEW_PEAKS
        part[(faults > 0) | ((lit == 0) & (block.counts > 0))] = Status.INVALID_PEAKS
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
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((*_OF_SYSTEM, *_OF_STRUCTURE, "several_grains", "novelty"), ())
    shapes |= {"votes": (systems,)} | dict.fromkeys(_LATTICES, (6,))
    arrays = {name: np.full((count, *shape), np.nan, dtype=np.float32) for name, shape in shapes.items()}
    arrays["raw_system"] = np.full(count, -1, dtype=np.int16)
    arrays["space_group_number"] = np.zeros(count, dtype=np.int32)
    return arrays


def _fill(arrays: dict[str, np.ndarray], patterns: np.ndarray, prediction: Prediction) -> None:
    arrays["raw_system"][patterns] = prediction.system_index
    arrays["probability"][patterns] = prediction.system_probability
    arrays["votes"][patterns] = prediction.system_votes
    for name in ("confidence", "difference_confidence"):
        arrays[name][patterns] = getattr(prediction, name)
    _fill_structure(arrays, patterns, prediction)


def _fill_structure(arrays: dict[str, np.ndarray], patterns: np.ndarray, prediction: Prediction) -> None:
    for name in ("space_group_number", *_OF_STRUCTURE, *_LATTICES):
        arrays[name][patterns] = getattr(prediction, name)


def _clear_structure(arrays: dict[str, np.ndarray], patterns: np.ndarray) -> None:
    arrays["space_group_number"][patterns] = 0
    for name in (*_OF_STRUCTURE, *_LATTICES):
        arrays[name][patterns] = np.nan
