import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from gpuediff.diffraction.simulate import simulate
from gpuediff.errors import InvalidScan
from gpuediff.scans.simulated import PLANES_111, THICKNESSES, Detector, gold, simulated_scan, twin
from gpuediff.settings import Simulation

QUICK = Simulation(g_max=1.2, form_factors="lobato")


@pytest.fixture(scope="module")
def simulated():
    return simulated_scan((40, 48), particles=4, simulation=QUICK, seed=11)


def grain_pairs(truth):
    """Grains of every particle, the first with each of its twins."""
    for number in range(truth.particle.max() + 1):
        first, *twins = np.unique(truth.grain[truth.particle == number])
        for other in twins:
            yield truth.orientation[first], truth.orientation[other]


def test_the_truth_covers_the_scan(simulated):
    scan, truth = simulated
    assert scan.shape == truth.grain.shape == (40, 48)
    assert len(scan.peaks) == 40 * 48
    inside = truth.grain >= 0
    np.testing.assert_array_equal(inside, truth.particle >= 0)
    np.testing.assert_array_equal(inside, truth.thickness > 0)
    np.testing.assert_array_equal(inside, truth.crystal_system == "cubic")
    assert np.isin(truth.thickness[inside], THICKNESSES).all()
    assert (truth.lattice[inside] == [4.078, 4.078, 4.078, 90, 90, 90]).all()
    assert np.isnan(truth.lattice[~inside]).all()


def test_particles_do_not_touch_and_have_two_or_three_grains(simulated):
    _, truth = simulated
    assert ndimage.label(truth.particle >= 0, structure=np.ones((3, 3)))[1] == 4
    for number in range(4):
        assert len(np.unique(truth.grain[truth.particle == number])) in (2, 3)


def test_a_twin_shares_its_plane_and_is_turned_by_180_degrees(simulated):
    _, truth = simulated
    pairs = list(grain_pairs(truth))
    assert len(pairs) >= 4
    for first, other in pairs:
        turn = first.T @ other  # within the crystal
        assert np.trace(turn) == pytest.approx(-1)  # 1 + 2 cos 180°
        shared = [plane for plane in PLANES_111 if np.allclose(turn @ plane, plane)]
        assert len(shared) == 1
        # the twin's cubic lattice is not the grain's own: 180° about <111> is no symmetry of a cube
        assert not np.allclose(np.abs(turn).round(6), np.abs(turn).round(0))


def test_the_twin_of_a_twin_is_the_grain():
    orientation = simulated_scan((16, 16), particles=1, simulation=QUICK, seed=2)[1].orientation[0]
    plane = PLANES_111[2]
    np.testing.assert_allclose(twin(twin(orientation, plane), plane), orientation, atol=1e-12)


def test_peaks_lie_on_the_reciprocal_lattice_of_their_grain(simulated):
    scan, truth = simulated
    hkl = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), axis=-1).reshape(-1, 3)
    face_centred = hkl[(hkl % 2 == hkl[:, :1] % 2).all(axis=1)] / 4.078
    for position in np.flatnonzero(truth.grain >= 0)[::97]:
        qx, qy, _ = scan.peaks.pattern(position)
        nodes = face_centred @ truth.orientation[truth.grain.flat[position]].T
        nodes = nodes[np.abs(nodes[:, 2]) < 0.15]  # near the Ewald sphere
        distance = np.hypot(qx[:, None] - nodes[:, 0], qy[:, None] - nodes[:, 1]).min(axis=1)
        near = distance < 0.015  # five deviations of peak and centre together
        assert (~near).sum() <= 5  # spurious ones
        assert near.sum() >= (len(qx) + 1) // 2


