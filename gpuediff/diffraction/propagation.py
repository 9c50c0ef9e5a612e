"""Bloch waves through a crystal: ψ(t) = exp(2πi t A) e_0 by Chebyshev expansion.

A is the dynamical matrix of one pattern, in Å⁻¹: A_gh = U/(2 k0) off the diagonal, A_gg = s_g + i Im U_0/(2 k0)
(M. De Graef, Introduction to conventional TEM, 2003, Eqs. 5.51 to 5.60). With its eigenvalues within c ± r,

    exp(2πi t A) = exp(2πi t c) Σ_k (2 - δ_k0) J_k(2π t r) i^k T_k((A - c) / r)

(H. Tal-Ezer and R. Kosloff, J. Chem. Phys. 81, 3967, 1984). The sum ends soon after k = 2π t r: a thickness of 200 Å
takes about a hundred products of A and a vector, and all thicknesses of a step share them. The phase before the sum
never shows in an intensity.

c and r are measured, by a few Arnoldi iterations. Should they be too narrow after all, the Chebyshev vectors grow:
every step looks at the last of them, and is done again with a wider bound until it does not. Absorption lets them grow
too; where the Bloch wave that is absorbed least gains much against the mean, steps are shorter.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuediff.diffraction.beams import Beams, Reflections
from gpuediff.errors import InvalidStructure

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

# Sums may be reordered and fused; NaN and infinity must stay what they are, or they could not be noticed.
_FAST = {"reassoc", "contract", "nsz", "arcp"}


def propagate(
    reflections: Reflections, beams: Beams, wavelength: float, thicknesses: np.ndarray, precision: np.dtype
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
        float32 or float64: of the computation and of the result.

    Returns
    -------
    array, shape (t, beams), float32 or float64
        Fractions of the incident beam. A pattern's values do not depend on the other patterns.

    Raises
    ------
    InvalidStructure
        If the potential or an excitation error is not finite.
    """
    precision = np.dtype(precision)
    # i/(2 k0): the matrices hold iA, so that the expansion needs no powers of i.
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found below
        coupling = (0.5j * wavelength * reflections.coupling).astype(np.result_type(precision, np.complex64))
    intensity = np.empty((len(thicknesses), len(beams.reflection)), dtype=precision)
    finite = _propagate_patterns(
        coupling,
        reflections.centre,
        reflections.address[beams.reflection],
        beams.excitation_error,
        beams.offsets,
        0.5 * wavelength * float(reflections.coupling[reflections.centre].imag),
        np.asarray(thicknesses, dtype=np.float64),
        TAIL * float(np.finfo(precision).eps),
        intensity,
    )
    if not finite:
        raise InvalidStructure(
            "the potential or an excitation error is not finite; check the atoms' positions, occupancies and elements"
        )
    return intensity


@njit(nogil=True, cache=True)
def _propagate_patterns(coupling, centre, address, error, offsets, damping, thicknesses, tail, intensity):
    """Do one pattern after the other; False if there are numbers that are not finite."""
    for pattern in range(len(offsets) - 1):
        start = offsets[pattern]
        stop = offsets[pattern + 1]
        n = stop - start
        matrix_real = np.empty((n, _padded(n)), dtype=intensity.dtype)
        matrix_imag = np.empty((n, _padded(n)), dtype=intensity.dtype)
        direct = _fill(coupling, centre, address[start:stop], error[start:stop], matrix_real, matrix_imag)
        low, high, gain = _spectral_bounds(matrix_real, matrix_imag)
        for i in range(n):  # the middle of the spectrum moves to 0
            matrix_imag[i, i] = error[start + i] - 0.5 * (low + high)
        half_width = 0.5 * MARGIN * (high - low) + MARGIN_OF_GAIN * gain
        if not _expand(
            matrix_real,
            matrix_imag,
            direct,
            half_width,
            gain,
            damping,
            thicknesses,
            tail,
            intensity[:, start:stop],
        ):
            return False
    return True


@njit(nogil=True, cache=True)
def _padded(n):
    return (n + LANES - 1) // LANES * LANES


@njit(nogil=True, cache=True)
def _fill(coupling, centre, address, excitation_error, real, imag):
    """Fill in iA, without the damping that all beams share; return the position of the direct beam."""
    n = len(address)
    direct = 0
    for i in range(n):
        from_beam = centre - address[i]
        for j in range(n):
            value = coupling[from_beam + address[j]]
            real[i, j] = value.real
            imag[i, j] = value.imag
        for j in range(n, real.shape[1]):
            real[i, j] = 0.0
            imag[i, j] = 0.0
        real[i, i] = 0.0
        imag[i, i] = excitation_error[i]
        if from_beam == centre:
            direct = i
    return direct


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
def _spectral_bounds(real, imag):
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
    if not math.isfinite(total):  # LAPACK would not like it, and `_expand` will notice
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
def _expand(real, imag, direct, half_width, gain, damping, thicknesses, tail, intensity):
    """Go through the crystal step by step and write the intensities; False if the numbers are not finite."""
    n, width = real.shape
    dtype = real.dtype
    # What is summed up and carried from step to step is float64 always: it costs little, and errors add up there.
    psi_real = np.zeros(width)
    psi_imag = np.zeros(width)
    psi_real[direct] = 1.0
    outputs_max = min(OUTPUTS_MAX, len(thicknesses))
    vectors = np.empty((2, 2, width), dtype=dtype)
    sum_real = np.empty((outputs_max, width))
    sum_imag = np.empty((outputs_max, width))
    half_width = max(half_width, 1e-9)  # a single beam: nothing to expand, but a bound must be positive
    step_max = STEP_MAX / max(1.0, 2 * math.pi * gain * STEP_MAX / GAIN_MAX)
    depth = 0.0
    done = 0
    attempts = 0
    while done < len(thicknesses):
        stop = done
        while stop < len(thicknesses) and stop - done < outputs_max and thicknesses[stop] - depth <= step_max:
            stop += 1
        if stop > done:
            distances = thicknesses[done:stop] - depth
        else:  # nothing to write within reach: part of the way, in equal steps
            way = thicknesses[done] - depth
            distances = np.array([way / math.ceil(way / step_max)])
        inverse = dtype.type(1 / half_width)
        coefficients = _coefficients(1 / float(inverse), distances, tail)  # for the very width that the products see
        before = _squared_norm(psi_real, psi_imag)
        last = _chebyshev(real, imag, psi_real, psi_imag, inverse, coefficients, vectors, sum_real, sum_imag)
        if not last <= GROWTH_MAX**2 * before:
            attempts += 1
            if attempts > ATTEMPTS_MAX:
                return False
            half_width *= WIDENING
            if attempts % HALVING == 0:
                step_max = 0.5 * distances[-1]
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
def _coefficients(half_width, distances, tail):
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
