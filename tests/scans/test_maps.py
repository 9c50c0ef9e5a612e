import itertools

import numpy as np
import pytest

from gpuediff.errors import InvalidScan
from gpuediff.features.blocks import RadialBasisBlock
from gpuediff.features.preparation import scale_intensity
from gpuediff.features.radial_basis import RadialBasis
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.hierarchy.trained_on import TrainedOn
from gpuediff.peaks import PeakBatch
from gpuediff.scans.mapping import classify, filter_systems, map_scan, neighbourhoods
from gpuediff.scans.maps import Status
from gpuediff.scans.particles import find_particles
from gpuediff.settings import Forest, Split, Training
from tests.scans.fakes import SYSTEMS, FakeHierarchy, PoolingHierarchy, pattern, scan_of, uniform_scan

HEXAGONAL, CUBIC = 1, 2


@pytest.fixture
def two_phases():
    """Left half cubic, right half hexagonal, one stray hexagonal probe position on the left."""
    system = np.full((9, 14), CUBIC)
    system[:, 7:] = HEXAGONAL
    system[4, 3] = HEXAGONAL
    return system


def test_every_pattern_keeps_its_place_and_gets_a_status():
    good = pattern(CUBIC, 0.4)
    qx, qy, intensity = (np.array(column) for column in good)
    patterns = [
        good,
        tuple(column[:4] for column in good),
        (np.where(np.arange(6) == 2, np.nan, qx), qy, intensity),
        (qx, qy, np.where(np.arange(6) == 2, -1.0, intensity)),
        (qx, qy, np.zeros(6)),
        ([], [], []),
    ]
    maps = map_scan(scan_of(patterns, (2, 3)), FakeHierarchy(), filter_size=1)
    assert maps.status.tolist() == [
        [Status.PREDICTED, Status.TOO_FEW_PEAKS, Status.INVALID_PEAKS],
        [Status.INVALID_PEAKS, Status.INVALID_PEAKS, Status.TOO_FEW_PEAKS],
    ]
    assert maps.n_peaks.tolist() == [[6, 4, 6], [6, 6, 0]]
    assert maps.raw_system.tolist() == [[CUBIC, -1, -1], [-1, -1, -1]]
    for name in ("confidence", "votes", "lattice", "filtered_difference_confidence", "space_group_confidence"):
        values = getattr(maps, name)
        assert np.isfinite(values[0, 0]).all()
        assert np.isnan(values[1]).all()
    assert maps.space_group_number.tolist() == [[102, 0, 0], [0, 0, 0]]
    assert maps.crystal_system.tolist() == [["cubic", "", ""], ["", "", ""]]


def test_what_is_less_sure_than_the_error_rate_asks_for_is_left_undecided(two_phases):
    lead = np.full(two_phases.shape, 0.4)  # a probability of 0.7
    lead[:, :3] = 0.1
    scan = uniform_scan(two_phases, lead)
    every, sure = map_scan(scan, FakeHierarchy()), map_scan(scan, FakeHierarchy(), error_rate=0.1)
    undecided = np.zeros(two_phases.shape, dtype=bool)
    undecided[:, :3] = undecided[4, 3] = True  # the stray pattern says something else than the map does there
    assert (every.status == Status.PREDICTED).all()
    np.testing.assert_array_equal(sure.status == Status.UNDECIDED, undecided)
    assert (sure.filtered_system[undecided] == -1).all()
    assert np.isnan(sure.lattice_low[undecided]).all()
    np.testing.assert_array_equal(sure.filtered_system[~undecided], every.filtered_system[~undecided])
    np.testing.assert_array_equal(sure.raw_system, every.raw_system)
    np.testing.assert_allclose(sure.probability, (1 + lead) / 2, rtol=1e-6)


def test_flags_are_those_of_the_patterns_themselves(two_phases):
    lead = np.linspace(0.1, 0.6, two_phases.size, dtype=np.float32).reshape(two_phases.shape)
    maps = map_scan(uniform_scan(two_phases, lead), FakeHierarchy())
    np.testing.assert_array_equal(maps.several_grains, lead)
    assert np.isnan(maps.novelty).all()


