"""Patterns to learn from what one grain of a crystal looks like: some of a library, and what is made of them.

Each pattern is there three times: as it is, overlapping with that of another grain, and broken. A broken one is what a
microscope also records, or what comes of a wrong number: peaks at random, as of noise or of something that is no
crystal, or a crystal's peaks at a wrong scale.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from gpuediff.diffraction.protocols import observe, partners_of
from gpuediff.features.labelled import check_protocol
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch
from gpuediff.progress import Track, silent

if TYPE_CHECKING:
    from gpuediff.features.blocks import FeatureBlock
    from gpuediff.library.reader import Library

Kind = Literal["one_grain", "several_grains", "broken"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SAME_MATERIAL = 0.5  # of the overlapping patterns, those whose other grain is of the same material
WRONG_SCALE = 0.5  # of the broken patterns, those whose peaks are at a wrong scale
SCALES = (1.1, 1.6)  # by which it is wrong, too large as often as too small
ANY_RADIUS = 0.5  # of the patterns with peaks at random, those whose peaks do not keep their |q| either


@dataclass(frozen=True, eq=False)
class Examples:
    """Features of single patterns by what they are examples of; row i of every kind is made of the same pattern.

    Parameters
    ----------
    one_grain, several_grains, broken : array, shape (n, width), float32
        (0, width) for a kind that was not asked for.
    material : array, shape (n,), int64
        Which of them are of one material.
    """

    one_grain: np.ndarray
    several_grains: np.ndarray
    broken: np.ndarray
    material: np.ndarray

    def __len__(self) -> int:
        return len(self.material)

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """Put some behind each other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def examples(
    library: Library,
    block: FeatureBlock,
    thickness: float,
    materials: np.ndarray,
    *,
    protocol: str,
    count: int,
    kinds: Sequence[Kind] = KINDS,
    seed: int = 0,
    track: Track = silent,
) -> Examples:
    """Make examples of some materials' patterns at one thickness.

    Parameters
    ----------
    materials : array, shape (materials of the library,), bool
        Whose patterns, those of other grains included.
    protocol : str
        What the detector does to the patterns. Where it lets second grains be seen, they are in the overlapping
        patterns alone.
    count : int
        So many patterns, drawn at random; all if there are no more, and none if there is but one, which has no other
        grain.
    kinds : sequence of str
        What is made of them.
    seed : int
        Of every choice.

    Raises
    ------
    InvalidLibrary
        If the library has other orientations than the protocol needs, or not this thickness.
    """
    detector = check_protocol(library, protocol)
    rng = np.random.default_rng([seed, zlib.crc32(protocol.encode())])
    of_materials = np.flatnonzero(materials[library.material_of_pattern])
    drawn = np.sort(rng.permutation(of_materials)[:count])
    if len(of_materials) < 2:
        drawn = of_materials[:0]
    same_material = rng.random(len(drawn)) < SAME_MATERIAL
    one_grain = detector.model_copy(update={"second_grain": 0.0})

    def observed() -> PeakBatch:
        return observe(library.peaks(thickness, drawn), one_grain, seed=seed, pattern=drawn)

    def overlapping() -> PeakBatch:
        two_grains = detector.model_copy(update={"second_grain": 1.0})
        partner = np.where(same_material, *_partners(library.material_of_pattern, materials, drawn, seed))
        peaks, other = (library.peaks(thickness, patterns) for patterns in (drawn, partner))
        return observe(peaks, two_grains, seed=seed, pattern=drawn, partners=other)

    make = {"one_grain": observed, "several_grains": overlapping, "broken": lambda: broken(observed(), rng)}
    made = dict.fromkeys(KINDS, np.empty((0, block.width), dtype=np.float32))
    for kind in track(list(kinds), "examples"):
        made[kind] = block.compute(make[kind]())
    return Examples(**made, material=library.material_of_pattern[drawn])


def broken(peaks: PeakBatch, rng: np.random.Generator) -> PeakBatch:
    """Break patterns: put the peaks of half of them at random, and scale the others.

    Peaks at random are spread over the disc on which the pattern's own lie, or keep their |q| as those of a powder do;
    intensities stay. The direct beam stays where it is in all.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns in the memory of the host.
    rng : Generator

    Returns
    -------
    PeakBatch
        n patterns with as many peaks.
    """
    qx, qy = peaks.qx.astype(np.float64), peaks.qy.astype(np.float64)
    q, pattern = np.hypot(qx, qy), peaks.pattern_of_peak
    farthest = np.zeros(len(peaks))
    np.maximum.at(farthest, pattern, q)
    kind, direction = rng.random((2, len(peaks)))
    size = np.exp(rng.uniform(math.log(SCALES[0]), math.log(SCALES[1]), size=len(peaks)))
    scale = np.where(direction < 0.5, size, 1 / size)
    angle, share = 2 * np.pi * rng.random(len(q)), rng.random(len(q))
    radius = np.where((direction < ANY_RADIUS)[pattern], farthest[pattern] * np.sqrt(share), q)
    scaled, moved = (kind < WRONG_SCALE)[pattern], q > DIRECT_BEAM_RADIUS
    x = np.where(scaled, qx * scale[pattern], radius * np.cos(angle))
    y = np.where(scaled, qy * scale[pattern], radius * np.sin(angle))
    return PeakBatch(
        np.where(moved, x, qx).astype(np.float32),
        np.where(moved, y, qy).astype(np.float32),
        peaks.intensity,
        peaks.offsets,
    )


def _partners(
    material: np.ndarray, materials: np.ndarray, drawn: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose for every pattern another of the same material, if it has one, and one of any of the materials; (n,)."""
    same = partners_of(material, drawn, seed)
    # As if all these materials were one.
    anyone = partners_of(np.where(materials, 0, 1)[material], drawn, seed)
    return np.where(same >= 0, same, anyone), anyone
