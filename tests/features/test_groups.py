"""Groups of patterns."""

import numpy as np

from gpuediff.features.groups import Groups


def test_every_pattern_can_be_a_group_of_its_own():
    groups = Groups.singles(3)
    assert len(groups) == 3
    np.testing.assert_array_equal(groups.members, [0, 1, 2])
    np.testing.assert_array_equal(groups.sizes, 1)


def test_labels_gather_patterns_in_rising_order_and_negative_ones_are_left_out():
    groups = Groups.of_labels(np.array([7, -1, 2, 7, 2, 7]))
    np.testing.assert_array_equal(groups.members, [2, 4, 0, 3, 5])
    np.testing.assert_array_equal(groups.sizes, [2, 3])
    np.testing.assert_array_equal(groups.first, [2, 0])
    np.testing.assert_array_equal(groups.group_of_member, [0, 0, 1, 1, 1])


def test_joined_groups_follow_each_other_and_may_share_patterns():
    groups = Groups.join([Groups.singles(2), Groups.of_labels(np.array([0, 0]))])
    np.testing.assert_array_equal(groups.members, [0, 1, 0, 1])
    np.testing.assert_array_equal(groups.sizes, [1, 1, 2])


def test_of_no_labels_there_are_no_groups():
    assert len(Groups.of_labels(np.array([], dtype=int))) == 0
