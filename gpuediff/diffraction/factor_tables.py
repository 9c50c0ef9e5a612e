"""Scattering factors as piecewise polynomials in g²: made once for an element, then cheap at every reflection.

A crystal of 700 Å³ has 10⁵ different |g| below 4 Å⁻¹, and a factor of `scattering_factors` costs up to 10 µs at each.
`factor_table` tabulates it: at Chebyshev points of intervals that are halved until the polynomial is good to about
1e-14 of the factor. The core excitation bends the factor on the scale of its loss angle, down to 0.001 Å⁻¹, so that
intervals become short near g = 0; in the scattering mode "py4dstem" they end besides wherever that factor jumps.
Tables are kept in memory and, by `factor_cache`, on disk, with the same bits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numba import njit
from numpy.polynomial import chebyshev
from scipy.fft import dct

from gpuediff.diffraction import factor_cache, py4dstem_factors
from gpuediff.diffraction.scattering_factors import check_element, scattering_factor
from gpuediff.settings import Simulation

POINTS = 16  # of an interval; the degree is one less
TOLERANCE = 1e-14  # an interval is good when its last two Chebyshev coefficients are below this share of the factor
NARROWEST = 1e-10  # relative width at which an interval is not halved again
NOISE = 1e-12  # share of the factor below which an error that halving does not reduce is rounding, and left
APART = 1e-9  # jumps that are relatively nearer than this are one
CELLS = 1024  # equal steps in g² by which the interval of a reflection is found

_NODES = np.cos((np.arange(POINTS) + 0.5) * math.pi / POINTS)  # none is an end, where the factor may jump
_POWERS_OF_CHEBYSHEV = np.stack(
    [np.pad(chebyshev.cheb2poly(row), (0, POINTS))[:POINTS] for row in np.eye(POINTS)]
)  # T_i = Σ_k [i, k] t^k

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, eq=False)
class FactorTable:
    """A complex scattering factor on 0 <= g² <= edges[-1].

    Parameters
    ----------
    edges : array, shape (n + 1,), float64
        Ends of the intervals in g², Å⁻², rising from 0.
    coefficients : array, shape (n, POINTS, 2), float64
        Real and imaginary part, in Å, of the coefficient of t^k; t runs from -1 to 1 through the interval.
    """

    edges: np.ndarray
    coefficients: np.ndarray

    @cached_property
    def intervals(self) -> np.ndarray:
        """Upper end, middle, and 2 / width of every interval, shape (n, 3), float64."""
        lower, upper = self.edges[:-1], self.edges[1:]
        return np.stack([upper, (lower + upper) / 2, 2 / (upper - lower)], axis=1)

    @cached_property
    def first(self) -> np.ndarray:
        """Interval in which each of CELLS equal steps in g² begins, shape (CELLS,), int32."""
        begins = np.arange(CELLS) * (self.edges[-1] / CELLS)
        return np.searchsorted(self.edges[1:-1], begins, side="right").astype(np.int32)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """What `factor_at` takes besides g²."""
        return self.intervals, self.coefficients, self.first, CELLS / self.edges[-1]

    def __call__(self, g: np.ndarray) -> np.ndarray:
        """Evaluate the factor.

        Parameters
        ----------
        g : array, float64
            Length of the scattering vector, Å⁻¹, within the table.

        Returns
        -------
        array, shape of `g`, complex128
            Å; as of `scattering_factors.scattering_factor`.
        """
        x = np.square(np.asarray(g, dtype=np.float64)).ravel()
        if x.size and not x.max() <= self.edges[-1]:
            raise ValueError(f"g = {math.sqrt(x.max()):g} Å⁻¹: the table ends at {math.sqrt(self.edges[-1]):g} Å⁻¹")
        out = np.empty(x.size, dtype=np.complex128)
        _evaluate(x, *self.arrays, out)
        return out.reshape(np.shape(g))


def factor_table(atomic_number: int, settings: Simulation) -> FactorTable:
    """Return the table of one element for |g| <= 2 g_max, from memory, from the disk, or newly made.

    Parameters
    ----------
    atomic_number : int
        As for `scattering_factors.scattering_factor`.
    settings : Simulation
        `beam_energy`, `displacement`, `form_factors`, `scattering` and `g_max` are used.

    Returns
    -------
    FactorTable
        Good to 1e-12 of |f(g)|, except on both sides of a jump of "py4dstem" closer than rounding.

    Raises
    ------
    InvalidStructure
        If the form factors have no parameters for the element.
    """
    check_element(atomic_number, settings.form_factors)
    # Powers of two, so that few different tables are made.
    limit = 1.01 * 2.0 ** max(2, math.ceil(math.log2(2 * settings.g_max / 1.005)))
    with _one_at_a_time:  # threads that meet a new element together make its table once
        return _kept_table(
            atomic_number,
            settings.beam_energy,
            settings.displacement,
            settings.form_factors,
            settings.scattering,
            limit,
        )


@lru_cache(maxsize=512)
def _kept_table(
    atomic_number: int, beam_energy: float, displacement: float, form_factors: str, scattering: str, limit: float
) -> FactorTable:
    question = {
        "atomic_number": int(atomic_number),
        "beam_energy": float(beam_energy),
        "displacement": float(displacement),
        "form_factors": form_factors,
        "scattering": scattering,
        "limit": float(limit),
    }
    found = factor_cache.read(question, POINTS)
    if found is not None:
        return FactorTable(*found)
    settings = Simulation.model_validate(
        {name: question[name] for name in ("beam_energy", "displacement", "form_factors", "scattering")}
    )
    jumps = np.empty(0)
    if scattering == "py4dstem" and form_factors == "wk-cp":
        jumps = py4dstem_factors.jumps(atomic_number, beam_energy, displacement)
    table = tabulate(lambda g: scattering_factor(atomic_number, g, settings=settings), limit, jumps)
    factor_cache.write(question, table.edges, table.coefficients)
    return table


def tabulate(factor: Callable[[np.ndarray], np.ndarray], limit: float, jumps: np.ndarray) -> FactorTable:
    """Tabulate a function of |g| that is smooth in g² but for known jumps.

    Parameters
    ----------
    factor : callable
        Takes g > 0, shape (n,), float64, Å⁻¹; gives complex128.
    limit : float
        Largest |g|, Å⁻¹.
    jumps : array, float64
        g² of every place where the function, or a derivative of it, is not continuous, Å⁻².

    Returns
    -------
    FactorTable
    """
    edges = [0.0]
    for jump in np.sort(jumps[(jumps > 0) & (jumps < limit**2)]):
        if jump - edges[-1] > APART * jump:
            edges.append(float(jump))
    lower, upper = np.array(edges), np.array([*edges[1:], limit**2])
    before = np.full(len(lower), np.inf)  # error of the interval that was halved

    done: list[tuple[np.ndarray, np.ndarray]] = []
    while len(lower):
        squares = (lower + upper)[:, None] / 2 + (upper - lower)[:, None] / 2 * _NODES
        values = factor(np.sqrt(squares.ravel())).reshape(squares.shape)
        # No product of matrices here: its last bits would depend on the number of threads.
        series = np.stack([dct(part, type=2, axis=1) / POINTS for part in (values.real, values.imag)], axis=-1)
        series[:, 0] /= 2
        error = np.abs(series[:, -2:]).max(axis=(1, 2)) / np.abs(values).max(axis=1, initial=1e-300)
        noise = (error <= NOISE) & (error > before / 4)  # of a smooth function, it would fall by 2^14
        good = (error <= TOLERANCE) | noise | (upper - lower <= NARROWEST * upper)
        powers = np.einsum("nis,ik->nks", series[good], _POWERS_OF_CHEBYSHEV)
        done.append((np.stack([lower[good], upper[good]], axis=1), powers))
        lower, upper, before = lower[~good], upper[~good], np.tile(error[~good], 2)
        middle = (lower + upper) / 2
        lower, upper = np.concatenate([lower, middle]), np.concatenate([middle, upper])

    ends, coefficients = (np.concatenate(parts) for parts in zip(*done, strict=True))
    order = np.argsort(ends[:, 0])
    return FactorTable(np.append(ends[order, 0], limit**2), np.ascontiguousarray(coefficients[order]))


@njit(nogil=True, cache=True, error_model="numpy")
def _evaluate(squares, intervals, coefficients, first, cells_per_square, out):
    for n in range(len(squares)):
        real, imaginary = factor_at(squares[n], intervals, coefficients, first, cells_per_square)
        out[n] = complex(real, imaginary)


@njit(inline="always", error_model="numpy")
def factor_at(square, intervals, coefficients, first, cells_per_square):
    """Real and imaginary part of the factor at g² = `square`, for numba; arguments as `FactorTable` has them."""
    i = first[min(int(square * cells_per_square), len(first) - 1)]
    while i < len(intervals) - 1 and square >= intervals[i, 0]:
        i += 1
    t = (square - intervals[i, 1]) * intervals[i, 2]
    real, imaginary = coefficients[i, POINTS - 1, 0], coefficients[i, POINTS - 1, 1]
    for k in range(POINTS - 2, -1, -1):
        real = real * t + coefficients[i, k, 0]
        imaginary = imaginary * t + coefficients[i, k, 1]
    return real, imaginary
