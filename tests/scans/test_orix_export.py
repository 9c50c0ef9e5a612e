import builtins
import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpuediff.crystals.crystal import cell_vectors
from gpuediff.crystals.symmetry import laue_class
from gpuediff.errors import InvalidScan
from gpuediff.scans.orix_export import EDAX_SYMMETRY, map_phases, to_crystal_map, write_ang
from tests.scans.examples import CELLS, SYSTEMS, example_maps

SYSTEM = np.array([[-1, 2, 2, 2, 0, 0], [-1, 2, 2, 2, 0, 0], [-1, -1, 2, 2, 0, -1], [2, 2, 2, 2, 0, 0]])
COLUMNS = {"iq": 5, "ci": 6, "phase": 7, "signal": 8, "fit": 9}


@pytest.fixture
def orix():
    return pytest.importorskip("orix", reason="orix is not installed")


@pytest.fixture
def maps():
    return example_maps(SYSTEM, step_size=25.0)


@pytest.fixture
def orientations():
    return Rotation.random(SYSTEM.size, random_state=5).as_matrix().reshape(*SYSTEM.shape, 3, 3)


def without(maps, name, places=...):
    values = getattr(maps, name).copy()
    values[places] = np.nan
    return dataclasses.replace(maps, **{name: values})


def read_header(path):
    return [line[2:].rstrip() for line in path.read_text().splitlines() if line.startswith("#")]


def test_a_phase_has_the_most_frequent_space_group_and_the_median_cell_of_its_system(maps):
    phases = {phase.name: phase for phase in map_phases(maps)}
    assert list(phases) == ["monoclinic", "cubic"]  # as in maps.systems
    for name, phase in phases.items():
        inside = maps.filtered_system == SYSTEMS.index(name)
        numbers, counts = np.unique(maps.space_group_number[inside], return_counts=True)
        assert phase.space_group_number == numbers[counts.argmax()]
        np.testing.assert_allclose(phase.lattice, np.median(maps.lattice[inside], axis=0), rtol=1e-6)
        assert phase.lattices == inside.sum()
        assert phase.lattice[0] == pytest.approx(CELLS[name]["a"], abs=0.05)


def test_a_phase_without_any_lattice_says_so(maps, tmp_path):
    maps = without(maps, "lattice", SYSTEM == 0)
    write_ang(maps, tmp_path / "scan.ang")
    header = read_header(tmp_path / "scan.ang")
    start = header.index("MaterialName    monoclinic")
    assert "lattice unknown" in header[start + 2]
    assert header[start + 4] == "LatticeConstants    1.000 1.000 1.000 90.000 90.000 90.000"


def test_a_crystal_map_holds_the_maps(orix, maps):
    crystal_map = to_crystal_map(maps)
    labelled = SYSTEM.ravel() >= 0
    np.testing.assert_array_equal(crystal_map.is_in_data, labelled)
    np.testing.assert_array_equal(crystal_map.phase_id, SYSTEM.ravel()[labelled])
    np.testing.assert_allclose(crystal_map.prop["confidence"], maps.confidence.ravel()[labelled])
    np.testing.assert_allclose(crystal_map.prop["lattice_a"], maps.lattice[..., 0].ravel()[labelled])
    np.testing.assert_allclose(crystal_map.prop["dark_field"], maps.dark_field.ravel()[labelled])
    assert (crystal_map.dx, crystal_map.dy, crystal_map.scan_unit) == (2.5, 2.5, "nm")
    np.testing.assert_allclose(crystal_map.get_map_data("x")[0, 1:], 2.5 * np.arange(1, 6))
    assert {phase.name for number, phase in crystal_map.phases if number >= 0} == {"monoclinic", "cubic"}
    assert crystal_map.phases["cubic"].space_group.number == 225
    assert crystal_map.phases["monoclinic"].structure.lattice.beta == pytest.approx(99.0, abs=0.05)
    np.testing.assert_allclose(crystal_map.rotations.angle, 0, atol=1e-12)  # orientations are not known


