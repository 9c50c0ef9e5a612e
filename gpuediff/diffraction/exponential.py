"""ψ(t) = exp(2πi t A) e_0 with the exponential as a matrix: worth it where many thicknesses share a small A.

Two ways, both in float64 whatever is asked for, because errors of the matrix add up from step to step:

- the Bloch waves themselves, A = Σ_j λ_j |j><j|, where nothing is absorbed, so that A is Hermitian (real and symmetric
  where the origin is a centre of inversion): every thickness then costs one product;
- the matrix of one step, exp(2πi d A), where all thicknesses are multiples of d: as many products as there are steps.
  It is a Taylor polynomial of degree 16 by six matrix products (M. S. Paterson and L. J. Stockmeyer, SIAM J. Comput. 2,
  60, 1973) of 2πi d A / 2^s, squared s times, with s from a bound on the norm that always holds.

The functions are compiled, and called from compiled code. `generator` is iA in Å⁻¹, complex128, without the absorption
that all beams share.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

NORM_MAX = 1.0  # of the polynomial's argument x: the first term left out is x^17/17! = 3e-15
PRODUCTS = 6  # of matrices, in the polynomial
_INVERSE_FACTORIALS = np.array([1 / math.factorial(k) for k in range(17)])


@njit(nogil=True, cache=True)
def expand_in_bloch_waves(generator, is_real, direct, damping, thicknesses, intensity):
    """Write the intensities at every thickness, shape (t, n); A must be Hermitian, and real where `is_real` says so."""
    n = len(generator)
    if is_real:
        eigenvalues, real_vectors = np.linalg.eigh(np.ascontiguousarray(generator.imag))
        vectors = real_vectors.astype(np.complex128)
    else:
        eigenvalues, vectors = np.linalg.eigh(-1j * generator)
    excitation = np.empty((n, len(thicknesses)), dtype=np.complex128)
    for wave in range(n):
        amplitude = vectors[direct, wave].conjugate()
        for output in range(len(thicknesses)):
            phase = 2 * math.pi * eigenvalues[wave] * thicknesses[output]
            excitation[wave, output] = amplitude * complex(math.cos(phase), math.sin(phase))
    psi = vectors @ excitation
    for output in range(len(thicknesses)):
        damped = math.exp(-4 * math.pi * damping * thicknesses[output])
        for i in range(n):
            intensity[output, i] = damped * (psi[i, output].real ** 2 + psi[i, output].imag ** 2)


@njit(nogil=True, cache=True)
def go_in_steps(generator, norm, direct, damping, step, thicknesses, intensity):
    """Write the intensities at thicknesses that are multiples of `step`, shape (t, n); `norm` bounds that of A."""
    n = len(generator)
    argument = 2 * math.pi * step
    matrix = _exponential(argument * generator, squarings(argument * norm))
    psi = np.zeros(n, dtype=np.complex128)
    psi[direct] = 1.0
    done = 0
    for output in range(len(thicknesses)):
        steps = round(thicknesses[output] / step)
        while done < steps:
            psi = matrix @ psi
            done += 1
        damped = math.exp(-4 * math.pi * damping * thicknesses[output])
        for i in range(n):
            intensity[output, i] = damped * (psi[i].real ** 2 + psi[i].imag ** 2)


@njit(nogil=True, cache=True)
def squarings(norm):
    """How often the polynomial is squared, for an argument of this norm."""
    return max(0, math.ceil(math.log2(norm / NORM_MAX))) if norm > 0 else 0


@njit(nogil=True, cache=True)
def _exponential(matrix, times):
    x = matrix * 0.5**times
    n = len(x)
    powers = np.zeros((5, n, n), dtype=np.complex128)  # of x, from 0 to 4
    for i in range(n):
        powers[0, i, i] = 1.0
    powers[1] = x
    for k in range(2, 5):
        powers[k] = powers[k - 1] @ x
    result = _INVERSE_FACTORIALS[16] * powers[4]
    for block in range(3, -1, -1):  # (((x^4/16! + x^3/15! + ...) x^4 + x^3/11! + ...) x^4 + ...) x^4 + ...
        if block < 3:
            result = result @ powers[4]
        for k in range(4):
            result += _INVERSE_FACTORIALS[4 * block + k] * powers[k]
    for _ in range(times):
        result = result @ result
    return result


@njit(nogil=True, cache=True)
def norm_bound(matrix):
    """Bound the spectral norm: it is at most the root of the largest sums of moduli along rows and along columns."""
    n = len(matrix)
    rows = np.zeros(n)
    columns = np.zeros(n)
    for i in range(n):
        for j in range(n):
            modulus = abs(matrix[i, j])
            rows[i] += modulus
            columns[j] += modulus
    return math.sqrt(rows.max() * columns.max())
