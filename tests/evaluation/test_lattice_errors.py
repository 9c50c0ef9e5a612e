"""No lattice is infinitely far from the truth."""

import numpy as np
import pytest

from gpuediff.evaluation.lattice_errors import absolute_errors, closeness, quartiles
from tests.evaluation.cases import cells


def off(*errors_of_a):
    """Predict 4 Å cells with these errors of a; None stands for no lattice."""
    predicted = cells(len(errors_of_a)).astype(float)
    for row, error in zip(predicted, errors_of_a, strict=True):
        if error is None:
            row[:] = np.nan
        else:
            row[0] += error
    return predicted


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((0.1, -0.2, None), [0.15, 0.2, None]),
        ((0.1, None, None), [None, None, None]),
        ((0.1, 0.3, 0.2, None, None), [0.2, 0.3, None]),
        ((None,), [None, None, None]),
    ],
)
def test_percentiles_count_the_answers_without_a_lattice(errors, expected):
    got = quartiles(off(*errors), cells(len(errors)), ("a",))["a"]
    assert got == [None if value is None else pytest.approx(value) for value in expected]


def test_percentiles_are_numpy_s_where_every_lattice_is_known():
    errors = np.random.default_rng(0).normal(size=38)
    got = quartiles(off(*errors), cells(38), ("a", "b"))
    assert got["a"] == pytest.approx(np.percentile(np.abs(errors), (25, 50, 75)))
    assert got["b"] == [0, 0, 0]


def test_errors_have_no_sign_and_unknown_ones_are_infinite():
    error = absolute_errors(off(-0.5, None), cells(2))
    assert error[0].tolist() == [0.5, 0, 0, 0, 0, 0]
    assert np.isinf(error[1]).all()


def test_a_lattice_is_close_if_its_worst_parameter_is():
    predicted = off(0.079, 0.081, 0.199, 0.201, None)  # of 4 Å: 2 % are 0.08 Å, 5 % are 0.2 Å
    one = closeness(predicted, cells(5))
    assert (one.found, one.within_2_percent, one.within_5_percent) == pytest.approx((0.8, 0.2, 0.6))


def test_an_angle_is_close_if_it_moves_an_axis_as_little_as_a_length_may():
    true = np.repeat([[4.0, 5, 6, 90, 100, 90]], 3, axis=0)
    predicted = true.copy()
    predicted[:, 4] += np.degrees([0.0199, 0.0201, 0.0501])
    one = closeness(predicted, true)
    assert (one.within_2_percent, one.within_5_percent) == pytest.approx((1 / 3, 2 / 3))
    assert closeness(predicted, true, ("a", "b", "c")).within_2_percent == 1


def test_closeness_does_not_depend_on_the_unit_of_length():
    generator = np.random.default_rng(3)
    true = np.concatenate([generator.uniform(3, 12, (200, 3)), np.full((200, 3), 90.0)], axis=1)
    predicted = true * np.concatenate([generator.normal(1, 0.03, (200, 3)), np.ones((200, 3))], axis=1)
    scale = np.array([10.0, 10, 10, 1, 1, 1])
    one = closeness(predicted, true)
    assert one == closeness(predicted * scale, true * scale)
    assert 0 < one.within_2_percent < one.within_5_percent < 1
