"""Measured against simulated features: do the patterns of a scan lie where the model was trained?

The features of both are projected on the first principal components of the simulated ones, as in Gleason et al., Phys.
Rev. Mater. 8, 093802 (2024). Patterns that lie outside all that is simulated get an answer from a forest too, and it
means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from gpuediff.errors import InvalidFeatures
from gpuediff.features.labelled import labelled_features
from gpuediff.features.preparation import scale_intensity
from gpuediff.progress import Track, silent

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.library.reader import Library
    from gpuediff.scans.maps import ScanMaps
    from gpuediff.scans.scan import Scan

ROWS_PER_BLOCK = 8_192  # bounds the float64 copies: 70 MB for the 1,066 features of the paper
CLIP = 5.0  # standard deviations, beyond which one value of one feature says no more
QUARTILES_OF_NORMAL = 1.3489795  # between the quartiles of a normal distribution of standard deviation 1


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of simulated features, and where simulated and measured patterns lie on them.

    Parameters
    ----------
    reference : array, shape (n, k), float64
        Simulated patterns.
    scan : array, shape (m, k), float64
        Measured patterns.
    explained : array, shape (k,), float64
        Share of the variance of the scaled reference features along each component.
    axes : array, shape (k, used), float64
        Unit vectors in the scaled features; the largest coefficient of each is positive.
    columns : array, shape (used,), int64
        Features that take part: those that vary among the simulated patterns.
    """

    reference: np.ndarray
    scan: np.ndarray
    explained: np.ndarray
    axes: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True, eq=False)
class RobustScaling:
    """Centre and width of every feature that varies, little moved by a few patterns far from the others.

    Parameters
    ----------
    columns : array, shape (used,), int64
        Features whose finite values vary.
    centre, width : array, shape (used,), float64
        Median, and the distance of the quartiles as the standard deviation of a normal distribution; the standard
        deviation where the quartiles are equal, as in features that are mostly 0.
    """

    columns: np.ndarray
    centre: np.ndarray
    width: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> RobustScaling:
        """Learn the scaling from features, shape (n, width).

        Raises
        ------
        InvalidFeatures
            If no feature varies.
        """
        columns, centres, widths = [], [], []
        for column in range(features.shape[1]):
            values = np.asarray(features[:, column], dtype=np.float64)
            values = values[np.isfinite(values)]
            if not len(values) or values.min() == values.max():
                continue
            lower, centre, upper = np.percentile(values, (25, 50, 75))
            columns.append(column)
            centres.append(centre)
            widths.append((upper - lower) / QUARTILES_OF_NORMAL if upper > lower else values.std())
        if not columns:
            raise InvalidFeatures(
                f"reference: none of {features.shape[1]} features varies among {len(features)} patterns: take more "
                f"patterns, of several materials"
            )
        return cls(np.array(columns, dtype=np.int64), np.array(centres), np.array(widths))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Scale features, shape (n, width) -> (n, used), float64, |values| <= CLIP; what is not finite becomes 0."""
        scaled = (np.asarray(features, dtype=np.float64)[:, self.columns] - self.centre) / self.width
        return np.clip(np.where(np.isfinite(scaled), scaled, 0.0), -CLIP, CLIP)


def principal_components(reference: np.ndarray, scan: np.ndarray, k: int = 2) -> Components:
    """Project measured features on the principal components of simulated ones.

    Parameters
    ----------
    reference : array, shape (n, width)
        Features of simulated patterns; those that are not finite count as the feature's median.
    scan : array, shape (m, width)
        Features of measured patterns, of the same block.
    k : int
        Number of components.

    Returns
    -------
    Components

    Raises
    ------
    InvalidFeatures
        If the widths differ, no feature varies, or fewer than k components exist.
    """
    if reference.ndim != 2 or scan.ndim != 2 or reference.shape[1] != scan.shape[1]:
        raise InvalidFeatures(
            f"reference {reference.shape} and scan {scan.shape}: expected (n, width) and (m, width), one feature block"
        )
    scaling = RobustScaling.fit(reference)
    available = min(len(reference) - 1, len(scaling.columns))
    if not 1 <= k <= available:
        raise InvalidFeatures(
            f"k = {k}: {len(reference)} patterns and {len(scaling.columns)} features that vary allow 1 .. {available}"
        )
    mean = sum(scaling.apply(block).sum(axis=0) for block in _blocks(reference)) / len(reference)
    covariance = np.zeros((len(mean), len(mean)))
    for block in _blocks(reference):
        centred = scaling.apply(block) - mean
        covariance += centred.T @ centred
    covariance /= len(reference) - 1
    variance, vectors = eigh(covariance, subset_by_index=(len(mean) - k, len(mean) - 1))
    axes = vectors[:, ::-1].T
    # An eigenvector has no sign of its own, and which one is returned depends on the linear algebra library.
    largest = axes[np.arange(k), np.abs(axes).argmax(axis=1)]
    axes = axes * np.where(largest < 0, -1.0, 1.0)[:, np.newaxis]

    def project(features: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [(scaling.apply(block) - mean) @ axes.T for block in _blocks(features)] or [np.empty((0, k))]
        )

    return Components(
        reference=project(reference),
        scan=project(scan),
        explained=variance[::-1] / np.trace(covariance),
        axes=axes,
        columns=scaling.columns,
    )


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    return (features[start : start + ROWS_PER_BLOCK] for start in range(0, len(features), ROWS_PER_BLOCK))


def compare_with_library(
    scan: Scan, maps: ScanMaps, hierarchy: Hierarchy, library: Library, *, count: int = 5_000, track: Track = silent
) -> tuple[Components, np.ndarray, np.ndarray]:
    """Find the principal components of a library's patterns, and where the patterns of a scan lie on them.

    Parameters
    ----------
    scan : Scan
    maps : ScanMaps
        Of this scan, by this hierarchy.
    hierarchy : Hierarchy
        Whose features and thickness are taken, and the last of the protocols that it was trained under: the one that
        is most like a measurement.
    library : Library
        Any with that thickness.
    count : int
        So many patterns at most of either, spread evenly over all there are.
    track : Track, optional

    Returns
    -------
    components : Components
    reference_system : array, shape (n,), str
        Crystal system of every pattern of the library that was taken.
    scan_system : array, shape (m,), str
        System predicted for every pattern of the scan that was taken, before filtering.
    """
    of_library = library.materials.crystal_system
    each = max(1, len(library.material_of_pattern) // max(1, len(of_library)))
    materials = np.zeros(len(of_library), dtype=bool)
    materials[_spread(len(of_library), max(1, count // each))] = True
    protocol = (hierarchy.settings.protocols or (library.run.simulation.orientations.protocol,))[-1]
    simulated = labelled_features(
        library, hierarchy.block, hierarchy.settings.thickness, materials, protocol=protocol, track=track
    )
    predicted = np.flatnonzero(maps.raw_system.reshape(-1) >= 0)
    predicted = predicted[_spread(len(predicted), count)]
    measured = hierarchy.block.compute(
        scale_intensity(scan.peaks[predicted], float(maps.options["intensity_sum"] or 0))
    )
    components = principal_components(simulated.features, measured)
    systems = np.array(maps.systems)[maps.raw_system.reshape(-1)[predicted]]
    return components, of_library[simulated.material], systems


def _spread(there: int, count: int) -> np.ndarray:
    """Choose `count` of so many, evenly spaced; all where there are no more."""
    return np.unique(np.linspace(0, there - 1, min(count, there)).astype(np.int64)) if there else np.empty(0, np.int64)
