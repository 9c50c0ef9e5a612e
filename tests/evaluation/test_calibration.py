"""A confidence is worth what its calibration says."""

import numpy as np
import pytest

from gpuediff.evaluation.calibration import Abstention, abstentions, calibration, coverage_curve, system_calibrations
from gpuediff.hierarchy.calibration import Learned, ProbabilityMap, Threshold
from gpuediff.hierarchy.labels import crystal_systems_of
from tests.evaluation.cases import answers

SYSTEMS = ("tetragonal", "cubic")


def judged(case):
    true = crystal_systems_of(case.space_group_number)
    return system_calibrations(case.predicted, case.predicted.crystal_system == true, true)


def test_the_expected_error_is_the_gap_of_each_bin_weighted_by_its_answers():
    confidence = np.array([0.9] * 4 + [0.35] * 6)
    right = np.array([1, 1, 1, 0, 1, 1, 1, 0, 0, 0], bool)
    one = calibration(confidence, right)
    # |0.9 - 3/4| for four answers, |0.35 - 1/2| for six; then the same gap with another sign
    assert one.expected_error == pytest.approx((4 * 0.15 + 6 * 0.15) / 10)
    assert calibration(np.array([0.9] * 4 + [0.45] * 6), right).expected_error == pytest.approx(
        (4 * 0.15 + 6 * 0.05) / 10
    )
    filled = [part for part in one.bins if part.answers]
    assert [(part.low, part.high, part.answers) for part in filled] == [(0.3, 0.4, 6), (0.8, 0.9, 4)]
    assert [part.accuracy for part in filled] == [0.5, 0.75]
    assert [part.confidence for part in filled] == pytest.approx([0.35, 0.9])
    assert one.log_loss is None


def test_an_answer_that_is_right_as_often_as_it_says_is_calibrated():
    generator = np.random.default_rng(5)
    probability = generator.random(20_000)
    right = generator.random(20_000) < probability
    assert calibration(probability, right).expected_error < 0.015
    # overconfident: p is told as sqrt(p), which is too high by the mean of sqrt(p) - p, 2/3 - 1/2
    assert calibration(np.sqrt(probability), right).expected_error == pytest.approx(1 / 6, abs=0.015)


def test_bins_count_every_answer_once_and_hold_their_upper_edge():
    confidence = np.array([0.0, 0.1, 0.7, 0.71, 1.0], np.float32)
    one = calibration(confidence, np.ones(5, bool))
    assert [part.answers for part in one.bins] == [2, 0, 0, 0, 0, 0, 1, 1, 0, 1]
    empty = one.bins[1]
    assert (empty.confidence, empty.accuracy) == (None, None)


def test_the_most_confident_answers_are_scored_first():
    confidence = np.array([0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15, 0.05])
    right = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], bool)
    order = np.random.default_rng(2).permutation(10)
    curve = coverage_curve(confidence[order], right[order])
    assert [part.share for part in curve] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert [part.accuracy for part in curve] == pytest.approx([1, 1, 1, 1, 1, 5 / 6, 5 / 7, 5 / 8, 5 / 9, 0.5])
    assert [part.confidence_min for part in curve] == pytest.approx(confidence.tolist())


def test_answers_of_one_confidence_are_not_told_apart_by_their_order():
    right = np.array([1] * 5 + [0] * 5, bool)
    assert [part.accuracy for part in coverage_curve(np.full(10, 0.5), right)] == pytest.approx([0.5] * 10)


def test_log_loss_is_the_mean_surprise_about_the_truth():
    case = answers(["cubic", "tetragonal"], ["cubic", "cubic"], systems=SYSTEMS, probability=[[0.5, 0.5], [0.25, 0.75]])
    _, probability = judged(case)
    assert probability.log_loss == pytest.approx(-(np.log(0.5) + np.log(0.25)) / 2)
    # of the predicted system: 0.5 and right, 0.75 and wrong
    assert probability.expected_error == pytest.approx((0.5 + 0.75) / 2)


def test_a_truth_that_the_models_do_not_know_costs_a_finite_surprise():
    case = answers(["monoclinic"], ["cubic"], systems=SYSTEMS, probability=[[0.0, 1.0]])
    assert judged(case)[1].log_loss == pytest.approx(-np.log(1e-6))


@pytest.mark.parametrize("probability", [None, [[np.nan, np.nan], [np.nan, np.nan]]])
def test_a_model_that_is_not_calibrated_has_the_scores_of_its_confidence_alone(probability):
    case = answers(
        ["cubic", "cubic"], ["cubic", "tetragonal"], systems=SYSTEMS, confidence=[1.0, 0.0], probability=probability
    )
    confidence, calibrated = judged(case)
    assert calibrated is None
    assert confidence.expected_error == pytest.approx(0)


def test_the_errors_at_the_promised_rates_are_counted_by_hand():
    probability = np.array([[0.1, 0.9], [0.25, 0.75], [0.4, 0.6], [0.4, 0.6]])
    case = answers(["cubic", "tetragonal", "cubic", "cubic"], ["cubic"] * 4, systems=SYSTEMS, probability=probability)
    thresholds = [(0.01, None), (0.05, 0.875), (0.1, 0.75), (0.2, 0.95)]
    learned = Learned(
        map=ProbabilityMap(gamma=1.0, slope=0.0, floor=1e-6),
        answers=9,
        materials=3,
        thresholds=tuple(
            Threshold(error_rate=rate, probability=least, coverage=0.0 if least is None else 0.5)
            for rate, least in thresholds
        ),
    )
    right = np.array([True, False, True, True])
    assert abstentions(case.predicted, right, learned) == [
        Abstention(0.01, None, 0, 0.0, None),
        Abstention(0.05, 0.875, 1, 0.25, 0.0),
        Abstention(0.1, 0.75, 2, 0.5, 0.5),
        Abstention(0.2, 0.95, 0, 0.0, None),
    ]
    assert abstentions(case.predicted, right, None) == []