def test_the_interval_of_the_lattice_is_that_of_the_same_models(two_phases):
    maps = map_scan(uniform_scan(two_phases, 0.4), FakeHierarchy())
    np.testing.assert_array_equal(maps.lattice - maps.lattice_low, 0.25)
    np.testing.assert_array_equal(maps.lattice_high - maps.lattice, 0.5)


def test_exactly_the_smallest_number_of_peaks_is_enough():
    peaks = scan_of([pattern(0, 0.1, peaks=5), pattern(0, 0.1, peaks=4)], (1, 2)).peaks
    assert classify(peaks, 5).tolist() == [Status.PREDICTED, Status.TOO_FEW_PEAKS]


def test_intensities_are_scaled_to_the_fixed_sum_with_the_direct_beam():
    hierarchy = FakeHierarchy()
    map_scan(scan_of([pattern(0, 0.4), pattern(1, 0.4, brightness=7)], (1, 2)), hierarchy, intensity_sum=0.3)
    np.testing.assert_allclose(hierarchy.intensity_sums[:2], 0.3, rtol=1e-5)


def test_without_a_sum_every_pattern_is_as_bright_as_in_training():
    hierarchy = FakeHierarchy()
    map_scan(scan_of([pattern(0, 0.4), pattern(1, 0.4, brightness=7)], (1, 2)), hierarchy)
    np.testing.assert_allclose(hierarchy.intensity_sums[:2], hierarchy.trained_on.intensity_sum, rtol=1e-5)


def test_a_stray_probe_position_takes_the_system_around_it_and_the_lattice_of_that_systems_models(two_phases):
    maps = map_scan(uniform_scan(two_phases, 0.4), FakeHierarchy())
    assert maps.raw_system[4, 3] == HEXAGONAL
    assert maps.filtered_system[4, 3] == CUBIC
    assert maps.lattice[4, 3, 0] == 30.0  # of the fake's cubic models
    assert maps.space_group_number[4, 3] == 102
    np.testing.assert_array_equal(maps.raw_system, two_phases)
    np.testing.assert_array_equal(maps.filtered_system[:, :7], CUBIC)
    np.testing.assert_array_equal(maps.filtered_system[:, 7:], HEXAGONAL)


def test_without_a_filter_every_probe_position_keeps_its_own_answer(two_phases):
    maps = map_scan(uniform_scan(two_phases, 0.4), FakeHierarchy(), filter_size=1)
    np.testing.assert_array_equal(maps.filtered_system, two_phases)
    np.testing.assert_allclose(maps.filtered_difference_confidence, 0.4, rtol=1e-6)
    np.testing.assert_array_equal(maps.lattice[..., 0], 10 * (two_phases + 1))


def test_probe_positions_below_the_least_difference_confidence_are_dropped():
    lead = np.full((6, 8), 0.3)
    lead[:, 4:] = 0.004
    maps = map_scan(uniform_scan(np.full((6, 8), CUBIC), lead), FakeHierarchy(), filter_size=1)
    assert (maps.status[:, 4:] == Status.BELOW_CONFIDENCE).all()
    assert (maps.filtered_system[:, 4:] == -1).all()
    assert (maps.raw_system == CUBIC).all()
    assert np.isnan(maps.lattice[:, 4:]).all()
    assert (maps.space_group_number[:, 4:] == 0).all()
    np.testing.assert_allclose(maps.difference_confidence[:, 4:], 0.004, rtol=1e-5)


def test_vacuum_among_crystal_gets_no_answer_from_its_neighbours():
    system = np.full((7, 7), CUBIC)
    system[3, 3] = -1
    maps = map_scan(uniform_scan(system, 0.4), FakeHierarchy())
    assert maps.status[3, 3] == Status.TOO_FEW_PEAKS
    assert maps.filtered_system[3, 3] == -1
    assert np.isnan(maps.filtered_difference_confidence[3, 3])
    assert maps.count(Status.PREDICTED) == 48


def test_one_system_chosen_gives_the_lattice_everywhere_and_leaves_the_systems(two_phases):
    maps = map_scan(uniform_scan(two_phases, 0.4), FakeHierarchy(), lattice_system="monoclinic")
    assert (maps.lattice[..., 0] == 10.0).all()
    np.testing.assert_array_equal(maps.raw_system, two_phases)


