"""Absorption by thermal diffuse scattering of independently vibrating atoms.

For an Einstein crystal (Hall & Hirsch 1965; Weickenmeier & Kohl 1991) an atom takes from the Bragg beams

    σ(g) = ∫ d²q f(q) f(g - q) [exp(-M g²) - exp(-M q² - M |g - q|²)],   M = 2π² u²,

u the rms displacement in one direction. f is a sum of four terms A (1 - exp(-B s²)) / s², s = q/2, and each of them
an integral of Gaussians over their width, (1 - exp(-β q²)) / q² = ∫_0^β exp(-τ q²) dτ. The integral over q becomes
elementary, and a pair of terms contributes

    ∫∫ dt dt' π/(t + t') exp(-x t t'/(t + t')),   x = (2π g)²,

over a rectangle that begins at 0 (first exponential) or at u²/2 (second one), whose antiderivative `corner` consists of
exponential integrals. σ is an entire function of x, so it is tabulated as a Chebyshev series in g².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from scipy.fft import dct
from scipy.special import expi

from gpuediff.diffraction import weickenmeier_kohl

TOLERANCE = 1e-13  # Chebyshev coefficients below this share of the largest are dropped
LARGEST_DEGREE = 1024
ASYMPTOTIC_FROM = 50.0  # argument of Ei from which its asymptotic series is good to the last digit


def thermal_diffuse(atomic_number: int, g: np.ndarray, displacement: float) -> np.ndarray:
    """Absorption integral of thermal diffuse scattering.

    Parameters
    ----------
    atomic_number : int
        1 .. 98.
    g : array, float64
        Length of the scattering vector, Å⁻¹.
    displacement : float
        rms thermal displacement u in one direction, Å. Atoms at rest scatter nothing diffusely.

    Returns
    -------
    array, shape of `g`, float64
        σ(g), dimensionless; thermal damping is part of it. Negative at large g.
    """
    if displacement == 0 or g.size == 0:
        return np.zeros_like(g)
    # Powers of two, so that few different series are made.
    limit = 2.0 ** max(2, math.ceil(math.log2(max(float(g.max()) / 1.01, 1e-3)))) * 1.01
    series = _series(atomic_number, displacement, limit)
    return chebyshev.chebval(2 * np.square(g / limit) - 1, series)


@lru_cache(maxsize=1024)
def _series(atomic_number: int, displacement: float, limit: float) -> np.ndarray:
    """Chebyshev coefficients of σ in g² on 0 <= g <= limit."""
    degree = 64
    while True:
        # Chebyshev points of the first kind: none of them is g = 0.
        angles = (np.arange(degree) + 0.5) * math.pi / degree
        values = closed_form(atomic_number, limit * np.sqrt((1 + np.cos(angles)) / 2), displacement)
        series = dct(values, type=2) / degree
        series[0] /= 2
        needed = int(np.flatnonzero(np.abs(series) > TOLERANCE * np.abs(series).max())[-1]) + 1
        if needed < 0.9 * degree or degree >= LARGEST_DEGREE:
            return series[:needed]
        degree *= 2


def closed_form(atomic_number: int, g: np.ndarray, displacement: float) -> np.ndarray:
    """σ(g) from exponential integrals, for g > 0; arguments and result as in `thermal_diffuse`."""
    row = weickenmeier_kohl.parameters()[atomic_number - 1]
    amplitudes = row[:4] * (4 * math.pi) ** 2  # f in terms of 2πq instead of s
    widths = row[4:] / (4 * math.pi) ** 2  # Å²
    x = np.square(2 * math.pi * g)
    # Every rectangle begins at the same corner: the sum over pairs and corners is one quadratic form.
    weights = np.concatenate([[-amplitudes.sum()], amplitudes])

    def all_pairs(start: float) -> np.ndarray:
        edges = start + np.concatenate([[0.0], widths])
        return np.einsum("i,j,ijn->n", weights, weights, corner(x, edges[:, None, None], edges[None, :, None]))

    beginning = displacement**2 / 2
    return (np.exp(-beginning * x) * all_pairs(0.0) - all_pairs(beginning)) / (4 * math.pi * x)


def corner(x: np.ndarray, t: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Antiderivative x/π ∫∫ in t and t' = u that is 0 at t = u = 0, to nearly full accuracy for every x > 0.

    Parameters
    ----------
    x : array, float64
        (2π g)² > 0, Å⁻².
    t, u : array, float64
        Å², >= 0; shapes that broadcast with `x`.

    Returns
    -------
    array, float64
        Without unit; a rectangle's integral is π/x times the alternating sum over its corners.
    """
    x, t, u = np.broadcast_arrays(x, t, u)
    far = x * (t + u) >= 1
    result = np.zeros(x.shape)
    result[far] = corner_from_expi(x[far], t[far], u[far])

    # The logarithms of Ei cancel: where its arguments are small they are left out.
    near = ~far & (t + u > 0)
    x, t, u = x[near], t[near], u[near]
    total = -2 * _expi_regular(-x * t * u / (t + u))
    for own in (t, u):
        z = x * own**2 / (t + u)
        logarithm = np.euler_gamma + np.log(np.maximum(z, 1e-300))
        total += np.expm1(-x * own) * logarithm + np.exp(-x * own) * _expi_regular(z)
    result[near] = total
    return result


def corner_from_expi(
    x: np.ndarray,
    t: np.ndarray,
    u: np.ndarray,
    *,
    scaled_expi: Callable[[np.ndarray], np.ndarray] | None = None,
    euler_gamma: float = np.euler_gamma,
) -> np.ndarray:
    """Compute `corner` by exponential integrals alone; digits are lost where x (t + u) << 1.

    Parameters
    ----------
    x, t, u : array, shape (n,), float64
        As in `corner`; t + u > 0.
    scaled_expi : callable, optional
        exp(-z) Ei(z) for z > 0; by default to full accuracy.
    euler_gamma : float
        Euler's constant.

    Returns
    -------
    array, shape (n,), float64
    """
    scaled_expi = scaled_expi or _scaled_expi
    result = np.empty(x.shape)
    edge = (t == 0) | (u == 0)
    z = (x * (t + u))[edge]
    result[edge] = scaled_expi(z) - euler_gamma - np.log(z)

    x, t, u = x[~edge], t[~edge], u[~edge]
    harmonic = x * t * u / (t + u)
    ends = scaled_expi(x * t**2 / (t + u)) + scaled_expi(x * u**2 / (t + u))
    result[~edge] = np.exp(-harmonic) * ends - 2 * expi(-harmonic)
    return result


def _scaled_expi(z: np.ndarray) -> np.ndarray:
    """exp(-z) Ei(z) for z > 0, without overflow."""
    far = z > ASYMPTOTIC_FROM
    result = np.empty_like(z)
    result[~far] = np.exp(-z[~far]) * expi(z[~far])
    inverse = 1 / z[far]
    series, term = np.zeros_like(inverse), inverse
    for n in range(1, 40):
        series += term
        term = term * n * inverse
    result[far] = series
    return result


def _expi_regular(z: np.ndarray) -> np.ndarray:
    """Ei(z) - γ - ln|z| = Σ z^n / (n n!) for |z| < 1."""
    series, term = np.zeros_like(z), np.ones_like(z)
    for n in range(1, 20):
        term = term * z / n
        series += term / n
    return series
