import numpy as np
import pytest
from scipy.spatial import ConvexHull, KDTree
from scipy.stats import chisquare, kstest

from gpuediff.crystals.crystal import Crystal
from gpuediff.crystals.symmetry import LAUE_CLASSES, laue_rotations
from gpuediff.diffraction.orientations import orientation_matrix, orientations_for, zone_axes
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Orientations
from tests.oracle import py4dstem


def crystal(material_id, space_group_number=62):
    """A crystal of which only the name and the space group matter."""
    return Crystal(
        material_id=material_id,
        formula="Po",
        lattice=np.eye(3),
        atomic_numbers=np.array([84]),
        positions=np.zeros((1, 3)),
        occupancies=np.ones(1),
        space_group_number=space_group_number,
        conventional=np.array([1.0, 1, 1, 90, 90, 90]),
        source="test",
        checksum="",
    )


def equivalents(laue_class):
    rotations = laue_rotations(laue_class)
    return np.concatenate([rotations, -rotations])


def separation(axes, laue_class):
    """Smallest chord between an axis and any equivalent of another."""
    images = np.einsum("gij,nj->gni", equivalents(laue_class), axes)
    others = np.linalg.norm(images[:, :, None, :] - axes[None, None, :, :], axis=-1).min(axis=0)
    return others[~np.eye(len(axes), dtype=bool)].min(initial=2.0)


def gap(axes, laue_class):
    """Largest chord from any direction to the nearest equivalent of an axis."""
    images = np.einsum("gij,nj->gni", equivalents(laue_class), axes).reshape(-1, 3)
    anywhere = np.random.default_rng(1).normal(size=(20_000, 3))
    return KDTree(images).query(anywhere / np.linalg.norm(anywhere, axis=1, keepdims=True))[0].max()


@pytest.mark.parametrize("laue_class", LAUE_CLASSES)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 100])
def test_exactly_the_number_asked_for_and_no_two_equivalent(laue_class, count):
    axes = zone_axes(laue_class, count)
    assert axes.shape == (count, 3)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1, atol=1e-12)
    assert separation(axes, laue_class) > 0.5 / np.sqrt(count * len(laue_rotations(laue_class)))


@pytest.mark.parametrize("laue_class", LAUE_CLASSES)
@pytest.mark.parametrize("count", [2, 5, 30, 100])
def test_largest_gap_is_within_twice_the_smallest_possible(laue_class, count):
    # count + 1 points farther apart than the gap cannot be covered by `count` caps of half the gap: the axes, and the
    # direction in the gap. The rest is for the spacing of the candidates and the preference for symmetry axes.
    axes = zone_axes(laue_class, count)
    assert separation(axes, laue_class) > 0.85 * gap(axes, laue_class)


def exact_gap(axes, laue_class):
    """The same without sampling: the emptiest cap stands on a facet of the convex hull of all equivalents."""
    images = np.einsum("gij,nj->gni", equivalents(laue_class), axes).reshape(-1, 3)
    distance_of_facet = -ConvexHull(np.unique(images.round(9), axis=0)).equations[:, 3].max()
    return np.sqrt(2 - 2 * distance_of_facet)


@pytest.mark.parametrize("laue_class", LAUE_CLASSES)
@pytest.mark.parametrize("count", [20, 100])
def test_largest_gap_is_well_within_twice_what_no_arrangement_can_beat(laue_class, count):
    # All caps together have at least the area of the sphere: 2 |G| n (1 - cos r) / 2 >= 1, and 2 (1 - cos r) is the
    # square of the chord.
    least = np.sqrt(2 / (len(laue_rotations(laue_class)) * count))
    assert least < exact_gap(zone_axes(laue_class, count), laue_class) < 1.8 * least


