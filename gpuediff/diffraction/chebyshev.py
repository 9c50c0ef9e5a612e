"""ψ(t) = exp(2πi t A) e_0 by Chebyshev expansion: products of A and a vector, for any A and any thicknesses.

With the eigenvalues of A within c ± r,

    exp(2πi t A) = exp(2πi t c) Σ_k (2 - δ_k0) J_k(2π t r) i^k T_k((A - c) / r)

(H. Tal-Ezer and R. Kosloff, J. Chem. Phys. 81, 3967, 1984). The sum ends soon after k = 2π t r: a thickness of 200 Å
takes about a hundred products of A and a vector, and all thicknesses of a step share them. The phase before the sum
never shows in an intensity.

c and r are measured, by a few Arnoldi iterations. Should they be too narrow after all, the Chebyshev vectors grow:
every step looks at the last of them, and is done again with a wider bound until it does not. Absorption lets them grow
too; where the Bloch wave that is absorbed least gains much against the mean, steps are shorter.

The functions are compiled, and called from compiled code. Matrices are given as the real and the imaginary part of iA,
without the absorption that all beams share, in rows padded with zeros (`LANES`).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

STEP_MAX = 100.0  # Å; longer steps would save products, but add up rounding
GAIN_MAX = 1.0  # natural logarithm of the amplitude that one Bloch wave may gain against the mean in one step
OUTPUTS_MAX = 32  # thicknesses within one step; bounds the scratch memory
ARNOLDI_ITERATIONS = 12
MARGIN = 1.03  # by which the measured half-width is widened,
MARGIN_OF_GAIN = 2.0  # and by this times the gain in Å⁻¹: eigenvalues near ±r with an imaginary part grow fastest
TAIL = 0.125  # coefficients below this part of the floating-point spacing are left out
GROWTH_MAX = 10.0  # of the norm of a Chebyshev vector: the last term must stay below the floating-point spacing
WIDENING = 1.3  # of a half-width that was too narrow
HALVING = 4  # every so many times in vain, the step is halved as well
ATTEMPTS_MAX = 60  # 1.3**60 covers 7 orders of magnitude: only a value that is not finite gets there
LANES = 16  # rows of the matrix are padded with zeros to a multiple of this, for the vector units

_SPACING_SINGLE, _SPACING_DOUBLE = (float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))

# Sums may be reordered and fused; NaN and infinity must stay what they are, or they could not be noticed.
_FAST = {"reassoc", "contract", "nsz", "arcp"}


@njit(nogil=True, cache=True)
def propagate(real, imag, direct, damping, thicknesses, intensity):
    """Write the intensities at every thickness, shape (t, n); False if the numbers are not finite.

    `imag` is changed: the middle of the spectrum moves to 0.
    """
    low, high, gain = spectral_bounds(real, imag)
    for i in range(len(real)):
        imag[i, i] -= 0.5 * (low + high)
    half_width = 0.5 * MARGIN * (high - low) + MARGIN_OF_GAIN * gain
    return expand(real, imag, direct, half_width, gain, damping, thicknesses, intensity)


@njit(nogil=True, cache=True)
def step_max(gain):
    """Return the longest step in Å, where the Bloch wave that is absorbed least gains this against the mean (Å⁻¹)."""
    return STEP_MAX / max(1.0, 2 * math.pi * gain * STEP_MAX / GAIN_MAX)


@njit(nogil=True, cache=True)
def padded(n):
    """Return the length of a row of n elements with its padding."""
    return (n + LANES - 1) // LANES * LANES


@njit(nogil=True, cache=True, fastmath=_FAST)
def _advance(real, imag, x_real, x_imag, scale, y_real, y_imag):
    """y <- scale * (iA) x + y."""
    width = real.shape[1]
    zero = real.dtype.type(0)
    for i in range(real.shape[0]):
        sum_real = zero
        sum_imag = zero
        for j in range(width):
            sum_real += real[i, j] * x_real[j] - imag[i, j] * x_imag[j]
            sum_imag += real[i, j] * x_imag[j] + imag[i, j] * x_real[j]
        y_real[i] += scale * sum_real
        y_imag[i] += scale * sum_imag


@njit(nogil=True, cache=True)
def spectral_bounds(real, imag):
    """Estimate where the eigenvalues of A lie, in Å⁻¹, from the stored iA: least and greatest real part, greatest gain.

    Arnoldi iterations make a small matrix whose Hermitian and skew parts have nearly the same extreme eigenvalues; the
    diagonal bounds those of the Hermitian part from inside too. The gain is against the damping that all beams share.
    """
    n, width = real.shape
    iterations = min(ARNOLDI_ITERATIONS, n)
    basis_real = np.zeros((iterations + 1, width), dtype=real.dtype)
    basis_imag = np.zeros((iterations + 1, width), dtype=real.dtype)
    projected = np.zeros((iterations, iterations), dtype=np.complex128)
    for i in range(n):  # any vector will do that no symmetry makes orthogonal to an extreme eigenvector
        basis_real[0, i] = (1.0 + 0.5 * math.cos(1.7 * i * i)) / math.sqrt(n)
        basis_imag[0, i] = 0.5 * math.sin(2.3 * i * i) / math.sqrt(n)
    _normalise(basis_real[0], basis_imag[0])
    size = 0
    for step in range(iterations):
        x_real = basis_real[step + 1]
        x_imag = basis_imag[step + 1]
        _advance(real, imag, basis_real[step], basis_imag[step], real.dtype.type(1), x_real, x_imag)
        before = math.sqrt(_squared_norm(x_real, x_imag))
        for other in range(step + 1):
            projected[other, step] = _remove(basis_real[other], basis_imag[other], x_real, x_imag)
        size = step + 1
        norm = _normalise(x_real, x_imag)
        if norm <= 1e-4 * before:  # an invariant subspace: the rest would be rounding
            break
        if size < iterations:
            projected[size, step] = norm
    low = imag[0, 0]
    high = imag[0, 0]
    for i in range(n):
        low = min(low, imag[i, i])
        high = max(high, imag[i, i])
    # iA has i times the Hermitian part of A, and minus the skew part over i.
    hermitian = np.empty((size, size), dtype=np.complex128)
    skew = np.empty((size, size), dtype=np.complex128)
    total = 0.0
    for i in range(size):
        for j in range(size):
            hermitian[i, j] = -0.5j * (projected[i, j] - projected[j, i].conjugate())
            skew[i, j] = -0.5 * (projected[i, j] + projected[j, i].conjugate())
            total += abs(projected[i, j])
    if not math.isfinite(total):  # LAPACK would not like it, and `expand` will notice
        return float(low), float(high), 0.0
    ritz = np.linalg.eigvalsh(hermitian)
    gain = max(0.0, np.linalg.eigvalsh(skew)[-1])
    return min(float(low), ritz[0]), max(float(high), ritz[-1]), gain


@njit(nogil=True, cache=True, fastmath=_FAST)
def _squared_norm(real, imag):
    total = real.dtype.type(0)
    for i in range(len(real)):
        total += real[i] * real[i] + imag[i] * imag[i]
    return float(total)


@njit(nogil=True, cache=True, fastmath=_FAST)
def _normalise(real, imag):
    """Scale to unit norm in place; return the norm before."""
    norm = math.sqrt(_squared_norm(real, imag))
    scale = real.dtype.type(1 / norm if norm > 0 else 0)
    for i in range(len(real)):
        real[i] *= scale
        imag[i] *= scale
    return norm


@njit(nogil=True, cache=True, fastmath=_FAST)
def _remove(unit_real, unit_imag, real, imag):
    """Make a vector orthogonal to a unit vector in place; return the component removed."""
    along_real = real.dtype.type(0)
    along_imag = real.dtype.type(0)
    for i in range(len(real)):
        along_real += unit_real[i] * real[i] + unit_imag[i] * imag[i]
        along_imag += unit_real[i] * imag[i] - unit_imag[i] * real[i]
    for i in range(len(real)):
        real[i] -= along_real * unit_real[i] - along_imag * unit_imag[i]
        imag[i] -= along_real * unit_imag[i] + along_imag * unit_real[i]
    return complex(along_real, along_imag)


@njit(nogil=True, cache=True)
def expand(real, imag, direct, half_width, gain, damping, thicknesses, intensity):
    """Go through the crystal step by step and write the intensities; False if the numbers are not finite."""
    n, width = real.shape
    dtype = real.dtype
    tail = TAIL * (_SPACING_SINGLE if real.itemsize == 4 else _SPACING_DOUBLE)
    # What is summed up and carried from step to step is float64 always: it costs little, and errors add up there.
    psi_real = np.zeros(width)
    psi_imag = np.zeros(width)
    psi_real[direct] = 1.0
    outputs_max = min(OUTPUTS_MAX, len(thicknesses))
    vectors = np.empty((2, 2, width), dtype=dtype)
    sum_real = np.empty((outputs_max, width))
    sum_imag = np.empty((outputs_max, width))
    half_width = max(half_width, 1e-9)  # a single beam: nothing to expand, but a bound must be positive
    longest = step_max(gain)
    depth = 0.0
    done = 0
    attempts = 0
    while done < len(thicknesses):
        stop = done
        while stop < len(thicknesses) and stop - done < outputs_max and thicknesses[stop] - depth <= longest:
            stop += 1
        if stop > done:
            distances = thicknesses[done:stop] - depth
        else:  # nothing to write within reach: part of the way, in equal steps
            way = thicknesses[done] - depth
            distances = np.array([way / math.ceil(way / longest)])
        inverse = dtype.type(1 / half_width)
        weights = coefficients(1 / float(inverse), distances, tail)  # for the very width that the products see
        before = _squared_norm(psi_real, psi_imag)
        last = _chebyshev(real, imag, psi_real, psi_imag, inverse, weights, vectors, sum_real, sum_imag)
        if not last <= GROWTH_MAX**2 * before:
            attempts += 1
            if attempts > ATTEMPTS_MAX:
                return False
            half_width *= WIDENING
            if attempts % HALVING == 0:
                longest = 0.5 * distances[-1]
            continue
        for output in range(stop - done):
            damped = math.exp(-4 * math.pi * damping * distances[output])
            for i in range(n):
                intensity[done + output, i] = damped * (
                    sum_real[output, i] * sum_real[output, i] + sum_imag[output, i] * sum_imag[output, i]
                )
        damped = math.exp(-2 * math.pi * damping * distances[-1])
        for i in range(width):
            psi_real[i] = damped * sum_real[len(distances) - 1, i]
            psi_imag[i] = damped * sum_imag[len(distances) - 1, i]
        depth = thicknesses[stop - 1] if stop > done else depth + distances[-1]
        done = stop
    return True


@njit(nogil=True, cache=True, fastmath=_FAST)
def _chebyshev(real, imag, psi_real, psi_imag, inverse_half_width, coefficients, vectors, sum_real, sum_imag):
    """Sum the expansion for every distance; return the squared norm of its last vector.

    With W_k = i^k T_k(A / r) ψ the recurrence is W_{k+1} = 2 (iA / r) W_k + W_{k-1}, and the coefficients are real.
    """
    width = len(psi_real)
    # Even and odd k take turns in two places. Swapping variables instead would keep the compiler from vectorising.
    for i in range(width):
        vectors[0, 0, i] = psi_real[i]
        vectors[0, 1, i] = psi_imag[i]
        vectors[1, 0, i] = 0.0
        vectors[1, 1, i] = 0.0
    _advance(real, imag, vectors[0, 0], vectors[0, 1], inverse_half_width, vectors[1, 0], vectors[1, 1])
    terms, outputs = coefficients.shape
    for output in range(outputs):
        for i in range(width):
            sum_real[output, i] = 0.0
            sum_imag[output, i] = 0.0
    for k in range(terms):
        new = k % 2
        if k >= 2:
            old = 1 - new
            _advance(
                real,
                imag,
                vectors[old, 0],
                vectors[old, 1],
                inverse_half_width + inverse_half_width,
                vectors[new, 0],
                vectors[new, 1],
            )
        for output in range(outputs):
            weight = coefficients[k, output]
            if weight != 0:
                for i in range(width):
                    sum_real[output, i] += weight * vectors[new, 0, i]
                    sum_imag[output, i] += weight * vectors[new, 1, i]
    last = (terms - 1) % 2
    return _squared_norm(vectors[last, 0], vectors[last, 1])


@njit(nogil=True, cache=True)
def coefficients(half_width, distances, tail):
    """Compute (2 - δ_k0) J_k(2π r d), shape (terms, distances); below `tail` they are 0.

    Bessel functions of all orders by Miller's downward recurrence, normalised by J_0 + 2 J_2 + 2 J_4 + ... = 1.
    """
    argument_max = 2 * math.pi * half_width * distances[-1]
    size = int(argument_max + 14 * argument_max ** (1 / 3) + 24)
    coefficients = np.zeros((size, len(distances)))
    bessel = np.empty(size)
    terms = 2
    for column in range(len(distances)):
        argument = 2 * math.pi * half_width * distances[column]
        above = 0.0
        here = 1e-200
        total = 0.0
        for k in range(size - 1, -1, -1):
            bessel[k] = here
            if k % 2 == 0:
                total += here if k == 0 else 2 * here
            below = 2 * k / argument * here - above
            above = here
            here = below
            if abs(here) > 1e150:
                above *= 1e-150
                here *= 1e-150
                total *= 1e-150
                for order in range(k, size):
                    bessel[order] *= 1e-150
        for k in range(size):
            coefficient = (1 if k == 0 else 2) * bessel[k] / total
            if abs(coefficient) > tail:
                coefficients[k, column] = coefficient
                terms = max(terms, k + 1)
    return coefficients[:terms]
