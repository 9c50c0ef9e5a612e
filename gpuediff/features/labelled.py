"""Features of a library's patterns with the truth about each, for training and testing."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuediff.diffraction.protocols import PROTOCOLS, Detector, observe, partners_of, second_grain_share
from gpuediff.errors import InvalidConfig, InvalidLibrary
from gpuediff.features.groups import Groups
from gpuediff.features.preparation import intensity_sums
from gpuediff.progress import Track, silent

if TYPE_CHECKING:
    from gpuediff.features.blocks import FeatureBlock
    from gpuediff.library.reader import Library
    from gpuediff.peaks import PeakBatch

# Patterns whose peaks and features are held at a time beside the feature matrix itself.
PATTERNS_AT_A_TIME = 20_000


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Feature vectors of m patterns, or groups of patterns of one material, with the truth about each.

    Parameters
    ----------
    features : array, shape (m, width), float32
    patterns : array, shape (m,), int64
        How many patterns the features describe together.
    material : array, shape (m,), int64
        Which of them are of one material.
    space_group_number : array, shape (m,), int32
    lattice : array, shape (m, 6), float64
        a, b, c (Å), alpha, beta, gamma (degrees) of the conventional cell.
    intensity_sum : array, shape (m,), float64
        Of all peaks of the first pattern, the direct beam included.
    """

    features: np.ndarray
    patterns: np.ndarray
    material: np.ndarray
    space_group_number: np.ndarray
    lattice: np.ndarray
    intensity_sum: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Any) -> LabelledFeatures:
        """Take rows by slice, index array or mask."""
        return LabelledFeatures(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def join(cls, parts: list[LabelledFeatures]) -> LabelledFeatures:
        """Put some behind each other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def check_protocol(library: Library, protocol: str) -> Detector:
    """Return the detector of a protocol, if a library has the orientations that it needs.

    Raises
    ------
    InvalidConfig
        If there is no such protocol.
    InvalidLibrary
        If the library has other orientations.
    """
    conditions = {str(name): conditions for name, conditions in PROTOCOLS.items()}
    if protocol not in conditions:
        raise InvalidConfig(f"protocol = {protocol!r}: expected one of {', '.join(conditions)}")
    needed, detector = conditions[protocol]
    there = library.run.simulation.orientations.protocol
    if there != needed:
        raise InvalidLibrary(
            f"{library.path}: simulated with orientations {there!r}, the protocol {protocol!r} needs {needed!r}: "
            f"choose another protocol, or simulate with simulation.orientations.protocol = {needed!r}"
        )
    return detector


def aggregate_groups(material: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Divide each material's patterns into disjoint random groups.

    Returns
    -------
    array, shape (n,), int64
        Group of every pattern; -1 for those left over when a group could not be filled.
    """
    shuffled = np.random.default_rng([seed, size]).permutation(len(material))
    order = shuffled[np.argsort(material[shuffled], kind="stable")]
    groups = np.full(len(material), -1, dtype=np.int64)
    next_group = 0
    boundaries = np.flatnonzero(np.diff(material[order])) + 1
    for patterns in np.split(order, boundaries):
        full = len(patterns) // size
        groups[patterns[: full * size]] = next_group + np.repeat(np.arange(full), size)
        next_group += full
    return groups


def labelled_features(
    library: Library,
    block: FeatureBlock,
    thickness: float,
    materials: np.ndarray,
    *,
    protocol: str,
    sizes: tuple[int, ...] = (1,),
    orientations: int | None = None,
    seed: int = 0,
    track: Track = silent,
) -> LabelledFeatures:
    """Compute the features of some materials' patterns at one thickness.

    Parameters
    ----------
    materials : array, shape (materials of the library,), bool
    protocol : str
        What the detector does to the patterns.
    sizes : tuple of int
        Patterns that are described together; each pattern counts once for every size. Blocks that do not pool
        describe every pattern by itself.
    orientations : int, optional
        Of each material only so many patterns, spread evenly over its orientations; all if absent.
    seed : int
        Of the detector's chance and of the grouping.

    Returns
    -------
    LabelledFeatures
        Of one size after the other within some thousand patterns of whole materials, in the library's order.

    Raises
    ------
    InvalidLibrary
        If the library has other orientations than the protocol needs, or not this thickness.
    """
    detector = check_protocol(library, protocol)
    chosen = np.flatnonzero(materials[library.material_of_pattern])
    chosen = chosen[np.argsort(library.material_of_pattern[chosen], kind="stable")]
    if orientations is not None:
        chosen = chosen[_spread(library.material_of_pattern[chosen], orientations)]
    material_of_chosen = library.material_of_pattern[chosen]
    labels = [aggregate_groups(material_of_chosen, size, seed) for size in sizes if size > 1] if block.pools else []
    parts = []
    for rows in track(_whole_materials(material_of_chosen), "features"):
        peaks = _observed(library, thickness, chosen[rows], detector, seed)
        alone = [Groups.singles(len(peaks))] if 1 in sizes or not block.pools else []
        groups = Groups.join([*alone, *(Groups.of_labels(of[rows]) for of in labels)])
        features = block.compute(peaks, groups) if block.pools else block.compute(peaks)
        material = material_of_chosen[rows][groups.first]
        parts.append(
            LabelledFeatures(
                features,
                groups.sizes,
                material,
                library.materials.space_group_number[material],
                library.materials.conventional[material],
                intensity_sums(peaks)[groups.first],
            )
        )
    return LabelledFeatures.join(parts)


def _spread(material: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` patterns of each of sorted materials, (n,), evenly spaced: (n,) bool."""
    _, first, number = np.unique(material, return_index=True, return_counts=True)
    place, number = np.arange(len(material)) - np.repeat(first, number), np.repeat(number, number)
    return (place + 1) * count // number > place * count // number


def _whole_materials(material: np.ndarray) -> list[slice]:
    """Cut sorted materials, (n,), where one ends; at about PATTERNS_AT_A_TIME."""
    ends = np.append(np.flatnonzero(np.diff(material)) + 1, len(material))
    last = np.append(np.diff(ends // PATTERNS_AT_A_TIME) > 0, True)
    return [slice(start, end) for start, end in pairwise([0, *ends[last].tolist()])]


def _observed(library: Library, thickness: float, patterns: np.ndarray, detector: Detector, seed: int) -> PeakBatch:
    """Read patterns, and let the detector do to them what it does."""
    peaks = library.peaks(thickness, patterns)
    if detector == Detector():
        return peaks
    partners = None
    if detector.second_grain > 0:
        other = partners_of(library.material_of_pattern, patterns, seed)
        wanted = (second_grain_share(detector, seed=seed, pattern=patterns) > 0) & (other >= 0)
        partners = library.peaks(thickness, np.where(wanted, other, patterns))
        partners = partners.keep(wanted[partners.pattern_of_peak])
    return observe(peaks, detector, seed=seed, pattern=patterns, partners=partners)
