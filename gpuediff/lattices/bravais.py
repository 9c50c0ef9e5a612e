"""How far a measured lattice is from each of the 14 Bravais types, and what its conventional cell would be.

A Bravais type of a lattice is a set of its two-fold axes, and every axis is a linear condition on the metric
(`gpuediff.lattices.twofold`). So the metrics of one type in one setting are a linear space; those that a reduced cell
can have are listed in `gpuediff.lattices.holohedries`. Nothing is decided at the edges between the 44 Niggli
characters, which noise crosses.

The distance is a chi-squared of the conditions in the covariance of the metric. The likelihood compares the type with
a lattice of no symmetry that happens to be close: for such a lattice, the same conditions are off by a strain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from gpuediff.lattices.holohedries import DEGREES_OF_FREEDOM, FREE, TYPES, holohedries
from gpuediff.lattices.reduction import (
    PAIRS,
    bases_of,
    checked,
    metric_changes,
    metric_covariances,
    metrics,
    reduced,
)
from gpuediff.lattices.standard_cells import cholesky, fit_cells
from gpuediff.lattices.twofold import CONDITIONS, chi_squared

SPREAD = 0.1  # strain by which a lattice is off a symmetry that it does not have


@dataclass(frozen=True, eq=False)
class ConventionalCells:
    """The best conventional cell of each Bravais type for each lattice; types are in the order of `TYPES`.

    Where a lattice cannot be judged, because its basis is flat or not finite or its covariance not positive definite,
    all numbers are NaN, and `transformation` is 0.

    Parameters
    ----------
    parameters : array, shape (n, 14, 6), float64
        a, b, c in Å, alpha, beta, gamma in degrees. Orthorhombic a <= b <= c, but only a <= b in a C-centred cell;
        monoclinic with the axis along b and beta >= 90°, in an mP cell a <= c; rhombohedral in hexagonal axes;
        triclinic pymatgen's variant of the reduced cell, with the reciprocal angles all at most or all above 90°. NaN
        where no metric of the type is near, so that the fitted one is not positive definite.
    uncertainties : array, shape (n, 14, 6), float64
        Standard uncertainties of the same if the lattice is of the type; 0 for what the type fixes.
    chi_squared : array, shape (n, 14), float64
        As of `distances`.
    log_likelihood : array, shape (n, 14), float64
        As of `likelihoods`, without a prior.
    transformation : array, shape (n, 14, 3, 3), int64
        Rows of the conventional basis in the given one; its determinant is the number of lattice points in the cell.
    """

    parameters: np.ndarray
    uncertainties: np.ndarray
    chi_squared: np.ndarray
    log_likelihood: np.ndarray
    transformation: np.ndarray


def distances(metric: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return how far metrics are from the nearest one of each Bravais type.

    Parameters
    ----------
    metric : array, shape (n, 6)
        Of a primitive cell, Å², in the order of `gpuediff.lattices.reduction.PAIRS`. It is reduced first.
    covariance : array, shape (n, 6, 6)
        Of the metric, Å⁴, positive definite.

    Returns
    -------
    array, shape (n, 14), float64
        Chi-squared, of `DEGREES_OF_FREEDOM` degrees of freedom where the lattice is of the type; a lattice of higher
        symmetry is of all types below, too. A row is NaN where the metric or the covariance is not positive definite.

    Raises
    ------
    ValueError
        If a shape is wrong.
    """
    return _judged(metric, covariance, SPREAD)[0]


