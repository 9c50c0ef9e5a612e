"""Patterns of one material give one lattice, nearer to the truth than that of any, and a place in it to every pattern.

Groups of eight are fitted to all their peaks, groups of four take what their members agree on.
"""

import numba
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpuediff.lattices.indexing import index_patterns
from gpuediff.lattices.pooling import Pooling, pooled
from gpuediff.lattices.reciprocal import inverse_metrics
from gpuediff.lattices.reduction import PAIRS, bases_of, metrics, reduced
from gpuediff.peaks import PeakBatch
from tests.lattices.cuts import WAVELENGTH, cut, random_lattice

COUNT, EACH, FEW = 8, 8, 4


@pytest.fixture(scope="module")
def measured():
    """Eight patterns of each of eight lattices, indexed; the group of each, and the lattices."""
    rng = np.random.default_rng(1)
    lattices, lists = [random_lattice(rng) for _ in range(COUNT)], []
    for lattice in lattices:
        for _ in range(EACH):
            peaks, _ = cut(lattice, Rotation.random(random_state=rng).as_matrix(), rng)
            peaks[:, :2] += 0.002 * rng.normal(size=(len(peaks), 2))
            lists.append(peaks)
    peaks = PeakBatch.from_lists(lists)
    group = np.repeat(np.arange(COUNT), EACH)
    return peaks, index_patterns(peaks, wavelength=WAVELENGTH), group, np.array(lattices)


def brought_together(measured, members, group, count=COUNT, settings=None):
    peaks, indexed, _, _ = measured
    return pooled(peaks, members, group, count, indexed[members], settings, wavelength=WAVELENGTH)


@pytest.fixture(scope="module")
def all_eight(measured):
    return brought_together(measured, np.arange(COUNT * EACH), measured[2])


@pytest.fixture(scope="module")
def first_four(measured):
    """Members, their groups, and what they agree on."""
    members = np.flatnonzero(np.arange(COUNT * EACH) % EACH < FEW)
    group = measured[2][members]
    return members, group, brought_together(measured, members, group)


@pytest.fixture(scope="module")
def singles(measured):
    every = np.arange(COUNT * EACH)
    return brought_together(measured, every, every, len(every))


def lengths(lattices):
    return np.sort(np.linalg.norm(reduced(lattices).basis, axis=2), axis=1)


def off(result, lattices):
    """Largest relative error of the three reduced lengths; inf where there is no lattice."""
    there = np.isfinite(result.lattice).all(axis=(1, 2))
    errors = np.full(len(result), np.inf)
    errors[there] = np.abs(lengths(result.lattice[there]) / lengths(lattices[there]) - 1).max(axis=1)
    return errors


def test_patterns_of_one_material_give_its_lattice(measured, all_eight):
    assert np.sum(off(all_eight, measured[3]) < 0.01) >= 7
    assert np.all(all_eight.support >= 6)
    rivalled = np.isfinite(all_eight.rival)
    assert np.all(all_eight.score[rivalled] > all_eight.rival[rivalled])
    # The noise that was put on.
    np.testing.assert_allclose(all_eight.noise, 0.002, rtol=0.2)


def test_a_few_patterns_agree_on_their_lattice(measured, first_four):
    _, _, result = first_four
    assert np.sum(off(result, measured[3]) < 0.02) >= 6
    assert np.all(result.support <= result.indexed)
    assert np.isnan(result.rival).all()


def test_several_patterns_are_nearer_to_the_truth_than_one(measured, all_eight, first_four, singles):
    lattices = measured[3]
    one = off(singles, lattices[measured[2]])
    few, many = np.median(off(first_four[2], lattices)), np.median(off(all_eight, lattices))
    assert many < 0.5 * np.median(one[np.isfinite(one)])
    assert many < few < np.median(one[np.isfinite(one)])


def test_a_pattern_alone_keeps_the_lattice_that_it_found(measured, singles):
    _, indexed, _, _ = measured
    found = np.isfinite(indexed.score[:, 0])
    np.testing.assert_array_equal(singles.indexed, found)
    np.testing.assert_array_equal(np.isfinite(singles.rows).all(axis=(1, 2)), singles.support == 1)
    own = singles.support == 1
    np.testing.assert_array_equal(singles.score[own], indexed.score[own, 0])
    np.testing.assert_array_equal(singles.scale[own], 1)
    in_plane = singles.rows[own, :, :2] - indexed.basis[own, 0, :, :2]
    # What the noise of the heights is thought to add to the metric is taken away, which turns and strains the rows.
    assert np.median(np.abs(in_plane)) < 1e-3


