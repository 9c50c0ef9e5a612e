import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from gpuediff.crystals.crystal import Crystal, cell_vectors
from gpuediff.diffraction.beams import Reflections, excitation_errors, select_beams
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.potential import ROUNDING, StructurePotential, structure_potential
from gpuediff.settings import Simulation

WAVELENGTH = wavelength(300e3)


def crystal(parameters, numbers, positions):
    return Crystal(
        material_id="test",
        formula="test",
        lattice=cell_vectors(np.array(parameters, dtype=float)),
        atomic_numbers=np.array(numbers),
        positions=np.array(positions, dtype=float),
        occupancies=np.ones(len(numbers)),
        space_group_number=1,
        conventional=np.array(parameters, dtype=float),
        source="test",
        checksum="",
    )


FACES = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
GOLD = crystal((4.078,) * 3 + (90,) * 3, [79] * 4, FACES)
OBLIQUE = crystal((4.1, 5.3, 6.2, 64, 71, 57), [22, 8], [[0.21, 0.13, 0.36], [0.62, 0.41, 0.11]])


def reflections_of(structure, options):
    return Reflections.of_potential(structure_potential(structure, options), options.g_max)


def direction(seed):
    vector = np.random.default_rng(seed).normal(size=3)
    return vector / np.linalg.norm(vector)


def test_shifting_a_reflection_by_its_excitation_error_puts_it_on_the_ewald_sphere():
    g = np.random.default_rng(0).uniform(-1.2, 1.2, size=(500, 3)) * [1, 1, 0.05]
    errors = excitation_errors(g, np.array([[0.0, 0, 1]]), WAVELENGTH)[0]
    incident = np.array([0, 0, -1 / WAVELENGTH])
    diffracted = incident + g - errors[:, None] * [0, 0, 1]
    # Exact up to the square of s, which the formula leaves out.
    np.testing.assert_allclose(np.linalg.norm(diffracted, axis=1), 1 / WAVELENGTH, atol=WAVELENGTH * errors.max() ** 2)


