"""The scattering factors of py4DSTEM 0.14.18, approximations included, for comparison only.

What differs from the right ones:

* Elastic Weickenmeier-Kohl terms use the first-order series of (1 - exp(-x))/x for all x < 1, where 0.1 is the
  largest sensible value: a term is up to 21 % low, and jumps at x = 1.
* The thermal diffuse integral takes a first-order series near g = 0, and reads x exp(-x) Ei(x) for x > 20 from a
  short table by linear interpolation with a step ten times too small, up to 5 % too high; together with the rounded
  constants this changes the absorption by less than 8e-4 of its forward value. Every pair of terms counts as often
  as it occurs, which is right.
* In the Lobato table the rows of Rb and Sr are exchanged, and there is no thermal damping (here `displacement`
  is honoured; 0 gives py4DSTEM's numbers).
* Physical constants are rounded.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expi, xlogy

from gpuediff.diffraction import lobato, weickenmeier_kohl
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.thermal_absorption import corner_from_expi

LOBATO_REST_ENERGY = 5.109989461e5  # eV
REST_ENERGY = 511.0e3  # eV
BOHR_RADIUS = 0.5289  # Å
EULER_GAMMA = 0.5772157
UNIT = 0.4787801 * 0.664840340614319 / (4 * math.pi)  # 1 / (4π²), nearly
EXCHANGED = {37: 38, 38: 37}

# x exp(-x) Ei(x) at 1/x = 0, 0.005, 0.01, ... 0.05 (Abramowitz & Stegun, table 5.2)
SCALED_EXPI = np.array(
    [1.0, 1.005051, 1.010206, 1.015472, 1.020852, 1.026355, 1.031985, 1.037751, 1.043662, 1.049726, 1.055956, 1.062364]
)
TABLE_FROM = 20.0
TABLE_STEP = 0.005
TABLE_STEP_MISREAD = 0.0005
SERIES_TO = 0.1  # argument up to which the thermal diffuse integral is a series
ELASTIC_SERIES_TO = 1.0
ELASTIC_NO_DECAY_FROM = 20.0
CORE_CONSTANT_TO = 1e-2


def lobato_factor(atomic_number: int, g: np.ndarray, beam_energy: float, displacement: float) -> np.ndarray:
    """py4DSTEM's "Lobato" factor, with thermal damping added; see `scattering_factors.scattering_factor`."""
    gamma = 1 + beam_energy / LOBATO_REST_ENERGY
    damping = np.exp(-2 * np.square(math.pi * displacement * g))
    row = EXCHANGED.get(atomic_number, atomic_number)
    return (gamma / math.pi * lobato.elastic(row, g) * damping).astype(np.complex128)


def weickenmeier_kohl_factor(atomic_number: int, g: np.ndarray, beam_energy: float, displacement: float) -> np.ndarray:
    """py4DSTEM's "WK-CP" factor; see `scattering_factors.scattering_factor`."""
    row = weickenmeier_kohl.parameters()[atomic_number - 1]
    x = np.square(2 * math.pi * g)
    damping = np.exp(-0.5 * displacement**2 * x)
    gamma = 1 + beam_energy / REST_ENERGY
    k0 = 2 * math.pi / wavelength(beam_energy, scattering="py4dstem")
    elastic = 4 * math.pi * damping * _elastic(row[:4], row[4:], g / 2)
    core = damping * _core_loss(atomic_number, x, beam_energy, k0)
    phonon = _thermal_diffuse(row[:4], row[4:], x, displacement) if displacement > 0 else 0.0
    return UNIT * (gamma * elastic + 1j * gamma**2 / k0 * (core + phonon))


def jumps(atomic_number: int, beam_energy: float, displacement: float) -> np.ndarray:
    """List where `weickenmeier_kohl_factor` changes from one approximation to another.

    Parameters
    ----------
    atomic_number, beam_energy, displacement
        As in `weickenmeier_kohl_factor`.

    Returns
    -------
    array, float64
        g² in Å⁻², not sorted; the factor, or one of its derivatives, is not continuous there.
    """
    b = weickenmeier_kohl.parameters()[atomic_number - 1, 4:]
    radius, _ = _core_atom(atomic_number, beam_energy, 2 * math.pi / wavelength(beam_energy, scattering="py4dstem"))
    found = [4 * ELASTIC_SERIES_TO / b, 4 * ELASTIC_NO_DECAY_FROM / b]  # in g²; the others in x = (2πg)²
    in_x = [np.array([(CORE_CONSTANT_TO / radius) ** 2])]
    # The table is read with 1/z in 0.005 n .. 0.005 (n + 1), from z = 20 on.
    read_from = 1 / (TABLE_STEP * np.arange(1, round(1 / (TABLE_STEP * TABLE_FROM)) + 1))
    widths = b / (4 * math.pi) ** 2
    for start in (0.0, displacement**2 / 2) if displacement > 0 else ():
        edges = np.array([start, *(start + widths)])
        t, u = (grid.ravel() for grid in np.meshgrid(edges, edges))
        t, u = t[t + u > 0], u[t + u > 0]
        z_over_x = np.where((t == 0) | (u == 0), t + u, t**2 / (t + u))
        in_x.append(np.outer(read_from, 1 / z_over_x).ravel())
        in_x.append(SERIES_TO / np.maximum(np.maximum.outer(widths, widths), 2 * start).ravel())
    return np.concatenate([*found, np.concatenate(in_x) / (2 * math.pi) ** 2])


