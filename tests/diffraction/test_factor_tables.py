import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuediff.diffraction import factor_tables, py4dstem_factors
from gpuediff.diffraction.factor_tables import factor_table, tabulate
from gpuediff.diffraction.scattering_factors import scattering_factor
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Simulation

SIMULATION = Simulation()


@settings(max_examples=25, deadline=None)
@given(
    atomic_number=st.sampled_from([1, 3, 6, 14, 26, 38, 47, 79, 98]),
    form_factors=st.sampled_from(["wk-cp", "lobato"]),
    scattering=st.sampled_from(["default", "py4dstem"]),
    displacement=st.sampled_from([0.0, 0.08]),
    g=st.lists(st.floats(0, 4), min_size=1, max_size=30),
)
def test_a_table_gives_the_factor(atomic_number, form_factors, scattering, displacement, g):
    simulation = Simulation(form_factors=form_factors, scattering=scattering, displacement=displacement)
    lengths = np.array([0.0, 4.0, *g])
    expected = scattering_factor(atomic_number, lengths, settings=simulation)
    computed = factor_table(atomic_number, simulation)(lengths)
    close = np.abs(computed - expected) <= 1e-12 * np.abs(expected)
    if scattering == "py4dstem":  # on a jump, rounding decides for one side or the other
        around = [scattering_factor(atomic_number, lengths * (1 + d), settings=simulation) for d in (-1e-9, 1e-9)]
        close |= np.any([np.abs(computed - other) <= 1e-7 * np.abs(other) for other in around], axis=0)
    assert close.all()


def test_a_table_of_a_known_function_with_a_jump():
    def function(g):
        return np.where(g**2 < 1.7, np.exp(-(g**2)), 2 + 1j * g**2)

    table = tabulate(function, 3.0, np.array([1.7]))
    g = np.linspace(0.01, 2.99, 500)
    np.testing.assert_allclose(table(g), function(g), rtol=1e-12)
    assert 1.7 in table.edges


def test_threads_and_calls_share_one_table():
    assert factor_table(14, SIMULATION) is factor_table(14, SIMULATION.model_copy(update={"thicknesses": (50.0,)}))
    assert factor_table(14, SIMULATION) is not factor_table(14, SIMULATION.model_copy(update={"beam_energy": 200e3}))


def test_beyond_its_end_a_table_says_nothing():
    with pytest.raises(ValueError, match=r"g = 9 Å⁻¹: the table ends at 4\.04"):
        factor_table(14, SIMULATION)(np.array([9.0]))


def test_an_unknown_element_is_refused_by_name():
    with pytest.raises(InvalidStructure, match="99"):
        factor_table(99, SIMULATION)


def test_the_first_cell_is_never_behind_the_interval():
    table = factor_table(79, SIMULATION)
    begins = np.arange(factor_tables.CELLS) * table.edges[-1] / factor_tables.CELLS
    assert (table.edges[:-1][table.first] <= begins + 1e-12).all()


@pytest.mark.parametrize("atomic_number", [6, 8, 92])
def test_where_the_factor_has_more_rounding_than_the_tolerance_intervals_are_not_halved_for_ever(atomic_number):
    simulation = Simulation(scattering="py4dstem")
    table = factor_table(atomic_number, simulation)
    assert len(table.edges) < 500
    g = np.linspace(0.001, 4, 1001)
    np.testing.assert_allclose(table(g), scattering_factor(atomic_number, g, settings=simulation), rtol=1e-11)


def test_an_error_that_does_not_fall_is_left_where_it_is_small_only():
    rng = np.random.default_rng(0)
    noisy = tabulate(lambda g: np.cos(g) * (1 + 1e-12 * rng.normal(size=g.shape)) + 0j, 2.0, np.empty(0))
    assert len(noisy.edges) < 50
    unlisted_jump = tabulate(lambda g: np.where(g < 1.3, 1.0, 2.0) + 0j, 2.0, np.empty(0))
    assert np.abs(unlisted_jump.edges - 1.3**2).min() < 1e-8


@pytest.mark.parametrize("atomic_number", [1, 14, 79, 98])
def test_every_jump_of_py4dstem_is_listed(atomic_number):
    # Where one is not, a table blurs it: over up to 1e-3 of g, and by up to the height of the jump.
    simulation = Simulation(scattering="py4dstem")
    g = np.geomspace(1e-4, 4, 40_001)
    jumps = np.sort(py4dstem_factors.jumps(atomic_number, simulation.beam_energy, simulation.displacement))
    after = np.searchsorted(jumps, g**2).clip(1, len(jumps) - 1)
    away = np.minimum(np.abs(jumps[after] - g**2), np.abs(jumps[after - 1] - g**2)) > 1e-8 * g**2
    expected = scattering_factor(atomic_number, g, settings=simulation)
    np.testing.assert_allclose(factor_table(atomic_number, simulation)(g)[away], expected[away], rtol=3e-12)
