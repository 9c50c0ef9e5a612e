from __future__ import annotations

import math

import pytest

from gpuediff.diffraction.electron import PLANCK_TIMES_LIGHT_SPEED, REST_ENERGY, lorentz_factor, wavelength
from tests.oracle.py4dstem import load


@pytest.mark.parametrize(("energy", "expected"), [(100e3, 0.0370144), (200e3, 0.0250793), (300e3, 0.0196875)])
def test_wavelength_is_that_of_the_textbooks(energy, expected):
    assert wavelength(energy) == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize("energy", [10e3, 80e3, 300e3, 3e6])
def test_wavelength_is_planck_over_relativistic_momentum(energy):
    momentum = REST_ENERGY * math.sqrt(lorentz_factor(energy) ** 2 - 1)  # p c, eV
    assert wavelength(energy) == pytest.approx(PLANCK_TIMES_LIGHT_SPEED / momentum, rel=1e-12)


def test_slow_electrons_have_the_wavelength_of_classical_mechanics():
    assert wavelength(1.0) == pytest.approx(12.26426, rel=2e-6)  # sqrt(150.412 V / U) Å


def test_rounded_constants_give_the_wavelength_of_py4dstem():
    assert wavelength(300e3, scattering="py4dstem") == pytest.approx(load("Si").wavelength, rel=1e-15)
    assert wavelength(300e3, scattering="py4dstem") == pytest.approx(wavelength(300e3), rel=2e-7)
