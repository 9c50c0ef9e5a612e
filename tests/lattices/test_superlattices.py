"""Peaks between the points of a lattice make it finer if they lie on points in between, and not if they are strays."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpuediff.lattices import joint, superlattices
from gpuediff.lattices.reduction import metrics, reduced
from tests.lattices.cuts import WAVELENGTH, cut, gathered, random_lattice

PATTERNS, SEEDS, NOISE = 8, 4, 0.001


def group(seed, multiple, amplitude, *, strays=0, finest=False):
    """A crystal one of whose axes is `multiple` times as long, for reflections of that `amplitude`, as for others.

    Returns its lattice, and patterns and fit of the lattice of the strong reflections alone, or, if `finest`, of all.
    """
    axis, longer = seed % 3, np.ones((3, 1))
    longer[axis] = multiple
    rng = np.random.default_rng(seed)
    large = reduced(random_lattice(rng, (60, 120))[np.newaxis]).basis[0]
    large *= longer
    lists, known = [], []
    for _ in range(PATTERNS):
        turn = Rotation.random(random_state=rng).as_matrix()
        peaks, rows = cut(large, turn, rng, amplitude=lambda hkl: np.where(hkl[:, axis] % multiple, amplitude, 1.0))
        peaks = peaks[np.argsort(-peaks[:, 2])[:60]]
        if strays:
            peaks[-strays:, :2] = rng.uniform(-1.1, 1.1, size=(strays, 2))
        peaks[:, :2] += NOISE * rng.normal(size=(len(peaks), 2))
        lists.append(peaks)
        known.append(rows if finest else rows * longer)
    patterns = gathered(lists)
    metric = metrics(np.array(known[:1]))[0]
    covariance = (2e-3 * metric[:3].mean()) ** 2 * np.eye(6)
    fit = joint.room(PATTERNS, len(patterns.places))
    _, noise = joint.fit_group(patterns, np.array(known), NOISE, WAVELENGTH, metric, covariance, np.int64(1), fit)
    return large, patterns, fit, noise


def finer(patterns, fit, noise):
    metric, covariance, known = np.zeros(6), np.zeros((6, 6)), np.zeros((PATTERNS, 3, 3))
    found = superlattices.finer(patterns, noise, WAVELENGTH, fit, metric, covariance, known)
    return found, metric, covariance, known


@pytest.mark.parametrize("multiple", [2, 3])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_few_peaks_between_the_points_of_a_lattice_make_it_finer(multiple, seed):
    large, patterns, fit, noise = group(seed, multiple, 0.2)
    assert 0.05 < 1 - fit.on.mean() < 0.3
    found, metric, covariance, known = finer(patterns, fit, noise)
    assert found
    np.testing.assert_allclose(metrics(known), np.tile(metric, (PATTERNS, 1)), atol=1e-9)
    lattice = reduced(np.linalg.inv(known[:1]).swapaxes(1, 2)).basis
    np.testing.assert_allclose(
        np.linalg.norm(lattice, axis=2), np.linalg.norm(reduced(large[np.newaxis]).basis, axis=2), rtol=0.01
    )
    # The determinant of the map of a metric is that of the change of basis to the fourth.
    shrunk = np.linalg.det(covariance) / np.linalg.det(fit.covariance)
    assert shrunk == pytest.approx(multiple**-8.0, rel=1e-6)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_peaks_at_random_places_do_not(seed):
    _, patterns, fit, noise = group(seed, 2, 0.0, strays=6)
    assert 0.05 < 1 - fit.on.mean() < 0.15
    assert not finer(patterns, fit, noise)[0]


@pytest.mark.parametrize("multiple", [2, 3])
def test_a_lattice_gains_from_a_class_of_points_that_are_mostly_unseen(multiple):
    for seed in range(SEEDS):
        gains = []
        for amplitude in (0.1, 0.2, 1.0):
            _, patterns, fit, _ = group(seed, multiple, amplitude, finest=True)
            assert fit.on.mean() > 0.97
            gains.append(superlattices.weaker_classes(patterns, fit))
        assert gains[0] > gains[1] > 20
        assert gains[2] == 0


def test_a_gain_is_less_than_what_the_points_that_are_not_seen_can_be_worth():
    """Without the points of the other class each peak would be `multiple` times as probable."""
    for multiple in (2, 3):
        _, patterns, fit, _ = group(0, multiple, 0.0, finest=True)
        gain = superlattices.weaker_classes(patterns, fit)
        worth = len(fit.on) * np.log(multiple)
        assert 0.9 * worth < gain < worth


@pytest.mark.parametrize("weak", [(1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)])
def test_points_in_the_middle_of_faces_or_of_the_cell_are_found_too(weak):
    """Reflections of a primitive cell that would be absent if it were centred are weak."""
    rng = np.random.default_rng(7)
    large = reduced(random_lattice(rng, (120, 240))[np.newaxis]).basis[0]
    strong = {
        (1, 1, 0): [[1, 1, 0], [1, -1, 0], [0, 0, 1]],
        (0, 1, 1): [[1, 0, 0], [0, 1, 1], [0, 1, -1]],
        (1, 0, 1): [[1, 0, 1], [0, 1, 0], [1, 0, -1]],
        (1, 1, 1): [[1, 1, 0], [0, 1, 1], [1, 0, 1]],
    }[weak]
    lists, known = [], []
    for _ in range(PATTERNS):
        turn = Rotation.random(random_state=rng).as_matrix()
        peaks, rows = cut(large, turn, rng, amplitude=lambda hkl: np.where(hkl @ np.array(weak) % 2, 0.2, 1.0))
        peaks = peaks[np.argsort(-peaks[:, 2])[:60]]
        peaks[:, :2] += NOISE * rng.normal(size=(len(peaks), 2))
        lists.append(peaks)
        known.append(np.array(strong) @ rows)
    assert abs(np.linalg.det(strong)) == pytest.approx(2)
    patterns = gathered(lists)
    metric = metrics(np.array(known[:1]))[0]
    covariance = (2e-3 * metric[:3].mean()) ** 2 * np.eye(6)
    fit = joint.room(PATTERNS, len(patterns.places))
    _, noise = joint.fit_group(patterns, np.array(known), NOISE, WAVELENGTH, metric, covariance, np.int64(1), fit)
    found, _, _, known = finer(patterns, fit, noise)
    assert found
    lattice = reduced(np.linalg.inv(known[:1]).swapaxes(1, 2)).basis
    np.testing.assert_allclose(
        np.linalg.norm(lattice, axis=2), np.linalg.norm(reduced(large[np.newaxis]).basis, axis=2), rtol=0.01
    )


@pytest.mark.parametrize("index", [2, 3])
def test_a_lattice_has_as_many_sublattices_of_a_prime_index_as_a_plane_over_it_has_points(index):
    sublattices = []
    for kind in range(index**2 + index + 1):
        change = np.zeros((3, 3))
        superlattices._hermite(index, kind, change)
        assert np.linalg.det(change) == pytest.approx(index)
        for other in sublattices:  # the same one only if integers make the rows of one from the other's
            steps = change @ np.linalg.inv(other)
            assert np.abs(steps - np.rint(steps)).max() > 0.1
        sublattices.append(change)
