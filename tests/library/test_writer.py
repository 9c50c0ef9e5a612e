import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuediff.crystals.sources import Skipped
from gpuediff.errors import InvalidLibrary, InvalidPeaks
from gpuediff.library import shards, writer
from gpuediff.library.identity import software_versions
from gpuediff.library.reader import Library
from gpuediff.library.schema import CHUNK_PEAKS
from gpuediff.library.shards import SHARD_BYTES, Piece, expected_peaks, plan_shards
from gpuediff.library.writer import build_library
from gpuediff.settings import Forest, Run, Simulation
from tests.library import fakes

REPOSITORY = Path(__file__).resolve().parents[2]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


@pytest.fixture(scope="module")
def content(tmp_path_factory, fake_simulation_of_module) -> bytes:
    path = tmp_path_factory.mktemp("library") / "library.h5"
    assert build_library(path, fakes.a_run(), fakes.crystals(20)) == "built"
    return path.read_bytes()


@pytest.fixture
def whole(tmp_path, content) -> Path:
    """The library that `python -m tests.library.fakes` makes, built without interruption."""
    path = tmp_path / "whole" / "library.h5"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


# Same bytes


def test_two_builds_of_one_configuration_are_byte_for_byte_equal_even_a_second_apart(whole, tmp_path):
    for name in ("again", "and again"):
        build_library(tmp_path / name, fakes.a_run(), fakes.crystals(20))
        assert sha256(tmp_path / name) == sha256(whole)
        time.sleep(1.1)  # HDF5 keeps times in whole seconds


def test_a_build_killed_at_random_moments_ends_with_the_same_bytes(whole, tmp_path):
    path = tmp_path / "killed" / "library.h5"
    path.parent.mkdir()
    random = np.random.default_rng(5)
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.library.fakes", str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if attempt == 5:
            assert process.wait(timeout=60) == 0
        try:
            process.wait(timeout=random.uniform(0, 0.15))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    assert sha256(path) == sha256(whole)
    assert leftovers(path) == []


def test_a_build_killed_before_any_of_its_changes_to_the_disk_ends_with_the_same_bytes(tmp_path):
    """Kill before the k-th call that changes or synchronises a folder, for every k, and start again."""
    whole, killed = tmp_path / "whole.h5", 0
    build_library(whole, fakes.a_run(), fakes.crystals(5))
    while True:
        path = tmp_path / f"killed-{killed}" / "library.h5"
        if not _dies_before_change(killed, path):
            break
        assert not path.exists() or sha256(path) == sha256(whole)
        build_library(path, fakes.a_run(), fakes.crystals(5))
        assert sha256(path) == sha256(whole)
        assert leftovers(path) == []
        killed += 1
    assert killed > 20  # 2 shards: each is synchronised, renamed, its folder synchronised, noted, and later removed


def _dies_before_change(allowed: int, path: Path) -> bool:
    """Build in a forked process that kills itself before its change number `allowed`; False if it got through."""
    child = os.fork()
    if child == 0:
        left = allowed

        def mortal(function):
            def call(*arguments, **options):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return function(*arguments, **options)

            return call

        for name in ("mkdir", "fsync", "replace", "unlink", "rmdir"):
            setattr(os, name, mortal(getattr(os, name)))
        try:
            build_library(path, fakes.a_run(), fakes.crystals(5))
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def test_workers_of_an_executor_make_the_same_bytes(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "CRYSTALS_AHEAD", 4)
    with ThreadPoolExecutor(3) as executor:
        build_library(tmp_path / "library.h5", fakes.a_run(), fakes.crystals(20), executor=executor)
    assert sha256(tmp_path / "library.h5") == sha256(whole)


