import numba
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.spatial.transform import Rotation

from gpuediff.crystals.sources import read_crystals
from gpuediff.diffraction.orientations import orientations_for
from gpuediff.diffraction.simulate import simulate
from gpuediff.errors import InvalidPeaks
from gpuediff.lattices.indexing import Indexing, Status, index_patterns
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Orientations, Simulation, Structures
from tests.lattices.cuts import WAVELENGTH, patterns, steps_between
from tests.strategies import peak_batches


def indexed(peaks, **changes):
    return index_patterns(peaks, Indexing(**changes), wavelength=WAVELENGTH)


def is_right(found, true, tolerance=1e-5):
    steps = steps_between(found, true, tolerance)
    return steps is not None and abs(round(np.linalg.det(steps))) == 1


def share_right(result, bases, tolerance=1e-5):
    return np.mean([is_right(found, true, tolerance) for found, true in zip(result.basis[:, 0], bases, strict=True)])


def test_lattices_are_found_in_cuts_along_the_ewald_sphere():
    peaks, bases = patterns(60, seed=1)
    result = indexed(peaks)
    assert np.mean(result.status == Status.INDEXED) >= 0.98
    assert share_right(result, bases) >= 0.95
    right = [is_right(found, true) for found, true in zip(result.basis[:, 0], bases, strict=True)]
    assert np.median(result.peaks_on[right, 0]) == 1
    assert np.all(result.peaks_on[right, 0] > 0.95)
    volume = np.abs(np.linalg.det(result.basis[right, 0])) / np.abs(np.linalg.det(bases[right]))
    assert np.median(np.abs(volume - 1)) < 0.1


def test_lost_and_spurious_peaks_do_not_change_the_lattice():
    peaks, bases = patterns(40, seed=2)
    rng = np.random.default_rng(3)
    lists = []
    for qx, qy, intensity in peaks:
        kept = rng.random(len(qx)) > 0.1
        places = rng.uniform(-1.2, 1.2, (2, 2))
        lists.append(
            (
                np.append(qx[kept], places[0]),
                np.append(qy[kept], places[1]),
                np.append(intensity[kept], np.quantile(intensity, [0.5, 0.9])),
            )
        )
    assert share_right(indexed(PeakBatch.from_lists(lists)), bases) >= 0.92


@pytest.mark.parametrize(("noise", "least"), [(0.002, 0.9), (0.005, 0.65)])
def test_lattices_are_found_in_noisy_places_and_the_noise_is_measured(noise, least):
    peaks, bases = patterns(60, seed=4, noise=noise)
    result = indexed(peaks)
    assert share_right(result, bases, 6 * noise) >= least
    assert np.median(result.position_noise) == pytest.approx(noise, rel=0.2)


def test_errors_are_as_large_as_their_uncertainties_say():
    peaks, bases = patterns(150, seed=5, noise=0.001)
    result = indexed(peaks)
    deviations = []
    for found, true, sigma in zip(result.basis[:, 0], bases, result.uncertainty[:, 0], strict=True):
        if is_right(found, true, 0.004):
            deviations.append((found - steps_between(found, true, 0.004) @ true) / sigma)
    deviations = np.array(deviations)
    assert len(deviations) > 135
    # The middle of the distribution: where many sums of three vectors come near a place, the truth may be mistaken.
    spread = np.median(np.abs(deviations), axis=(0, 1)) / 0.6745
    np.testing.assert_allclose(spread[:2], 1, atol=0.3)
    assert 0.6 < spread[2] < 1.7  # intensities of these cuts only resemble those of dynamical diffraction


def test_a_shifted_centre_is_found():
    peaks, bases = patterns(30, seed=6)
    moved = PeakBatch(peaks.qx + np.float32(0.006), peaks.qy - np.float32(0.004), peaks.intensity, peaks.offsets)
    result = indexed(moved)
    assert share_right(result, bases) >= 0.9
    np.testing.assert_allclose(np.median(result.centre[:, 0], axis=0), [0.006, -0.004], atol=1e-4)


