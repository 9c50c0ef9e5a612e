import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import jv

from gpuediff.diffraction import chebyshev, propagation
from gpuediff.diffraction.beams import Beams, Reflections
from gpuediff.errors import InvalidStructure
from tests.reference import bloch

WAVELENGTH = 2.0  # Å, so that couplings U λ/2 are the elements of A
ATOL = {"float32": 4e-6, "float64": 1e-11}


def a_system(matrix):
    """Reflections and beams whose dynamical matrix is any given one, with the direct beam first.

    The addresses are a Sidon set (Erdős & Turán 1941): all differences differ, so every element has a place of its own.
    """
    n = len(matrix)
    prime = next(p for p in range(max(n, 3), 3 * n + 9) if all(p % d for d in range(2, p)))
    index = np.arange(n)
    address = 2 * prime * index + index**2 % prime
    reach = int(address.max())
    coupling = np.zeros(2 * reach + 1, dtype=complex)
    coupling[reach + address[None, :] - address[:, None]] = matrix
    coupling[reach] = 1j * matrix[0, 0].imag
    nowhere = np.zeros((n, 3))
    reflections = Reflections(nowhere.astype(int), nowhere, address, coupling)
    return reflections, Beams(index, np.diag(matrix).real.copy(), np.array([0, n]))


def intensities(matrix, thicknesses, precision="float64", method="chebyshev"):
    reflections, beams = a_system(matrix)
    thicknesses = np.array(thicknesses)
    return propagation.propagate(reflections, beams, WAVELENGTH, thicknesses, np.dtype(precision), method=method)


def a_matrix(n, seed, *, coupling=0.004, absorption=0.0, excitation_error=0.06):
    """Hermitian, random, plus i times a positive one of equal diagonal, all in Å⁻¹."""
    rng = np.random.default_rng(seed)
    elastic, loss = rng.normal(size=(2, n, n)) + 1j * rng.normal(size=(2, n, n))
    matrix = coupling * (elastic + elastic.conj().T) / np.sqrt(n)
    matrix[np.diag_indices(n)] = rng.uniform(-excitation_error, excitation_error, size=n)
    matrix[0, 0] = 0
    covariance = loss @ loss.conj().T
    scale = np.sqrt(np.diag(covariance).real)
    return matrix + 1j * absorption * covariance / np.outer(scale, scale)


def two_beams(excitation_error, coupling):
    return np.array([[0, coupling], [np.conj(coupling), excitation_error]])


@pytest.mark.parametrize("precision", ATOL)
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    absorption=st.sampled_from([0.0, 1e-5, 1e-4, 1e-3]),
    coupling=st.sampled_from([0.0, 1e-4, 0.004, 0.01]),
    thicknesses=st.lists(st.floats(0.01, 1200), min_size=1, max_size=12, unique=True).map(sorted),
)
def test_matches_the_matrix_exponential(precision, n, seed, absorption, coupling, thicknesses):
    matrix = a_matrix(n, seed, coupling=coupling, absorption=absorption)
    expected = bloch.intensities(matrix, 0, thicknesses)
    np.testing.assert_allclose(intensities(matrix, thicknesses, precision), expected, rtol=0, atol=ATOL[precision])


@pytest.mark.parametrize("precision", ATOL)
@pytest.mark.parametrize("n", [15, 16, 17, 33, 150])
def test_matches_the_matrix_exponential_at_the_borders_of_the_padding(precision, n):
    matrix = a_matrix(n, n, absorption=2e-4)
    expected = bloch.intensities(matrix, 0, [200.0, 2000.0])
    np.testing.assert_allclose(intensities(matrix, [200.0, 2000.0], precision), expected, atol=ATOL[precision])


@pytest.mark.parametrize("precision", ATOL)
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(["auto", "bloch-waves", "steps"]),
    is_real=st.booleans(),
    absorption=st.sampled_from([0.0, 1e-4, 1e-3]),
    coupling=st.sampled_from([0.0, 0.004, 0.01]),
    step=st.floats(1, 200),
    multiples=st.lists(st.integers(1, 30), min_size=1, max_size=12, unique=True).map(sorted),
)
def test_every_way_matches_the_matrix_exponential(
    precision, n, seed, method, is_real, absorption, coupling, step, multiples
):
    if method == "bloch-waves":
        absorption = 0.0
    matrix = a_matrix(n, seed, coupling=coupling, absorption=absorption)
    if is_real:
        matrix = (matrix + matrix.T) / 2
    thicknesses = step * np.array(multiples)
    expected = bloch.intensities(matrix, 0, thicknesses)
    computed = intensities(matrix, thicknesses, precision, method)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=ATOL[precision] * max(1, thicknesses[-1] / 1000))


