import logging
import subprocess
import sys

import numpy as np
import pytest

from gpuediff.diffraction import factor_cache, factor_tables
from gpuediff.settings import Simulation

QUESTION = {"atomic_number": 14, "form_factors": "wk-cp", "beam_energy": 300e3}
EDGES, COEFFICIENTS = np.array([0.0, 1.0, 4.0]), np.random.default_rng(0).normal(size=(2, 3, 2))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUEDIFF_CACHE", str(tmp_path))
    factor_tables._kept_table.cache_clear()
    yield tmp_path
    factor_tables._kept_table.cache_clear()


def only_file(folder):
    (path,) = folder.rglob("*.table")
    return path


def test_what_is_kept_comes_back_bit_by_bit(folder):
    assert factor_cache.read(QUESTION, 3) is None
    factor_cache.write(QUESTION, EDGES, COEFFICIENTS)
    edges, coefficients = factor_cache.read(QUESTION, 3)
    np.testing.assert_array_equal(edges, EDGES)
    np.testing.assert_array_equal(coefficients, COEFFICIENTS)


@pytest.mark.parametrize("other", [{"beam_energy": 200e3}, {"atomic_number": 15}, {"form_factors": "lobato"}])
def test_another_question_has_another_table(folder, other):
    factor_cache.write(QUESTION, EDGES, COEFFICIENTS)
    assert factor_cache.read(QUESTION | other, 3) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: content[:60],
        lambda content: b"",
        lambda content: b"\xff\xfe" + content,
        lambda content: content.replace(b'"intervals": 2', b'"intervals": 3'),
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(b"300000.0", b"200000.0"),
    ],
)
def test_a_damaged_file_is_never_trusted_and_said_in_the_log(folder, damage, caplog):
    factor_cache.write(QUESTION, EDGES, COEFFICIENTS)
    path = only_file(folder)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert factor_cache.read(QUESTION, 3) is None
    assert str(path) in caplog.text
    assert "made anew" in caplog.text


def test_a_table_from_the_disk_has_the_bits_of_a_new_one(folder):
    made = factor_tables.factor_table(8, Simulation())
    factor_tables._kept_table.cache_clear()
    read = factor_tables.factor_table(8, Simulation())
    assert read is not made
    np.testing.assert_array_equal(read.edges, made.edges)
    np.testing.assert_array_equal(read.coefficients, made.coefficients)
    assert only_file(folder).name.startswith("O-")


def test_without_a_place_to_write_tables_live_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPUEDIFF_CACHE", str(tmp_path / "file"))
    factor_cache.write(QUESTION, EDGES, COEFFICIENTS)
    assert factor_cache.read(QUESTION, 3) is None


def test_an_empty_variable_turns_the_disk_off(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUEDIFF_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    factor_cache.write(QUESTION, EDGES, COEFFICIENTS)
    assert factor_cache.folder() is None
    assert not list(tmp_path.rglob("*"))


def test_the_users_cache_folder_is_taken_where_no_variable_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("GPUEDIFF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert factor_cache.folder() == tmp_path / "gpuediff" / "scattering-factors"


def test_processes_that_meet_a_new_element_together_leave_one_good_table(folder):
    program = (
        "from gpuediff.diffraction.factor_tables import factor_table; from gpuediff.settings import Simulation; "
        "print(factor_table(6, Simulation()).coefficients.tobytes().hex()[:64])"
    )
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({run.communicate()[0] for run in runs}) == 1
    assert all(run.returncode == 0 for run in runs)
    only_file(folder)
