import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from gpuediff.hierarchy.aggregation import (
    decide,
    difference_aggregation,
    median_aggregation,
    vote_aggregation,
    winners,
)
from tests.reference import aggregation as reference


@st.composite
def grouped_votes(draw):
    """Votes of few trees, so that ties are common, and groups 0 .. count - 1 that each have a pattern."""
    patterns, classes = draw(st.integers(1, 25)), draw(st.integers(1, 5))
    votes = draw(arrays(np.int32, (patterns, classes), elements=st.integers(0, 4)))
    votes[:, 0] += votes.sum(axis=1) == 0
    labels = draw(st.lists(st.integers(0, 6), min_size=patterns, max_size=patterns))
    _, group = np.unique(labels, return_inverse=True)
    return votes, group, int(group.max()) + 1


def test_one_pattern_is_what_most_trees_say():
    decision = decide(np.array([[10, 50, 20], [40, 0, 40], [0, 0, 80]]))
    assert_array_equal(decision.index, [1, 0, 2])
    assert_allclose(decision.confidence, [50 / 80, 40 / 80, 1])
    assert_allclose(decision.difference_confidence, [30 / 80, 0, 1])


def test_many_patterns_are_weighed_by_how_sure_each_is():
    # Two patterns lean to class 0 by 2 of 10 trees each; one is certain of class 1: 0.4 against 0.8.
    votes = np.array([[6, 4], [6, 4], [1, 9]])
    sums = difference_aggregation(votes, np.zeros(3, dtype=int), 1)
    assert_array_equal(sums, [[4, 8]])
    decision = decide(sums)
    assert_array_equal(decision.index, [1])
    assert_allclose(decision.confidence, [8 / 12])
    assert_allclose(decision.difference_confidence, [4 / 12])


def test_where_every_pattern_is_undecided_the_votes_are_summed():
    votes = np.array([[4, 4, 2], [1, 4, 4], [9, 1, 0]])
    sums = difference_aggregation(votes, np.array([0, 0, 1]), 2)
    assert_array_equal(sums, [[5, 8, 6], [8, 0, 0]])
    assert_allclose(decide(sums).confidence[0], 8 / 19)


def test_one_class_has_no_second():
    decision = decide(np.array([[80], [80]]))
    assert_array_equal(decision.confidence, [1, 1])
    assert_array_equal(decision.difference_confidence, [1, 1])


@given(grouped_votes())
def test_difference_aggregation_is_that_of_the_reference(data):
    votes, group, count = data
    expected = reference.difference_aggregation(votes.tolist(), group.tolist())
    assert_array_equal(difference_aggregation(votes, group, count), expected)


@given(grouped_votes())
def test_winners_are_those_of_the_reference(data):
    votes, _, _ = data
    index, top, margin = winners(votes)
    expected = [reference.top_two(row) for row in votes.tolist()]
    assert_array_equal(np.stack([index, top, top - margin], axis=1), expected)


@given(grouped_votes(), st.randoms(use_true_random=False))
def test_the_order_of_patterns_does_not_matter(data, random):
    votes, group, count = data
    order = np.array(random.sample(range(len(votes)), len(votes)))
    values = votes[:, 0].astype(np.float32) / 3
    for rule, content in ((difference_aggregation, votes), (vote_aggregation, votes), (median_aggregation, values)):
        assert_array_equal(rule(content[order], group[order], count), rule(content, group, count))


@given(grouped_votes())
def test_a_group_of_one_pattern_has_the_label_of_that_pattern(data):
    votes, _, _ = data
    sums = difference_aggregation(votes, np.arange(len(votes)), len(votes))
    assert_array_equal(decide(sums).index, decide(votes).index)


@given(grouped_votes())
def test_a_class_that_nobody_votes_for_changes_nothing_for_the_others(data):
    votes, group, count = data
    wider = np.insert(votes, 1, 0, axis=1)
    sums, wide_sums = (difference_aggregation(table, group, count) for table in (votes, wider))
    assert_array_equal(np.delete(wide_sums, 1, axis=1), sums)
    assert_array_equal(wide_sums[:, 1], 0)


@given(grouped_votes(), st.data())
def test_medians_are_those_of_the_reference(data, draw):
    _, group, count = data
    floats = st.floats(-1e6, 1e6, width=32)
    values = draw.draw(arrays(np.float32, len(group), elements=floats))
    expected = reference.median_aggregation(values.tolist(), group.tolist())
    assert_array_equal(median_aggregation(values, group, count), np.array(expected, dtype=np.float32))