def test_without_a_step_size_the_unit_is_the_probe_position(orix, maps):
    crystal_map = to_crystal_map(dataclasses.replace(maps, step_size=None))
    assert (crystal_map.dx, crystal_map.scan_unit) == (1, "px")


def test_the_zone_axis_that_orix_finds_is_the_one_that_was_given(orix):
    """An orientation whose beam is along 2a + b - c of an oblique cell, whatever the Cartesian frame."""
    from orix.vector import Miller, Vector3d

    maps = example_maps(np.zeros((1, 2), int))
    orientations = np.empty((1, 2, 3, 3))
    for column in range(2):
        beam = np.array([2, 1, -1]) @ cell_vectors(maps.lattice[0, column].astype(float))
        z = beam / np.linalg.norm(beam)
        x = np.cross(z, [0.3, 0.5, 0.1])
        x /= np.linalg.norm(x)
        orientations[0, column] = [x, np.cross(z, x), z]
    crystal_map = to_crystal_map(maps, orientations=orientations)
    for point in range(2):
        phase = crystal_map.phases["monoclinic"].deepcopy()
        phase.structure.lattice.setLatPar(*maps.lattice[0, point])
        zone = Miller(xyz=(crystal_map.rotations[point] * Vector3d.zvector()).data, phase=phase).uvw[0]
        np.testing.assert_allclose(zone / zone[1], [2, 1, -1], atol=2e-3)


def test_orix_reads_the_file_back(orix, maps, orientations, tmp_path):
    from orix import io

    write_ang(maps, tmp_path / "scan.ang", orientations=orientations)
    read = io.load(tmp_path / "scan.ang", autogen_names=False)
    labelled = SYSTEM >= 0
    expected = np.where(SYSTEM == 0, 1, np.where(SYSTEM == 2, 2, -1))
    np.testing.assert_array_equal(read.get_map_data("phase_id"), expected)
    row, column = np.indices(SYSTEM.shape)
    np.testing.assert_allclose(read.get_map_data("x"), column * 25e-4, atol=1e-9)
    np.testing.assert_allclose(read.get_map_data("y"), row * 25e-4, atol=1e-9)
    np.testing.assert_allclose(read.get_map_data("ci"), np.where(labelled, maps.confidence, -1), atol=1e-5)
    np.testing.assert_allclose(read.get_map_data("iq"), np.where(labelled, maps.dark_field, 0), rtol=1e-6)
    np.testing.assert_allclose(read.get_map_data("detector_signal")[labelled], maps.bright_field[labelled], rtol=1e-6)
    assert [phase.name for i, phase in read.phases if i >= 0] == ["monoclinic", "cubic"]
    assert read.phases["monoclinic"].point_group.name == "121"  # the axis is b
    assert read.phases["cubic"].point_group.name == "432"
    for phase in map_phases(maps):
        lattice = read.phases[phase.name].structure.lattice
        np.testing.assert_allclose(lattice.abcABG(), phase.lattice, atol=6e-4)
    in_memory = to_crystal_map(maps, orientations=orientations)
    difference = read.rotations[labelled.ravel()] * ~in_memory.rotations
    np.testing.assert_allclose(np.minimum(difference.angle, 2 * np.pi - difference.angle), 0, atol=5e-5)


def test_symmetries_are_those_of_the_laue_class_in_orix(orix):
    from orix.quaternion.symmetry import get_point_group

    orders = {"1": 1, "20": 2, "22": 4, "4": 4, "42": 8, "3": 3, "32": 6, "6": 6, "62": 12, "23": 12, "43": 24}
    for number in (1, 6, 25, 81, 99, 147, 156, 157, 174, 187, 195, 215):  # one of each Laue class
        proper = get_point_group(number).laue.proper_subgroup
        assert orders[EDAX_SYMMETRY[laue_class(number)]] == proper.size


