"""Answers for groups of patterns that are known to be of one material."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpuediff.features.groups import Groups

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import GivenSystems, Hierarchy
    from gpuediff.hierarchy.prediction import Prediction
    from gpuediff.peaks import PeakBatch


def predict_groups(
    hierarchy: Hierarchy, peaks: PeakBatch, groups: np.ndarray, *, crystal_system: GivenSystems | None = None
) -> Prediction:
    """Predict groups of patterns, each of one material: by one description of all, or by the votes of each.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns, as bright as those that the hierarchy was trained on.
    groups : array, shape (n,), integers
        Group of every pattern; the answer has a row for each distinct one, in rising order.
    crystal_system : str, or one for each group, optional
        As for `Hierarchy.predict`.
    """
    if not hierarchy.block.pools:
        return hierarchy.aggregate(hierarchy.block.compute(peaks), groups, crystal_system=crystal_system)
    described = Groups.of_labels(groups)
    features = hierarchy.block.compute(peaks, described)
    return hierarchy.predict(features, patterns=described.sizes, crystal_system=crystal_system)
