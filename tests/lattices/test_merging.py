"""Operations of the crystal's Laue class relate equal strengths, others do not, and patterns find their setting."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpuediff.crystals.crystal import cell_vectors
from gpuediff.crystals.symmetry import laue_rotations
from gpuediff.lattices.merging import merged
from gpuediff.lattices.operations import OPERATIONS, holohedry
from gpuediff.lattices.pooling import Pooled
from gpuediff.lattices.reduction import metrics
from gpuediff.peaks import PeakBatch
from tests.lattices.cuts import WAVELENGTH

CELLS = {
    "orthorhombic": (5.1, 6.3, 7.7, 90, 90, 90),
    "tetragonal": (7.0, 7.0, 8.3, 90, 90, 90),
    "hexagonal": (6.2, 6.2, 7.4, 90, 90, 120),
    "cubic": (6.5, 6.5, 6.5, 90, 90, 90),
}
PATTERNS = 10


def strengths_of(hkl, reciprocal, laue_class, rng):
    """Draw a strength for each reflection, one for all that the Laue class makes of it."""
    turned = [np.rint(hkl @ reciprocal @ r.T @ np.linalg.inv(reciprocal)) for r in laue_rotations(laue_class)]
    codes = [np.abs((sign * t + 100) @ [1, 300, 90000]) for t in turned for sign in (1, -1)]
    _, orbit = np.unique(np.min(codes, axis=0), return_inverse=True)
    return np.exp(1.2 * rng.normal(size=orbit.max() + 1))[orbit]


def seen(system, laue_class, *, mixed=True, count=PATTERNS, seed=3):
    """Thin-crystal patterns of a crystal of a class in the cell of a system, and their known orientations.

    Where `mixed`, every pattern is indexed in a setting that the lattice, not the crystal, leaves open.
    """
    rng = np.random.default_rng(seed)
    direct = cell_vectors(np.array(CELLS[system], dtype=float))
    reciprocal = np.linalg.inv(direct).T
    n = np.arange(-11, 12)
    hkl = np.stack(np.meshgrid(n, n, n, indexing="ij"), axis=-1).reshape(-1, 3)
    size = np.linalg.norm(hkl @ reciprocal, axis=1)
    hkl, size = hkl[(size > 0) & (size < 1.3)], size[(size > 0) & (size < 1.3)]
    strength = strengths_of(hkl, reciprocal, laue_class, rng) / (0.3 + size**2)
    lists, bases = [], []
    settings = holohedry(system)
    for _ in range(count):
        rows = reciprocal @ Rotation.random(random_state=rng).as_matrix()
        g = hkl @ rows
        s = (2 * g[:, 2] - WAVELENGTH * size**2) / (2 - 2 * WAVELENGTH * g[:, 2])
        near = np.abs(s) < 0.06
        intensity = strength[near] ** 2 / (s[near] ** 2 + 0.003**2) * 1e-6
        lists.append(np.column_stack([g[near, :2], intensity]))
        # Rows of a basis turn as indices do the other way round.
        turn = settings[rng.integers(len(settings))] if mixed else np.eye(3)
        bases.append(turn @ rows)
    return PeakBatch.from_lists(lists), np.array(bases), metrics(reciprocal[None])[0]


def compared(system, peaks, bases, metric, *, members=None, group=None, count=1):
    """Results for the system of patterns that were indexed perfectly."""
    members = np.arange(len(peaks)) if members is None else members
    group = np.zeros(len(members), int) if group is None else group
    k = len(members)
    found = Pooled(
        lattice=np.zeros((count, 3, 3)),
        metric=np.tile(metric, (count, 1)),
        covariance=np.zeros((count, 6, 6)),
        support=np.ones(count, int),
        indexed=np.ones(count, int),
        score=np.zeros(count),
        rival=np.full(count, np.nan),
        noise=np.full(count, 2e-4),
        rows=bases[members],
        centre=np.zeros((k, 2)),
        scale=np.ones(k),
        on=np.ones(k),
    )
    change = np.tile(np.eye(3, dtype=int), (count, 1, 1))
    return merged(peaks, members, group, found, {system: change}, wavelength=WAVELENGTH)[system]


@pytest.mark.parametrize(
    ("system", "laue_class", "own"),
    [
        ("orthorhombic", "2/m", {"2y"}),
        ("orthorhombic", "mmm", {"2x", "2y", "2z"}),
        ("tetragonal", "4/m", {"2z", "4z"}),
        ("tetragonal", "4/mmm", {"2z", "4z", "2_100", "2_110"}),
        ("hexagonal", "-3", {"3z"}),
        ("hexagonal", "-3m1", {"3z", "2_100"}),
        ("hexagonal", "-31m", {"3z", "2_120"}),
        ("hexagonal", "6/m", {"3z", "6z"}),
        ("hexagonal", "6/mmm", {"3z", "2_100", "2_120", "6z"}),
        ("cubic", "m-3", {"2z", "3_111"}),
        ("cubic", "m-3m", {"2z", "3_111", "4z"}),
    ],
)
def test_operations_of_the_laue_class_are_told_from_others(system, laue_class, own):
    result = compared(system, *seen(system, laue_class))
    for column, operation in enumerate(OPERATIONS[system]):
        assert result.pairs[0, column] > 20
        if operation.name in own:
            assert result.evidence[0, column] > 5
            assert result.correlation[0, column] > 0.7
        else:
            assert result.evidence[0, column] < -5
            # Not 0: some pairs, such as those of a mirror plane, the class relates by another operation of its own.
            assert result.correlation[0, column] < 0.5
            assert result.contrast[0, column] < -50
    assert result.repeated[0] > 0.7


def test_a_pattern_alone_has_nothing_to_be_laid_upon():
    result = compared("cubic", *seen("cubic", "m-3m", count=1))
    assert np.isnan(result.contrast).all()
    assert np.isnan(result.repeated).all()
    assert result.repeats[0] == 0
    assert result.pairs.sum() > 0


@pytest.mark.parametrize("laue_class", ["-3", "-3m1"])
def test_the_setting_in_which_patterns_were_indexed_makes_no_difference(laue_class):
    peaks, bases, metric = seen("hexagonal", laue_class, mixed=False)
    one = compared("hexagonal", peaks, bases, metric)
    rng = np.random.default_rng(5)
    turns = holohedry("hexagonal")
    turned = np.array([turns[rng.integers(len(turns))] @ rows for rows in bases])
    other = compared("hexagonal", peaks, turned, metric)
    assert not np.allclose(bases, turned)
    np.testing.assert_array_equal(one.pairs, other.pairs)
    np.testing.assert_allclose(one.evidence, other.evidence, rtol=1e-6)
    np.testing.assert_allclose(one.repeated, other.repeated, rtol=1e-6)


def test_the_order_of_the_patterns_makes_no_difference():
    data = seen("cubic", "m-3")
    one = compared("cubic", *data)
    other = compared("cubic", *data, members=np.random.default_rng(1).permutation(PATTERNS))
    for name in ("evidence", "correlation", "contrast", "pairs", "repeated", "repeats"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9)


def test_intensities_of_patterns_may_be_in_any_unit():
    peaks, bases, metric = seen("tetragonal", "4/m")
    scale = np.repeat(np.geomspace(1, 1000, len(peaks)), peaks.counts).astype(np.float32)
    one = compared("tetragonal", peaks, bases, metric)
    other = compared("tetragonal", dataclasses.replace(peaks, intensity=peaks.intensity * scale), bases, metric)
    np.testing.assert_allclose(one.evidence, other.evidence, rtol=1e-3)


def test_weak_peaks_that_a_detector_does_not_see_do_not_hide_an_operation():
    peaks, bases, metric = seen("hexagonal", "6/m")
    brightest = np.maximum.reduceat(peaks.intensity, peaks.offsets[:-1])
    kept = peaks.keep(peaks.intensity > 3e-3 * brightest[peaks.pattern_of_peak])
    assert len(kept.qx) < 0.6 * len(peaks.qx)
    result = compared("hexagonal", kept, bases, metric)
    names = [operation.name for operation in OPERATIONS["hexagonal"]]
    assert result.evidence[0, names.index("6z")] > 5
    assert result.evidence[0, names.index("2_100")] < 0


def test_groups_are_judged_by_their_own_patterns():
    peaks, bases, metric = seen("cubic", "m-3")
    both = compared("cubic", peaks, bases, metric, group=np.repeat([0, 2], PATTERNS // 2), count=4)
    first = compared("cubic", peaks, bases, metric, members=np.arange(PATTERNS // 2))
    np.testing.assert_array_equal(both.evidence[0], first.evidence[0])
    for empty in (1, 3):
        assert np.isnan(both.evidence[empty]).all()
        assert np.isnan(both.correlation[empty]).all()
        assert np.isnan(both.contrast[empty]).all()
        assert (both.pairs[empty] == 0).all()
        assert np.isnan(both.repeated[empty])


def test_an_operation_that_the_metric_excludes_is_not_judged():
    peaks, bases, metric = seen("orthorhombic", "mmm")
    result = compared("cubic", peaks, bases, metric)
    names = [operation.name for operation in OPERATIONS["cubic"]]
    assert result.evidence[0, names.index("2z")] > 5
    assert result.pairs[0, names.index("3_111")] == 0
    assert np.isnan(result.evidence[0, names.index("3_111")])


@pytest.mark.parametrize(
    ("system", "order"),
    [("monoclinic", 2), ("orthorhombic", 4), ("tetragonal", 8), ("trigonal", 12), ("hexagonal", 12), ("cubic", 24)],
)
def test_a_holohedry_is_closed(system, order):
    group = holohedry(system)
    assert len(group) == order
    np.testing.assert_array_equal(group[0], np.eye(3))
    assert {(a @ b).tobytes() for a in group for b in group} == {a.tobytes() for a in group}
