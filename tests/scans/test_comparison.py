import numpy as np
import pytest
from sklearn.decomposition import PCA

from gpuediff.errors import InvalidFeatures
from gpuediff.scans import comparison
from gpuediff.scans.comparison import CLIP, RobustScaling, principal_components


@pytest.fixture
def features():
    """Correlated features on very different scales, one of them constant; 300 simulated patterns and 40 measured."""
    rng = np.random.default_rng(11)
    mixing = rng.normal(size=(6, 6)) * [3.0, 2.0, 1.0, 0.5, 0.3, 0.1]
    values = rng.normal(size=(340, 6)) @ mixing * [1, 1e3, 1e-3, 1, 1, 50] + [0, 7, 0, -3, 0, 1e3]
    values = np.insert(values, 2, 4.0, axis=1).astype(np.float32)
    return values[:300], values[300:]


def scaled(reference, features):
    columns = [column for column in range(reference.shape[1]) if np.ptp(reference[:, column]) > 0]
    low, middle, high = np.percentile(reference[:, columns].astype(float), (25, 50, 75), axis=0)
    return np.clip((features[:, columns] - middle) / ((high - low) / 1.3489795), -CLIP, CLIP)


def test_the_scores_are_those_of_scikit_learn_but_for_signs(features):
    reference, scan = features
    components = principal_components(reference, scan, k=3)
    expected = PCA(n_components=3, svd_solver="full").fit(scaled(reference, reference))
    signs = np.sign((expected.components_ * components.axes).sum(axis=1))
    np.testing.assert_allclose(components.axes, expected.components_ * signs[:, None], atol=1e-6)
    np.testing.assert_allclose(components.explained, expected.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(
        components.reference, expected.transform(scaled(reference, reference)) * signs, atol=1e-5
    )
    np.testing.assert_allclose(components.scan, expected.transform(scaled(reference, scan)) * signs, atol=1e-5)


def test_the_axes_and_variances_are_those_of_a_singular_value_decomposition(features):
    reference, scan = features
    matrix = scaled(reference, reference)
    values = np.linalg.svd(matrix - matrix.mean(axis=0), compute_uv=False)
    components = principal_components(reference, scan, k=6)
    np.testing.assert_allclose(components.explained, values**2 / (values**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(components.explained.sum(), 1)
    np.testing.assert_allclose(components.axes @ components.axes.T, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(components.reference.std(axis=0, ddof=1), values / np.sqrt(299), rtol=1e-6)


def test_the_largest_coefficient_of_every_axis_is_positive_and_the_order_of_patterns_does_not_matter(features):
    reference, scan = features
    components = principal_components(reference, scan)
    assert (components.axes[np.arange(2), np.abs(components.axes).argmax(axis=1)] > 0).all()
    again = principal_components(reference[::-1], scan)
    np.testing.assert_allclose(again.scan, components.scan, atol=1e-8)


def test_features_that_do_not_vary_among_the_simulated_patterns_are_left_out(features):
    reference, scan = features
    components = principal_components(reference, scan)
    np.testing.assert_array_equal(components.columns, [0, 1, 3, 4, 5, 6])
    changed = scan.copy()
    changed[:, 2] = 1e9
    np.testing.assert_array_equal(principal_components(reference, changed).scan, components.scan)


def test_the_unit_of_a_feature_does_not_matter(features):
    reference, scan = features
    factors, shift = np.array([2, 1e-4, 1, 30, 1, 1, 7.0]), np.array([1, 0, 0, -5, 0, 0, 3.0])
    components = principal_components(reference.astype(float), scan.astype(float))
    other = principal_components(reference * factors + shift, scan * factors + shift)
    np.testing.assert_allclose(other.scan, components.scan, atol=1e-6)


def test_a_few_absurd_patterns_do_not_turn_the_axes(features):
    reference, scan = features
    spoilt = reference.copy()
    spoilt[:3, 0] = 1e12
    clean, dirty = (principal_components(part, scan) for part in (reference, spoilt))
    assert (np.abs((clean.axes * dirty.axes).sum(axis=1)) > 0.98).all()


def test_mostly_empty_features_are_scaled_by_their_standard_deviation():
    values = np.zeros((100, 1))
    values[:10, 0] = np.arange(1.0, 11.0)
    scaling = RobustScaling.fit(values)
    assert scaling.width[0] == pytest.approx(values.std())
    assert scaling.centre[0] == 0


def test_values_that_are_not_finite_count_as_the_median(features):
    reference, scan = features
    unknown, median = scan.copy(), scan.copy()
    unknown[:, 1], median[:, 1] = np.nan, np.median(reference[:, 1])
    np.testing.assert_allclose(
        principal_components(reference, unknown).scan, principal_components(reference, median).scan, atol=1e-5
    )


def test_blocks_change_nothing_but_rounding(features, monkeypatch):
    whole = principal_components(*features)
    monkeypatch.setattr(comparison, "ROWS_PER_BLOCK", 7)
    parts = principal_components(*features)
    np.testing.assert_allclose(parts.reference, whole.reference, atol=1e-8)
    np.testing.assert_allclose(parts.scan, whole.scan, atol=1e-8)


def test_a_scan_without_patterns_has_components_without_dots(features):
    reference, scan = features
    assert principal_components(reference, scan[:0]).scan.shape == (0, 2)


def test_what_has_no_components_is_refused(features):
    reference, scan = features
    with pytest.raises(InvalidFeatures, match="one feature block"):
        principal_components(reference, scan[:, :3])
    with pytest.raises(InvalidFeatures, match="none of 7 features varies among 1"):
        principal_components(reference[:1], scan)
    with pytest.raises(InvalidFeatures, match=r"k = 7: .* allow 1 .. 6"):
        principal_components(reference, scan, k=7)
    with pytest.raises(InvalidFeatures, match=r"k = 0"):
        principal_components(reference, scan, k=0)
