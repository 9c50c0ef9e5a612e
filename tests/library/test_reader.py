import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpuediff.crystals.sources import Skipped
from gpuediff.errors import InvalidLibrary
from gpuediff.library import reader, writer
from gpuediff.library.reader import Library
from gpuediff.library.schema import COLUMNS, read_text
from gpuediff.library.writer import build_library
from gpuediff.peaks import PeakBatch
from tests.library import fakes

RUN = fakes.a_run(thicknesses=(100.0, 200.0, 300.0), patterns=6)
CRYSTALS = [crystal for index, crystal in enumerate(fakes.crystals(12)) if index != 6]
SIMULATED = [fakes.fake_patterns(crystal, RUN.simulation) for crystal in CRYSTALS]
PATTERNS = 6 * len(CRYSTALS)


@pytest.fixture(scope="module")
def content(tmp_path_factory, fake_simulation_of_module) -> bytes:
    path = tmp_path_factory.mktemp("library") / "library.h5"
    build_library(path, RUN, CRYSTALS, [Skipped("mp-9", "too large"), Skipped("mp-8", "too large")])
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, content) -> Path:
    """A library that a test may damage."""
    (tmp_path / "library.h5").write_bytes(content)
    return tmp_path / "library.h5"


def expected(row: int) -> PeakBatch:
    return PeakBatch.concatenate(
        [
            PeakBatch(patterns.qx, patterns.qy, patterns.intensity[row].astype(np.float32), patterns.offsets)
            for patterns in SIMULATED
        ]
    )


def assert_equal(got: PeakBatch, wanted: PeakBatch) -> None:
    for name in ("qx", "qy", "intensity", "offsets"):
        value = getattr(got, name)
        np.testing.assert_array_equal(value, getattr(wanted, name))
        assert value.dtype == (np.int64 if name == "offsets" else np.float32)


# What was written comes back


def test_every_pattern_comes_back_at_every_thickness(path):
    assert (expected(0).counts == 0).any()  # patterns without peaks are among them
    with Library(path) as library:
        assert len(library) == PATTERNS
        np.testing.assert_array_equal(library.peak_counts, expected(0).counts)
        for row, thickness in enumerate((100.0, 200.0, 300.0)):
            assert_equal(library.peaks(thickness), expected(row))


def test_materials_orientations_and_the_run_come_back(path):
    with Library(path) as library:
        assert library.run == RUN
        np.testing.assert_array_equal(library.thicknesses, [100.0, 200.0, 300.0])
        for name in ("material_id", "formula", "space_group_number", "crystal_system", "source", "checksum"):
            assert getattr(library.materials, name).tolist() == [getattr(crystal, name) for crystal in CRYSTALS]
        np.testing.assert_array_equal(library.materials.conventional, [crystal.conventional for crystal in CRYSTALS])
        np.testing.assert_array_equal(library.material_of_pattern, np.repeat(np.arange(len(CRYSTALS)), 6))
        orientation = np.concatenate([patterns.orientation for patterns in SIMULATED])
        np.testing.assert_array_equal(library.orientation, orientation)
        np.testing.assert_array_equal(library.zone_axis, orientation[:, 2])
        assert library.skipped == [Skipped("mp-9", "too large"), Skipped("mp-8", "too large")]
        assert set(library.versions) == {"gpuediff", "numpy", "numba", "h5py"}


def test_names_in_any_script_come_back(tmp_path):
    crystal = fakes.a_crystal(0)
    object.__setattr__(crystal, "source", "Fe₂O₃ – наука, 結晶")
    build_library(tmp_path / "library.h5", RUN, [crystal, fakes.a_crystal(1)], [Skipped("ä", "")])
    with Library(tmp_path / "library.h5") as library:
        assert library.materials.source.tolist() == ["Fe₂O₃ – наука, 結晶", "fakes"]
        assert library.skipped == [Skipped("ä", "")]


def test_a_library_of_one_material_without_a_single_peak_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(
        writer, "simulate_crystal", lambda _, settings, __, **___: fakes.random_patterns(0, settings, peaks_max=0)
    )
    build_library(tmp_path / "library.h5", RUN, CRYSTALS[:1])
    with Library(tmp_path / "library.h5") as library:
        peaks = library.peaks(200.0)
        assert len(peaks) == len(library) == 6
        assert peaks.counts.tolist() == [0] * 6
        assert library.info()["peaks"] == 0


# Selecting


