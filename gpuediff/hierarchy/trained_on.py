"""What a hierarchy remembers of the patterns that it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from gpuediff.errors import InvalidBundle
from gpuediff.settings import Settings, Split, within

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy


class TrainedOn(Settings):
    """Kept in the bundle, because what comes later must agree with it."""

    split: Split  # which materials it has seen, and must not be tested on
    crystals_checksum: str  # of all crystals of the library, on either side of the split
    # Median over the training patterns of the sum of all intensities, the direct beam included: measured patterns
    # are scaled to it, for the features are proportional to the intensities.
    intensity_sum: Annotated[float, within(0, 1e12, open_low=True)]
    materials: Annotated[int, within(1, 10_000_000)] | None = None  # so many of that side; all if absent


def intensity_sum_for(hierarchy: Hierarchy, asked: float | None) -> float:
    """Return to which sum measured intensities are scaled: what is asked for, or as in training.

    Raises
    ------
    InvalidBundle
        If nothing is asked for and the hierarchy does not know its training patterns.
    """
    if asked is not None:
        return asked
    if hierarchy.trained_on is None:
        raise InvalidBundle("the model does not say how bright its training patterns were: give an intensity sum")
    return hierarchy.trained_on.intensity_sum
