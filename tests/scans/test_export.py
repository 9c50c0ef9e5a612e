import dataclasses

import h5py
import numpy as np
import pandas as pd
import pytest

import gpuediff
from gpuediff.errors import InvalidScan
from gpuediff.scans.export import particle_table, read_maps, scan_table, write_maps
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.particles import find_particles
from gpuediff.tables import write_table
from tests.scans.fakes import SYSTEMS, FakeHierarchy, uniform_scan


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(5)
    system = rng.choice(4, (6, 7)) - 1
    fields = {"calibration": {"pixel_size": "0.02 Å⁻¹"}, "note": "assumed", "step_size": 20.0}
    return uniform_scan(system, rng.uniform(0.001, 0.6, system.shape), **fields)


@pytest.fixture(scope="module")
def maps(scan):
    return map_scan(scan, FakeHierarchy(), filter_size=1, difference_confidence_min=0.1)


@pytest.fixture(scope="module")
def particles(scan, maps):
    return find_particles(scan, maps, FakeHierarchy(), size_min=2)


def test_maps_come_back_as_they_were_written(maps, tmp_path):
    write_maps(maps, tmp_path / "maps.h5")
    back = read_maps(tmp_path / "maps.h5")
    for field in dataclasses.fields(maps):
        written, read = getattr(maps, field.name), getattr(back, field.name)
        if isinstance(written, np.ndarray):
            assert read.dtype == written.dtype
            np.testing.assert_array_equal(read, written)
        else:
            assert read == written


def test_another_program_finds_units_meaning_and_provenance_in_the_file(maps, particles, tmp_path):
    write_maps(maps, tmp_path / "maps.h5", particles=particles)
    with h5py.File(tmp_path / "maps.h5") as file:
        assert list(file.attrs["systems"]) == list(SYSTEMS)
        assert file.attrs["gpuediff_version"] == gpuediff.__version__
        assert (file.attrs["step_size"], file.attrs["step_size_units"]) == (20.0, "Å")
        assert "predicted" in file.attrs["status_codes"]
        assert file["lattice"].attrs["units"].startswith("Å")
        assert all("description" in item.attrs for item in file.values() if isinstance(item, h5py.Dataset))
        np.testing.assert_array_equal(file["particles/labels"][()], particles.labels)
        assert file["particles/crystal_system"].asstr()[()].tolist() == particles.crystal_system.tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_comes_back_with_one_row_for_each_probe_position(maps, tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    table = scan_table(maps)
    write_table(table, path)
    back = (
        pd.read_csv(path, keep_default_na=True).fillna({"crystal_system": "", "raw_system": ""})
        if suffix == ".csv"
        else pd.read_parquet(path)
    )
    assert len(back) == maps.status.size
    assert list(back.columns) == list(table.columns)
    for name in table.columns:
        if table[name].dtype.kind == "f":
            np.testing.assert_allclose(back[name], table[name], rtol=1e-6)
        else:
            assert back[name].tolist() == table[name].tolist()


def test_a_row_says_what_the_maps_say_there(maps):
    table = scan_table(maps).set_index(["row", "column"])
    for y, x in np.ndindex(maps.shape):
        row = table.loc[y, x]
        assert row["crystal_system"] == maps.crystal_system[y, x]
        np.testing.assert_array_equal(row["a"], maps.lattice[y, x, 0])
        np.testing.assert_array_equal(row["votes_cubic"], maps.votes[y, x, 2])


def test_the_table_of_particles_has_their_area_and_both_predictions(particles, tmp_path):
    table = particle_table(particles)
    np.testing.assert_array_equal(table["probe_positions"], particles.size)
    np.testing.assert_allclose(table["area"], 400 * particles.size)
    np.testing.assert_array_equal(table["aggregate_a"], particles.by_aggregation.lattice[:, 0])
    np.testing.assert_array_equal(table["brightest_row"], particles.brightest[:, 0])
    write_table(table, tmp_path / "particles.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "particles.parquet"), table, check_dtype=False)


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(maps, tmp_path):
    path = tmp_path / "maps.h5"
    write_maps(maps, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_maps(dataclasses.replace(maps, lattice=None), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["maps.h5"]


def test_files_that_are_no_maps_are_refused(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["data"] = [1]
    with pytest.raises(InvalidScan, match=r"other\.h5: not a file of scan maps"):
        read_maps(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(InvalidScan, match=r"other\.h5: cannot be read as scan maps"):
        read_maps(path)
    with pytest.raises(InvalidScan, match="cannot be read as scan maps"):
        read_maps(tmp_path / "absent.h5")


def test_maps_of_a_later_schema_name_the_version_that_reads_them(maps, tmp_path):
    path = tmp_path / "maps.h5"
    write_maps(maps, path)
    with h5py.File(path, "a") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(InvalidScan, match="schema version 99, but this gpuediff reads 2"):
        read_maps(path)
