"""From the metric of a reciprocal lattice to that of the direct one, with its covariance, and back."""

from __future__ import annotations

import numpy as np

from gpuediff.lattices.reduction import PAIRS, checked

# Place in `PAIRS` of each component of a symmetric (3, 3).
_PLACE = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])


def inverse_metrics(metric: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the metrics of the dual bases, and their covariances to first order.

    Parameters
    ----------
    metric : array, shape (n, 6)
        In the order of `gpuediff.lattices.reduction.PAIRS`; Å⁻² for reciprocal bases (1/d, no 2π), Å² for direct ones.
    covariance : array, shape (n, 6, 6)
        Of the metric.

    Returns
    -------
    metric : array, shape (n, 6), float64
        Of the basis dual to each; NaN where a metric is not positive definite.
    covariance : array, shape (n, 6, 6), float64

    Raises
    ------
    ValueError
        If a shape is wrong.
    """
    numbers = checked("metric", metric, (6,))
    spread = checked("covariance", covariance, (6, 6), len(numbers))
    full = numbers[:, _PLACE]
    good = np.isfinite(full).all(axis=(1, 2))
    good[good] = (np.linalg.eigvalsh(full[good]) > 0).all(axis=1)
    inverse = np.full_like(full, np.nan)
    inverse[good] = np.linalg.inv(full[good])
    i, j = PAIRS[:, 0], PAIRS[:, 1]
    # d(G⁻¹) = -G⁻¹ dG G⁻¹, and a number off the diagonal stands twice in dG.
    slope = -(inverse[:, i][:, :, i] * inverse[:, j][:, :, j])
    slope -= np.where(i == j, 0.0, 1.0) * (inverse[:, i][:, :, j] * inverse[:, j][:, :, i])
    return inverse[:, i, j], slope @ spread @ slope.transpose(0, 2, 1)