def test_workers_of_a_dask_scheduler_make_the_same_bytes(whole, tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        build_library(tmp_path / "library.h5", fakes.a_run(), fakes.crystals(20), executor=client.get_executor())
    assert sha256(tmp_path / "library.h5") == sha256(whole)


def test_the_bytes_do_not_depend_on_how_a_run_came_to_its_settings(whole, tmp_path):
    run = Run.model_validate_json(fakes.a_run().model_dump_json())
    build_library(tmp_path / "other.h5", run, fakes.crystals(20))
    assert sha256(tmp_path / "other.h5") == sha256(whole)


# Resuming


def stop_at(monkeypatch, name: str) -> list[str]:
    """Interrupt the build at a material, and list the materials that are simulated."""
    simulated: list[str] = []

    def simulate(crystal, settings, _, **_memory):
        if crystal.material_id == name:
            raise KeyboardInterrupt
        simulated.append(crystal.material_id)
        return fakes.fake_patterns(crystal, settings)

    monkeypatch.setattr(writer, "simulate_crystal", simulate)
    return simulated


def test_a_restart_simulates_only_what_no_complete_shard_holds(whole, tmp_path, monkeypatch):
    path = tmp_path / "library.h5"
    stop_at(monkeypatch, "test-13")
    with pytest.raises(KeyboardInterrupt):
        build_library(path, fakes.a_run(), fakes.crystals(20))
    assert not path.exists()
    simulated = stop_at(monkeypatch, "nothing")
    assert build_library(path, fakes.a_run(), fakes.crystals(20)) == "resumed"
    assert simulated == [f"test-{index}" for index in range(12, 20)]
    assert sha256(path) == sha256(whole)


def test_an_unexpected_error_passes_through_and_keeps_the_finished_shards(tmp_path, monkeypatch):
    path = tmp_path / "library.h5"

    def broken(crystal, settings, _, **_memory):
        if crystal.material_id == "test-5":
            raise ZeroDivisionError
        return fakes.fake_patterns(crystal, settings)

    monkeypatch.setattr(writer, "simulate_crystal", broken)
    with pytest.raises(ZeroDivisionError):
        build_library(path, fakes.a_run(), fakes.crystals(20))
    assert (tmp_path / "library.h5.parts" / "shard-00000.h5").exists()


@pytest.mark.parametrize("damage", [lambda shard: shard.unlink(), lambda shard: shard.write_bytes(b"damaged")])
def test_a_missing_or_damaged_shard_is_made_again(damage, whole, tmp_path, monkeypatch):
    path = tmp_path / "library.h5"
    stop_at(monkeypatch, "test-13")
    with pytest.raises(KeyboardInterrupt):
        build_library(path, fakes.a_run(), fakes.crystals(20))
    damage(tmp_path / "library.h5.parts" / "shard-00001.h5")
    simulated = stop_at(monkeypatch, "nothing")
    build_library(path, fakes.a_run(), fakes.crystals(20))
    assert simulated[:3] == ["test-3", "test-4", "test-5"]
    assert sha256(path) == sha256(whole)


def test_parts_of_another_configuration_are_refused_and_left_alone(whole, tmp_path, monkeypatch):
    path = tmp_path / "library.h5"
    stop_at(monkeypatch, "test-13")
    with pytest.raises(KeyboardInterrupt):
        build_library(path, fakes.a_run(), fakes.crystals(20))
    stop_at(monkeypatch, "nothing")
    with pytest.raises(InvalidLibrary, match=r"library\.h5\.parts.*simulation\.g_max = 2\.0 there, 1\.5 here.*remove"):
        build_library(path, fakes.a_run(g_max=1.5), fakes.crystals(20))
    with pytest.raises(InvalidLibrary, match="checksum of all crystals"):
        build_library(path, fakes.a_run(), fakes.crystals(19))
    monkeypatch.setattr(writer, "software_versions", lambda _: {"numpy": "0.1"})
    with pytest.raises(InvalidLibrary, match=r'numpy = "[\d.]+" there, "0.1" here.*install'):
        build_library(path, fakes.a_run(), fakes.crystals(20))
    monkeypatch.setattr(writer, "software_versions", software_versions)
    stop_at(monkeypatch, "nothing")
    assert build_library(path, fakes.a_run(), fakes.crystals(20)) == "resumed"
    assert sha256(path) == sha256(whole)


def test_a_folder_that_no_build_made_is_refused_and_left_alone(tmp_path):
    foreign = tmp_path / "library.h5.parts" / "thesis.tex"
    foreign.parent.mkdir()
    foreign.write_text("years of work")
    with pytest.raises(InvalidLibrary, match=r"thesis\.tex.*move the folder away"):
        build_library(tmp_path / "library.h5", fakes.a_run(), fakes.crystals(3))
    assert foreign.read_text() == "years of work"


def test_unfinished_work_of_another_configuration_survives_beside_a_finished_library(whole, tmp_path, monkeypatch):
    path = tmp_path / "library.h5"
    stop_at(monkeypatch, "test-13")
    with pytest.raises(KeyboardInterrupt):
        build_library(path, fakes.a_run(g_max=1.5), fakes.crystals(20))
    path.write_bytes(whole.read_bytes())
    assert build_library(path, fakes.a_run(), fakes.crystals(20)) == "existed"
    path.unlink()
    stop_at(monkeypatch, "nothing")
    assert build_library(path, fakes.a_run(g_max=1.5), fakes.crystals(20)) == "resumed"


def test_a_torn_last_line_of_the_journal_costs_one_shard(whole, tmp_path, monkeypatch):
    path = tmp_path / "library.h5"
    stop_at(monkeypatch, "test-13")
    with pytest.raises(KeyboardInterrupt):
        build_library(path, fakes.a_run(), fakes.crystals(20))
    journal = tmp_path / "library.h5.parts" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    simulated = stop_at(monkeypatch, "test-16")
    with pytest.raises(KeyboardInterrupt):
        build_library(path, fakes.a_run(), fakes.crystals(20))
    assert simulated[0] == "test-9"
    simulated = stop_at(monkeypatch, "nothing")
    build_library(path, fakes.a_run(), fakes.crystals(20))
    assert simulated[0] == "test-15"
    assert sha256(path) == sha256(whole)


@pytest.mark.parametrize("line", [b"{\n", b"[]\n", b'{"shard": 1}\n'])
def test_a_damaged_journal_is_refused(line, tmp_path, monkeypatch):
    path = tmp_path / "library.h5"
    stop_at(monkeypatch, "test-13")
    with pytest.raises(KeyboardInterrupt):
        build_library(path, fakes.a_run(), fakes.crystals(20))
    with (tmp_path / "library.h5.parts" / "journal.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(InvalidLibrary, match=r"journal\.jsonl: damaged: remove the folder"):
        build_library(path, fakes.a_run(), fakes.crystals(20))


# A library that is already there


def test_the_same_library_is_not_built_twice(whole, monkeypatch):
    monkeypatch.setattr(writer, "simulate_crystal", None)
    before = whole.stat()
    assert build_library(whole, fakes.a_run(), fakes.crystals(20)) == "existed"
    assert whole.stat().st_mtime_ns == before.st_mtime_ns
    assert leftovers(whole) == []


def test_settings_that_do_not_touch_the_patterns_ask_for_no_other_library(whole):
    run = fakes.a_run()
    forest = run.training.model_copy(update={"crystal_system": Forest(trees=7, depth=3)})
    assert build_library(whole, run.model_copy(update={"training": forest}), fakes.crystals(20)) == "existed"


def test_another_library_of_the_same_name_is_refused_and_left_alone(whole):
    before = sha256(whole)
    with pytest.raises(InvalidLibrary, match=r"library\.h5: already there.*thicknesses.*remove it, or choose another"):
        build_library(whole, fakes.a_run(thicknesses=(50.0,)), fakes.crystals(20))
    with pytest.raises(InvalidLibrary, match="already there"):
        build_library(whole, fakes.a_run(), fakes.crystals(20), [Skipped("x", "too large")])
    assert sha256(whole) == before


def test_a_file_that_is_no_library_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    with pytest.raises(InvalidLibrary, match=r"notes\.txt: not an HDF5 file.*choose another name"):
        build_library(path, fakes.a_run(), fakes.crystals(3))
    assert path.read_text() == "notes"


def test_a_second_process_that_builds_the_same_name_is_refused(whole, tmp_path):
    path = tmp_path / "second" / "library.h5"

    def interfere(items, description, total=None):
        for item in items:
            with pytest.raises(InvalidLibrary, match=r"library\.h5: another process is building"):
                build_library(path, fakes.a_run(), fakes.crystals(20))
            yield item

    assert build_library(path, fakes.a_run(), fakes.crystals(20), track=interfere) == "built"
    assert sha256(path) == sha256(whole)
    assert leftovers(path) == []


# What goes in


def test_crystals_that_cannot_be_simulated_are_skipped_with_the_reason(tmp_path):
    before = [Skipped("mp-1", "volume above 1000 Å³")]
    build_library(tmp_path / "library.h5", fakes.a_run(), fakes.crystals(8), before)
    with Library(tmp_path / "library.h5") as library:
        assert library.materials.material_id.tolist() == [f"test-{index}" for index in (0, 1, 2, 3, 4, 5, 7)]
        assert library.skipped == [*before, Skipped("test-6", "test-6: fails on purpose")]
        assert library.material_of_pattern.tolist() == np.repeat(np.arange(7), 5).tolist()


@pytest.mark.parametrize(("array", "value"), [("intensity", np.nan), ("intensity", -0.1), ("qx", np.inf)])
def test_an_impossible_value_never_reaches_a_library(array, value, tmp_path, monkeypatch):
    def impossible(crystal, settings, _, **_memory):
        patterns = fakes.random_patterns(1, settings, peaks_min=1, peaks_max=5)
        if crystal.material_id == "test-1":
            getattr(patterns, array)[..., 0] = value
        return patterns

    monkeypatch.setattr(writer, "simulate_crystal", impossible)
    build_library(tmp_path / "library.h5", fakes.a_run(), fakes.crystals(3))
    with Library(tmp_path / "library.h5") as library:
        assert library.materials.material_id.tolist() == ["test-0", "test-2"]
        assert "not finite" in library.skipped[0].reason


def test_no_library_is_made_of_nothing(tmp_path, monkeypatch):
    path = tmp_path / "library.h5"
    with pytest.raises(InvalidLibrary, match="no crystals"):
        build_library(path, fakes.a_run(), [])
    with pytest.raises(InvalidLibrary, match="'test-0' comes 2 times"):
        build_library(path, fakes.a_run(), [*fakes.crystals(4), fakes.a_crystal(0)])

    def failing(crystal, settings, _, **_memory):
        raise InvalidPeaks("no beams")

    monkeypatch.setattr(writer, "simulate_crystal", failing)
    with pytest.raises(InvalidLibrary, match="none of 4 crystals could be simulated; the first, test-0: no beams"):
        build_library(path, fakes.a_run(), fakes.crystals(4))
    assert leftovers(path) == []


def test_progress_counts_crystals_and_then_shards(tmp_path):
    seen = []

    def track(items, description, total=None):
        seen.append((description, len(items) if total is None else total))
        return items

    build_library(tmp_path / "library.h5", fakes.a_run(), fakes.crystals(20), track=track)
    assert seen == [("checking finished shards", 0), ("simulating crystals", 20), ("joining shards", 7)]


def test_progress_knows_patterns_and_costs_before_a_crystal_is_simulated(tmp_path):
    seen = []

    def track(items, description, total=None):
        seen.append((description, items))
        return items

    crystals = [fakes.a_crystal(0, edge=4.0), fakes.a_crystal(1, edge=8.0)]
    build_library(tmp_path / "library.h5", fakes.a_run(patterns=5), crystals, track=track)
    work = dict(seen)["simulating crystals"]
    assert (work.sizes, work.unit) == ([5, 5], "patterns")
    assert work.costs[1] == pytest.approx(8**1.4 * work.costs[0])  # eight times the volume, eight times the beams


# Size and shards


def test_positions_are_stored_once_for_all_thicknesses(tmp_path, monkeypatch):
    """100 thicknesses cost about a third of 100 lists of (qx, qy, intensity)."""
    thicknesses = tuple(20.0 * (index + 1) for index in range(100))
    run = fakes.a_run(thicknesses=thicknesses, patterns=100)
    monkeypatch.setattr(
        writer,
        "simulate_crystal",
        lambda _, settings, __, **___: fakes.random_patterns(0, settings, peaks_min=60, peaks_max=60),
    )
    path = tmp_path / "library.h5"
    build_library(path, run, [fakes.a_crystal(0)])
    with h5py.File(path) as file:
        assert file["peaks/qx"].shape == file["peaks/qy"].shape == (CHUNK_PEAKS,)
        assert file["peaks/intensity"].shape == (100, CHUNK_PEAKS)
        stored = sum(file[f"peaks/{name}"].id.get_storage_size() for name in ("qx", "qy", "intensity"))
    lists = 100 * 6000 * 3 * 4  # bytes of separate lists: thicknesses, peaks, (qx, qy, intensity), float32
    assert 0.25 < stored / lists < 0.36


def test_the_places_that_fill_up_a_shard_take_next_to_no_space(tmp_path):
    run = fakes.a_run()
    build_library(tmp_path / "library.h5", run, fakes.crystals(20))  # 7 shards of fewer than 150 peaks
    with h5py.File(tmp_path / "library.h5") as file:
        assert file["peaks/intensity"].shape == (2, 7 * CHUNK_PEAKS)
        assert file["peaks/intensity"].id.get_storage_size() < 2 * 7 * 1000


def test_shards_hold_every_crystal_once_and_stay_within_memory(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_CRYSTALS", 256)
    settings = Simulation(thicknesses=tuple(20.0 * (index + 1) for index in range(100)))
    random = np.random.default_rng(0)
    crystals = [fakes.a_crystal(index, edge=edge) for index, edge in enumerate(random.uniform(3, 10, 600))]
    plan = plan_shards(crystals, settings)
    assert [piece for shard in plan for piece in shard] == [Piece(index, 0, 100) for index in range(600)]
    sizes = [sum(expected_peaks(crystals[piece.crystal], settings) for piece in shard) * 100 * 408 for shard in plan]
    assert max(sizes) <= SHARD_BYTES
    assert np.mean(sizes) > SHARD_BYTES / 2
    assert [len(shard) for shard in plan_shards([fakes.a_crystal(0)] * 300, Simulation())] == [256, 44]


def test_a_crystal_that_fills_more_than_a_shard_is_divided_by_orientations():
    settings = Simulation(thicknesses=tuple(20.0 * (index + 1) for index in range(100)))
    large = fakes.a_crystal(0, edge=20)
    plan = plan_shards([large, large], settings)
    assert len(plan) > 2
    for index in (0, 1):
        pieces = [piece for shard in plan for piece in shard if piece.crystal == index]
        assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
        assert pieces[-1].stop == 100
    sizes = [sum(piece.stop - piece.start for piece in shard) for shard in plan]
    assert max(sizes) * expected_peaks(large, settings) * 408 <= SHARD_BYTES
    huge = fakes.a_crystal(0, edge=100)
    assert [len(shard) for shard in plan_shards([huge], settings)] == [1] * 100  # a pattern is never divided
    assert plan_shards([], settings) == []


def test_the_expected_number_of_peaks_is_that_of_a_count_of_lattice_points():
    """The points h of a cubic lattice with |g| <= g_max and |s_g| <= s_max, averaged over zone axes."""
    settings, edge, wavelength = Simulation(), 6.0, 0.0196875
    index = np.arange(-13, 14)
    g = np.stack(np.meshgrid(index, index, index), -1).reshape(-1, 3) / edge
    g = g[np.linalg.norm(g, axis=1) <= settings.g_max]
    axes = np.random.default_rng(1).normal(size=(400, 3))
    along = g @ (axes / np.linalg.norm(axes, axis=1, keepdims=True)).T
    squared = (g**2).sum(1)[:, None]
    excitation_error = (2 * along - wavelength * squared) / (2 - 2 * wavelength * along)
    counted = (abs(excitation_error) <= settings.excitation_error_max).sum() / len(axes)
    assert counted == pytest.approx(expected_peaks(fakes.a_crystal(0, edge=edge), settings), rel=0.03)
