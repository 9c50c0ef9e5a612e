import numpy as np
import pytest

from gpuediff.errors import InvalidScan
from gpuediff.features.blocks import RadialBasisBlock
from gpuediff.features.preparation import scale_intensity
from gpuediff.features.radial_basis import RadialBasis
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.hierarchy.trained_on import TrainedOn
from gpuediff.peaks import PeakBatch
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.particles import PATTERNS_POOLED, find_particles, innermost, label_particles
from gpuediff.settings import Forest, Split, Training
from tests.scans.fakes import FakeHierarchy, PoolingHierarchy, pattern, scan_of, uniform_scan

MONOCLINIC, HEXAGONAL, CUBIC = 0, 1, 2


@pytest.fixture(scope="module")
def hierarchy_and_scan():
    """A scan of random patterns, and forests that were trained on some with random labels: they disagree everywhere."""
    rng = np.random.default_rng(4)

    def random_pattern():
        q = rng.uniform(-1.5, 1.5, (2, 9))
        q[:, 0] = 0
        return (*q, rng.exponential(size=9))

    block = RadialBasisBlock(RadialBasis(8, 0.25, 3), "centre")
    number = rng.choice([14, 15, 194, 221, 225, 227], 240)
    lattice = np.tile([4.0, 4, 4, 90, 90, 90], (240, 1)) + rng.uniform(0, 1, (240, 1)) * [1, 1, 1, 0, 0, 0]
    small = Forest(trees=9, depth=6)
    trained_on = TrainedOn(split=Split(), crystals_checksum="ab", intensity_sum=1.0)
    hierarchy = Hierarchy(block, Training(crystal_system=small, space_group=small, lattice=small), trained_on)
    training = PeakBatch.from_lists([random_pattern() for _ in number])
    hierarchy.fit(block.compute(scale_intensity(training, 1.0)), number, lattice)
    return hierarchy, scan_of([random_pattern() for _ in range(12 * 16)], (12, 16))


def particles_of(system, lead=0.4, size_min=1, hierarchy=None, **fields):
    scan = uniform_scan(system, lead, **fields)
    hierarchy = hierarchy or FakeHierarchy()
    return find_particles(scan, map_scan(scan, hierarchy, filter_size=1), hierarchy, size_min=size_min)


def image(text):
    """Read an image of systems: . vacuum, m, h, c."""
    return np.array([[".mhc".index(letter) - 1 for letter in line] for line in text.split()])


def test_regions_are_numbered_from_the_largest():
    particles = particles_of(image("cc..h cc..h c...h ....."))
    assert particles.labels.tolist() == [[1, 1, 0, 0, 2], [1, 1, 0, 0, 2], [1, 0, 0, 0, 2], [0, 0, 0, 0, 0]]
    assert particles.crystal_system.tolist() == ["cubic", "hexagonal"]
    assert particles.size.tolist() == [5, 3]


def test_probe_positions_that_share_a_corner_are_one_particle():
    assert len(particles_of(image("c.. .c. ..c"))) == 1


def test_neighbours_of_another_system_are_another_particle():
    particles = particles_of(image("cchh cchh"))
    assert sorted(particles.crystal_system) == ["cubic", "hexagonal"]


def test_two_particles_of_one_system_stay_apart():
    particles = particles_of(image("cc.cc"))
    assert len(particles) == 2
    assert particles.labels.tolist() == [[1, 1, 0, 2, 2]]


def test_regions_that_are_too_small_are_no_particles():
    particles = particles_of(image("ccc.h"), size_min=2)
    assert len(particles) == 1
    assert particles.labels[0, 4] == 0


def test_the_centroid_is_the_mean_position():
    np.testing.assert_allclose(particles_of(image("..... .ccc. .ccc.")).centroid, [[1.5, 2.0]])


def test_the_innermost_position_lies_inside_where_the_centroid_does_not():
    particles = particles_of(image("ccccc cc... cc... cc... ccccc"))
    ((row, column),) = innermost(particles.labels, 20)
    assert particles.labels[row, column] == 1
    assert innermost(particles.labels, 0) == []


def test_the_brightest_pattern_has_most_diffracted_intensity_whatever_the_direct_beam():
    qx, qy, intensity = pattern(CUBIC, 0.4)
    strong_direct_beam = (qx, qy, np.where(np.arange(6) == 0, 1e4, intensity))
    patterns = [strong_direct_beam, pattern(CUBIC, 0.3, brightness=4), pattern(CUBIC, 0.2)]
    scan = scan_of(patterns, (1, 3))
    hierarchy = FakeHierarchy()
    particles = find_particles(scan, map_scan(scan, hierarchy, filter_size=1), hierarchy, size_min=1)
    assert particles.brightest.tolist() == [[0, 1]]
    np.testing.assert_allclose(particles.by_brightest.difference_confidence, 0.3, rtol=1e-6)