def test_the_metric_is_that_of_the_lattice_and_its_uncertainty_holds(measured, all_eight, first_four):
    lattices = measured[3]
    for result in (all_eight, first_four[2]):
        direct, _ = inverse_metrics(result.metric, result.covariance)
        np.testing.assert_allclose(
            metrics(reduced(bases_of(direct)).basis), metrics(reduced(result.lattice).basis), rtol=1e-6, atol=1e-6
        )
        volume = np.abs(np.linalg.det(result.lattice)) / np.abs(np.linalg.det(lattices))
        # of log det, per number of the metric
        gradient = direct * np.where(PAIRS[:, 0] == PAIRS[:, 1], 1, 2)
        sigma = 0.5 * np.sqrt(np.einsum("ni,nij,nj->n", gradient, result.covariance, gradient))
        assert np.median(np.abs(np.log(volume)) / sigma) < 2


@pytest.mark.parametrize("each", [EACH, FEW])
def test_the_order_of_patterns_and_the_threads_make_no_difference(measured, all_eight, first_four, each):
    members, group, wanted = (np.arange(COUNT * EACH), measured[2], all_eight) if each == EACH else first_four
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(np.flatnonzero(group == g)) for g in range(COUNT)])
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        got = brought_together(measured, members[order], group)
    finally:
        numba.set_num_threads(threads)
    back = np.empty(len(order), int)
    back[order] = np.arange(len(order))
    equal = np.abs(lengths(got.lattice) / lengths(wanted.lattice) - 1).max(axis=1) < 1e-6
    # In one group two orientations of a pattern that shows one zone are equally probable, and rounding chooses.
    assert equal.sum() >= COUNT - 1
    np.testing.assert_allclose(lengths(got.lattice), lengths(wanted.lattice), rtol=2e-4)
    np.testing.assert_array_equal(got.support[equal], wanted.support[equal])
    np.testing.assert_allclose(got.noise[equal], wanted.noise[equal], rtol=1e-6)
    np.testing.assert_allclose(got.scale[back][equal[group]], wanted.scale[equal[group]], rtol=1e-6)


def test_the_rows_of_a_member_have_the_metric_of_its_group_and_its_peaks_lie_on_them(measured, all_eight, first_four):
    every = np.arange(COUNT * EACH)
    cases = ((every, measured[2], all_eight, 0.9), (*first_four, 0.6))
    for members, group, result, share in cases:
        on = np.flatnonzero(np.isfinite(result.rows).all(axis=(1, 2)))
        assert len(on) == result.support.sum()
        np.testing.assert_array_equal(np.isfinite(result.scale), np.isfinite(result.rows[:, 0, 0]))
        np.testing.assert_allclose(metrics(result.rows[on]), result.metric[group[on]], rtol=1e-6, atol=1e-9)
        near = [share_on(measured[0].pattern(members[m]), result, m, group[m]) for m in on]
        assert np.median(near) > share


def share_on(pattern, result, member, group):
    """Share of the 40 strongest peaks within three standard deviations of a lattice point near the Ewald sphere."""
    qx, qy, intensity = pattern
    places = np.column_stack([qx, qy])[np.argsort(-intensity)[:40]].astype(float)
    places = (places - result.centre[member]) / result.scale[member]
    n = np.arange(-12, 13)
    g = np.stack(np.meshgrid(n, n, n, indexing="ij"), axis=-1).reshape(-1, 3) @ result.rows[member]
    g = g[np.abs(g[:, 2] - 0.5 * WAVELENGTH * (g**2).sum(axis=1)) < 0.06, :2]
    nearest = np.min(np.linalg.norm(places[:, np.newaxis] - g, axis=2), axis=1)
    return np.mean(nearest < 3 * result.noise[group])


def test_the_fit_of_all_peaks_is_not_bound_to_how_strictly_metrics_must_agree(measured, all_eight):
    other = brought_together(measured, np.arange(COUNT * EACH), measured[2], settings=Pooling(deviations=3.0))
    agree = np.abs(lengths(other.lattice) / lengths(all_eight.lattice) - 1).max(axis=1) < 1e-3
    assert agree.sum() >= 7


def test_a_group_without_lattices_is_empty_and_wrong_groups_are_refused(measured):
    group, every = measured[2], np.arange(COUNT * EACH)
    result = brought_together(measured, every[:16], 2 * group[:16], 4)
    for empty in (1, 3):
        assert result.support[empty] == result.indexed[empty] == 0
        for name in ("lattice", "metric", "covariance", "score", "rival", "noise"):
            assert np.isnan(getattr(result, name)[empty]).all()
    np.testing.assert_array_equal(result.support[[0, 2]] > 0, True)
    with pytest.raises(ValueError, match=r"group: expected one for each of 64 members, got shape \(5,\)"):
        pooled(measured[0], every, group[:5], 8, measured[1], wavelength=WAVELENGTH)
    with pytest.raises(ValueError, match=r"group: expected rising numbers in 0 \.\. 6"):
        brought_together(measured, every, group, 7)
    with pytest.raises(ValueError, match=r"group: expected rising numbers in 0 \.\. 7"):
        brought_together(measured, every[::-1], group[::-1], 8)
