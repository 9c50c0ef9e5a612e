from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpuediff.diffraction import lobato, thermal_absorption, weickenmeier_kohl
from gpuediff.diffraction.electron import BOHR_RADIUS, lorentz_factor, wavelength
from gpuediff.diffraction.scattering_factors import scattering_factor
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Simulation

DEFAULT = Simulation()
PY4DSTEM = Simulation(scattering="py4dstem")
FAMILIES = pytest.mark.parametrize("family", [lobato, weickenmeier_kohl], ids=["lobato", "weickenmeier_kohl"])


def polar_quadrature(scale: float, angles: int = 256):
    """Points (x, y) and weights for integrals over a plane, fine near the origin and reaching out to 1e6 `scale`."""
    radii = scale * np.concatenate([[0.0], np.geomspace(1e-4, 1e6, 600)])
    node, weight = np.polynomial.legendre.leggauss(6)
    width = np.diff(radii)[:, None]
    radius = (radii[:-1, None] + width * (node + 1) / 2).ravel()
    ring = (width * weight / 2).ravel() * radius * 2 * math.pi / angles
    angle = (np.arange(angles) + 0.5) * 2 * math.pi / angles
    return radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle), ring[:, None]


# Elastic part


@pytest.mark.parametrize("atomic_number", range(1, 99))
def test_the_two_families_agree_for_every_element(atomic_number):
    # Independent fits to independent atomic wave functions; they differ most at small angles, where the electronic
    # configurations differ: Ir 10 %, Ce, Tc, Cr 5 %, all others below 4.5 %.
    g = np.linspace(0.1, 4, 200)
    ratio = weickenmeier_kohl.elastic(atomic_number, g) / lobato.elastic(atomic_number, g)
    assert np.abs(ratio - 1).max() < (0.11 if atomic_number == 77 else 0.055)
    assert np.median(np.abs(ratio - 1)) < 0.02


@pytest.mark.parametrize(("family", "tolerance"), [(lobato, 2e-6), (weickenmeier_kohl, 0.007)])
def test_hydrogen_has_the_factor_of_the_1s_state(family, tolerance):
    g = np.linspace(0.02, 4, 200)
    density = 1 / (1 + (math.pi * BOHR_RADIUS * g) ** 2) ** 2
    exact = (1 - density) / (2 * math.pi**2 * BOHR_RADIUS * g**2)
    np.testing.assert_allclose(family.elastic(1, g), exact, rtol=tolerance)


@FAMILIES
def test_large_angles_see_the_bare_nucleus(family):
    g = np.array([1e4])
    for atomic_number in range(1, len(family.parameters()) + 1):
        rutherford = atomic_number / (2 * math.pi**2 * BOHR_RADIUS * g**2)
        np.testing.assert_allclose(family.elastic(atomic_number, g), rutherford, rtol=2e-3)


@FAMILIES
def test_forward_value_is_the_limit_of_small_angles(family):
    for atomic_number in (1, 14, 79):
        np.testing.assert_allclose(
            family.elastic(atomic_number, np.array([0.0])), family.elastic(atomic_number, np.array([1e-6])), rtol=1e-9
        )


@pytest.mark.parametrize("atomic_number", [3, 8, 26, 79])
def test_only_py4dstem_has_a_jump_where_its_series_begins(atomic_number):
    heaviest = np.argmax(weickenmeier_kohl.parameters()[atomic_number - 1, :4])
    width = weickenmeier_kohl.parameters()[atomic_number - 1, 4 + heaviest]
    around = 2 / math.sqrt(width) * np.array([1 - 1e-7, 1 + 1e-7])  # B s² = 1
    below, above = scattering_factor(atomic_number, around, settings=PY4DSTEM).real
    assert abs(above / below - 1) > 0.01
    below, above = scattering_factor(atomic_number, around, settings=DEFAULT).real
    assert abs(above / below - 1) < 1e-6


def test_py4dstem_is_low_by_up_to_a_sixth():
    g = np.linspace(0, 4, 2001)
    ratios = [
        scattering_factor(z, g, settings=PY4DSTEM).real / scattering_factor(z, g, settings=DEFAULT).real
        for z in (3, 6, 14, 26, 79)
    ]
    assert 0.80 < np.min(ratios) < 0.90
    assert np.max(ratios) < 1.001


def test_py4dstem_exchanges_rubidium_and_strontium():
    lobato_default = Simulation(form_factors="lobato")
    lobato_py4dstem = Simulation(form_factors="lobato", scattering="py4dstem")
    g = np.linspace(0, 4, 20)
    np.testing.assert_allclose(
        scattering_factor(37, g, settings=lobato_py4dstem), scattering_factor(38, g, settings=lobato_default), rtol=1e-8
    )


@pytest.mark.parametrize("scattering", ["default", "py4dstem"])
@pytest.mark.parametrize("form_factors", ["lobato", "wk-cp"])
def test_thermal_motion_damps_the_elastic_part_by_the_debye_waller_factor(form_factors, scattering):
    g = np.linspace(0, 4, 50)
    at_rest = Simulation(form_factors=form_factors, scattering=scattering, displacement=0.0)
    moving = at_rest.model_copy(update={"displacement": 0.11})
    np.testing.assert_allclose(
        scattering_factor(26, g, settings=moving).real,
        scattering_factor(26, g, settings=at_rest).real * np.exp(-2 * math.pi**2 * 0.11**2 * g**2),
        rtol=1e-12,
    )


def test_elastic_part_grows_with_the_relativistic_mass():
    g = np.linspace(0, 4, 50)
    slow, fast = (Simulation(beam_energy=energy) for energy in (80e3, 300e3))
    ratio = scattering_factor(14, g, settings=fast).real / scattering_factor(14, g, settings=slow).real
    np.testing.assert_allclose(ratio, lorentz_factor(300e3) / lorentz_factor(80e3), rtol=1e-12)