def test_the_fastest_way_depends_on_size_and_thicknesses():
    def way(n, outputs, *, absorbs=True, is_real=False, itemsize=4):
        thicknesses = np.linspace(2000 / outputs, 2000, outputs)
        index = propagation._fastest(n, 0.12, 1e-4, thicknesses, thicknesses[0], absorbs, is_real, itemsize)
        return propagation._METHODS[index]

    assert way(30, 100) == "steps"
    assert way(300, 100) == "chebyshev"
    assert way(1000, 1) == "chebyshev"
    assert way(100, 100, absorbs=False, is_real=True) == "bloch-waves"
    assert way(300, 100, absorbs=False, itemsize=8) != "steps"


@given(st.integers(1, 4000), st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_thicknesses_have_the_step_that_divides_them_all(unit, multiples):
    thicknesses = np.cumsum(multiples) * unit / 4
    step = propagation._common_step(thicknesses)
    expected = np.gcd.reduce(np.cumsum(multiples)) * unit / 4
    assert step == pytest.approx(expected if expected >= 1 else 0.0)


def test_thicknesses_that_no_step_divides_have_none():
    assert propagation._common_step(np.array([20.0, 20.0 * np.sqrt(2)])) == 0.0


def test_a_way_that_does_not_suit_is_refused():
    absorbing, elastic = a_matrix(5, 0, absorption=1e-3), a_matrix(5, 0)
    with pytest.raises(ValueError, match="absorbs"):
        intensities(absorbing, [20.0], method="bloch-waves")
    with pytest.raises(ValueError, match="not multiples"):
        intensities(elastic, [20.0, 20.0 * np.sqrt(2)], method="steps")
    with pytest.raises(ValueError, match="method = 'eigen'"):
        intensities(elastic, [20.0], method="eigen")


@pytest.mark.parametrize("excitation_error", [0.0, 0.003, -0.02])
def test_two_beams_show_pendelloesung(excitation_error):
    coupling = 0.002 * np.exp(0.7j)
    thicknesses = np.linspace(5, 900, 150)
    frequency = np.hypot(excitation_error, 2 * abs(coupling))
    diffracted = (2 * abs(coupling) / frequency * np.sin(np.pi * thicknesses * frequency)) ** 2
    computed = intensities(two_beams(excitation_error, coupling), thicknesses)
    np.testing.assert_allclose(computed, np.stack([1 - diffracted, diffracted], axis=1), atol=1e-12)


def test_nothing_is_lost_without_absorption():
    thicknesses = np.arange(20.0, 2001, 20)
    for precision, atol in (("float64", 1e-11), ("float32", 2e-6)):
        total = intensities(a_matrix(60, 1), thicknesses, precision).sum(axis=1)
        np.testing.assert_allclose(total, 1, rtol=0, atol=atol)


def test_uniform_absorption_dampens_all_beams_alike():
    matrix, kappa = a_matrix(20, 2), 3e-4
    thicknesses = np.array([50.0, 500.0, 1500.0])
    absorbing = intensities(matrix + 1j * kappa * np.eye(20), thicknesses)
    damping = np.exp(-4 * np.pi * kappa * thicknesses)[:, None]
    np.testing.assert_allclose(absorbing, damping * intensities(matrix, thicknesses), atol=1e-12)


def test_absorption_loses_more_with_every_angstrom():
    total = intensities(a_matrix(30, 3, absorption=3e-4), np.arange(10.0, 1500, 10)).sum(axis=1)
    assert (np.diff(total, prepend=1.0) < 0).all()


def test_all_thicknesses_in_one_pass_are_each_one_alone():
    matrix = a_matrix(25, 4, absorption=1e-4)
    thicknesses = np.array([0.5, 0.7, 99.9, 100.0, 100.1, 431.7, 432.0, 1999.0])
    alone = np.concatenate([intensities(matrix, [thickness]) for thickness in thicknesses])
    np.testing.assert_allclose(intensities(matrix, thicknesses), alone, atol=1e-12)


def test_more_thicknesses_than_fit_into_one_step():
    matrix = a_matrix(12, 5)
    thicknesses = np.linspace(0.5, 60, 3 * chebyshev.OUTPUTS_MAX + 1)
    np.testing.assert_allclose(intensities(matrix, thicknesses), bloch.intensities(matrix, 0, thicknesses), atol=1e-12)


def test_a_common_excitation_error_changes_nothing():
    matrix = a_matrix(20, 6)
    shifted = matrix + 0.3 * np.eye(20)
    np.testing.assert_allclose(intensities(shifted, [700.0]), intensities(matrix, [700.0]), atol=1e-11)


@pytest.mark.parametrize("precision", ATOL)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("absorption", [0.0, 3e-3])
def test_a_spectral_bound_that_is_too_narrow_is_noticed_and_widened(precision, part, absorption):
    matrix = a_matrix(40, 7, absorption=absorption)
    thicknesses = np.array([30.0, 200.0, 1000.0])
    padded = np.zeros((40, 48), dtype=complex)
    padded[:, :40] = 1j * matrix
    np.fill_diagonal(padded[:, :40], 1j * np.diag(matrix).real)
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.conj().T) / 2)
    computed = np.empty((3, 40), dtype=precision)
    good = chebyshev.expand(
        padded.real.astype(precision),
        padded.imag.astype(precision),
        0,
        part * np.abs(eigenvalues).max(),
        0.0,
        absorption,
        thicknesses,
        computed,
    )
    assert good
    np.testing.assert_allclose(computed, bloch.intensities(matrix, 0, thicknesses), rtol=0, atol=5 * ATOL[precision])