def test_a_direct_beam_in_the_list_is_the_centre():
    peaks, bases = patterns(5, seed=7)
    lists = [
        (np.append(qx, 0) + 0.015, np.append(qy, 0) - 0.01, np.append(intensity, 0.5)) for qx, qy, intensity in peaks
    ]
    result = indexed(PeakBatch.from_lists(lists))
    assert share_right(result, bases, 1e-4) >= 0.8
    np.testing.assert_allclose(result.centre[:, 0], [[0.015, -0.01]] * 5, atol=1e-4)


def test_turning_a_pattern_turns_its_lattice():
    peaks, _ = patterns(20, seed=8)
    turn = Rotation.from_euler("z", 0.7).as_matrix()
    qx, qy = turn[:2, :2] @ np.stack([peaks.qx, peaks.qy]).astype(np.float64)
    turned = PeakBatch(qx.astype(np.float32), qy.astype(np.float32), peaks.intensity, peaks.offsets)
    before, after = indexed(peaks), indexed(turned)
    same = [is_right(b, a @ turn.T, 1e-5) for a, b in zip(before.basis[:, 0], after.basis[:, 0], strict=True)]
    assert np.mean(same) >= 0.95


def test_a_pattern_twice_as_large_at_half_the_wavelength_has_a_lattice_twice_as_large_in_the_plane():
    peaks, bases = patterns(20, seed=9, g_max=0.8)
    large = PeakBatch(peaks.qx * 2, peaks.qy * 2, peaks.intensity, peaks.offsets)
    doubled = bases * [2, 2, 1]
    result = index_patterns(large, wavelength=WAVELENGTH / 4)  # heights stay: λ q² / 2
    assert share_right(result, doubled) >= 0.8


def test_scaling_a_pattern_a_little_scales_its_lattice():
    peaks, bases = patterns(20, seed=10)
    large = PeakBatch(peaks.qx * np.float32(1.01), peaks.qy * np.float32(1.01), peaks.intensity, peaks.offsets)
    assert share_right(indexed(large), bases * [1.01, 1.01, 1]) >= 0.95


def test_neither_the_order_of_peaks_nor_the_unit_of_intensity_matters():
    peaks, _ = patterns(10, seed=11)
    rng = np.random.default_rng(0)
    lists = []
    for pattern in peaks:
        qx, qy, intensity = np.array(pattern)[:, rng.permutation(len(pattern[0]))]
        lists.append((qx, qy, intensity * 1024))
    before, after = indexed(peaks), indexed(PeakBatch.from_lists(lists))
    np.testing.assert_array_equal(before.status, after.status)
    np.testing.assert_allclose(before.basis, after.basis, rtol=1e-9, atol=1e-12)


def test_the_number_of_threads_makes_no_difference():
    peaks, _ = patterns(12, seed=12, noise=0.002)
    threads = numba.get_num_threads()
    wanted = indexed(peaks)
    try:
        numba.set_num_threads(1)
        got = indexed(peaks)
    finally:
        numba.set_num_threads(threads)
    for name in ("status", "basis", "covariance", "score", "plane", "centre"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))


def test_a_single_zone_has_a_plane_and_no_lattice():
    h, k = np.meshgrid(np.arange(-4, 5), np.arange(-4, 5))
    a, b = np.array([0.21, 0.03]), np.array([-0.05, 0.26])
    places = (h.ravel()[:, None] * a + k.ravel()[:, None] * b)[np.abs(h.ravel()) + np.abs(k.ravel()) > 0]
    intensity = np.exp(-3 * (places**2).sum(axis=1))
    result = indexed(PeakBatch.from_lists([np.column_stack([places, intensity])]))
    assert result.status[0] == Status.ONE_ZONE
    assert np.isnan(result.basis).all()
    assert abs(np.linalg.det(result.plane[0])) == pytest.approx(a[0] * b[1] - a[1] * b[0], rel=1e-4)
    np.testing.assert_allclose(np.linalg.norm(result.plane[0], axis=1), np.hypot(*np.array([a, b]).T), rtol=1e-4)


