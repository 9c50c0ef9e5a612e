import numpy as np
import pytest

from gpuediff.lattices.reciprocal import inverse_metrics
from gpuediff.lattices.reduction import metrics

RNG = np.random.default_rng(5)
BASES = RNG.normal(size=(20, 3, 3)) + 3 * np.eye(3)


def test_the_dual_metric_is_that_of_the_inverse_basis_and_back():
    dual, _ = inverse_metrics(metrics(BASES), np.zeros((20, 6, 6)))
    np.testing.assert_allclose(dual, metrics(np.linalg.inv(BASES).transpose(0, 2, 1)), rtol=1e-9)
    again, _ = inverse_metrics(dual, np.zeros((20, 6, 6)))
    np.testing.assert_allclose(again, metrics(BASES), rtol=1e-9)


def test_the_covariance_is_that_of_many_noisy_metrics():
    metric = metrics(BASES[:1])
    root = 1e-4 * RNG.normal(size=(6, 6))
    _, predicted = inverse_metrics(metric, (root @ root.T)[None])
    noisy = metric + RNG.normal(size=(20_000, 6)) @ root.T
    seen = np.cov(inverse_metrics(noisy, np.zeros((20_000, 6, 6)))[0].T)
    scale = np.sqrt(np.outer(np.diag(seen), np.diag(seen)))
    np.testing.assert_allclose(predicted[0] / scale, seen / scale, atol=0.03)


def test_what_is_no_metric_has_no_dual_and_wrong_shapes_are_refused():
    dual, _ = inverse_metrics([[1, 1, 1, 2, 0, 0], [np.nan] * 6], np.zeros((2, 6, 6)))
    assert np.isnan(dual).all()
    with pytest.raises(ValueError, match="metric"):
        inverse_metrics(np.zeros((2, 5)), np.zeros((2, 6, 6)))