# Absorption


@pytest.mark.parametrize("g", [1e-3, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("atomic_number", [1, 8, 26, 79])
def test_thermal_diffuse_absorption_is_its_integral_over_the_plane(atomic_number, g):
    displacement = 0.08
    x, y, weight = polar_quadrature(1.0)
    plus, minus = (np.hypot(x + sign * g / 2, y) for sign in (1, -1))
    elastic = weickenmeier_kohl.elastic(atomic_number, plus) * weickenmeier_kohl.elastic(atomic_number, minus)
    debye = 2 * math.pi**2 * displacement**2
    diffuse = math.exp(-debye * g**2) - np.exp(-debye * (plus**2 + minus**2))
    integral = (elastic * diffuse * weight).sum()
    forward = thermal_absorption.thermal_diffuse(atomic_number, np.array([0.0]), displacement)[0]
    got = thermal_absorption.thermal_diffuse(atomic_number, np.array([g]), displacement)[0]
    assert got == pytest.approx(integral, abs=1e-7 * forward)


@pytest.mark.parametrize("omega", [1e-4, 0.2, 1.0, 5.0])
def test_core_absorption_is_its_integral_over_the_plane(omega):
    kappa = 0.07
    x, y, weight = polar_quadrature(1.0, angles=1024)
    plus, minus = ((x + sign * omega / 2) ** 2 + y**2 + kappa**2 for sign in (1, -1))
    integrand = (1 / (1 + omega**2) - 1 / ((1 + plus) * (1 + minus))) / (plus * minus)
    expected = (integrand * weight).sum() / (4 * math.pi)
    assert weickenmeier_kohl.yukawa_overlap(np.array([omega]), kappa)[0] == pytest.approx(expected, rel=1e-6)


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    atomic_number=st.integers(1, 98),
    displacement=st.floats(0.02, 0.3),
    g=st.lists(st.floats(1e-3, 12), min_size=1, max_size=20),
)
def test_tabulated_absorption_equals_the_closed_form(atomic_number, displacement, g):
    forward = thermal_absorption.thermal_diffuse(atomic_number, np.array([0.0]), displacement)[0]
    g = np.array(g)
    np.testing.assert_allclose(
        thermal_absorption.thermal_diffuse(atomic_number, g, displacement),
        thermal_absorption.closed_form(atomic_number, g, displacement),
        rtol=0,
        atol=1e-9 * forward,
    )


def test_atoms_at_rest_absorb_by_core_excitation_alone():
    g = np.linspace(0, 4, 30)
    got = scattering_factor(14, g, settings=Simulation(displacement=0.0)).imag
    prefactor = lorentz_factor(300e3) ** 2 * wavelength(300e3) / (2 * math.pi)
    np.testing.assert_allclose(got, prefactor * weickenmeier_kohl.core_loss(14, g, 300e3), rtol=1e-12)


def test_thermal_absorption_takes_away_what_is_scattered_diffusely():
    # At g = 0: the imaginary part is k0/(2π) times the cross section, here integrated over the detector plane.
    displacement = 0.08
    x, y, weight = polar_quadrature(1.0, angles=8)
    q = np.hypot(x, y)
    born = lorentz_factor(300e3) * weickenmeier_kohl.elastic(79, q)
    lost = 1 - np.exp(-4 * math.pi**2 * displacement**2 * q**2)
    cross_section = (born**2 * lost * weight).sum() * wavelength(300e3) ** 2
    moving, at_rest = (
        scattering_factor(79, np.array([0.0]), settings=Simulation(displacement=u))[0].imag for u in (displacement, 0.0)
    )
    assert moving - at_rest == pytest.approx(cross_section / (2 * math.pi * wavelength(300e3)), rel=1e-6)


@pytest.mark.parametrize("atomic_number", range(1, 99, 7))
def test_py4dstem_absorption_is_right_within_its_approximations(atomic_number):
    g = np.linspace(0, 4, 500)
    right = scattering_factor(atomic_number, g, settings=DEFAULT).imag
    theirs = scattering_factor(atomic_number, g, settings=PY4DSTEM).imag
    assert np.abs(theirs - right).max() < 8e-4 * right[0]


def test_lobato_factors_are_elastic():
    factor = scattering_factor(79, np.linspace(0, 4, 10), settings=Simulation(form_factors="lobato"))
    assert factor.dtype == np.complex128
    assert not factor.imag.any()


# Interface


@pytest.mark.parametrize("scattering", ["default", "py4dstem"])
@pytest.mark.parametrize("form_factors", ["lobato", "wk-cp"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_result_has_the_shape_of_g(shape, form_factors, scattering):
    settings = Simulation(form_factors=form_factors, scattering=scattering)
    factor = scattering_factor(14, np.full(shape, 0.7), settings=settings)
    assert factor.shape == shape
    assert factor.dtype == np.complex128


@pytest.mark.parametrize(
    ("atomic_number", "form_factors", "message"),
    [
        (99, "wk-cp", r"99 \(Es\).*form_factors = \"lobato\""),
        (104, "wk-cp", r"104 \(Rf\).*leave the structure out"),
        (104, "lobato", r"104 \(Rf\).*Z = 1 .. 103 only.*leave the structure out"),
        (0, "lobato", r"no element"),
    ],
)
def test_an_element_without_parameters_is_named_with_the_way_out(atomic_number, form_factors, message):
    with pytest.raises(InvalidStructure, match=message):
        scattering_factor(atomic_number, np.zeros(1), settings=Simulation(form_factors=form_factors))