def test_the_votes_of_a_probe_position_add_up_and_agree_with_its_confidence(two_phases):
    maps = map_scan(uniform_scan(two_phases, 0.25), FakeHierarchy())
    np.testing.assert_allclose(maps.votes.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(maps.votes.max(axis=-1), maps.confidence)
    ordered = np.sort(maps.votes, axis=-1)
    np.testing.assert_allclose(ordered[..., -1] - ordered[..., -2], maps.difference_confidence, atol=1e-6)


def test_batches_do_not_change_the_maps(two_phases, monkeypatch):
    lead = np.random.default_rng(0).uniform(0.05, 0.6, two_phases.shape)
    scan = uniform_scan(two_phases, lead)
    at_once = map_scan(scan, FakeHierarchy())
    monkeypatch.setattr("gpuediff.scans.mapping.PATTERNS_PER_BATCH", 5)
    in_batches = map_scan(scan, FakeHierarchy())
    for name in ("raw_system", "filtered_system", "votes", "lattice", "space_group_number"):
        np.testing.assert_array_equal(getattr(in_batches, name), getattr(at_once, name))


def test_fractions_count_probe_positions_or_confidence():
    system = np.array([[CUBIC, CUBIC, CUBIC, HEXAGONAL, -1]])
    lead = np.array([[0.1, 0.1, 0.1, 0.7, 0.0]])
    maps = map_scan(uniform_scan(system, lead), FakeHierarchy(), filter_size=1, difference_confidence_min=0.2)
    np.testing.assert_allclose(maps.raw_fractions(), [0, 0.25, 0.75])
    np.testing.assert_allclose(maps.weighted_fractions(), [0, 0.7, 0.3], rtol=1e-6)
    np.testing.assert_allclose(maps.filtered_fractions(), [0, 1, 0])


def test_no_fraction_where_nothing_passed_the_filter():
    maps = map_scan(uniform_scan([[CUBIC]], 0.1), FakeHierarchy(), difference_confidence_min=0.9)
    assert np.isnan(maps.filtered_fractions()).all()


def median_by_hand(image, size):
    half = size // 2
    padded = np.pad(image, half, mode="symmetric")
    return np.array(
        [[np.median(padded[y : y + size, x : x + size]) for x in range(image.shape[1])] for y in range(image.shape[0])]
    )


def test_the_filter_is_a_median_of_each_systems_own_image():
    rng = np.random.default_rng(3)
    system = rng.choice(4, (11, 9), p=[0.2, 0.4, 0.4, 0.0]) - 1
    lead = np.where(system < 0, np.nan, rng.uniform(0, 1, system.shape)).astype(np.float32)
    images = [median_by_hand(np.where(system == index, lead, 0), 5) for index in range(3)]
    winner, largest = filter_systems(system, lead, 3, 5)
    np.testing.assert_allclose(largest, np.max(images, axis=0))
    np.testing.assert_array_equal(winner, np.where(np.max(images, axis=0) > 0, np.argmax(images, axis=0), -1))


def test_a_scan_without_any_pattern_to_predict_is_refused():
    with pytest.raises(InvalidScan, match=r"none of the 6 patterns can be predicted \(6 too_few_peaks\)"):
        map_scan(uniform_scan(np.full((2, 3), -1), 0), FakeHierarchy())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("intensity_sum", 0.0),
        ("intensity_sum", np.nan),
        ("peaks_min", 0),
        ("filter_size", 4),
        ("filter_size", 0),
        ("difference_confidence_min", 1.5),
    ],
)
def test_an_option_out_of_range_is_named(option, value):
    with pytest.raises(InvalidScan, match=f"{option} = {value}: must be"):
        map_scan(uniform_scan([[CUBIC]], 0.4), FakeHierarchy(), **{option: value})


