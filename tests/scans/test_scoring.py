import numpy as np
import pytest

from gpuediff.errors import InvalidScan
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.particles import find_particles
from gpuediff.scans.scoring import (
    Score,
    answers_near_zone_axes,
    false_labels,
    score_particles,
    score_positions,
    zone_axis_angles,
)
from gpuediff.scans.simulated import Truth, gold
from tests.scans.fakes import FakeHierarchy, uniform_scan

HEXAGONAL, CUBIC = 1, 2


def looking_along(*axis):
    """Rows e_x, e_y, e_z of a grain with a direction of the crystal along the beam."""
    beam = np.array(axis) / np.linalg.norm(axis)
    side = np.cross(beam, [0.3, -0.5, 0.8])
    side /= np.linalg.norm(side)
    return np.array([side, np.cross(beam, side), beam])


@pytest.fixture
def truth():
    """Two rows: a grain along <-1 1 1>, one a little off <0 1 0>, film."""
    grain = np.array([[0, 0, 0, 1, 1, -1], [0, 0, 0, 1, 1, -1]], dtype=np.int32)
    orientation = np.array([looking_along(-1, 1, 1), looking_along(0.05, 1, 0)])
    return Truth(grain, np.minimum(grain, 0), np.where(grain < 0, 0.0, 100.0), orientation, gold())


def maps_of(system):
    hierarchy, scan = FakeHierarchy(), uniform_scan(system, 0.4)
    maps = map_scan(scan, hierarchy, filter_size=1)
    return maps, find_particles(scan, maps, hierarchy, size_min=2)


def test_only_labels_on_crystal_count(truth):
    maps, _ = maps_of([[2, 2, 1, 2, -1, 2], [2, 2, 1, 2, -1, -1]])
    # The fake hierarchy says a = 30 Å for every cubic crystal.
    assert score_positions(maps, truth) == Score(there=10, answered=8, right=6, near=0)
    assert score_positions(maps, truth, where=truth.grain == 1) == Score(4, 2, 2, 0)
    assert false_labels(maps, truth) == (1, 2)


def test_lengths_within_the_tolerance_are_near(truth):
    maps, _ = maps_of([[2] * 6] * 2)
    maps.lattice[..., 0] = 4.078 + np.array([[0.05, -0.09, 0.11, -0.2, 0.0, 0.0]] * 2)
    assert score_positions(maps, truth).near == 6


def test_particles_of_film_do_not_count(truth):
    _, particles = maps_of([[2, 2, 1, -1, -1, 2], [2, 2, 1, -1, -1, 2]])
    assert len(particles) == 3
    assert score_particles(particles, truth) == Score(there=2, answered=2, right=1, near=0)


def test_angles_to_zone_axes_are_those_between_directions(truth):
    angles = zone_axis_angles(truth)
    between = {"<111>": 70.5288, "<110>": 35.2644, "<100>": 54.7356}  # from [111] to the nearest of each kind
    assert angles["<111>"][0, 0] == pytest.approx(0, abs=1e-5)
    for kind in ("<110>", "<100>"):
        assert angles[kind][0, 0] == pytest.approx(between[kind], abs=1e-3)
    assert angles["<100>"][0, 3] == pytest.approx(np.degrees(np.arctan(0.05)), abs=1e-5)
    assert np.isnan(angles["<111>"][0, 5])


def test_answers_are_counted_by_the_zone_axis_they_were_seen_along(truth):
    maps, _ = maps_of([[2, 2, 1, 2, 2, 2], [2, 2, 1, -1, 2, 2]])
    counts = answers_near_zone_axes(maps, truth)
    assert counts["<111>"] == {"monoclinic": 0, "hexagonal": 2, "cubic": 4}
    assert counts["<100>"] == {"monoclinic": 0, "hexagonal": 0, "cubic": 3}
    assert sum(counts["between"].values()) == sum(counts["<110>"].values()) == 0


def test_maps_of_another_shape_are_refused(truth):
    maps, _ = maps_of([[2, 2]])
    with pytest.raises(InvalidScan, match=r"\(1, 2\) probe positions against a truth of \(2, 6\)"):
        score_positions(maps, truth)
