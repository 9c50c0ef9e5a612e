"""Complex electron scattering factors, ready to be summed to the structure potential.

f(g) = γ/π f_B(g) exp(-2π² u² g²) + i γ²/(2π k0) σ(g), in Å, with f_B the first-Born factor of the atom at rest,
u the rms displacement in one direction, k0 = 1/λ, and σ the absorption integral of `weickenmeier_kohl` (core
excitation, damped like f_B) and `thermal_absorption` (phonons). The "lobato" family is elastic: σ = 0.
"""

from __future__ import annotations

import math

import numpy as np

from gpuediff.diffraction import lobato, py4dstem_factors, weickenmeier_kohl
from gpuediff.diffraction.data.tables import SYMBOLS
from gpuediff.diffraction.electron import lorentz_factor, wavelength
from gpuediff.diffraction.thermal_absorption import thermal_diffuse
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Simulation

FAMILIES = {"wk-cp": weickenmeier_kohl, "lobato": lobato}


def scattering_factor(atomic_number: int, g: np.ndarray, *, settings: Simulation) -> np.ndarray:
    """Relativistic, thermally damped, absorptive scattering factor of one element.

    Parameters
    ----------
    atomic_number : int
        1 .. 98 for "wk-cp" (Weickenmeier & Kohl 1991, core and phonon absorption; hydrogen included, whose fit
        keeps within 0.7 % of the exact factor of the 1s state), 1 .. 103 for "lobato" (Lobato & Van Dyck 2014).
    g : array
        Length of the scattering vector |g| = 1/d, Å⁻¹.
    settings : Simulation
        `beam_energy`, `displacement`, `form_factors`, `scattering` are used. `scattering = "py4dstem"` gives what
        py4DSTEM 0.14.18 computes, see `py4dstem_factors`.

    Returns
    -------
    array, shape of `g`, complex128
        f in Å such that U_g = (1/V) Σ_j o_j f_j(|g|) exp(2πi g·r_j) is in Å⁻².

    Raises
    ------
    InvalidStructure
        If the family has no parameters for the element; names the element and the way out.
    """
    check_element(atomic_number, settings.form_factors)
    lengths = np.ravel(np.asarray(g, dtype=np.float64))
    if settings.scattering == "default":
        factor = _factor(atomic_number, lengths, settings)
    elif settings.form_factors == "lobato":
        factor = py4dstem_factors.lobato_factor(atomic_number, lengths, settings.beam_energy, settings.displacement)
    else:
        factor = py4dstem_factors.weickenmeier_kohl_factor(
            atomic_number, lengths, settings.beam_energy, settings.displacement
        )
    return factor.reshape(np.shape(g))


def _factor(atomic_number: int, g: np.ndarray, settings: Simulation) -> np.ndarray:
    gamma = lorentz_factor(settings.beam_energy)
    damping = np.exp(-2 * np.square(math.pi * settings.displacement * g))
    elastic = FAMILIES[settings.form_factors].elastic(atomic_number, g) * damping
    factor = (gamma / math.pi * elastic).astype(np.complex128)
    if settings.form_factors == "wk-cp":
        core = weickenmeier_kohl.core_loss(atomic_number, g, settings.beam_energy) * damping
        phonon = thermal_diffuse(atomic_number, g, settings.displacement)
        factor.imag = gamma**2 * wavelength(settings.beam_energy) / (2 * math.pi) * (core + phonon)
    return factor


def check_element(atomic_number: int, form_factors: str) -> None:
    """Refuse an element that the form factors have no parameters for.

    Raises
    ------
    InvalidStructure
        Names the element and the way out.
    """
    known = len(FAMILIES[form_factors].parameters())
    if 1 <= atomic_number <= known:
        return
    symbol = SYMBOLS[atomic_number - 1] if 1 <= atomic_number <= len(SYMBOLS) else "no element"
    reach = len(lobato.parameters())
    way_out = (
        'set simulation.form_factors = "lobato"'
        if 1 <= atomic_number <= reach
        else f"no family goes beyond {SYMBOLS[reach - 1]} (Z = {reach}); leave the structure out"
    )
    raise InvalidStructure(
        f"atomic number {atomic_number} ({symbol}): form_factors = {form_factors!r} knows Z = 1 .. {known} only; "
        f"{way_out}"
    )
