"""Scores say what they claim to say."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuediff.evaluation.metrics import evaluate, score
from gpuediff.features.labelled import LabelledFeatures, aggregate_groups
from tests.evaluation.cases import NUMBERS, answers, cells, prediction

SYSTEMS = ("tetragonal", "cubic")


class Oracle:
    """A hierarchy whose answers are written in the features: system index, space group number, error of a."""

    systems = SYSTEMS
    block = SimpleNamespace(pools=False)
    calibration_ = None

    def predict(self, features, *, crystal_system=None, patterns=None):
        systems = [SYSTEMS[int(code)] for code in features[:, 0]]
        lattice = cells(len(features))
        lattice[:, 0] += features[:, 2]
        told = list(systems if crystal_system is None else crystal_system)
        return prediction(SYSTEMS, told, numbers=features[:, 1].tolist(), lattice=lattice)

    def in_systems(self, prediction, features, crystal_system, *, groups=None):
        rows = slice(None) if groups is None else np.unique(groups, return_index=True)[1]
        return self.predict(features[rows], crystal_system=crystal_system)

    def aggregate(self, features, groups, *, crystal_system=None):
        _, first = np.unique(groups, return_index=True)
        return self.predict(features[first], crystal_system=crystal_system)


def patterns(rows, together=1):
    """Rows of (material, true system, predicted system, predicted number, error of a)."""
    material, true, guess, number, error = zip(*rows, strict=True)
    lattice = np.tile([4.0, 4, 4, 90, 90, 90], (len(rows), 1))
    features = np.array([[SYSTEMS.index(g), n, e] for g, n, e in zip(guess, number, error, strict=True)], np.float32)
    numbers = np.array([NUMBERS[name] for name in true], np.int32)
    sizes = np.full(len(rows), together)
    return LabelledFeatures(features, sizes, np.array(material), numbers, lattice, np.ones(len(rows)))


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
    assert evaluation.side == "test"
    assert evaluation.train_space_groups == {225: 1}
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
    hierarchy = Oracle()
    hierarchy.systems = ("tetragonal",)
    train = patterns([(5, "tetragonal", "tetragonal", 139, 0)])
    evaluation, _ = evaluate(hierarchy, train, test, protocol="grid", thickness=200)
    assert evaluation.single.accuracy == 0.5
    assert evaluation.single.recall["cubic"] == 0.0


def test_precision_and_false_positives_of_a_case_counted_by_hand():
    true = ["monoclinic"] * 2 + ["tetragonal"] * 3 + ["cubic"] * 5
    predicted = ["cubic"] * 2 + ["tetragonal"] * 2 + ["cubic"] + ["cubic"] * 4 + ["tetragonal"]
    confidence = [0.5, 0.7, 0.9, 0.7, 0.4, 1.0, 1.0, 0.8, 0.8, 0.3]
    systems = ("monoclinic", "tetragonal", "cubic")
    scores = score(answers(true, predicted, systems=systems, confidence=confidence), systems)
    assert scores.confusion == [[0, 0, 2], [0, 2, 1], [0, 1, 4]]
    assert scores.precision == {"monoclinic": None, "tetragonal": 2 / 3, "cubic": 4 / 7}
    # of eight that are not monoclinic none, of seven that are not tetragonal one, of five that are not cubic three
    assert scores.false_positive_rate == {"monoclinic": 0, "tetragonal": 1 / 7, "cubic": 3 / 5}
    assert scores.confidence_matrix == [
        [None, None, pytest.approx(0.6)],
        [None, pytest.approx(0.8), pytest.approx(0.4)],
        [None, pytest.approx(0.3), pytest.approx(0.9)],
    ]
    assert scores.accuracy_without_triclinic is None


def test_the_parts_of_the_matrices_sum_to_the_whole():
    generator = np.random.default_rng(4)
    systems = tuple(NUMBERS)
    true, predicted = ([systems[i] for i in generator.integers(0, 4, 300)] for _ in range(2))
    scores = score(answers(true, predicted, systems=systems, confidence=generator.random(300)), systems)
    counts = np.array(scores.confusion)
    others = counts.sum() - counts.sum(axis=1)
    wrong = sum(scores.false_positive_rate[name] * others[place] for place, name in enumerate(systems))
    assert wrong == pytest.approx(300 * (1 - scores.accuracy))
    named = sum(scores.precision[name] * counts[:, place].sum() for place, name in enumerate(systems))
    assert named == pytest.approx(300 * scores.accuracy)
    confidence = (counts * np.array(scores.confidence_matrix, float)).sum() / 300
    assert confidence == pytest.approx(scores.mean_confidence)
    assert scores.confidence_calibration.coverage[-1].accuracy == pytest.approx(scores.accuracy)
    assert sum(part.answers for part in scores.confidence_calibration.bins) == 300


def test_without_triclinic_the_models_choose_among_the_other_systems():
    votes = [[0.6, 0.1, 0.3], [0.5, 0.3, 0.2], [0.2, 0.1, 0.7], [0.9, 0.1, 0.0]]
    case = answers(
        ["cubic", "cubic", "cubic", "triclinic"],
        ["triclinic", "triclinic", "cubic", "triclinic"],
        systems=("triclinic", "monoclinic", "cubic"),
        votes=votes,
    )
    scores = score(case, case.predicted.systems)
    assert scores.accuracy == 0.5
    assert scores.accuracy_without_triclinic == pytest.approx(2 / 3)


def test_answers_without_a_lattice_are_told_and_count_as_wrong():
    lattice = cells(4)
    lattice[:, 0] += [0.01, 0.03, 0, 0]
    lattice[2:] = np.nan
    scores = score(answers(["cubic"] * 4, ["cubic"] * 4, lattice=lattice), ("cubic",))
    assert scores.lattice_closeness["cubic"].found == 0.5
    assert scores.lattice_closeness["cubic"].within_2_percent == 0.5
    assert scores.lattice_closeness_system_predicted.found == 0.5
    assert scores.lattice_error == {"cubic": {"a": None}}
    assert scores.lattice_error_quartiles["cubic"]["a"] == [pytest.approx(0.025, abs=1e-6), None, None]


def test_where_patterns_are_described_together_aggregates_are_answered_from_that_and_not_from_votes():
    single = patterns([(1, "cubic", "tetragonal", 225, 0)] * 2 + [(3, "tetragonal", "tetragonal", 139, 0)])
    pooled = patterns([(1, "cubic", "cubic", 225, 0)], together=10)
    other_size = patterns([(1, "cubic", "tetragonal", 225, 0)], together=3)
    oracle = Oracle()
    oracle.block = SimpleNamespace(pools=True)
    test = LabelledFeatures.join([single, other_size, pooled])
    train = patterns([(7, "cubic", "cubic", 225, 0)])
    evaluation, _ = evaluate(oracle, train, test, protocol="any", thickness=200)
    assert evaluation.test_patterns == evaluation.single.answers == 3
    assert evaluation.single.accuracy == pytest.approx(1 / 3)
    assert evaluation.aggregate.answers == 1
    assert evaluation.aggregate.accuracy == 1
