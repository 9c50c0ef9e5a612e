"""Bloch waves through a crystal: ψ(t) = exp(2πi t A) e_0.

A is the dynamical matrix of one pattern, in Å⁻¹: A_gh = U/(2 k0) off the diagonal, A_gg = s_g + i Im U_0/(2 k0)
(M. De Graef, Introduction to conventional TEM, 2003, Eqs. 5.51 to 5.60). Absorption that all beams share is a factor
on the intensities, and left out of the matrices.

There are three ways to the same intensities, and for every pattern the one is taken that is predicted to be fastest:
the Chebyshev expansion (`chebyshev`), nearly always, and for many thicknesses of small patterns Bloch waves or the
matrix of one step (`exponential`). The prediction is a function of the pattern and the thicknesses alone, so that a
pattern has the same bits on every machine of the same software.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numba import njit

from gpuediff.diffraction import chebyshev, exponential
from gpuediff.diffraction.beams import Beams, Reflections
from gpuediff.errors import InvalidStructure

Method = Literal["auto", "chebyshev", "bloch-waves", "steps"]
_METHODS: tuple[Method, ...] = get_args(Method)

_AUTO, _CHEBYSHEV, _BLOCH_WAVES, _STEPS = range(4)

_SAME_THICKNESS = 1e-6  # Å

# Seconds on one core, from benchmarks/results/bloch-cpu.json: only what the ways cost beside each other matters.
_PER_PRODUCT_ELEMENT_SINGLE = 1.7e-10  # product of a matrix and a vector, times n²
_PER_PRODUCT_ELEMENT_DOUBLE = 3.4e-10
_PER_ROW = 1.2e-8  # times n
_PER_MATRIX_PRODUCT = 1.8e-10  # complex128, times n³
_PER_HERMITIAN_EIGENSOLVE = 6.5e-10, 1.0e-7  # times n³, n²
_PER_SYMMETRIC_EIGENSOLVE = 0.9e-10, 0.9e-7
_PER_PHASE = 4e-8  # of one Bloch wave at one thickness


def propagate(
    reflections: Reflections,
    beams: Beams,
    wavelength: float,
    thicknesses: np.ndarray,
    precision: np.dtype,
    *,
    method: Method = "auto",
) -> np.ndarray:
    """Compute the intensity of every beam at every thickness.

    Parameters
    ----------
    reflections : Reflections
        Of one crystal.
    beams : Beams
        Of n patterns of this crystal.
    wavelength : float
        Å.
    thicknesses : array, shape (t,), float64
        Rising, above 0, Å.
    precision : dtype
        float32 or float64: of the result, and of the Chebyshev expansion; the other ways compute in float64.
    method : {"auto", "chebyshev", "bloch-waves", "steps"}
        "bloch-waves" needs a crystal that absorbs nothing, "steps" thicknesses that are multiples of one.

    Returns
    -------
    array, shape (t, beams), float32 or float64
        Fractions of the incident beam. A pattern's values do not depend on the other patterns.

    Raises
    ------
    InvalidStructure
        If the potential or an excitation error is not finite.
    ValueError
        If the method is unknown or does not suit.
    """
    thicknesses = np.asarray(thicknesses, dtype=np.float64)
    intensity = np.empty((len(thicknesses), len(beams.reflection)), dtype=precision)
    step = _common_step(thicknesses)
    _check_method(method, reflections, step)
    finite = _propagate_patterns(
        reflections.coupling,
        0.5 * wavelength,
        reflections.centre,
        reflections.address[beams.reflection],
        beams.excitation_error,
        beams.offsets,
        thicknesses,
        step,
        reflections.absorbs,
        reflections.is_real,
        _METHODS.index(method),
        intensity,
    )
    if not finite:
        raise InvalidStructure(
            "the potential or an excitation error is not finite; check the atoms' positions, occupancies and elements"
        )
    return intensity


def _check_method(method: Method, reflections: Reflections, step: float) -> None:
    if method not in _METHODS:
        raise ValueError(f"method = {method!r}: expected one of {', '.join(_METHODS)}")
    if method == "bloch-waves" and reflections.absorbs:
        raise ValueError("method = 'bloch-waves': the crystal absorbs, so that its dynamical matrix is not Hermitian")
    if method == "steps" and step == 0:
        raise ValueError("method = 'steps': the thicknesses are not multiples of one step")


def _common_step(thicknesses: np.ndarray) -> float:
    """Return the largest length in Å of which all thicknesses are multiples; 0 where it would be below 1 Å."""
    step = 0.0
    for thickness in thicknesses:
        while thickness > _SAME_THICKNESS:  # Euclid's algorithm
            step, thickness = float(thickness), step % thickness if step else 0.0
            if thickness and step - thickness < _SAME_THICKNESS:
                thickness = 0.0
    return step if step > 1 - _SAME_THICKNESS else 0.0


@njit(nogil=True, cache=True)
def _propagate_patterns(
    coupling, half_wavelength, centre, address, error, offsets, thicknesses, step, absorbs, is_real, method, intensity
):
    """Do one pattern after the other; False if there are numbers that are not finite."""
    damping = half_wavelength * coupling[centre].imag
    for pattern in range(len(offsets) - 1):
        own = slice(offsets[pattern], offsets[pattern + 1])
        n = offsets[pattern + 1] - offsets[pattern]
        way = method
        if way == _AUTO:
            spread = error[own].max() - error[own].min()
            way = _fastest(n, spread, damping, thicknesses, step, absorbs, is_real, intensity.itemsize)
        if way == _CHEBYSHEV:
            real = np.empty((n, chebyshev.padded(n)), dtype=intensity.dtype)
            imag = np.empty((n, chebyshev.padded(n)), dtype=intensity.dtype)
            direct = _fill(coupling, half_wavelength, centre, address[own], error[own], real, imag)
            good = chebyshev.propagate(real, imag, direct, damping, thicknesses, intensity[:, own])
        else:
            wide_real = np.empty((n, n))
            wide_imag = np.empty((n, n))
            direct = _fill(coupling, half_wavelength, centre, address[own], error[own], wide_real, wide_imag)
            generator = wide_real + 1j * wide_imag
            norm = exponential.norm_bound(generator)
            good = math.isfinite(norm)
            if good and way == _BLOCH_WAVES:
                exponential.expand_in_bloch_waves(generator, is_real, direct, damping, thicknesses, intensity[:, own])
            elif good:
                exponential.go_in_steps(generator, norm, direct, damping, step, thicknesses, intensity[:, own])
        if not good:
            return False
    return True


@njit(nogil=True, cache=True)
def _fastest(n, spread, damping, thicknesses, step, absorbs, is_real, itemsize):
    """Predict which way is fastest for n beams; all but the last three in Å⁻¹ and Å."""
    last = thicknesses[-1]
    outputs = len(thicknesses)
    single = itemsize == 4

    # The couplings widen the spectrum a little beyond the excitation errors. The Bloch wave that is absorbed least
    # gains about as much as the mean loses, and makes steps shorter. A step's tail takes 12 terms, or 22 in float64.
    half_width = 0.55 * spread + chebyshev.MARGIN_OF_GAIN * damping
    restarts = max(1.0, math.ceil(last / chebyshev.step_max(damping)))
    products = 2 * math.pi * half_width * last + restarts * (12 if single else 22) + chebyshev.ARNOLDI_ITERATIONS
    element = _PER_PRODUCT_ELEMENT_SINGLE if single else _PER_PRODUCT_ELEMENT_DOUBLE
    seconds_chebyshev = products * n * (element * n + _PER_ROW)

    seconds_bloch_waves = math.inf
    if not absorbs:
        cubic, square = _PER_SYMMETRIC_EIGENSOLVE if is_real else _PER_HERMITIAN_EIGENSOLVE
        seconds_bloch_waves = n**2 * (cubic * n + square + _PER_MATRIX_PRODUCT * outputs) + _PER_PHASE * n * outputs

    seconds_steps = math.inf
    if step > 0:
        squarings = exponential.squarings(2 * math.pi * step * spread)
        matrix_products = (exponential.PRODUCTS + squarings) * n**2 * (_PER_MATRIX_PRODUCT * n + _PER_ROW)
        seconds_steps = matrix_products + last / step * n * (_PER_PRODUCT_ELEMENT_DOUBLE * n + _PER_ROW)

    if seconds_chebyshev <= min(seconds_bloch_waves, seconds_steps):
        return _CHEBYSHEV
    return _BLOCH_WAVES if seconds_bloch_waves <= seconds_steps else _STEPS


@njit(nogil=True, cache=True)
def _fill(coupling, half_wavelength, centre, address, excitation_error, real, imag):
    """Fill in iA, without the damping that all beams share; return the position of the direct beam."""
    n = len(address)
    direct = 0
    for i in range(n):
        from_beam = centre - address[i]
        for j in range(n):
            value = coupling[from_beam + address[j]]
            real[i, j] = -half_wavelength * value.imag
            imag[i, j] = half_wavelength * value.real
        for j in range(n, real.shape[1]):
            real[i, j] = 0.0
            imag[i, j] = 0.0
        real[i, i] = 0.0
        imag[i, i] = excitation_error[i]
        if from_beam == centre:
            direct = i
    return direct