@pytest.mark.parametrize("laue_class", LAUE_CLASSES)
def test_any_number_of_first_axes_is_spread_evenly_too(laue_class):
    axes = zone_axes(laue_class, 100)
    for first in (10, 33, 70):
        assert separation(axes[:first], laue_class) > 0.85 * gap(axes[:first], laue_class)


def test_a_thousand_axes_are_all_different():
    axes = zone_axes("mmm", 1000)
    images = np.einsum("gij,nj->gni", equivalents("mmm"), axes).reshape(-1, 3)
    tree = KDTree(images)
    for index, near in enumerate(tree.query_ball_point(axes, 0.005)):
        assert set(np.array(near) % 1000) == {index}


def test_symmetry_axes_are_among_the_first():
    r, s = np.sqrt(0.5), np.sqrt(1 / 3)
    np.testing.assert_allclose(zone_axes("m-3m", 5)[:3], [[0, 0, 1], [s, s, s], [0, r, r]], atol=1e-9)
    np.testing.assert_allclose(np.sort(zone_axes("mmm", 3), axis=0), np.sort(np.eye(3), axis=0), atol=1e-9)
    np.testing.assert_allclose(zone_axes("6/mmm", 1), [[0, 0, 1]], atol=1e-9)
    np.testing.assert_allclose(zone_axes("2/m", 1), [[0, 1, 0]], atol=1e-9)
    np.testing.assert_allclose(zone_axes("-3m1", 1), [[0, 0, 1]], atol=1e-9)
    hexagonal = zone_axes("6/mmm", 20)
    for corner in ([0, 0, 1], [0, 1, 0], [0.5, np.sqrt(0.75), 0]):
        assert np.isclose(hexagonal, corner, atol=1e-8).all(axis=1).any()


def test_the_two_settings_of_trigonal_crystals_have_different_zones():
    mirrored_in_y = np.array([[1.0, 0.2, 0.7], [1.0, -0.2, 0.7]])
    assert separation(mirrored_in_y, "-31m") == pytest.approx(0, abs=1e-9)
    assert separation(mirrored_in_y, "-3m1") > 0.1
    assert not np.allclose(zone_axes("-3m1", 20), zone_axes("-31m", 20))


def test_an_axis_set_is_computed_once_and_nobody_can_change_it():
    axes = zone_axes("4/m", 10)
    assert zone_axes("4/m", 10) is axes
    with pytest.raises(ValueError, match="read-only"):
        axes[0, 0] = 1


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="count = 0"):
        zone_axes("mmm", 0)
    with pytest.raises(InvalidStructure, match="m3m"):
        zone_axes("m3m", 3)
    with pytest.raises(ValueError, match="not zero"):
        orientation_matrix(np.array([[0.0, 0, 1], [0, 0, 0]]))


def test_orientation_matrices_are_rotations_about_the_zone_axis():
    directions = np.random.default_rng(2).normal(size=(4, 50, 3)) * 7
    matrices = orientation_matrix(directions)
    np.testing.assert_allclose(
        matrices @ matrices.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (4, 50, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1)
    np.testing.assert_allclose(matrices[..., 2, :], directions / np.linalg.norm(directions, axis=-1, keepdims=True))
    np.testing.assert_allclose(matrices[..., 1, 2], 0, atol=1e-12)  # x holds all of -z there is in the plane
    assert (matrices[..., 0, 2] < 0).all()


def test_in_plane_axes_are_those_of_py4dstem():
    for name in py4dstem.NAMES:
        for pattern in py4dstem.load(name).patterns:
            np.testing.assert_allclose(orientation_matrix(pattern.orientation[2]), pattern.orientation, atol=1e-12)


def test_looking_along_z_the_x_axis_is_that_of_the_crystal():
    np.testing.assert_array_equal(orientation_matrix(np.array([0, 0, 2.0])), np.eye(3))
    np.testing.assert_array_equal(orientation_matrix(np.array([0, 0, -1.0])), np.diag([-1, 1, -1]))


def test_grid_is_the_same_for_all_crystals_of_a_laue_class():
    settings = Orientations(protocol="grid", count=12)
    first, second = (orientations_for(crystal(name, 123), settings) for name in ("a", "b"))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:, 2], orientation_matrix(zone_axes("4/mmm", 12))[:, 2])


