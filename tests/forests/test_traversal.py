"""Models that scikit-learn does not make: other comparisons, broken trees."""

import numpy as np
import pytest
import treelite
from numpy.testing import assert_array_equal
from treelite import gtil
from treelite.model_builder import Metadata, ModelBuilder, PostProcessorFunc, TreeAnnotation

from gpuediff.errors import InvalidBundle
from gpuediff.forests.traversal import flatten
from gpuediff.forests.treelite_forest import RandomForest


def one_split(threshold, comparison="<=", feature=1, trees=1, dtype="float64") -> treelite.Model:
    """Trees that say 1 on the left and 2 on the right; children listed right first, as no library does."""
    builder = ModelBuilder(
        threshold_type=dtype,
        leaf_output_type=dtype,
        metadata=Metadata(
            num_feature=3,
            task_type="kRegressor",
            average_tree_output=True,
            num_target=1,
            num_class=[1],
            leaf_vector_shape=(1, 1),
        ),
        tree_annotation=TreeAnnotation(num_tree=trees, target_id=[0] * trees, class_id=[0] * trees),
        postprocessor=PostProcessorFunc(name="identity"),
        base_scores=[0.0],
    )
    for _ in range(trees):
        builder.start_tree()
        for key in (0, 2, 1):
            builder.start_node(key)
            if key == 0:
                builder.numerical_test(
                    feature_id=feature,
                    threshold=threshold,
                    default_left=True,
                    opname=comparison,
                    left_child_key=1,
                    right_child_key=2,
                )
            else:
                builder.leaf(float(key))
            builder.end_node()
        builder.end_tree()
    return builder.commit()


def near(threshold):
    """Three float32 values around a threshold."""
    middle = np.float32(threshold)
    return np.array([np.nextafter(middle, np.float32(-np.inf)), middle, np.nextafter(middle, np.float32(np.inf))])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("comparison", ["<", "<="])
@pytest.mark.parametrize("threshold", [0.0, 0.1, -0.1, 1 / 3, 1.0, -1e-30, 1e-45, 16777217.0, 3e38])
def test_a_split_sends_the_neighbours_of_its_threshold_where_treelite_does(threshold, comparison, dtype):
    X = np.zeros((3, 3), dtype=np.float32)
    X[:, 1] = near(threshold)
    model = one_split(threshold, comparison, trees=2, dtype=dtype)
    expected = gtil.predict_per_tree(model, X.astype(dtype))[:, :, 0]
    assert_array_equal(RandomForest(model).values(X), expected.astype(np.float32))


def test_a_comparison_that_no_backend_makes_is_refused():
    with pytest.raises(InvalidBundle, match="neither < nor <="):
        flatten(one_split(0.5, ">"), 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cleft", [1, -1, 7], "exactly one"),
        ("cleft", [0, -1, -1], "exactly one"),
        ("cright", [2, -1, -1], "exactly one"),
        ("cright", [-5, -1, -1], "exactly one"),
        ("split_index", [3, -1, -1], "not among the 3"),
        ("split_index", [-1, -1, -1], "not among the 3"),
        ("threshold", [np.nan, 0, 0], "not a number"),
        ("leaf_value", [0, np.inf, 1], "not finite"),
        ("node_type", [2, 0, 0], "numerical splits"),
    ],
)
def test_a_damaged_tree_is_refused_before_it_is_walked(field, value, message):
    model = one_split(0.5)
    accessor = model.get_tree_accessor(0)
    accessor.set_field(field, np.array(value, dtype=accessor.get_field(field).dtype))
    with pytest.raises(InvalidBundle, match=message):
        RandomForest(model)


def test_siblings_are_neighbours_in_a_flat_tree():
    flat = flatten(one_split(0.5, trees=3), 3)
    assert_array_equal(flat.roots, [0, 3, 6])
    assert_array_equal(flat.nodes["child"][flat.roots], [1, 4, 7])
    assert_array_equal(flat.nodes["feature"], [1, -1, -1] * 3)
    leaves = flat.nodes["child"][flat.nodes["feature"] < 0]
    assert_array_equal(np.sort(leaves), np.arange(flat.leaves))
