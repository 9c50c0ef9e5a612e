"""Absorptive scattering factors of Weickenmeier & Kohl, Acta Cryst. A 47, 590 (1991).

The elastic part is a fit with four terms; the absorptive part has two origins, excitation of core electrons and
thermal diffuse scattering (phonons). Both are given here as the dimensionless integral

    σ(g) = ∫ d²q (intensity scattered coherently from q to q - g and lost to the Bragg beams),

q in Å⁻¹, from which follows the imaginary scattering factor γ²/(2π k0) σ(g) and, at g = 0, the atom's cross
section γ²/k0² σ(0). `scattering_factors` puts the parts together.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from gpuediff.diffraction.data.tables import read_table
from gpuediff.diffraction.electron import BOHR_RADIUS, REST_ENERGY, wavelength

ENERGY_LOSS_PER_CHARGE = 6.0  # eV: mean energy of a core excitation over Z
SCREENING = 0.885  # radius of the Thomas-Fermi atom over a_0 Z^(-1/3)


@lru_cache(maxsize=1)
def parameters() -> np.ndarray:
    """Return A_1 .. A_4 (Å⁻¹), B_1 .. B_4 (Å²), one row an element from H to Cf: shape (98, 8), float64."""
    return read_table("weickenmeier_kohl_1991.csv")


def elastic(atomic_number: int, g: np.ndarray) -> np.ndarray:
    """First-Born electron scattering factor of an atom at rest.

    f(s) = Σ_i A_i (1 - exp(-B_i s²)) / s² with s = g/2.

    Parameters
    ----------
    atomic_number : int
        1 .. 98.
    g : array, float64
        Length of the scattering vector, Å⁻¹.

    Returns
    -------
    array, shape of `g`, float64
        f in Å, without relativistic factor.
    """
    row = parameters()[atomic_number - 1]
    s_squared = np.square(g) / 4
    factor = np.zeros_like(s_squared)
    for a, b in zip(row[:4], row[4:], strict=True):
        factor += a * b * _one_minus_exponential_over(b * s_squared)
    return factor


def core_loss(atomic_number: int, g: np.ndarray, beam_energy: float) -> np.ndarray:
    """Absorption integral of core excitation: Rose's model of a Yukawa atom, Optik 45, 139 (1976).

    Parameters
    ----------
    atomic_number : int
        Z.
    g : array, float64
        Length of the scattering vector, Å⁻¹.
    beam_energy : float
        eV.

    Returns
    -------
    array, shape of `g`, float64
        σ(g), dimensionless, of an atom at rest.
    """
    radius = SCREENING * BOHR_RADIUS / atomic_number ** (1 / 3)
    loss_angle = (
        ENERGY_LOSS_PER_CHARGE
        * atomic_number
        / (2 * beam_energy)
        * (2 * beam_energy + 2 * REST_ENERGY)
        / (beam_energy + 2 * REST_ENERGY)
    )
    kappa = loss_angle * 2 * math.pi * radius / wavelength(beam_energy)
    overlap = yukawa_overlap(2 * math.pi * radius * g, kappa)
    return 4 * SCREENING**2 / math.pi * atomic_number ** (1 / 3) * overlap


def yukawa_overlap(omega: np.ndarray, kappa: float, *, third_constant_to: float = 0.0) -> np.ndarray:
    """Rose's integral over the directions of an electron that excites a Yukawa atom.

    1/(4π) ∫ d²θ [F(ω) - F(θ') F(θ'')] / (θ'² θ''²) with θ'² = θ² + κ², θ''² = |θ - ω|² + κ², F(θ) = 1/(1 + θ²).

    Parameters
    ----------
    omega : array, float64
        Scattering angle over the atom's screening angle.
    kappa : float
        Characteristic angle of the energy loss over the screening angle, > 0.
    third_constant_to : float
        Largest omega for which the third of its terms is taken for its value at 0.

    Returns
    -------
    array, shape of `omega`, float64
    """
    near = omega / (2 * kappa)
    first = omega / (1 + omega**2) * np.arcsinh(near) / (2 * kappa * np.sqrt(1 + near**2))

    root = np.sqrt((1 + omega**2) ** 2 + 4 * kappa**2 * omega**2)
    second = np.log((1 + 2 * kappa**2 + omega**2 + root) / (2 * kappa * math.sqrt(1 + kappa**2))) / root

    far = omega / (2 * math.sqrt(1 + kappa**2))
    far = np.where(omega <= third_constant_to, 0.0, far)
    safe = np.maximum(far, 1e-9)  # arcsinh(x)/x is 1 to the last digit there
    third = np.arcsinh(safe) / (safe * np.sqrt(1 + far**2)) / (4 * (1 + kappa**2))
    return second - first - third


def _one_minus_exponential_over(x: np.ndarray) -> np.ndarray:
    """(1 - exp(-x)) / x for x >= 0, 1 at x = 0."""
    safe = np.maximum(x, 1e-300)
    return -np.expm1(-safe) / safe