def test_reflections_inside_the_sphere_have_positive_excitation_errors():
    errors = excitation_errors(np.array([[0.5, 0, 0.1], [0.5, 0, -0.1]]), np.array([[0.0, 0, 1]]), WAVELENGTH)
    assert errors[0, 0] > 0 > errors[0, 1]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.tuples(*[st.floats(2.5, 7.0)] * 3),
    angles=st.tuples(*[st.floats(65.0, 110.0)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
@example(lengths=(3.0, 2.5, 3.0), angles=(90.0, 65.0, 90.0), seed=2698543)  # (030) on the limit itself
def test_all_reflections_near_the_ewald_sphere_are_selected_in_any_cell(lengths, angles, seed):
    structure = crystal((*lengths, *angles), [6], [[0.1, 0.2, 0.3]])
    options = Simulation(g_max=1.2, excitation_error_max=0.04)
    zone_axis = direction(seed)
    reflections = reflections_of(structure, options)
    beams = select_beams(reflections, zone_axis[None], options)

    found = {tuple(hkl) for hkl in reflections.hkl[beams.reflection].tolist()}
    indices = np.stack(np.meshgrid(*[np.arange(-14, 15)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    g = indices @ structure.reciprocal
    s = excitation_errors(g, zone_axis[None], WAVELENGTH)[0]
    # One atom in a cell extinguishes nothing: all that lie near the sphere are reached.
    # One on a limit counts as inside, whatever its rounding.
    on_the_limit = 1 + ROUNDING
    expected = indices[(np.linalg.norm(g, axis=1) <= 1.2 * on_the_limit) & (np.abs(s) <= 0.04 * on_the_limit)]
    assert found == {tuple(hkl) for hkl in expected.tolist()}
    np.testing.assert_array_equal(beams.offsets, [0, len(expected)])


def test_beams_are_in_the_order_of_their_indices_and_hold_the_direct_beam():
    options = Simulation()
    reflections = reflections_of(OBLIQUE, options)
    axes = np.array([direction(seed) for seed in range(5)])
    beams = select_beams(reflections, axes, options)
    for start, stop in zip(beams.offsets[:-1], beams.offsets[1:], strict=True):
        hkl = reflections.hkl[beams.reflection[start:stop]]
        assert sorted(hkl.tolist()) == hkl.tolist()
        assert [0, 0, 0] in hkl.tolist()
    np.testing.assert_array_equal(reflections.hkl[reflections.direct], 0)


def test_extinct_beams_of_a_centred_cell_are_left_out():
    options = Simulation()
    reflections = reflections_of(GOLD, options)
    beams = select_beams(reflections, np.array([[0.0, 0, 1]]), options)
    parity = reflections.hkl[beams.reflection] % 2
    assert (parity == parity[:, :1]).all()
    assert len(beams.reflection) == 49


def test_kept_beams_are_those_connected_with_the_direct_beam():
    # A sparse random coupling leaves many small groups of beams; the answer is checked as a graph.
    rng = np.random.default_rng(5)
    options = Simulation(g_max=1.0)
    shape = (33, 33, 33)
    table = np.zeros(shape, dtype=complex)
    for index in rng.integers(12, 21, size=(6, 3)):
        table[tuple(index)] = table[tuple(32 - index)] = 0.1
    table[16, 16, 16] = 1.0
    potential = StructurePotential(0.12 * np.eye(3), np.array([16] * 3), table, np.array([8] * 3))
    reflections = Reflections.of_potential(potential, options.g_max)
    axes = np.array([[0, 0, 1.0], direction(1), direction(2)])
    errors = excitation_errors(reflections.g, axes, WAVELENGTH)
    beams = select_beams(reflections, axes, options)
    smaller = 0
    for pattern in range(3):
        near = np.flatnonzero(np.abs(errors[pattern]) <= options.excitation_error_max)
        hkl = reflections.hkl[near]
        difference = hkl[None] - hkl[:, None] + 16
        _, group = connected_components(table[tuple(np.moveaxis(difference, -1, 0))] != 0)
        expected = near[group == group[near == reflections.direct]]
        kept = slice(beams.offsets[pattern], beams.offsets[pattern + 1])
        np.testing.assert_array_equal(beams.reflection[kept], expected)
        np.testing.assert_array_equal(beams.excitation_error[kept], errors[pattern, expected])
        smaller += 1 < len(expected) < len(near)
    assert smaller


def test_coupling_of_two_beams_is_the_structure_factor_of_their_difference():
    options = Simulation(g_max=1.0)
    potential = structure_potential(OBLIQUE, options)
    reflections = Reflections.of_potential(potential, options.g_max)
    rng = np.random.default_rng(3)
    for i, j in rng.integers(len(reflections.hkl), size=(200, 2)):
        h, k, l = reflections.hkl[j] - reflections.hkl[i] + potential.extent
        found = reflections.coupling[reflections.centre + reflections.address[j] - reflections.address[i]]
        assert found == potential.table[h, k, l]


def test_couplings_beyond_the_table_are_zero():
    table = np.ones((3, 3, 3), dtype=complex)
    reflections = Reflections.of_potential(
        StructurePotential(0.5 * np.eye(3), np.ones(3, int), table, np.ones(3, int)), 1
    )
    far = [int(np.flatnonzero((reflections.hkl == hkl).all(axis=1))[0]) for hkl in ([1, 0, 0], [-1, 0, 0])]
    assert reflections.coupling[reflections.centre + reflections.address[far[0]] - reflections.address[far[1]]] == 0


def test_a_shorter_wave_reaches_more_beams():
    slow, fast = Simulation(beam_energy=60e3), Simulation(beam_energy=300e3)
    reflections = reflections_of(GOLD, slow)
    few, many = (select_beams(reflections, np.array([[0.0, 0, 1]]), options) for options in (slow, fast))
    assert len(few.reflection) < len(many.reflection)