SELECTIONS = [
    slice(None),
    slice(3, 20),
    slice(20, 3),
    slice(None, None, -1),
    slice(-4, None),
    slice(2, 60, 7),
    np.array([5, 5, 0, 60, -1]),
    np.array([], dtype=np.int64),
    [],
    [3],
    np.arange(PATTERNS) % 3 == 1,
    np.zeros(PATTERNS, dtype=bool),
]


@pytest.mark.parametrize("patterns", SELECTIONS, ids=lambda patterns: str(patterns)[:24])
def test_a_selection_is_what_the_same_selection_of_all_patterns_is(path, patterns):
    chosen = np.arange(PATTERNS)[patterns] if len(np.shape(patterns)) == 0 or len(patterns) else np.arange(0)
    with Library(path) as library:
        assert_equal(library.peaks(200.0, patterns), expected(1)[chosen])


@given(st.lists(st.integers(-PATTERNS, PATTERNS - 1), max_size=100), st.integers(1, 400))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_patterns_come_in_the_order_asked_for_however_the_file_is_read(path, monkeypatch, patterns, span):
    monkeypatch.setattr(reader, "SPAN_PEAKS", span)
    monkeypatch.setattr("gpuediff.library.schema.CHUNK_PEAKS", span // 3)
    with Library(path) as library:
        assert_equal(library.peaks(100.0, patterns), expected(0)[np.arange(PATTERNS)[np.array(patterns, dtype=int)]])


def test_a_pattern_read_between_two_others_of_one_span_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(
        writer,
        "simulate_crystal",
        lambda _, settings, __, **___: fakes.random_patterns(3, settings, peaks_min=3, peaks_max=3),
    )
    build_library(tmp_path / "library.h5", fakes.a_run(patterns=20), CRYSTALS[:1])
    monkeypatch.setattr(reader, "SPAN_PEAKS", 20)
    with Library(tmp_path / "library.h5") as library:
        everything = library.peaks(200.0)
        assert_equal(library.peaks(200.0, [10, 0, 12]), everything[[10, 0, 12]])


def test_only_the_chunks_of_the_patterns_asked_for_are_read(path):
    """Damage elsewhere goes unnoticed: the chunks of other thicknesses and other shards are not touched."""
    with h5py.File(path) as file:
        chunk = file["peaks/intensity"].id.get_chunk_info_by_coord((2, 0))
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"damaged")
    with Library(path) as library:
        assert_equal(library.peaks(100.0), expected(0))
        assert_equal(library.peaks(300.0, slice(18, None)), expected(2)[18:])  # behind the first shard
        with pytest.raises(InvalidLibrary, match=r"library\.h5: damaged: peaks"):
            library.peaks(300.0, slice(0, 1))


@pytest.mark.parametrize("patterns", [[PATTERNS], [-PATTERNS - 1], np.ones(3, dtype=bool), np.array([1.5])])
def test_a_pattern_that_is_not_there_is_an_index_error(path, patterns):
    with Library(path) as library, pytest.raises(IndexError):
        library.peaks(200.0, patterns)


def test_a_thickness_that_is_not_there_is_refused_with_those_that_are(path, tmp_path):
    with (
        Library(path) as library,
        pytest.raises(InvalidLibrary, match=r"library\.h5.*250 Å.*100, 200, 300 Å \(3 in all"),
    ):
        library.peaks(250.0)
    many = fakes.a_run(thicknesses=tuple(20.0 * (index + 1) for index in range(100)), patterns=2)
    build_library(tmp_path / "many.h5", many, CRYSTALS[:1])
    with Library(tmp_path / "many.h5") as library:
        assert len(library.peaks(2000.0 * (1 + 1e-9))) == 2
        with pytest.raises(InvalidLibrary, match=r"20, 40, 60, 80, \.\.\., 2000 Å \(100 in all\)"):
            library.peaks(10.0)


# info


def test_info_counts_everything_in_json_types(path):
    with Library(path) as library:
        info = library.info()
    assert json.loads(json.dumps(info)) == info
    assert info["materials"] == 11
    assert info["patterns"] == PATTERNS
    assert info["peaks"] == len(expected(0).qx)
    assert info["thicknesses"] == [100.0, 200.0, 300.0]
    assert info["bytes"] == path.stat().st_size
    assert info["skipped"] == {"too large": 2}
    assert sum(info["materials_of_crystal_system"].values()) == 11
    assert info["materials_of_crystal_system"]["cubic"] == 2  # numbers 0 and 7
    assert info["patterns_of_crystal_system"]["cubic"] == 12
    assert info["configuration"]["simulation"]["g_max"] == 2.0


