"""The fast electron: wavelength and Lorentz factor from the beam energy."""

from __future__ import annotations

import math
from typing import Literal

# CODATA 2022 (NIST SP 961)
PLANCK_TIMES_LIGHT_SPEED = 12398.419843320026  # h c, eV Å
REST_ENERGY = 510998.95069  # m c², eV
BOHR_RADIUS = 0.529177210544  # Å

# py4DSTEM 0.14.18 computes the wavelength from constants of six or seven digits; it is shorter by 1.3e-7 of itself.
_PY4DSTEM_LIGHT_SPEED = 299792458.0  # m/s
_PY4DSTEM_CHARGE = 1.602177e-19  # C
_PY4DSTEM_PLANCK_TIMES_LIGHT_SPEED = 6.62607e-34 * _PY4DSTEM_LIGHT_SPEED / _PY4DSTEM_CHARGE * 1e10  # eV Å
_PY4DSTEM_REST_ENERGY = 9.109383e-31 * _PY4DSTEM_LIGHT_SPEED**2 / _PY4DSTEM_CHARGE  # eV


def wavelength(beam_energy: float, *, scattering: Literal["default", "py4dstem"] = "default") -> float:
    """Relativistic de Broglie wavelength in vacuum, Å.

    λ = h c / sqrt(E (E + 2 m c²)).

    Parameters
    ----------
    beam_energy : float
        Kinetic energy E, eV.
    scattering : "default" or "py4dstem"
        `settings.scattering`. "py4dstem" takes the rounded constants of py4DSTEM 0.14.18: the phase
        2π t λ g²/2 at |g| = 2 Å⁻¹, t = 2000 Å feels the eighth digit, so a comparison of intensities to
        1e-8 needs the very same wavelength.

    Returns
    -------
    float
        0.0196875 Å at 300 keV.
    """
    if scattering == "py4dstem":
        numerator, rest_energy = _PY4DSTEM_PLANCK_TIMES_LIGHT_SPEED, _PY4DSTEM_REST_ENERGY
    else:
        numerator, rest_energy = PLANCK_TIMES_LIGHT_SPEED, REST_ENERGY
    return numerator / math.sqrt(beam_energy * (beam_energy + 2 * rest_energy))


def lorentz_factor(beam_energy: float) -> float:
    """γ = 1 + E / (m c²), the relativistic increase of mass.

    Parameters
    ----------
    beam_energy : float
        Kinetic energy E, eV.

    Returns
    -------
    float
        1.587 at 300 keV.
    """
    return 1 + beam_energy / REST_ENERGY
