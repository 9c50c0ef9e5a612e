import numba
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpuediff.lattices.consensus import Consensus, pooled
from gpuediff.lattices.indexing import index_patterns
from gpuediff.lattices.reciprocal import inverse_metrics
from gpuediff.lattices.reduction import PAIRS, metrics, reduced
from gpuediff.peaks import PeakBatch
from tests.lattices.cuts import WAVELENGTH, cut, random_lattice


def groups(count, each, seed, noise):
    """Index `each` patterns of each of `count` lattices; return Indexed, group and the lattices."""
    rng = np.random.default_rng(seed)
    lattices, lists = [random_lattice(rng) for _ in range(count)], []
    for lattice in lattices:
        for _ in range(each):
            peaks, _ = cut(lattice, Rotation.random(random_state=rng).as_matrix(), rng)
            peaks[:, :2] += noise * rng.normal(size=(len(peaks), 2))
            lists.append(peaks)
    indexed = index_patterns(PeakBatch.from_lists(lists), wavelength=WAVELENGTH)
    return indexed, np.repeat(np.arange(count), each), np.array(lattices)


def factored(metric):
    """Rows of bases with these metrics."""
    full = metric[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    return np.linalg.cholesky(full)


def lengths(lattices):
    return np.sort(np.linalg.norm(reduced(lattices).basis, axis=2), axis=1)


@pytest.fixture(scope="module")
def measured():
    return groups(8, 8, seed=1, noise=0.002)


def test_patterns_of_one_material_give_its_lattice(measured):
    indexed, group, lattices = measured
    result = pooled(indexed, group, 8)
    off = np.abs(lengths(result.lattice) / lengths(lattices) - 1).max(axis=1)
    assert np.sum(off < 0.01) >= 7
    assert np.all(result.support <= result.indexed)
    assert np.all(result.score <= result.support + 1e-9)


def test_several_patterns_are_nearer_to_the_truth_than_one(measured):
    indexed, group, lattices = measured
    together = np.abs(lengths(pooled(indexed, group, 8).lattice) / lengths(lattices) - 1).max(axis=1)
    alone = pooled(indexed, np.arange(64), 64)
    there = np.isfinite(alone.lattice).all(axis=(1, 2))
    one = np.abs(lengths(alone.lattice[there]) / lengths(lattices)[group[there]] - 1).max(axis=1)
    assert np.median(together) < 0.5 * np.median(one)


def test_the_metric_is_that_of_the_lattice_and_its_uncertainty_holds(measured):
    indexed, group, lattices = measured
    result = pooled(indexed, group, 8, Consensus(scale_noise=0))
    direct, _ = inverse_metrics(result.metric, result.covariance)
    np.testing.assert_allclose(
        metrics(reduced(factored(direct)).basis), metrics(reduced(result.lattice).basis), rtol=1e-6, atol=1e-6
    )
    volume = np.abs(np.linalg.det(result.lattice)) / np.abs(np.linalg.det(lattices))
    # of log det, per number of the metric
    gradient = direct * np.where(PAIRS[:, 0] == PAIRS[:, 1], 1, 2)
    sigma = 0.5 * np.sqrt(np.einsum("ni,nij,nj->n", gradient, result.covariance, gradient))
    assert np.median(np.abs(np.log(volume)) / sigma) < 2


def test_the_order_of_patterns_and_the_threads_make_no_difference(measured):
    indexed, group, _ = measured
    wanted = pooled(indexed, group, 8)
    order = np.random.default_rng(0).permutation(len(group))
    fields = {name: getattr(indexed, name)[order] for name in type(indexed).__dataclass_fields__}
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        got = pooled(type(indexed)(**fields), group[order], 8)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(got.support, wanted.support)
    np.testing.assert_allclose(lengths(got.lattice), lengths(wanted.lattice), rtol=1e-6)


def test_the_group_s_basis_in_terms_of_each_pattern_s_own_has_nearly_its_metric(measured):
    indexed, group, _ = measured
    result = pooled(indexed, group, 8)
    agrees = np.flatnonzero(result.hypothesis >= 0)
    assert len(agrees) == result.support.sum()
    np.testing.assert_array_equal(np.abs(np.linalg.det(result.change[agrees])).round(), 1)
    rows = result.change[agrees] @ indexed.basis[agrees, result.hypothesis[agrees]]
    off = metrics(rows) / result.metric[group[agrees]] - 1
    assert np.median(np.abs(off[:, :3])) < 0.03
    assert not result.change[result.hypothesis < 0].any()


def test_a_group_without_lattices_is_empty_and_wrong_groups_are_refused(measured):
    indexed, group, _ = measured
    result = pooled(indexed, group, 9)
    assert result.support[8] == result.indexed[8] == 0
    assert np.isnan(result.lattice[8]).all()
    with pytest.raises(ValueError, match="expected one for each of 64 patterns"):
        pooled(indexed, group[:5], 8)
    with pytest.raises(ValueError, match=r"expected numbers in 0 \.\. 6"):
        pooled(indexed, group, 7)