def test_info_counts_reasons_that_differ_in_numbers_alone_as_one(tmp_path):
    reasons = ["volume 1200.5 Å³", "volume 3000 Å³", "no atoms", "volume 1000 Å³", "no atoms", "site 3 is empty"]
    skipped = [Skipped(f"mp-{index}", reason) for index, reason in enumerate(reasons)]
    build_library(tmp_path / "library.h5", RUN, CRYSTALS[:1], skipped)
    with Library(tmp_path / "library.h5") as library:
        assert library.info()["skipped"] == {"volume … Å³": 3, "no atoms": 2, "site 3 is empty": 1}


# Faults


def read_everything(path: Path) -> list:
    with Library(path) as library:
        batches = [library.peaks(thickness) for thickness in library.thicknesses]
        arrays = [array for batch in batches for array in (batch.qx, batch.qy, batch.intensity, batch.offsets)]
        materials = [getattr(library.materials, name) for name in reader.Materials.__dataclass_fields__]
        arrays += [*materials, library.material_of_pattern, library.zone_axis, library.orientation]
        return [library.run, library.skipped, library.info(), *(array.tolist() for array in arrays)]


def assert_refused(path: Path, *words: str) -> None:
    with pytest.raises(InvalidLibrary) as caught:
        read_everything(path)
    for word in (path.name, *words):
        assert word in str(caught.value)


def test_a_file_that_is_no_library_is_refused_by_name(tmp_path):
    assert_refused(tmp_path / "nowhere.h5", "no such file")
    assert_refused(tmp_path, "no such file")
    for content in (b"", b"hello", b"\x89HDF\r\n\x1a\n"):
        (tmp_path / "text.h5").write_bytes(content)
        assert_refused(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = [1, 2]
    assert_refused(tmp_path / "other.h5", "not a pattern library")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_refused(path)


def test_a_flipped_magic_number_is_refused(path):
    content = bytearray(path.read_bytes())
    content[1] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "not an HDF5 file")


def test_a_flipped_bit_anywhere_is_either_noticed_or_without_effect(path):
    whole, wanted, noticed = path.read_bytes(), read_everything(path), 0
    random = np.random.default_rng(7)
    for place in random.integers(0, len(whole), 80):
        content = bytearray(whole)
        content[place] ^= 1 << random.integers(0, 8)
        path.write_bytes(content)
        try:
            got = read_everything(path)
        except InvalidLibrary:
            noticed += 1
        else:
            assert got == wanted, place
    assert noticed > 30


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_a_missing_column_is_refused_by_name(path, column):
    with h5py.File(path, "r+") as file:
        del file[column.name]
    assert_refused(path, column.name, "missing", "build it again")


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_a_column_of_another_type_or_shape_is_refused_by_name(path, column):
    with h5py.File(path, "r+") as file:
        shape = file[column.name].shape
        del file[column.name]
        file[column.name] = np.zeros(shape, dtype="int8")
    assert_refused(path, column.name, "int8")
    with h5py.File(path, "r+") as file:
        del file[column.name]
        dtype = h5py.string_dtype("utf-8", 4) if column.dtype == "str" else column.dtype
        file.create_dataset(column.name, shape=(*shape, 2), dtype=dtype)
    assert_refused(path, column.name, "shape")


@pytest.mark.parametrize("attribute", ["schema_version", "configuration", "crystals_checksum", "versions"])
def test_a_missing_attribute_is_refused_by_name(path, attribute):
    with h5py.File(path, "r+") as file:
        del file.attrs[attribute]
    assert_refused(path, "root attributes", attribute)


def test_a_newer_schema_and_an_unknown_configuration_are_refused_with_the_way_out(path):
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 2
    assert_refused(path, "schema version 2", "install a newer gpuediff")
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 1
        file.attrs["configuration"] = read_text(file, "configuration").replace('"g_max"', '"g_maximum"')
    assert_refused(path, "simulation.g_maximum", "another version of gpuediff")
    with h5py.File(path, "r+") as file:
        file.attrs["configuration"] = "{"
    assert_refused(path, "configuration")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patterns/material", 11),
        ("patterns/material", -1),
        ("patterns/first_peak", 10**9),
        ("patterns/first_peak", -1),
        ("patterns/peak_count", -3),
        ("patterns/peak_count", 10**6),
        ("patterns/peak_count", 500),
    ],
)
def test_numbers_that_point_outside_are_refused(path, name, value):
    with h5py.File(path, "r+") as file:
        file[name][4] = value
    assert_refused(path, name)


def test_a_closed_library_says_so(path):
    library = Library(path)
    library.close()
    with pytest.raises(InvalidLibrary, match="closed"):
        library.peaks(200.0)
