"""Scores say what they claim to say."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuediff.evaluation.metrics import LabelledFeatures, aggregate_groups, evaluate
from gpuediff.hierarchy.prediction import Prediction

SYSTEMS = ("tetragonal", "cubic")
TRUE_NUMBERS = {"tetragonal": 139, "cubic": 225}


def prediction(systems, numbers, lattice):
    n = len(systems)
    index = np.array([SYSTEMS.index(name) for name in systems])
    ones = np.ones(n, np.float32)
    votes = np.eye(len(SYSTEMS), dtype=np.float32)[index]
    return Prediction(SYSTEMS, votes, index, ones, ones, np.asarray(numbers, np.int32), ones, ones, lattice)


class Oracle:
    """A hierarchy whose answers are written in the features: system index, space group number, error of a."""

    systems = SYSTEMS

    def predict(self, features, *, crystal_system=None):
        systems = [SYSTEMS[int(code)] for code in features[:, 0]]
        lattice = np.tile(np.array([4, 4, 4, 90, 90, 90], np.float32), (len(features), 1))
        lattice[:, 0] += features[:, 2]
        return prediction(systems if crystal_system is None else crystal_system, features[:, 1], lattice)

    def aggregate(self, features, groups, *, crystal_system=None):
        _, first = np.unique(groups, return_index=True)
        return self.predict(features[first], crystal_system=crystal_system)


def patterns(rows):
    """Rows of (material, true system, predicted system, predicted number, error of a)."""
    material, true, guess, number, error = zip(*rows, strict=True)
    lattice = np.tile([4.0, 4, 4, 90, 90, 90], (len(rows), 1))
    features = np.array([[SYSTEMS.index(g), n, e] for g, n, e in zip(guess, number, error, strict=True)], np.float32)
    numbers = np.array([TRUE_NUMBERS[name] for name in true], np.int32)
    return LabelledFeatures(features, np.array(material), numbers, lattice, np.ones(len(rows)))


def test_scores_of_a_case_counted_by_hand():
    test = patterns(
        [
            (1, "cubic", "cubic", 225, 0.1),
            (1, "cubic", "cubic", 221, -0.3),
            (2, "cubic", "tetragonal", 225, 0.2),
            (3, "tetragonal", "tetragonal", 139, 1.0),
        ]
    )
    train = patterns([(7, "cubic", "cubic", 225, 0)])
    evaluation, _ = evaluate(Oracle(), train, test, protocol="grid", thickness=200)
    single = evaluation.single
    assert evaluation.systems == SYSTEMS
    assert single.accuracy == 0.75
    assert single.recall == {"tetragonal": 1.0, "cubic": pytest.approx(2 / 3)}
    assert single.balanced_accuracy == pytest.approx((1 + 2 / 3) / 2)
    assert single.confusion == [[1, 0], [1, 2]]
    assert single.space_group_accuracy == {"tetragonal": 1.0, "cubic": pytest.approx(2 / 3)}
    assert single.lattice_error["cubic"] == {"a": pytest.approx(0.2)}
    assert single.lattice_error["tetragonal"]["a"] == pytest.approx(1.0)
    # three materials: right with 1, 0 and 1
    assert single.accuracy_error == pytest.approx(np.std([1, 0, 1], ddof=1) / np.sqrt(3))
    assert evaluation.untrained_space_groups == 0.25
    assert (evaluation.train_materials, evaluation.test_materials) == (1, 3)
    assert evaluation.aggregate is None


def test_aggregates_are_scored_once_a_group():
    test = patterns([(m, "cubic", "cubic" if m else "tetragonal", 225, 0.0) for m in range(2) for _ in range(7)])
    evaluation, answers = evaluate(
        Oracle(), patterns([(9, "cubic", "cubic", 225, 0)]), test, protocol="any", thickness=200, aggregate_size=3
    )
    assert evaluation.aggregate.answers == 4
    assert evaluation.aggregate.accuracy == 0.5
    assert len(answers["aggregate"].material) == 4


def test_a_material_on_both_sides_is_refused():
    data = patterns([(1, "cubic", "cubic", 225, 0)])
    with pytest.raises(ValueError, match="both the training and the test set"):
        evaluate(Oracle(), data, data, protocol="grid", thickness=200)


def test_groups_are_full_disjoint_and_of_one_material():
    material = np.random.default_rng(1).integers(0, 9, 200)
    groups = aggregate_groups(material, 6, seed=3)
    sizes = np.bincount(groups[groups >= 0])
    assert (sizes == 6).all()
    assert all(len(np.unique(material[groups == group])) == 1 for group in range(len(sizes)))
    assert len(sizes) == sum(np.bincount(material) // 6)
    np.testing.assert_array_equal(groups, aggregate_groups(material, 6, seed=3))
    assert (groups != aggregate_groups(material, 6, seed=4)).any()


def test_a_system_that_was_never_trained_counts_as_wrong():
    test = patterns([(1, "cubic", "tetragonal", 139, 0.0), (2, "tetragonal", "tetragonal", 139, 0.0)])
    hierarchy = SimpleNamespace(systems=("tetragonal",), predict=Oracle().predict, aggregate=Oracle().aggregate)
    train = patterns([(5, "tetragonal", "tetragonal", 139, 0)])
    evaluation, _ = evaluate(hierarchy, train, test, protocol="grid", thickness=200)
    assert evaluation.single.accuracy == 0.5
    assert evaluation.single.recall["cubic"] == 0.0