def test_space_group_and_lattice_are_by_the_models_of_the_region():
    # After filtering, one hexagonal pattern lies inside a cubic region, and it is the brightest.
    patterns = [pattern(CUBIC, 0.4) for _ in range(25)]
    patterns[12] = pattern(HEXAGONAL, 0.4, brightness=9)
    scan = scan_of(patterns, (5, 5))
    hierarchy = FakeHierarchy()
    particles = find_particles(scan, map_scan(scan, hierarchy), hierarchy)
    assert particles.crystal_system.tolist() == ["cubic"]
    assert particles.by_brightest.crystal_system.tolist() == ["hexagonal"]
    assert particles.by_brightest.lattice[0, 0] == 30.0
    assert particles.by_aggregation.crystal_system.tolist() == ["cubic"]
    np.testing.assert_allclose(particles.by_aggregation.confidence, 24 / 25, rtol=1e-5)


def test_batches_do_not_change_the_answers(monkeypatch):
    rng = np.random.default_rng(1)
    system = rng.choice(4, (12, 15)) - 1
    lead = rng.uniform(0.1, 0.9, system.shape)
    at_once = particles_of(system, lead, hierarchy=PoolingHierarchy())
    monkeypatch.setattr("gpuediff.scans.particles.PATTERNS_PER_BATCH", 3)
    in_batches = particles_of(system, lead, hierarchy=PoolingHierarchy())
    assert len(at_once) > 10
    for name in ("crystal_system", "confidence", "lattice", "space_group_number"):
        np.testing.assert_array_equal(getattr(in_batches.by_pooling, name), getattr(at_once.by_pooling, name))


def test_a_map_without_particles_gives_an_empty_table():
    particles = particles_of(image("c.h"), size_min=2)
    assert len(particles) == 0
    assert particles.by_brightest.lattice.shape == (0, 6)


def test_labels_agree_with_the_system_map():
    rng = np.random.default_rng(2)
    maps = map_scan(uniform_scan(rng.choice(4, (10, 10)) - 1, 0.5), FakeHierarchy(), filter_size=1)
    labels, system = label_particles(maps, size_min=1)
    inside = labels > 0
    np.testing.assert_array_equal(inside, maps.filtered_system >= 0)
    np.testing.assert_array_equal(system[labels[inside] - 1], maps.filtered_system[inside])
    assert (np.diff(np.bincount(labels[inside])[1:]) <= 0).all()


def test_maps_of_another_scan_are_refused():
    hierarchy = FakeHierarchy()
    maps = map_scan(uniform_scan(image("cc"), 0.4), hierarchy, filter_size=1)
    with pytest.raises(InvalidScan, match=r"\(2, 1\) probe positions, but the maps have \(1, 2\)"):
        find_particles(uniform_scan(image("c c"), 0.4), maps, hierarchy)


def test_adding_up_is_the_aggregation_of_the_hierarchy(hierarchy_and_scan):
    hierarchy, scan = hierarchy_and_scan
    maps = map_scan(scan, hierarchy, filter_size=1)
    particles = find_particles(scan, maps, hierarchy, size_min=2)
    assert len(particles) > 3
    inside = particles.labels > 0
    peaks = scale_intensity(scan.peaks[np.flatnonzero(inside)], maps.options["intensity_sum"])
    expected = hierarchy.aggregate(
        hierarchy.block.compute(peaks), particles.labels[inside], crystal_system=particles.crystal_system
    )
    found = particles.by_aggregation
    np.testing.assert_array_equal(found.crystal_system, expected.crystal_system)
    np.testing.assert_array_equal(found.space_group_number, expected.space_group_number)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=2e-6)
    np.testing.assert_allclose(found.difference_confidence, expected.difference_confidence, atol=2e-6)
    np.testing.assert_allclose(found.space_group_confidence, expected.space_group_confidence, atol=2e-6)
    np.testing.assert_array_equal(found.lattice, expected.lattice)


def test_a_particle_of_undecided_patterns_counts_them():
    particles = particles_of(image("ccc"), lead=[[0.0, 0.0, 0.2]])
    assert particles.by_aggregation.confidence.tolist() == [1.0]


def test_a_block_that_pools_describes_the_brightest_patterns_of_a_particle_together():
    hierarchy = PoolingHierarchy()
    patterns = [pattern(CUBIC, 0.2 + 0.01 * k, brightness=1 + k) for k in range(PATTERNS_POOLED + 5)]
    scan = scan_of(patterns, (5, 5))
    particles = find_particles(scan, map_scan(scan, hierarchy, filter_size=1), hierarchy, size_min=1)
    assert hierarchy.sizes[-1] == PATTERNS_POOLED
    # The five darkest are left out; the group's features are those of its first.
    np.testing.assert_allclose(particles.by_pooling.difference_confidence, [0.25], atol=1e-6)


def test_patterns_that_are_described_together_get_space_group_and_lattice_of_their_own_answer():
    hierarchy = PoolingHierarchy()
    patterns = [pattern(CUBIC, 0.4)] + [pattern(HEXAGONAL, 0.4) for _ in range(8)]  # the first stands for the group
    scan = scan_of(patterns, (3, 3))
    particles = find_particles(scan, map_scan(scan, hierarchy), hierarchy, size_min=1)
    assert particles.crystal_system.tolist() == ["hexagonal"]
    answer = particles.by_pooling
    assert (answer.crystal_system[0], answer.space_group_number[0], answer.lattice[0, 0]) == ("cubic", 102, 30.0)
    assert particles.by_brightest.space_group_number.tolist() == [101]