def test_the_maps_know_where_they_come_from():
    scan = uniform_scan([[CUBIC]], 0.4, calibration={"pixel_size": "0.02 Å⁻¹"}, note="assumed", step_size=20.0)
    maps = map_scan(scan, FakeHierarchy(), peaks_min=3)
    assert (maps.source, maps.note, maps.step_size) == ("made for a test", "assumed", 20.0)
    assert maps.calibration == {"pixel_size": "0.02 Å⁻¹"}
    assert maps.options["peaks_min"] == 3
    assert maps.systems == SYSTEMS


def test_a_trained_hierarchy_maps_square_and_hexagonal_nets_where_they_are():
    """From peaks to map with the real features and forests."""
    block = RadialBasisBlock(RadialBasis(21, 0.05, 7), direct_beam="centre")
    small = Forest(trees=10, depth=8)
    trained_on = TrainedOn(split=Split(), crystals_checksum="ab", intensity_sum=0.3)
    hierarchy = Hierarchy(block, Training(crystal_system=small, space_group=small, lattice=small), trained_on)
    rng = np.random.default_rng(0)

    def net(fold, a):
        turn, radius = rng.uniform(0, 2 * np.pi), 1 / a
        angle = turn + np.arange(fold) * 2 * np.pi / fold
        qx, qy = radius * np.cos(angle), radius * np.sin(angle)
        return np.r_[0, qx, 1.9 * qx], np.r_[0, qy, 1.9 * qy], np.r_[10, np.full(fold, 1.0), np.full(fold, 0.3)]

    def learn(fold, number, a):
        cell = [a, a, a, 90, 90, 120 if fold == 6 else 90]
        return net(fold, a), number, cell

    known = [learn(4, 225, a) for a in rng.uniform(3.8, 4.2, 60)] + [
        learn(6, 194, a) for a in rng.uniform(2.8, 3.2, 60)
    ]
    patterns, numbers, cells = zip(*known, strict=True)
    features = block.compute(scale_intensity(PeakBatch.from_lists(patterns), 0.3))
    hierarchy.fit(features, np.array(numbers), np.array(cells))

    left = np.arange(12) % 4 < 2
    scan = scan_of([net(4, 4.0) if square else net(6, 3.0) for square in left], (3, 4))
    maps = map_scan(scan, hierarchy, filter_size=1)
    np.testing.assert_array_equal(maps.crystal_system, np.where(left, "cubic", "hexagonal").reshape(3, 4))
    np.testing.assert_array_equal(maps.space_group_number, np.where(left, 225, 194).reshape(3, 4))
    np.testing.assert_allclose(maps.lattice[..., 0], np.where(left, 4.0, 3.0).reshape(3, 4), atol=0.25)
    particles = find_particles(scan, maps, hierarchy)
    assert sorted(particles.by_aggregation.crystal_system) == ["cubic", "hexagonal"]
    np.testing.assert_array_equal(particles.by_aggregation.crystal_system, particles.crystal_system)


def test_a_neighbourhood_is_the_usable_patterns_around_itself_first():
    usable = np.ones((4, 5), dtype=bool)
    usable[1, 1] = False
    groups = neighbourhoods(np.array([0, 7, 19]), usable, 1)
    members = [groups.members[start:end].tolist() for start, end in itertools.pairwise(groups.offsets)]
    assert [one[0] for one in members] == [0, 7, 19]
    assert [sorted(one) for one in members] == [[0, 1, 5], [1, 2, 3, 7, 8, 11, 12, 13], [13, 14, 18, 19]]


def test_neighbours_are_handed_to_a_block_that_pools_with_their_number():
    hierarchy = PoolingHierarchy()
    system = np.full((3, 3), CUBIC)
    system[2, 2] = -1
    maps = map_scan(uniform_scan(system, 0.4), hierarchy, filter_size=1, neighbours=1)
    assert maps.options["neighbours"] == 1
    # Of the position (0, 0), of the middle, and of the last one.
    assert (hierarchy.sizes[0], hierarchy.sizes[4], hierarchy.sizes[7]) == (4, 8, 5)


def test_neighbours_are_refused_by_a_block_that_does_not_pool():
    with pytest.raises(InvalidScan, match="neighbours = 1: the model's features 'fake' describe every pattern"):
        map_scan(uniform_scan(np.full((2, 2), CUBIC), 0.4), FakeHierarchy(), neighbours=1)
