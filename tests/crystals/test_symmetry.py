import subprocess
import sys

import numpy as np
import pytest
import spglib

from gpuediff.crystals.crystal import cell_vectors
from gpuediff.crystals.symmetry import (
    LATTICE_PARAMETERS,
    LAUE_CLASSES,
    complete_lattice,
    crystal_system,
    independent_parameters,
    laue_class,
    laue_rotations,
    short_symbol,
)
from gpuediff.errors import InvalidStructure
from gpuediff.settings import CRYSTAL_SYSTEMS

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING")

SPACE_GROUPS = range(1, 231)

# A cell of each system whose parameters are equal only where the system says so.
CELLS = {
    "triclinic": {"a": 5.0, "b": 6.0, "c": 7.0, "alpha": 81.0, "beta": 95.0, "gamma": 104.0},
    "monoclinic": {"a": 5.0, "b": 6.0, "c": 7.0, "beta": 107.0},
    "orthorhombic": {"a": 5.0, "b": 6.0, "c": 7.0},
    "tetragonal": {"a": 5.0, "c": 7.0},
    "trigonal": {"a": 5.0, "c": 7.0},
    "hexagonal": {"a": 5.0, "c": 7.0},
    "cubic": {"a": 5.0},
}


def cell_of(system: str) -> np.ndarray:
    return complete_lattice(system, {name: np.array([value]) for name, value in CELLS[system].items()})[0]


@pytest.fixture(scope="module")
def standard_settings() -> dict[int, spglib.SpaceGroupType]:
    """The first Hall number of each space group: unique axis b, hexagonal axes for R."""
    settings: dict[int, spglib.SpaceGroupType] = {}
    for hall_number in range(1, 531):
        kind = spglib.get_spacegroup_type(hall_number)
        assert kind is not None
        settings.setdefault(kind.number, kind)
    return settings


@pytest.mark.parametrize("number", SPACE_GROUPS)
def test_laue_rotations_are_the_point_group_of_every_space_group_without_its_inversions(number, standard_settings):
    operations = spglib.get_symmetry_from_database(standard_settings[number].hall_number)
    assert operations is not None
    fractional = operations["rotations"]
    lattice = cell_vectors(cell_of(crystal_system(number)))
    cartesian = lattice.T @ fractional @ np.linalg.inv(lattice.T)
    proper = cartesian * np.linalg.det(cartesian)[:, None, None]
    expected = np.unique(np.round(proper, 6) + 0.0, axis=0)
    got = np.unique(np.round(laue_rotations(laue_class(number)), 6) + 0.0, axis=0)
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("name", LAUE_CLASSES)
def test_laue_rotations_form_a_group_of_proper_rotations(name):
    rotations = laue_rotations(name)
    squares = rotations @ rotations.transpose(0, 2, 1)
    np.testing.assert_allclose(squares, np.broadcast_to(np.eye(3), squares.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)
    products = (rotations[:, None] @ rotations[None]).reshape(-1, 1, 3, 3)
    distance = np.abs(products - rotations[None]).max(axis=(2, 3))
    assert (distance.min(axis=1) < 1e-9).all()
    assert ((distance < 1e-6).sum(axis=1) == 1).all()


def test_the_number_of_rotations_is_that_of_the_international_tables():
    orders = {"-1": 1, "2/m": 2, "mmm": 4, "4/m": 4, "4/mmm": 8, "-3": 3, "-3m1": 6, "-31m": 6, "6/m": 6, "6/mmm": 12}
    orders |= {"m-3": 12, "m-3m": 24}
    assert {name: len(laue_rotations(name)) for name in LAUE_CLASSES} == orders


POINT_GROUPS = {
    "triclinic": "1 -1",
    "monoclinic": "2 m 2/m",
    "orthorhombic": "222 mm2 mmm",
    "tetragonal": "4 -4 4/m 422 4mm -42m 4/mmm",
    "trigonal": "3 -3 32 3m -3m",
    "hexagonal": "6 -6 6/m 622 6mm -62m -6m2 6/mmm",
    "cubic": "23 m-3 432 -43m m-3m",
}


def test_crystal_systems_are_those_of_the_point_groups(standard_settings):
    system_of = {group: system for system, groups in POINT_GROUPS.items() for group in groups.split()}
    for number in SPACE_GROUPS:
        assert (
            crystal_system(number)
            == system_of[standard_settings[number].pointgroup_international.replace("4m2", "42m")]
        )


def test_a_space_group_number_outside_1_to_230_is_refused():
    for number in (0, 231, -5):
        with pytest.raises(InvalidStructure, match=str(number)):
            crystal_system(number)
        with pytest.raises(InvalidStructure, match=str(number)):
            laue_class(number)
    with pytest.raises(InvalidStructure, match="-3m"):
        laue_rotations("-3m")


@pytest.mark.parametrize("system", CRYSTAL_SYSTEMS)
def test_laue_rotations_map_the_completed_lattice_onto_itself(system):
    lattice = cell_vectors(cell_of(system))
    for number in SPACE_GROUPS:
        if crystal_system(number) != system:
            continue
        images = lattice @ laue_rotations(laue_class(number)).transpose(0, 2, 1) @ np.linalg.inv(lattice)
        np.testing.assert_allclose(images, np.round(images), atol=1e-9)


def test_completing_the_independent_parameters_gives_the_whole_lattice():
    got = complete_lattice("hexagonal", {"a": np.array([3.0, 4.0]), "c": np.array([5.0, 6.0])})
    np.testing.assert_array_equal(got, [[3, 3, 5, 90, 90, 120], [4, 4, 6, 90, 90, 120]])
    assert got.dtype == np.float64
    assert complete_lattice("cubic", {"a": np.ones(2, np.float32)}).dtype == np.float32
    for system in CRYSTAL_SYSTEMS:
        assert tuple(CELLS[system]) == independent_parameters(system)
        cell = cell_of(system)
        for name, value in CELLS[system].items():
            assert cell[LATTICE_PARAMETERS.index(name)] == value


def test_a_missing_or_foreign_lattice_parameter_is_refused():
    with pytest.raises(InvalidStructure, match=r"expected a, c, got a$"):
        complete_lattice("tetragonal", {"a": np.ones(1)})
    with pytest.raises(InvalidStructure, match="expected a, got a, c"):
        complete_lattice("cubic", {"a": np.ones(1), "c": np.ones(1)})
    with pytest.raises(InvalidStructure, match="shapes"):
        complete_lattice("tetragonal", {"a": np.ones(1), "c": np.ones(2)})
    with pytest.raises(InvalidStructure, match="rhombohedral"):
        independent_parameters("rhombohedral")


def test_importing_crystals_and_symmetry_does_not_import_pymatgen():
    code = (
        "import sys, gpuediff.crystals.crystal, gpuediff.crystals.symmetry;"
        "print([name for name in ('pymatgen', 'pandas', 'spglib', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_symbols_are_those_of_the_standard_settings():
    assert [short_symbol(number) for number in (1, 14, 62, 166, 225)] == ["P1", "P2_1/c", "Pnma", "R-3m", "Fm-3m"]
    with pytest.raises(InvalidStructure, match="space group number 231"):
        short_symbol(231)