@pytest.mark.parametrize("n", [3, 11, 60, 200])
def test_spectral_bounds_come_close_to_the_extreme_eigenvalues(n):
    for seed in range(5):
        matrix = a_matrix(n, seed, coupling=0.01, absorption=1e-4)
        padded = np.zeros((n, (n + 15) // 16 * 16), dtype=complex)
        padded[:, :n] = 1j * matrix
        np.fill_diagonal(padded[:, :n], 1j * np.diag(matrix).real)
        low, high, gain = chebyshev.spectral_bounds(padded.real.copy(), padded.imag.copy())
        exact = np.linalg.eigvalsh((matrix + matrix.conj().T) / 2)[[0, -1]]
        np.testing.assert_allclose([low, high], exact, atol=0.06 * np.ptp(exact))
        assert 0 <= gain <= 1e-4 * n


@pytest.mark.parametrize("argument", [1e-9, 1e-3, 0.7, 12.0, 78.5, 400.0])
def test_coefficients_are_bessel_functions(argument):
    computed = chebyshev.coefficients(0.05, np.array([argument / (0.1 * np.pi)]), 1e-17)[:, 0]
    orders = np.arange(len(computed))
    np.testing.assert_allclose(
        computed, np.where(orders > 0, 2, 1) * jv(orders, argument), rtol=0, atol=4e-16 * max(10, argument)
    )
    assert abs(jv(len(computed), argument)) < 1e-16


def test_a_pattern_is_the_same_alone_and_among_others():
    reflections, beams = a_system(a_matrix(50, 8, absorption=1e-4))
    sizes = np.array([50, 20, 1, 37, 44, 8])
    index = np.concatenate([np.arange(size) for size in sizes])
    several = Beams(index, beams.excitation_error[index], np.concatenate([[0], np.cumsum(sizes)]))
    alone = Beams(index[71:108], several.excitation_error[71:108], np.array([0, 37]))
    thicknesses, precision = np.array([20.0, 300.0]), np.dtype("float32")
    np.testing.assert_array_equal(
        propagation.propagate(reflections, several, WAVELENGTH, thicknesses, precision)[:, 71:108],
        propagation.propagate(reflections, alone, WAVELENGTH, thicknesses, precision),
    )


def test_no_patterns_give_no_intensities():
    reflections, _ = a_system(a_matrix(3, 0))
    none = Beams(np.empty(0, int), np.empty(0), np.array([0]))
    computed = propagation.propagate(reflections, none, WAVELENGTH, np.array([20.0]), np.dtype("float32"))
    assert computed.shape == (1, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["chebyshev", "steps"])
def test_values_that_are_not_finite_are_refused(value, method):
    matrix = a_matrix(10, 9)
    matrix[3, 4] = value
    with pytest.raises(InvalidStructure, match="not finite"):
        intensities(matrix, [100.0], "float32", method)