def likelihoods(
    metric: np.ndarray, covariance: np.ndarray, *, prior: np.ndarray | None = None, spread: float = SPREAD
) -> np.ndarray:
    """Return the log-likelihood of each Bravais type, that of a lattice without symmetry being 0.

    Under the type, what its symmetry says is zero was measured as z with a covariance Z, which is that of the metric;
    without it, the same numbers are spread by Z + D, where D is that of a random strain. The result is

        (ln |Z + D| - ln |Z|) / 2 - z·Z⁻¹z / 2 + z·(Z + D)⁻¹z / 2

    in which the first term grows with every condition that is met, as the penalty of Schwarz's criterion (BIC) does,
    and vanishes where nothing was measured. The setting of the type is that of the least chi-squared.

    Parameters
    ----------
    metric, covariance : array
        As for `distances`.
    prior : array, shape (14,), optional
        Probability of each type before the measurement; all alike if left out.
    spread : float, optional
        Standard deviation of each diagonal component of D's strain, > 0.

    Returns
    -------
    array, shape (n, 14), float64
        Natural logarithms, the prior's included; a softmax over the types makes probabilities of them.

    Raises
    ------
    ValueError
        If a shape is wrong, the spread not positive, or a prior negative or not finite.
    """
    logs = np.zeros(len(TYPES))
    if prior is not None:
        weights = np.asarray(prior, dtype=np.float64)
        if weights.shape != logs.shape or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(f"prior = {prior}: expected a finite number >= 0 for each of {', '.join(TYPES)}")
        with np.errstate(divide="ignore"):
            logs = np.log(weights)
    if not 0 < spread < math.inf:
        raise ValueError(f"spread = {spread}: a strain must be > 0")
    return _judged(metric, covariance, spread)[1] + logs


def conventional(basis: np.ndarray, covariance: np.ndarray) -> ConventionalCells:
    """Fit the conventional cell of every Bravais type to measured lattices.

    Parameters
    ----------
    basis : array, shape (n, 3, 3)
        Rows of a primitive cell, Å; it need not be reduced.
    covariance : array, shape (n, 9, 9) or (n, 6, 6)
        Of its entries (a_x, a_y, a_z, b_x, ...), Å², or of its metric, Å⁴; the latter positive definite.

    Returns
    -------
    ConventionalCells

    Raises
    ------
    ValueError
        If a shape is wrong.
    """
    rows = checked("basis", basis, (3, 3))
    spread = checked("covariance", covariance, (9, 9) if np.shape(covariance)[1:] == (9, 9) else (6, 6), len(rows))
    if spread.shape[1] == 9:
        spread = metric_covariances(rows, spread)
    cells = reduced(rows)
    change = metric_changes(cells.transformation)
    spread = change @ spread @ change.transpose(0, 2, 1)
    n, types = len(rows), len(TYPES)
    chi, logs, setting = _judge_reduced(cells.basis, spread, SPREAD)
    parameters, uncertainties = np.empty((n, types, 6)), np.empty((n, types, 6))
    transformation = np.empty((n, types, 3, 3), np.int64)
    table = holohedries()
    measured = metrics(cells.basis)
    fit_cells(
        measured,
        spread,
        setting,
        cells.transformation.astype(np.float64),
        table.conventional,
        table.free,
        FREE,
        6 - DEGREES_OF_FREEDOM,
        parameters,
        uncertainties,
        transformation,
    )
    return ConventionalCells(parameters, uncertainties, chi, logs, transformation)