def test_any_is_a_function_of_seed_and_material_alone():
    settings = Orientations(protocol="any", count=5)
    first = orientations_for(crystal("mp-1"), settings)
    other = orientations_for(crystal("mp-2"), settings)
    np.testing.assert_array_equal(orientations_for(crystal("mp-1"), settings), first)
    assert not np.isclose(first, other).any()
    reseeded = Orientations(protocol="any", count=5, seed=1)
    assert not np.isclose(orientations_for(crystal("mp-1"), reseeded), first).any()
    # The value itself, so that libraries of different versions can be compared.
    np.testing.assert_allclose(first[0, 2], FIRST_ZONE_AXIS_OF_MP_1, atol=1e-12)


FIRST_ZONE_AXIS_OF_MP_1 = [-0.7901392085445162, 0.07022508919597703, 0.6088911790854443]


def test_any_is_uniform_over_all_rotations():
    count = 20_000
    matrices = orientations_for(crystal("uniform"), Orientations(protocol="any", count=count))
    np.testing.assert_allclose(np.linalg.det(matrices), 1)
    assert np.abs(matrices.mean(axis=0)).max() < 4 / np.sqrt(3 * count)
    second_moments = np.einsum("nij,nkl->ijkl", matrices, matrices) / count
    np.testing.assert_allclose(second_moments, np.einsum("ik,jl->ijkl", np.eye(3), np.eye(3)) / 3, atol=0.015)
    z_of_zone_axis = np.histogram(matrices[:, 2, 2], bins=20, range=(-1, 1))[0]
    assert chisquare(z_of_zone_axis).pvalue > 1e-3
    # The angle of a random rotation has the density (1 - cos w) / π.
    angle = np.arccos(np.clip((np.trace(matrices, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert kstest(angle, lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-3


@pytest.mark.parametrize("laue_class", LAUE_CLASSES)
def test_any_sees_every_part_of_the_zone_as_often_as_its_area_asks(laue_class):
    images = np.einsum("gij,nj->gni", equivalents(laue_class), zone_axes(laue_class, 12)).reshape(-1, 3)
    cells = KDTree(images)
    index = np.arange(200_000)  # a Fibonacci lattice, for the areas
    z, azimuth = 1 - (2 * index + 1) / len(index), index * np.pi * (3 - np.sqrt(5))
    lattice = np.stack([np.sqrt(1 - z * z) * np.cos(azimuth), np.sqrt(1 - z * z) * np.sin(azimuth), z], axis=1)
    area = np.bincount(cells.query(lattice)[1] % 12, minlength=12) / len(lattice)
    drawn = orientations_for(crystal("zone"), Orientations(protocol="any", count=20_000))[:, 2]
    seen = np.bincount(cells.query(drawn)[1] % 12, minlength=12)
    assert chisquare(seen, area * len(drawn)).pvalue > 1e-3


def test_any_has_a_uniform_angle_in_the_plane_whatever_the_zone_axis():
    matrices = orientations_for(crystal("plane"), Orientations(protocol="any", count=20_000))
    x_of_grid, y_of_grid = np.moveaxis(orientation_matrix(matrices[:, 2])[:, :2], 1, 0)
    x = matrices[:, 0]
    angle = np.arctan2(np.sum(x * y_of_grid, axis=1), np.sum(x * x_of_grid, axis=1)) / (2 * np.pi) + 0.5
    assert kstest(angle, "uniform").pvalue > 1e-3
    table = np.histogram2d(angle, matrices[:, 2, 2], bins=8, range=[(0, 1), (-1, 1)])[0]
    assert chisquare(table.ravel()).pvalue > 1e-3
