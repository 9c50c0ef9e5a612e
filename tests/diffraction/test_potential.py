from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from gpuediff.crystals.crystal import Crystal, cell_vectors
from gpuediff.diffraction.electron import lorentz_factor
from gpuediff.diffraction.potential import StructurePotential, structure_potential
from gpuediff.diffraction.scattering_factors import scattering_factor
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Simulation
from tests.oracle.py4dstem import LOBATO_NAMES, NAMES, load

SMALL = Simulation(g_max=0.8)
ELASTIC = Simulation(g_max=0.8, form_factors="lobato")
VOLTS = 150.4121417  # h²/(2 m e): V Å², from U/γ to the electrostatic potential


def crystal_of(name: str) -> Crystal:
    return load(name, "wk-cp").crystal


def values_at(potential: StructurePotential, hkl: np.ndarray) -> np.ndarray:
    return potential.table[tuple((np.asarray(hkl) + potential.extent).T)]


def grid(extent: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in extent), indexing="ij"), axis=-1)


def lengths(potential: StructurePotential) -> np.ndarray:
    return np.linalg.norm(grid(potential.extent) @ potential.reciprocal, axis=-1)


@pytest.mark.parametrize(
    ("name", "form_factors"),
    [*((name, "wk-cp") for name in NAMES if name != "orthoclase"), *((name, "lobato") for name in LOBATO_NAMES)],
)
def test_py4dstem_mode_gives_the_structure_factors_of_py4dstem(name, form_factors):
    reference = load(name, form_factors)
    got = values_at(structure_potential(reference.crystal, reference.settings), reference.hkl)
    largest = np.abs(reference.u).max()
    np.testing.assert_allclose(got, reference.u, rtol=0, atol=1e-13 * largest)
    strong = np.abs(reference.u) > 1e-6 * largest
    np.testing.assert_allclose(got[strong], reference.u[strong], rtol=1e-10)


@pytest.mark.parametrize("name", ["Si", "hexagonal", "triclinic"])
def test_py4dstem_mode_knows_the_couplings_and_beams_that_py4dstem_finds(name):
    reference = load(name)
    potential = structure_potential(reference.crystal, reference.settings)
    assert np.count_nonzero(potential.table) == reference.couplings
    beams = np.linalg.norm(grid(potential.beam_extent) @ potential.reciprocal, axis=-1) <= reference.settings.g_max
    assert np.count_nonzero(beams) == reference.beams


@pytest.mark.parametrize(("name", "missing_beams", "missing_couplings"), [("hexagonal", 124, None), ("Si", 0, 690)])
def test_default_mode_finds_what_py4dstem_misses_in_oblique_cells(name, missing_beams, missing_couplings):
    reference = load(name)
    potential = structure_potential(reference.crystal, Simulation())
    beams = np.linalg.norm(grid(potential.beam_extent) @ potential.reciprocal, axis=-1) <= 2.0
    assert np.count_nonzero(beams) - reference.beams == missing_beams
    if missing_couplings is not None:
        assert np.count_nonzero(potential.table) - reference.couplings == missing_couplings


@pytest.mark.parametrize(
    "cell", [(4.1, 5.3, 6.2, 64, 71, 57), (3, 9, 4, 40, 95, 60), (10, 10, 3, 90, 90, 120), (5, 5, 5, 90, 90, 90)]
)
def test_no_beam_lies_outside_the_extent_and_some_reach_it(cell):
    lattice = cell_vectors(np.array(cell, dtype=float))
    crystal = replace(crystal_of("Si"), lattice=lattice)
    potential = structure_potential(crystal, ELASTIC)
    for extent, limit in ((potential.beam_extent, 0.8), (potential.extent, 1.6)):
        box = grid(2 * extent + 3).reshape(-1, 3)
        inside = box[np.linalg.norm(box @ potential.reciprocal, axis=1) <= limit * (1 + 1e-9)]
        largest = np.abs(inside).max(axis=0)
        assert (largest <= extent).all()
        # |a| g_max is attained only if a lattice point lies near the end of a; one step is left at most.
        assert (largest >= extent - 1).all()


def test_table_covers_every_difference_of_two_beams_and_nothing_beyond():
    potential = structure_potential(crystal_of("triclinic"), SMALL)
    assert (2 * potential.beam_extent <= potential.extent).all()
    outside = lengths(potential) > 1.6 * (1 + 1e-9)
    assert not potential.table[outside].any()
    assert potential.table[~outside].all()


def test_table_is_the_sum_over_atoms():
    crystal = crystal_of("quartz")
    potential = structure_potential(crystal, ELASTIC)
    hkl = np.array([[0, 0, 0], [1, 0, 0], [-2, 1, 3], [0, -1, -1]])
    g = np.linalg.norm(hkl @ potential.reciprocal, axis=1)
    expected = sum(
        occupancy * scattering_factor(int(number), g, settings=ELASTIC) * np.exp(2j * np.pi * hkl @ position)
        for number, position, occupancy in zip(
            crystal.atomic_numbers, crystal.positions, crystal.occupancies, strict=True
        )
    )
    np.testing.assert_allclose(values_at(potential, hkl), expected / crystal.volume, rtol=1e-12)


def test_elastic_potential_is_real_in_space():
    table = structure_potential(crystal_of("quartz"), ELASTIC).table
    np.testing.assert_allclose(table, table[::-1, ::-1, ::-1].conj(), rtol=0, atol=1e-15)