def _judged(metric: np.ndarray, covariance: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the chi-squared and the log-likelihood of each type, for metrics of any primitive cells."""
    given = checked("metric", metric, (6,))
    cells = reduced(bases_of(given))
    change = metric_changes(cells.transformation)
    covariance = change @ checked("covariance", covariance, (6, 6), len(given)) @ change.transpose(0, 2, 1)
    return _judge_reduced(cells.basis, covariance, spread)[:2]


def _judge_reduced(
    basis: np.ndarray, covariance: np.ndarray, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, types = len(basis), len(TYPES)
    chi, logs, setting = np.empty((n, types)), np.empty((n, types)), np.empty((n, types), np.int64)
    table = holohedries()
    _judge(
        metrics(basis),
        covariance,
        float(spread),
        table.first,
        table.axes,
        table.conditions,
        DEGREES_OF_FREEDOM,
        chi,
        logs,
        setting,
    )
    return chi, logs, setting


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _judge(metric, covariance, spread, first, axes, conditions, degrees, chi, logs, setting):
    for n in prange(len(metric)):
        _judge_one(metric[n], covariance[n], spread, first, axes, conditions, degrees, chi[n], logs[n], setting[n])


@njit(cache=True, nogil=True, error_model="numpy")
def _judge_one(metric, covariance, spread, first, axes, conditions, degrees, chi, logs, setting):
    chi[:], logs[:], setting[:] = np.nan, np.nan, -1
    if not (np.isfinite(metric[0]) and cholesky(covariance, 6, np.empty((6, 6)))):
        return
    strained = covariance.copy()
    _add_strain(metric, spread, strained)
    of_axis = np.empty(len(CONDITIONS))
    for m in range(len(CONDITIONS)):
        of_axis[m] = chi_squared(CONDITIONS[m], metric, covariance)
    chi[0], logs[0], setting[0] = 0.0, 0.0, 0
    for t in range(1, len(degrees)):
        m = _nearest(metric, covariance, of_axis, first[t], first[t + 1], axes, conditions, degrees[t])
        if m >= 0:
            exact, size = _distance(conditions[m], degrees[t], metric, covariance)
            loose, loose_size = _distance(conditions[m], degrees[t], metric, strained)
            chi[t], logs[t], setting[t] = exact, 0.5 * (loose_size - size - exact + loose), m


@njit(cache=True, nogil=True, error_model="numpy")
def _nearest(metric, covariance, of_axis, start, stop, axes, conditions, degrees):
    """Find the setting of least chi-squared, which is at least that of each of its axes; -1 if none has one."""
    least, place = np.inf, -1
    bounds = np.zeros(stop - start)
    for m in range(start, stop):
        for n in axes[m]:
            if n >= 0:
                bounds[m - start] = max(bounds[m - start], of_axis[n])
    if degrees == 2:  # one axis: the bound is the distance
        return start + int(np.argmin(bounds))
    begin = int(np.argmin(bounds))
    for step in range(-1, stop - start):
        m = begin if step < 0 else step
        if bounds[m] < least and step != begin:
            value, _ = _distance(conditions[start + m], degrees, metric, covariance)
            if value < least:
                least, place = value, start + m
    return place


@njit(cache=True, nogil=True, error_model="numpy")
def _distance(conditions, degrees, metric, covariance):
    """Return z·Z⁻¹z and ln |Z| of the first `degrees` conditions z, of covariance Z."""
    half, spread, lower = np.empty((5, 6)), np.empty((5, 5)), np.empty((5, 5))
    for i in range(degrees):
        for k in range(6):
            half[i, k] = 0.0
            for m in range(6):
                half[i, k] += conditions[i, m] * covariance[m, k]
        for j in range(i + 1):
            value = 0.0
            for k in range(6):
                value += half[i, k] * conditions[j, k]
            spread[i, j] = value
    if not cholesky(spread, degrees, lower):
        return np.nan, np.nan
    total, size = 0.0, 0.0
    z = np.empty(5)
    for i in range(degrees):
        value = 0.0
        for k in range(6):
            value += conditions[i, k] * metric[k]
        for j in range(i):
            value -= lower[i, j] * z[j]
        z[i] = value / lower[i, i]
        total += z[i] * z[i]
        size += 2 * math.log(lower[i, i])
    return total, size


@njit(cache=True, nogil=True, error_model="numpy")
def _add_strain(metric, spread, covariance):
    """Add the covariance of a metric under a random strain E, the same in all directions.

    E's components have the variances spread² on the diagonal and spread² / 2 off it, and g_ij changes by 2 a_i·E a_j.
    """
    full = np.empty((3, 3))
    for k in range(6):
        i, j = PAIRS[k]
        full[i, j] = full[j, i] = metric[k]
    for k in range(6):
        i, j = PAIRS[k]
        for m in range(6):
            p, q = PAIRS[m]
            covariance[k, m] += 2 * spread * spread * (full[i, p] * full[j, q] + full[i, q] * full[j, p])
