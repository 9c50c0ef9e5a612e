import itertools
import math

import numpy as np
import pytest
from scipy.stats import chi2

from gpuediff.lattices.holohedries import TYPES
from gpuediff.lattices.reduction import metric_covariances, metrics, reduced
from gpuediff.lattices.twofold import AXES, CONDITIONS, PLANES, ROTATIONS, twofold_axes
from tests.lattices.truth import AXES_OF_TYPE, basis_of, covariances, lattices


def test_there_are_81_two_fold_rotations_and_they_are_their_own_inverses():
    assert len({rotation.tobytes() for rotation in ROTATIONS}) == 81
    np.testing.assert_array_equal(ROTATIONS @ ROTATIONS, np.tile(np.eye(3), (81, 1, 1)))
    np.testing.assert_array_equal(np.trace(ROTATIONS, axis1=1, axis2=2), -1)


@pytest.mark.parametrize("name", TYPES)
def test_a_holohedry_has_its_number_of_axes_and_no_more(name):
    found = twofold_axes(lattices(name, 200).reduced, k=10)
    expected = AXES_OF_TYPE[name]
    assert (found.delta[:, :expected] < 1e-5).all()
    assert (found.delta[:, expected:] > 1e-3).all()


@pytest.mark.parametrize("name", TYPES)
def test_turning_a_lattice_by_180_degrees_about_an_axis_leaves_it_as_it_is(name):
    truth = lattices(name, 20)
    found = twofold_axes(truth.reduced)
    for n in range(20):
        for m in range(AXES_OF_TYPE[name]):
            t = found.direction[n, m]
            turned = truth.reduced[n] @ (2 * np.outer(t, t) - np.eye(3))
            indices = turned @ np.linalg.inv(truth.reduced[n])
            np.testing.assert_allclose(indices, np.rint(indices), atol=1e-6)
            np.testing.assert_allclose(AXES[found.pair[n, m]] @ truth.reduced[n], t * found.length[n, m], atol=1e-9)


def test_the_axes_are_those_of_le_pages_search_over_all_small_indices():
    """Brute force in float64 over [uvw] and (hkl) up to 2, wherever a pair stands for a rotation of the lattice."""
    rows = lattices("mC", 3).reduced
    for n, found in enumerate(twofold_axes(rows, k=37).delta):
        inverse = np.linalg.inv(rows[n]).T
        best = {}
        indices = [v for v in itertools.product(range(-2, 3), repeat=3) if math.gcd(*v) == 1]
        for axis, plane in itertools.product(indices, indices):
            product = np.dot(axis, plane)
            if axis < (0, 0, 0) or product not in (1, 2):
                continue
            rotation = 2 * np.outer(axis, plane) / product - np.eye(3)
            if np.abs(rotation).max() > 1 or (rotation % 1).any():
                continue
            t, r = axis @ rows[n], plane @ inverse
            angle = np.degrees(np.arccos(min(1, product / np.linalg.norm(t) / np.linalg.norm(r))))
            best[axis] = min(angle, best.get(axis, np.inf))
        np.testing.assert_allclose(found, sorted(best.values()), atol=2e-6)


def test_small_angles_keep_their_digits():
    tilt = 1e-9
    rows = np.array([[[3.0, 0, 0], [4 * np.sin(tilt), 4 * np.cos(tilt), 0], [0, 0, 5]]])
    np.testing.assert_allclose(
        np.sort(twofold_axes(rows).delta[0])[:3], [0, np.degrees(tilt), np.degrees(tilt)], rtol=1e-6
    )


def test_axes_of_equal_angle_come_shortest_first_whatever_the_rounding():
    for seed in range(5):
        found = twofold_axes(lattices("cF", 20, seed).reduced)
        assert (np.diff(found.length[:, :9], axis=1) > -1e-5).all()


def test_conditions_are_met_by_exactly_the_metrics_that_the_rotation_keeps():
    metric = np.random.default_rng(0).normal(size=(3, 3))
    metric = metric @ metric.T
    for rotation, conditions, plane in zip(ROTATIONS, CONDITIONS, PLANES, strict=True):
        kept = (metric + rotation.T @ metric @ rotation) / 2
        six = np.array([kept[0, 0], kept[1, 1], kept[2, 2], kept[1, 2], kept[0, 2], kept[0, 1]])
        np.testing.assert_allclose(conditions @ six, 0, atol=1e-12)
        assert np.linalg.matrix_rank(conditions) == 2
        assert plane.any()


@pytest.mark.parametrize("name", ["mP", "mC", "oF", "hP", "cI"])
def test_squared_deviations_of_true_axes_follow_chi_squared_of_two_degrees_of_freedom(name):
    truth = lattices(name, 600)
    rng = np.random.default_rng(1)
    covariance = covariances(truth.reduced, 1e-4, rng)
    noise = np.linalg.cholesky(covariance) @ rng.normal(size=(600, 6, 1))
    # The cell stays the exact one's reduced cell: what is tested here is the statistics alone.
    rows = basis_of(metrics(truth.reduced) + noise[..., 0])
    found = twofold_axes(rows, covariance)
    number = AXES_OF_TYPE[name]
    likely = found.deviation[:, :number][found.delta[:, :number] < 1] ** 2
    for quantile in (0.5, 0.9, 0.99):
        share = (likely < chi2.ppf(quantile, 2)).mean()
        # Axes of one lattice share their noise: count lattices, not axes.
        assert share == pytest.approx(quantile, abs=4 * math.sqrt(quantile * (1 - quantile) / 600))
    assert (found.deviation[:, number:] > 5).mean() > 0.98


def test_covariances_of_the_basis_and_of_its_metric_give_the_same_deviations():
    rows = reduced(lattices("aP", 10).basis).basis
    error = np.random.default_rng(2).normal(size=(10, 9, 9)) * 1e-3
    spread = error @ error.transpose(0, 2, 1)
    of_basis = twofold_axes(rows, spread)
    of_metric = twofold_axes(rows, metric_covariances(rows, spread))
    np.testing.assert_allclose(of_basis.deviation, of_metric.deviation)
    assert np.isnan(twofold_axes(rows).deviation).all()


def test_what_is_no_lattice_has_no_axes():
    found = twofold_axes(np.array([np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(3)]))
    assert np.isnan(found.delta[:2]).all()
    assert (found.pair[:2] == -1).all()
    assert (found.delta[2, :9] < 1e-9).all()


def test_more_axes_than_there_are_cannot_be_asked_for():
    with pytest.raises(ValueError, match="k = 38"):
        twofold_axes(np.eye(3)[None], k=38)