def _elastic(amplitudes: np.ndarray, widths: np.ndarray, s: np.ndarray) -> np.ndarray:
    total = np.zeros_like(s)
    for a, b in zip(amplitudes, widths, strict=True):
        x = b * s**2
        safe = np.maximum(x, ELASTIC_SERIES_TO)
        decay = np.where(x > ELASTIC_NO_DECAY_FROM, 0.0, np.exp(-safe))
        total += a * b * np.where(x < ELASTIC_SERIES_TO, 1 - x / 2, (1 - decay) / safe)
    return total


def _core_atom(atomic_number: int, beam_energy: float, k0: float) -> tuple[float, float]:
    """Screening radius (Å), and characteristic angle of the energy loss over the screening angle."""
    radius = weickenmeier_kohl.SCREENING * BOHR_RADIUS / atomic_number ** (1 / 3)
    loss = weickenmeier_kohl.ENERGY_LOSS_PER_CHARGE * atomic_number
    loss_angle = loss / (2 * beam_energy) * (2 * beam_energy + 2 * REST_ENERGY) / (beam_energy + 2 * REST_ENERGY)
    return radius, loss_angle * k0 * radius


def _core_loss(atomic_number: int, x: np.ndarray, beam_energy: float, k0: float) -> np.ndarray:
    radius, kappa = _core_atom(atomic_number, beam_energy, k0)
    overlap = weickenmeier_kohl.yukawa_overlap(np.sqrt(x) * radius, kappa, third_constant_to=CORE_CONSTANT_TO)
    return 16 * math.pi * atomic_number * (radius / BOHR_RADIUS) ** 2 * overlap


def _thermal_diffuse(amplitudes: np.ndarray, widths: np.ndarray, x: np.ndarray, displacement: float) -> np.ndarray:
    amplitudes = amplitudes * (4 * math.pi) ** 2
    widths = widths / (4 * math.pi) ** 2
    start = displacement**2 / 2
    at_rest = _pair_sum(amplitudes, widths, x, 0.0)
    return np.exp(-start * x) * at_rest - _pair_sum(amplitudes, widths, x, start)


def _pair_sum(amplitudes: np.ndarray, widths: np.ndarray, x: np.ndarray, start: float) -> np.ndarray:
    """Sum the integral over the rectangles of all pairs of terms."""
    edges = [start, *(start + widths)]
    away = np.maximum(x, 1e-30)  # near g = 0 the series is taken
    used = [(i, j) for i in range(5) for j in range(i, 5) if edges[i] + edges[j] > 0]
    corners = {(i, j): _corner(away, edges[i], edges[j]) for i, j in used}
    total = np.zeros_like(x)
    for i in range(1, 5):
        for j in range(i, 5):
            rectangle = corners[i, j] - corners[0, i] - corners[0, j] + corners.get((0, 0), 0.0)
            rectangle *= math.pi / away
            width, height = widths[i - 1], widths[j - 1]
            near = x * max(width, height, 2 * start) <= SERIES_TO
            rectangle[near] = _rectangle_series(x[near], start, width, height)
            total += (1 if i == j else 2) * amplitudes[i - 1] * amplitudes[j - 1] * rectangle
    return total


def _rectangle_series(x: np.ndarray, start: float, width: float, height: float) -> np.ndarray:
    """J to first order in x, as Weickenmeier & Kohl's program has it."""
    t, u = start + width, start + height
    value = xlogy(t + u, t + u) - xlogy(t + start, t + start) - xlogy(u + start, u + start)
    value += xlogy(2 * start, 2 * start)
    slope = start**2 / 2 * math.log((t + start) * (u + start)) - xlogy(start**2, 2 * start)
    slope += t**2 / 2 * math.log((t + start) / (t + u)) + u**2 / 2 * math.log((u + start) / (t + u))
    slope += ((t + start) ** 2 + (u + start) ** 2 - (t + u) ** 2) / 4 + (width**2 + height**2) / 2
    slope -= ((width * (t + start) - height * (u + start)) / (t + u)) ** 2 / 2 + start**2
    return math.pi * (value + slope * x)


def _corner(x: np.ndarray, t: float, u: float) -> np.ndarray:
    return corner_from_expi(
        x, np.full_like(x, t), np.full_like(x, u), scaled_expi=_scaled_expi, euler_gamma=EULER_GAMMA
    )


def _scaled_expi(z: np.ndarray) -> np.ndarray:
    """exp(-z) Ei(z), beyond 20 as py4DSTEM reads it from the table."""
    far = z > TABLE_FROM
    result = np.empty_like(z)
    result[~far] = np.exp(-z[~far]) * expi(z[~far])
    inverse = 1 / z[far]
    below = np.floor(inverse / TABLE_STEP).astype(np.int64)
    rise = SCALED_EXPI[below + 1] - SCALED_EXPI[below]
    result[far] = inverse * (SCALED_EXPI[below] + rise / TABLE_STEP * (inverse - TABLE_STEP_MISREAD * below))
    return result