def test_the_film_shows_the_direct_beam_and_little_else(simulated):
    scan, truth = simulated
    film = scan.peaks[(truth.grain < 0).reshape(-1)]
    direct = film.offsets[:-1]
    assert np.hypot(film.qx[direct], film.qy[direct]).max() < 0.025
    assert film.intensity[direct].min() > 0.99e6
    assert 1.5 < film.counts.mean() < 2.5
    assert (film.counts >= 5).mean() < 0.05


def test_a_crystal_takes_intensity_from_the_direct_beam(simulated):
    scan, truth = simulated
    q = np.hypot(scan.peaks.qx, scan.peaks.qy)
    direct = np.bincount(scan.peaks.pattern_of_peak[q < 0.025], scan.peaks.intensity[q < 0.025], minlength=40 * 48)
    thick = (truth.thickness >= 60).reshape(-1)
    assert direct[thick].mean() < 0.8e6
    assert direct[truth.grain.reshape(-1) < 0].mean() == pytest.approx(1e6, rel=1e-3)


def test_the_same_seed_gives_the_same_scan_and_another_another(simulated):
    scan, truth = simulated
    again, _ = simulated_scan((40, 48), particles=4, simulation=QUICK, seed=11)
    np.testing.assert_array_equal(again.peaks.qx, scan.peaks.qx)
    np.testing.assert_array_equal(again.peaks.intensity, scan.peaks.intensity)
    _, other = simulated_scan((40, 48), particles=4, simulation=QUICK, seed=12)
    assert not np.array_equal(other.grain, truth.grain)


def test_a_finer_scan_shows_the_same_particles():
    coarse, truth = simulated_scan((16, 16), particles=3, simulation=QUICK, seed=4)
    fine, finer_truth = simulated_scan((32, 32), particles=3, simulation=QUICK, seed=4)
    assert coarse.step_size == 2 * fine.step_size == 40.0
    assert (truth.particle >= 0).mean() == pytest.approx((finer_truth.particle >= 0).mean(), abs=0.05)


def test_the_size_of_particles_is_that_of_nature_whatever_the_step_size():
    scan, truth = simulated_scan((48, 48), particles=3, simulation=QUICK, step_size=21.0, seed=4)
    assert scan.step_size == 21.0
    area = np.bincount(truth.particle[truth.particle >= 0]) * 21.0**2
    assert ((area > 0.6 * np.pi * 64**2) & (area < 1.2 * np.pi * 109**2)).all()


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(InvalidScan, match="at least 16 x 16"):
        simulated_scan((8, 64))
    with pytest.raises(InvalidScan, match="too few Å for particles"):
        simulated_scan((16, 16), step_size=10.0)
    with pytest.raises(InvalidScan, match="particles = 0: expected at least one"):
        simulated_scan(particles=0)
    hexagonal = dataclasses.replace(gold(), space_group_number=194)
    with pytest.raises(InvalidScan, match="Au is hexagonal: expected a cubic crystal"):
        simulated_scan(crystal=hexagonal)


def test_an_ideal_detector_changes_nothing_but_the_unit():
    ideal = Detector(dose=1e12, centre_error=0, peak_error=0, lost=0, spurious=0, dynamic_range=1e12)
    scan, truth = simulated_scan((16, 16), particles=2, simulation=QUICK, measurement=ideal, seed=3)
    position = np.flatnonzero(truth.thickness == truth.thickness.max())[0]
    settings = QUICK.model_copy(update={"thicknesses": (float(truth.thickness.max()),)})
    orientation = truth.orientation[truth.grain.flat[position]]
    expected = simulate(truth.crystal, orientation[None], settings).at(0)
    qx, qy, intensity = scan.peaks.pattern(position)
    visible = np.isin(qx, expected.qx)
    assert visible.all()
    strong = expected.intensity > 1e-4
    places = zip(expected.qx[strong], expected.qy[strong], strict=True)
    place = [np.flatnonzero((qx == x) & (qy == y))[0] for x, y in places]
    np.testing.assert_allclose(intensity[place] / 1e12, expected.intensity[strong], rtol=1e-3)
