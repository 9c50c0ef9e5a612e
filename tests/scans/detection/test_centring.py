import math

import numpy as np
import pytest

from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.detection.centring import direct_beams, fit_centres
from gpuediff.scans.detection.ring import _axes, _conic, face_centred_spacings, fit_rings

GOLD = 4.078  # Å
SHAPE = (20, 30)


def descan(shape=SHAPE, *, noise=0.05, seed=0):
    """Direct beams of a scan on a plane, and the plane."""
    row, column = (axis.reshape(-1).astype(float) for axis in np.indices(shape))
    true = np.stack([60 + 0.1 * row - 0.03 * column, 64 - 0.05 * row + 0.08 * column], axis=1)
    return true + np.random.default_rng(seed).normal(0, noise, true.shape), true


def rings(spacings, *, count=800, ratio=1.0, angle=0.0, pixel_size=0.02, scatter=0.15, stray=0.1, edge=62, seed=0):
    """Peaks of a polycrystal in pixels around the direct beam: on ellipses, and some that are strays."""
    rng = np.random.default_rng(seed)
    g = 1 / np.asarray(spacings)
    ring = rng.choice(len(g), count, p=g**-2 / (g**-2).sum())
    phi = rng.uniform(0, 2 * np.pi, count)
    minor = g[ring] / pixel_size
    u, v = minor * ratio * np.cos(phi), minor * np.sin(phi)
    x, y = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
    x, y = (axis + rng.normal(0, scatter, count) for axis in (x, y))
    x, y = (np.append(axis, rng.uniform(-edge, edge, int(stray * count))) for axis in (x, y))
    seen = (np.abs(x) < edge) & (np.abs(y) < edge)
    return x[seen], y[seen]


class TestDirectBeams:
    def test_the_brightest_peak_near_the_centre_is_taken(self):
        peaks = PeakBatch.from_lists(
            [([60, 63, 20], [60, 60, 20], [5, 9, 100]), ([30], [30], [9]), ([], [], []), ([61], [59], [1])]
        )
        np.testing.assert_array_equal(
            direct_beams(peaks, (60, 60), 8.0), [[63, 60], [np.nan, np.nan], [np.nan, np.nan], [61, 59]]
        )


class TestCentres:
    def test_a_plane_is_found_to_a_fraction_of_the_noise(self):
        found, true = descan()
        centres = fit_centres(found, SHAPE)
        np.testing.assert_allclose(np.stack([centres.qx, centres.qy], -1).reshape(-1, 2), true, atol=0.02)
        assert centres.scatter == pytest.approx(0.05, rel=0.15)
        assert centres.measured.mean() > 0.98

    def test_diffracted_beams_and_gaps_do_not_move_it(self):
        found, true = descan(seed=1)
        rng = np.random.default_rng(2)
        wrong = rng.random(len(found)) < 0.3
        found[wrong] += rng.uniform(3, 6, (wrong.sum(), 2))
        found[rng.random(len(found)) < 0.2] = np.nan
        for model in ("plane", "frame"):
            centres = fit_centres(found, SHAPE, model)
            np.testing.assert_allclose(np.stack([centres.qx, centres.qy], -1).reshape(-1, 2), true, atol=0.25)
            assert not centres.measured.reshape(-1)[wrong].any()

    def test_each_frames_own_centre_is_kept_where_the_plane_lets_expect_it(self):
        found, _ = descan(seed=3)
        found[7] += 5
        centres = fit_centres(found, SHAPE, "frame")
        own = centres.measured.reshape(-1)
        assert not own[7]
        np.testing.assert_array_equal(centres.qx.reshape(-1)[own], found[own, 0])

    def test_the_median_is_one_for_all_frames(self):
        found = np.random.default_rng(0).normal((60, 64), 0.1, (600, 2))
        found[::10] += 20
        centres = fit_centres(found, SHAPE, "median")
        assert np.ptp(centres.qx) == 0
        assert centres.qx[0, 0] == pytest.approx(60, abs=0.02)
        assert centres.measured.mean() == pytest.approx(0.9, abs=0.01)

    def test_a_scan_of_one_row_and_one_of_one_position(self):
        found, true = descan((1, 50))
        np.testing.assert_allclose(fit_centres(found, (1, 50)).qy[0], true[:, 1], atol=0.05)
        np.testing.assert_allclose(fit_centres(np.array([[60.0, 61.0]]), (1, 1)).qx, [[60]])

    def test_no_direct_beam_at_all_is_refused(self):
        with pytest.raises(InvalidScan, match="in no frame: pass --centre"):
            fit_centres(np.full((600, 2), np.nan), SHAPE)
        with pytest.raises(InvalidScan, match="do not fill"):
            fit_centres(np.zeros((5, 2)), SHAPE)