def test_centre_of_inversion_makes_opposite_couplings_equal():
    table = structure_potential(crystal_of("GdFeO3"), SMALL).table
    np.testing.assert_allclose(table, table[::-1, ::-1, ::-1], rtol=0, atol=1e-15)
    assert np.abs(table.imag).max() > 1e-3


@pytest.mark.parametrize("settings", [SMALL, Simulation(g_max=0.8, scattering="py4dstem")])
def test_shifting_all_atoms_multiplies_by_a_phase(settings):
    crystal = crystal_of("quartz")
    shift = np.array([0.137, -0.291, 0.412])
    still = structure_potential(crystal, settings)
    shifted = structure_potential(replace(crystal, positions=crystal.positions + shift), settings)
    phase = np.exp(2j * np.pi * grid(still.extent) @ shift)
    np.testing.assert_allclose(shifted.table, still.table * phase, rtol=0, atol=1e-15)


def test_face_centring_extinguishes_mixed_parity():
    potential = structure_potential(crystal_of("Au"), Simulation())
    odd = grid(potential.extent) % 2
    mixed = ~(odd == odd[..., :1]).all(axis=-1)
    strongest = np.abs(potential.table).max()
    assert np.abs(potential.table[mixed]).max() < 1e-12 * strongest
    allowed = ~mixed & (lengths(potential) <= 4)
    assert np.abs(potential.table[allowed]).min() > 1e-5 * strongest


def test_supercell_has_the_same_potential():
    crystal = crystal_of("quartz")
    doubled = replace(
        crystal,
        lattice=crystal.lattice * [[2], [1], [1]],
        atomic_numbers=np.tile(crystal.atomic_numbers, 2),
        positions=np.concatenate([(crystal.positions + np.array([n, 0, 0])) / [2, 1, 1] for n in (0, 1)]),
        occupancies=np.tile(crystal.occupancies, 2),
    )
    small, large = (structure_potential(each, SMALL) for each in (crystal, doubled))
    indices = grid(small.extent).reshape(-1, 3)
    np.testing.assert_allclose(
        values_at(large, indices * [2, 1, 1]), small.table.ravel(), rtol=0, atol=1e-14 * np.abs(small.table).max()
    )


def test_primitive_and_conventional_cells_have_the_same_potential():
    primitive = crystal_of("Si")
    vectors = np.linalg.inv(primitive.lattice / 5.431)  # conventional vectors in units of the primitive ones
    centring = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    atoms = primitive.positions @ primitive.lattice / 5.431
    conventional = replace(
        primitive,
        lattice=vectors @ primitive.lattice,
        atomic_numbers=np.full(8, 14),
        positions=(atoms[:, None] + centring).reshape(-1, 3),
        occupancies=np.ones(8),
    )
    small, large = (structure_potential(each, SMALL) for each in (primitive, conventional))
    inside = lengths(small) <= 1.6
    indices = np.rint(grid(small.extent)[inside] @ vectors.T).astype(int)
    np.testing.assert_allclose(
        values_at(large, indices), small.table[inside], rtol=0, atol=1e-13 * np.abs(small.table).max()
    )


def test_half_occupied_sites_have_half_the_potential():
    crystal = crystal_of("Si")
    full = structure_potential(crystal, SMALL)
    half = structure_potential(replace(crystal, occupancies=np.full(2, 0.5)), SMALL)
    np.testing.assert_allclose(half.table, full.table / 2, rtol=1e-14)


@pytest.mark.parametrize(("name", "low", "high"), [("Si", 13.6, 14.3), ("Au", 29.0, 31.0)])
@pytest.mark.parametrize("form_factors", ["wk-cp", "lobato"])
def test_mean_inner_potential_is_that_of_isolated_atoms(name, low, high, form_factors):
    potential = structure_potential(crystal_of(name), Simulation(g_max=0.5, form_factors=form_factors))
    forward = potential.table[tuple(potential.extent)].real
    assert low < forward / lorentz_factor(300e3) * VOLTS < high


def test_sharing_a_site_among_many_atoms_changes_nothing():
    crystal = crystal_of("orthoclase")
    crowded = replace(
        crystal,
        atomic_numbers=np.tile(crystal.atomic_numbers, 8),
        positions=np.tile(crystal.positions, (8, 1)),
        occupancies=np.tile(crystal.occupancies, 8) / 8,
    )
    settings = Simulation(g_max=0.4)
    once, often = (structure_potential(each, settings).table for each in (crystal, crowded))
    np.testing.assert_allclose(often, once, rtol=0, atol=1e-14 * np.abs(once).max())


def test_moving_an_atom_by_lattice_vectors_changes_nothing():
    crystal = crystal_of("quartz")
    away = replace(crystal, positions=crystal.positions + np.array([5, -7, 64]))
    here, there = (structure_potential(each, SMALL).table for each in (crystal, away))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-12 * np.abs(here).max())


@pytest.mark.parametrize("name", ["GdFeO3", "triclinic", "hexagonal"])
def test_the_bits_do_not_depend_on_the_number_of_threads(name):
    tables = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            tables.append(structure_potential(crystal_of(name), Simulation()).table)
    np.testing.assert_array_equal(*tables)


def test_an_element_without_parameters_is_refused():
    crystal = replace(crystal_of("Si"), atomic_numbers=np.array([14, 99]))
    with pytest.raises(InvalidStructure, match="Es"):
        structure_potential(crystal, SMALL)
