import numpy as np
import pytest

from gpuediff.diffraction.orientations import orientation_matrix
from gpuediff.diffraction.simulate import simulate
from gpuediff.settings import Precession
from tests.diffraction.test_simulate import ELASTIC, GOLD, QUARTZ, RANDOM, crystal

KINEMATIC = ELASTIC.model_copy(update={"theory": "kinematic"})
DIAMOND_SITES = [[0, 0, 0], [0.25, 0.25, 0.25]]
FACES = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
SILICON = crystal((5.431,) * 3 + (90,) * 3, [14, 14], DIAMOND_SITES, 227, primitive=FACES)


def intensities(structure, orientations, settings):
    """{(pattern, h, k, l): intensity at every thickness}."""
    patterns = simulate(structure, orientations, settings)
    pattern = np.repeat(np.arange(len(patterns)), np.diff(patterns.offsets))
    keys = zip(pattern.tolist(), *patterns.hkl.T.tolist(), strict=True)
    return dict(zip(keys, patterns.intensity.T, strict=True))


def test_a_thin_crystal_scatters_dynamically_as_kinematically():
    thin = {"thicknesses": (1.0,), "intensity_min": 1e-7}
    orientations = orientation_matrix(RANDOM)
    dynamical = intensities(QUARTZ, orientations, ELASTIC.model_copy(update=thin))
    kinematic = intensities(QUARTZ, orientations, KINEMATIC.model_copy(update=thin))
    diffracted = [key for key, value in kinematic.items() if any(key[1:]) and value[0] > 2e-7]
    assert len(diffracted) > 50
    for key in diffracted:
        np.testing.assert_allclose(dynamical[key], kinematic[key], rtol=0.04)


def test_on_the_sphere_intensities_grow_as_the_square_of_the_thickness_and_off_it_they_oscillate():
    settings = KINEMATIC.model_copy(update={"thicknesses": (10.0, 20.0, 500.0)})
    patterns = simulate(QUARTZ, orientation_matrix(RANDOM), settings)
    diffracted = (patterns.hkl != 0).any(axis=1)
    near = diffracted & (np.abs(patterns.excitation_error) < 1e-3) & (patterns.intensity[0] > 0)
    assert near.sum() >= 5
    np.testing.assert_allclose(patterns.intensity[1][near], 4 * patterns.intensity[0][near], rtol=2e-3)
    far = diffracted & (np.abs(patterns.excitation_error) > 0.02)
    bound = patterns.intensity[0][far] / np.sinc(10 * patterns.excitation_error[far].astype(float)) ** 2
    bound /= (np.pi * 10 * patterns.excitation_error[far].astype(float)) ** 2  # (amplitude / π s)², the envelope
    assert (patterns.intensity[2][far] <= bound * (1 + 1e-3) + 1e-12).all()


def test_the_direct_beam_loses_nothing_and_forbidden_reflections_have_none():
    along_110 = orientation_matrix(np.array([[1.0, 1, 0]]))
    kinematic, dynamical = (intensities(SILICON, along_110, settings) for settings in (KINEMATIC, ELASTIC))
    np.testing.assert_array_equal(kinematic[0, 0, 0, 0], 1.0)
    # 002 of the cubic cell: forbidden in diamond, and reached along [110] by scattering twice.
    cubic = np.linalg.inv(SILICON.lattice / 5.431)
    forbidden = tuple(np.round(np.linalg.inv(cubic) @ [0, 0, 2]).astype(int).tolist())
    assert kinematic.get((0, *forbidden), np.zeros(3)).max() == 0
    assert dynamical[(0, *forbidden)].max() > 1e-3


def test_absorbing_crystals_have_kinematic_intensities_too():
    settings = KINEMATIC.model_copy(update={"form_factors": "wk-cp", "thicknesses": (5.0,)})
    for key, value in intensities(GOLD, orientation_matrix(RANDOM[:1]), settings).items():
        assert np.isfinite(value).all(), key


def r_factor(angle, zone_axis, thickness, azimuths=32):
    """Σ |F_dyn - F_kin| over all reflections within 1.2 Å⁻¹, F = √I scaled to the same sum."""
    settings = {"thicknesses": (thickness,)}
    if angle:
        settings["precession"] = Precession(angle=angle, azimuths=azimuths)
    orientation = orientation_matrix(np.array([zone_axis], dtype=float))
    dynamical, kinematic = (
        intensities(SILICON, orientation, theory.model_copy(update=settings)) for theory in (ELASTIC, KINEMATIC)
    )
    near = [
        key
        for key, value in kinematic.items()
        if any(key[1:]) and value[0] > 0 and np.linalg.norm(np.array(key[1:]) @ SILICON.reciprocal) < 1.2
    ]
    ours, theirs = (np.sqrt([source[key][0] for key in near]) for source in (dynamical, kinematic))
    return np.abs(ours / ours.sum() - theirs / theirs.sum()).sum()


def test_precession_makes_a_crystal_of_200_angstrom_more_kinematic_the_larger_its_angle():
    zone_axes = ([1, 1, 0], [0, 0, 1], [1, 1, 1])
    plain, half, one, three = (
        np.mean([r_factor(angle, axis, 200.0) for axis in zone_axes]) for angle in (0, 0.5, 1, 3)
    )
    assert plain > 2 * half
    assert half > one > three


def test_precession_makes_a_thicker_crystal_more_kinematic_too():
    # Not the more so the larger the angle: beyond 1° the mean of the axes is level, and at 1000 Å [001] is more
    # kinematic without precession.
    zone_axes = ([1, 1, 0], [0, 0, 1], [1, 1, 1])
    plain, one = (np.mean([r_factor(angle, axis, 400.0, azimuths=96) for axis in zone_axes]) for angle in (0, 1))
    assert plain > 2 * one


def test_a_theory_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="theory"):
        type(KINEMATIC)(theory="kinematical")