def test_what_is_not_determined_is_zero_and_said_to_be(maps, tmp_path):
    write_ang(maps, tmp_path / "scan.ang")
    table = np.loadtxt(tmp_path / "scan.ang").reshape(*SYSTEM.shape, 10)
    np.testing.assert_array_equal(table[SYSTEM >= 0][:, :3], 0)
    assert any("Euler angles are not determined" in line for line in read_header(tmp_path / "scan.ang"))


def test_positions_without_a_label_are_marked_as_edax_marks_them(maps, tmp_path):
    write_ang(maps, tmp_path / "scan.ang")
    vacuum = np.loadtxt(tmp_path / "scan.ang").reshape(*SYSTEM.shape, 10)[SYSTEM < 0]
    np.testing.assert_allclose(vacuum[:, :3], 4 * np.pi, atol=1e-5)
    np.testing.assert_array_equal(vacuum[:, list(COLUMNS.values())], [[0, -1, 0, 0, 180]] * len(vacuum))


def test_of_a_single_phase_positions_without_a_label_have_phase_minus_one(tmp_path):
    write_ang(example_maps([[2, -1]]), tmp_path / "scan.ang")
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "scan.ang")[:, COLUMNS["phase"]], [1, -1])


def test_an_unknown_step_size_is_said_to_be_unknown(maps, tmp_path):
    write_ang(dataclasses.replace(maps, step_size=None), tmp_path / "scan.ang")
    header = read_header(tmp_path / "scan.ang")
    assert "XSTEP: 1.0000000" in header
    assert any("x and y count probe positions" in line for line in header)


def test_bunge_angles_turn_the_laboratory_into_the_crystal(maps, orientations, tmp_path):
    """Of a cubic crystal, whose Cartesian frames agree; with z axes along each other too."""
    maps = example_maps(np.full(SYSTEM.shape, 2))
    quarter = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    orientations[0, 0], orientations[0, 1] = quarter, quarter @ np.diag([1, -1, -1])
    write_ang(maps, tmp_path / "scan.ang", orientations=orientations)
    angles = np.loadtxt(tmp_path / "scan.ang")[:, :3]
    # the active rotation of the laboratory's axes, turned about axes that turn along, is the inverse of that of vectors
    turned = Rotation.from_euler("ZXZ", angles).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(turned, orientations.reshape(-1, 3, 3).transpose(0, 2, 1), atol=3e-5)


def test_a_failure_leaves_the_old_file(maps, tmp_path, monkeypatch):
    path = tmp_path / "scan.ang"
    path.write_text("old")
    monkeypatch.setattr(np, "savetxt", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_ang(maps, path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["scan.ang"]


def test_without_orix_the_command_that_installs_it_is_named(maps, monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("orix"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InvalidScan, match=r"pip install 'gpuediff\[orix\]'"):
        to_crystal_map(maps)


def test_what_cannot_be_exported_is_refused(maps, orientations, tmp_path):
    with pytest.raises(InvalidScan, match="no probe position has a label"):
        write_ang(example_maps([[-1, -1]]), tmp_path / "scan.ang")
    with pytest.raises(InvalidScan, match=r"orientations: shape \(2, 6, 3, 3\), expected \(4, 6, 3, 3\)"):
        write_ang(maps, tmp_path / "scan.ang", orientations=orientations[:2])
    with pytest.raises(InvalidScan, match="those of cubic crystals everywhere"):
        write_ang(dataclasses.replace(maps, options={"lattice_system": "cubic"}), tmp_path / "scan.ang")
    groups = np.where(SYSTEM == 2, 0, maps.space_group_number)
    with pytest.raises(InvalidScan, match="a cubic probe position has no space group"):
        write_ang(dataclasses.replace(maps, space_group_number=groups), tmp_path / "scan.ang")
    assert not list(tmp_path.iterdir())