# A lattice fits any three peaks, and if places are noisy most any ten.
@pytest.mark.parametrize(("counts", "noise"), [((5, 10), 2e-4), ((8, 80), 2e-4), ((8, 30), 3e-3)])
def test_peaks_at_random_are_not_told_from_chance(counts, noise):
    rng = np.random.default_rng(13)
    lists = []
    for count in rng.integers(*counts, size=80):
        q, phi = 1.5 * np.sqrt(rng.random(count)), 2 * np.pi * rng.random(count)
        lists.append((q * np.cos(phi), q * np.sin(phi), 10 ** rng.uniform(-4, -1, count)))
    result = indexed(PeakBatch.from_lists(lists), noise_min=noise)
    assert np.mean(result.status == Status.INDEXED) <= 0.02


def test_cuts_of_a_lattice_are_far_from_chance():
    peaks, _ = patterns(20, seed=14)
    assert np.nanmedian(indexed(peaks).score[:, 0]) > 100


def test_hypotheses_are_ranked_and_rows_are_shortest_first():
    result = indexed(patterns(20, seed=15, noise=0.004)[0], hypotheses=4)
    score = np.where(np.isnan(result.score), -np.inf, result.score)
    assert np.all(score[:, :-1] >= score[:, 1:])
    found = ~np.isnan(result.score)
    length = np.linalg.norm(result.basis[found], axis=-1)
    assert np.all(length[:, 1:] >= 0.9 * length[:, :-1])
    assert np.all(np.linalg.det(result.basis[found]) > 0)
    assert np.all(result.layers[found] >= 1)
    assert np.all(result.layers[~found] == 0)


@settings(deadline=None, max_examples=25)
@given(peaks=peak_batches(max_patterns=3, max_peaks=30))
def test_any_peaks_have_a_status_and_finite_lattices(peaks):
    result = indexed(peaks)
    has_lattice = result.status == Status.INDEXED
    assert np.isfinite(result.basis[has_lattice, 0]).all()
    assert np.isfinite(result.covariance[has_lattice, 0]).all()
    assert np.isnan(result.basis[~has_lattice]).all()
    assert np.all(np.diagonal(result.covariance[has_lattice, 0], axis1=-2, axis2=-1) >= 0)


def test_few_peaks_and_wrong_values_are_named():
    result = indexed(PeakBatch.from_lists([(np.array([0.1, 0.2]), np.array([0.3, 0.1]), np.ones(2)), ()]))
    assert result.status.tolist() == [Status.TOO_FEW_PEAKS] * 2
    with pytest.raises(InvalidPeaks, match="pattern 0"):
        indexed(PeakBatch.from_lists([(np.array([0.1]), np.array([np.nan]), np.ones(1))]))
    with pytest.raises(ValueError, match="wavelength = 0"):
        index_patterns(PeakBatch.from_lists([]), wavelength=0)
    assert len(indexed(PeakBatch.from_lists([]))) == 0


def test_simulated_patterns_of_known_crystals_are_indexed():
    crystals, _ = read_crystals(Structures(sample=5, seed=3, volume_max=250))
    right = []
    for crystal in crystals:
        simulation = Simulation(orientations=Orientations(protocol="any", count=2))
        orientation = orientations_for(crystal, simulation.orientations)
        simulated = simulate(crystal, orientation, simulation)
        result = indexed(simulated.at(0))
        for found, turn in zip(result.basis[:, 0], orientation, strict=True):
            right.append(is_right(found, crystal.reciprocal @ turn.T))
    assert len(right) == 10
    assert np.mean(right) >= 0.8


def test_heights_come_from_the_curvature_of_the_sphere():
    peaks, bases = patterns(30, seed=16)
    mirrored = PeakBatch(-peaks.qx, peaks.qy, peaks.intensity, peaks.offsets)
    for seen, true in ((peaks, bases), (mirrored, bases * [-1, 1, 1])):
        off = []
        for found, basis in zip(indexed(seen).basis[:, 0], true, strict=True):
            if is_right(found, basis):
                assert np.linalg.det(found) > 0
                off.append(found[:, 2] - (steps_between(found, basis, 1e-5) @ basis)[:, 2])
        assert np.median(np.abs(off)) < 0.01
