"""A lattice that is known is found again in patterns too poor to find one in, and not in those of another lattice."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import norm
from scipy.stats import t as student

from gpuediff.lattices import joint, orienting
from gpuediff.lattices.reduction import bases_of, metrics
from tests.lattices.cuts import WAVELENGTH, cut, gathered, random_lattice

COUNT, FEW = 16, 8
NOISE = 0.001
PRICE = 14.0  # logarithm of the number of orientations that can be told apart


def oriented(direct, places, expected):
    """Score of a pattern on a lattice, known to about two parts in a thousand, and the rows that were found."""
    metric = metrics(np.linalg.inv(direct).T[np.newaxis])[0]
    root = bases_of(metric[np.newaxis])[0]
    covariance = (2e-3 * np.abs(metric).mean()) ** 2 * np.eye(6)
    indices = np.empty((orienting.VECTORS, 3))
    indices = indices[: orienting.shortest_vectors(root, indices)]
    lengths, tolerance = np.empty(len(indices)), np.empty(len(indices))
    joint._lengths(indices, metric, covariance, lengths, tolerance)
    rows = np.zeros((3, 3))
    score = orienting.orient(
        places, expected, root, indices @ root, lengths, tolerance, NOISE, 3e-3, joint.looseness(root, covariance),
        WAVELENGTH, rows,
    )  # fmt: skip
    return score, rows


@pytest.fixture(scope="module")
def poor():
    """Direct lattice, another one, true rows, and the eight strongest peaks of a pattern, of sixteen crystals."""
    rng = np.random.default_rng(5)
    cases = []
    for _ in range(COUNT):
        lattice, other = random_lattice(rng, (60, 120)), random_lattice(rng, (60, 120))
        peaks, rows = cut(lattice, Rotation.random(random_state=rng).as_matrix(), rng)
        peaks[:, :2] += NOISE * rng.normal(size=(len(peaks), 2))
        pattern = gathered([peaks])
        cases.append((lattice, other, rows, pattern.places[:FEW].copy(), pattern.expected[:FEW].copy()))
    return cases


def scored(places, expected, rows, heights, *, noise=NOISE, looseness=0.002):
    count = len(places)
    hkl, on, ratio = np.zeros((count, 3)), np.zeros(count, bool), np.zeros(count)
    total = orienting.score(
        places, expected, count, rows, noise, looseness, WAVELENGTH, np.int64(heights), hkl, on, ratio
    )
    return total, hkl, on, ratio


def test_eight_peaks_tell_how_a_known_lattice_lies(poor):
    for lattice, _, true, places, expected in poor:
        score, rows = oriented(lattice, places, expected)
        assert score > PRICE
        np.testing.assert_allclose(metrics(rows[np.newaxis]), metrics(true[np.newaxis]), atol=1e-9)
        assert np.linalg.det(rows) > 0  # turned, not mirrored
        # A lattice is its own image by inversion.
        off = min(np.abs(sign * rows[:, :2] - true[:, :2]).max() for sign in (1, -1))
        assert off < 0.06


def test_they_fit_another_lattice_worse_and_mostly_not_at_all(poor):
    own = np.array([oriented(lattice, places, expected)[0] for lattice, _, _, places, expected in poor])
    other = np.array([oriented(lattice, places, expected)[0] for _, lattice, _, places, expected in poor])
    assert np.all(other < own)
    assert np.mean(other < PRICE) > 0.7


def test_a_score_does_not_depend_on_the_order_of_the_peaks(poor):
    for k, (_, _, rows, places, expected) in enumerate(poor):
        order = np.random.default_rng(k).permutation(FEW)
        one, hkl, on, ratio = scored(places, expected, rows, orienting.LAYERS)
        other, hkl_too, on_too, ratio_too = scored(places[order].copy(), expected[order].copy(), rows, orienting.LAYERS)
        assert one == pytest.approx(other, rel=1e-12)
        np.testing.assert_array_equal(hkl_too, hkl[order])
        np.testing.assert_array_equal(on_too, on[order])
        np.testing.assert_array_equal(ratio_too, ratio[order])


def test_a_peak_is_as_probable_as_its_distances_in_the_plane_and_along_the_beam_say():
    rows = np.diag([0.2, 0.25, 0.3])
    place = np.array([[0.403, 0.249]])
    sphere = 0.5 * WAVELENGTH * (place**2).sum()
    _, hkl, on, ratio = scored(place, np.array([0.01]), rows, 1, noise=0.002, looseness=0.0)
    density = norm.pdf(0.003, scale=0.002) * norm.pdf(-0.001, scale=0.002) * student.pdf(sphere, 5, scale=0.01)
    np.testing.assert_array_equal(hkl[0], [2, 1, 0])
    assert on[0]
    assert ratio[0] == pytest.approx(density * np.linalg.det(rows), rel=1e-6)


def test_a_lattice_point_beside_the_sphere_is_found_where_heights_are_tried():
    """Taken to lie on the sphere itself, the peak would be halfway between two points of the layer below."""
    rows = np.array([[0.2, 0.0, 0.0], [0.0, 0.25, 0.0], [0.3, 0.0, 0.02]])
    place, expected = rows[2:, :2].copy(), np.array([0.01])
    assert not scored(place, expected, rows, 1)[2][0]
    _, hkl, on, _ = scored(place, expected, rows, orienting.LAYERS)
    assert on[0]
    np.testing.assert_array_equal(hkl[0], [0, 0, 1])


def test_peaks_at_random_places_are_as_probable_as_chance_on_the_average():
    """The densities of all lattice points together have the mean of one point in each cell."""
    rng = np.random.default_rng(8)
    rows = np.linalg.inv(random_lattice(rng)).T
    means = []
    for _ in range(60):
        places = rng.uniform(-1.5, 1.5, size=(500, 2))
        turned = rows @ Rotation.random(random_state=rng).as_matrix()
        means.append(scored(places, np.full(500, 0.006), turned, orienting.LAYERS, noise=0.01)[3].mean())
    assert np.mean(means) == pytest.approx(1, abs=0.1)
