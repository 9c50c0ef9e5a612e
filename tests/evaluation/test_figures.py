"""Pictures show the numbers that they are given."""

import numpy as np
import pytest

from gpuediff.evaluation.data_figures import class_figure, importance_figure, radial_grids, space_group_figure
from gpuediff.evaluation.lattice_figures import lattice_error_figure
from gpuediff.evaluation.system_figures import calibration_figure, confidence_figure, confusion_figure
from tests.evaluation.cases import answers, cells, evaluation


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_columns_are_sorted_by_ring_and_order():
    grids = radial_grids({"abs_R_01_02": 0.5, "arg_R_00_01": 0.25, "volume": 0.25})
    assert list(grids) == ["abs", "arg"]
    np.testing.assert_array_equal(grids["abs"], [[np.nan] * 3, [np.nan, np.nan, 0.5]])
    np.testing.assert_array_equal(grids["arg"], [[np.nan, 0.25, np.nan], [np.nan] * 3])
    assert radial_grids({"volume": 1.0}) == {}


def test_the_most_important_features_come_first_and_rings_are_drawn_where_there_are_any():
    importances = {f"feature_{i}": i / 780 for i in range(40)}
    figure = importance_figure(importances)
    assert len(figure.axes) == 1
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"feature_{i}" for i in range(39, 9, -1)]
    assert [bar.get_width() for bar in figure.axes[0].patches] == sorted(importances.values(), reverse=True)[:30]
    assert len(importance_figure({"abs_R_00_00": 0.5, "arg_R_00_00": 0.5}).axes) == 4  # bars, two maps, a colour bar


def test_confusion_shows_shares_of_each_row_and_confidence_leaves_empty_cells_empty():
    case = answers(
        ["cubic"] * 4 + ["tetragonal"], ["cubic"] * 3 + ["tetragonal"] * 2, confidence=[0.8, 0.6, 0.4, 0.3, 0.9]
    )
    assert texts(confusion_figure(evaluation(case))) == ["75%", "25%", "0%", "100%"]
    assert texts(confidence_figure(evaluation(case))) == ["60%", "30%", "90%"]


def test_materials_are_counted_on_both_sides():
    figure = class_figure(np.array([225, 225, 221, 14]), np.array([225, 2]))
    systems, groups = figure.axes
    assert [label.get_text() for label in systems.get_xticklabels()] == ["triclinic", "monoclinic", "cubic"]
    assert [bar.get_height() for bar in systems.patches] == [0, 1, 3, 1, 0, 1]
    assert groups.get_xticklabels()[0].get_text() == "225"
    assert sum(bar.get_height() for bar in groups.patches) == 6


def test_a_system_without_aggregates_has_one_bar_only():
    single = answers(["cubic", "tetragonal"], ["cubic", "cubic"])
    aggregate = answers(["cubic"], ["cubic"], systems=single.predicted.systems)
    assert texts(space_group_figure(evaluation(single, aggregate))) == ["100%", "0%", "100%"]


def test_error_shares_sum_to_the_share_with_a_lattice():
    lattice = cells(10)
    lattice[:, 0] += np.logspace(-5, 3, 10)  # beyond both ends of the axis
    lattice[:3] = np.nan
    case = answers(["cubic"] * 10, ["cubic"] * 10, lattice=lattice)
    figure = lattice_error_figure(evaluation(case), {"single": case})
    (steps,) = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_data")]
    assert steps.get_data().values.sum() == pytest.approx(0.7)
    assert texts(figure) == ["30% without"]


def test_reliability_draws_one_curve_for_each_kind_of_confidence():
    predicted = ["cubic", "tetragonal"] * 5
    uncalibrated = answers(["cubic"] * 10, predicted, confidence=np.linspace(0.1, 1, 10))
    probability = np.tile([0.7, 0.3], (10, 1))
    calibrated = answers(["cubic"] * 10, predicted, confidence=np.linspace(0.1, 1, 10), probability=probability)
    for case, curves in ((uncalibrated, 1), (calibrated, 2)):
        left, right = calibration_figure(evaluation(case)).axes
        assert len(left.lines) == len(right.lines) == 1 + curves