class TestRings:
    def test_spacings_of_gold_are_those_of_all_even_or_all_odd_indices(self):
        squares = (GOLD / np.array(face_centred_spacings(GOLD, most=9))) ** 2
        np.testing.assert_allclose(squares, [3, 4, 8, 11, 12, 16, 19, 20, 24])

    @pytest.mark.parametrize("given", [None, 0.95])
    @pytest.mark.parametrize(("ratio", "angle"), [(1.0, 0.0), (1.03, 0.5), (1.08, 2.5)])
    def test_pixel_size_and_ellipse_are_found_within_their_uncertainty(self, ratio, angle, given):
        x, y = rings(face_centred_spacings(GOLD), ratio=ratio, angle=angle)
        fit = fit_rings(x, y, face_centred_spacings(GOLD), pixel_size=None if given is None else 0.02 * given)
        assert abs(fit.pixel_size - 0.02) < 4 * fit.pixel_size_error < 1e-4
        a, b, theta = fit.ellipse
        assert abs(a / b - ratio) < 4 * fit.ratio_error + 1e-3
        if ratio > 1.01:
            assert abs(math.remainder(theta - angle, math.pi)) < 4 * fit.angle_error + 1e-3

    def test_uncertainties_are_the_scatter_of_repeated_measurements(self):
        fits = [
            fit_rings(
                *rings(face_centred_spacings(GOLD), ratio=1.03, seed=seed),
                face_centred_spacings(GOLD),
                pixel_size=0.0203,
            )
            for seed in range(20)
        ]
        sizes = np.array([fit.pixel_size for fit in fits])
        stated = np.median([fit.pixel_size_error for fit in fits])
        assert 0.5 < sizes.std() / stated < 2
        assert abs(sizes.mean() - 0.02) < 3 * stated

    def test_the_calibration_turns_the_ellipses_into_circles_of_the_right_radius(self):
        x, y = rings(face_centred_spacings(GOLD), ratio=1.05, angle=1.1, scatter=0.0, stray=0.0)
        fit = fit_rings(x, y, face_centred_spacings(GOLD))
        ellipse = tuple(np.asarray(value) for value in fit.ellipse)
        calibration = Calibration((1, 1), None, ellipse, fit.pixel_size)
        q = np.hypot(*calibration.apply(x, y, np.zeros(len(x), dtype=np.int64)))
        g = 1 / np.array(face_centred_spacings(GOLD))
        np.testing.assert_allclose(q, g[np.abs(q[:, None] - g).argmin(axis=1)], rtol=1e-6)

    @pytest.mark.parametrize(("ratio", "angle"), [(1.05, 0.3), (1.2, 2.0)])
    def test_a_conic_has_the_axes_that_it_was_made_of(self, ratio, angle):
        np.testing.assert_allclose(_axes(_conic(0.02, ratio, angle)), (0.02, ratio, angle))

    def test_circles_are_fitted_where_no_ellipse_is_wanted(self):
        fit = fit_rings(*rings(face_centred_spacings(GOLD)), face_centred_spacings(GOLD), ellipse=False)
        assert fit.ellipse[0] == pytest.approx(fit.ellipse[1])
        assert fit.pixel_size == pytest.approx(0.02, rel=1e-3)
        assert fit.ratio_error == 0

    def test_any_list_of_spacings_will_do(self):
        hexagonal = (2.8, 2.6, 2.46, 1.9, 1.6, 1.47)
        fit = fit_rings(*rings(hexagonal, pixel_size=0.013), hexagonal)
        assert fit.pixel_size == pytest.approx(0.013, rel=2e-3)

    def test_peaks_without_rings_are_refused(self):
        rng = np.random.default_rng(0)
        for given in (None, 0.02):
            with pytest.raises(InvalidScan, match="rings: "):
                fit_rings(*rng.uniform(-60, 60, (2, 1000)), face_centred_spacings(GOLD), pixel_size=given)

    def test_rings_of_something_else_are_refused(self):
        body_centred = [3.16 / math.sqrt(n) for n in (2, 4, 6, 8, 10, 12, 14, 16, 18)]  # tungsten: every other F ring
        with pytest.raises(InvalidScan, match=r"no peaks on the ring of the widest spacing, 2\.354 Å"):
            fit_rings(*rings(body_centred), face_centred_spacings(GOLD), pixel_size=0.02)

    def test_a_ring_that_is_not_in_the_list_is_named(self):
        spacings = face_centred_spacings(GOLD)
        without = [spacing for spacing in spacings if spacing != spacings[2]]
        with pytest.raises(InvalidScan, match=r"on a ring at 1\.4\d+ Å, which is none of the spacings"):
            fit_rings(*rings(spacings), without)

    def test_too_few_peaks_and_spacings_that_are_no_lengths_are_refused(self):
        with pytest.raises(InvalidScan, match="at least 50 are needed"):
            fit_rings(*rings(face_centred_spacings(GOLD), count=30), face_centred_spacings(GOLD))
        with pytest.raises(InvalidScan, match="expected lengths in Å"):
            fit_rings(*rings(face_centred_spacings(GOLD)), [2.3, -1.0])
