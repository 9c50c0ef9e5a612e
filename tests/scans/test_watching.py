"""Scans are labelled when they have landed, again when they grow, and never twice for nothing."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer

from gpuediff.cli import watch as command
from gpuediff.cli.scan import map_and_show
from gpuediff.cli.screen import Screen
from gpuediff.cli.watch import watch_and_show
from gpuediff.durable import exclusive
from gpuediff.errors import GpuediffError, InvalidScan
from gpuediff.scans.export import write_maps
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.particles import find_particles
from gpuediff.scans.readers import read_scan
from gpuediff.scans.watching import Failed, Mapped, Memory, NewFile, watch
from tests.scans.conftest import PEAK
from tests.scans.fakes import FakeHierarchy, pattern

MADE_WITH = {"model": "ab", "options": {"centre": (1, 2)}}


class Over(BaseException):
    """Nobody watches any longer."""


class World:
    """A folder in which things happen at set times; nobody waits."""

    def __init__(self, tmp_path):
        self.folder, self.out = tmp_path / "data", tmp_path / "maps"
        self.folder.mkdir()
        self.now, self.end, self.plan, self.labelled = 0.0, 0.0, [], []
        self.cost = 0.0  # seconds to label a file
        self.tick = 0.0  # seconds that pass between two looks at the clock
        self.stamp = 10**18

    def at(self, time, act, *arguments):
        self.plan.append((time, act, arguments))

    def write(self, name, content="a"):
        path = self.folder / name
        path.write_text(content)
        self.stamp += 10**9  # the time of a file does not follow from ours
        os.utime(path, ns=(self.stamp, self.stamp))

    def remove(self, name):
        (self.folder / name).unlink()

    def label(self, path, target):
        """What is not all there cannot be read."""
        content = path.read_text()
        self.pass_by(self.cost)
        if "?" in content:
            raise InvalidScan(f"{path}: cut off")
        target.mkdir(exist_ok=True)
        self.labelled.append((path.name, content))
        return content

    def pass_by(self, seconds):
        self.now += seconds
        while self.plan and self.plan[0][0] <= self.now:
            _, act, arguments = self.plan.pop(0)
            act(*arguments)

    def sleep(self, seconds):
        if self.now >= self.end:
            raise Over
        self.pass_by(seconds)

    def clock(self):
        self.now += self.tick
        return self.now

    def watch(self, until, *, made_with=MADE_WITH, **options):
        """Watch until some time; returns [(time, kind, name)], and keeps the events."""
        self.end = until
        self.events, told = [], []
        self.pass_by(0.0)
        try:
            memory = Memory(self.out, made_with)
            for event in watch(self.folder, self.label, memory, clock=self.clock, sleep=self.sleep, **options):
                self.events.append(event)
                told.append((self.now, type(event), event.path.name))
        except Over:
            pass
        return told


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_file_that_lands_is_mapped_once_it_has_settled(world):
    world.at(3, world.write, "a.h5")
    assert world.watch(60) == [(3, NewFile, "a.h5"), (5, Mapped, "a.h5")]
    assert world.labelled == [("a.h5", "a")]
    mapped = world.events[-1]
    assert (mapped.folder, mapped.result, mapped.growing) == (world.out / "a", "a", False)


def test_a_file_that_is_still_being_copied_is_not_a_failure(world):
    for second in range(6):
        world.at(second, world.write, "a.h5", "a" * second + "?")
    world.at(6, world.write, "a.h5", "aaaaaaa")
    assert world.watch(60) == [(0, NewFile, "a.h5"), (8, Mapped, "a.h5")]
    assert world.labelled == [("a.h5", "aaaaaaa")]


def test_a_copy_that_pauses_for_longer_than_it_takes_to_settle_is_mapped_when_it_is_through(world):
    world.at(0, world.write, "a.h5", "aa?")
    world.at(10, world.write, "a.h5", "aaaa")
    kinds = [(NewFile, 0), (Failed, 2), (NewFile, 10), (Mapped, 12)]
    assert world.watch(60) == [(time, kind, "a.h5") for kind, time in kinds]


def test_a_change_while_a_file_is_being_read_is_no_failure_and_is_not_missed(world):
    world.cost = 3
    world.at(0, world.write, "a.h5", "aa?")
    world.at(4, world.write, "a.h5", "aab")  # it is read from 2 to 5
    world.at(9, world.write, "a.h5", "aabc")  # and from 8 to 11
    kinds = [(0, NewFile), (11, Mapped), (12, NewFile), (17, Mapped)]
    assert world.watch(60) == [(time, kind, "a.h5") for time, kind in kinds]
    assert world.labelled == [("a.h5", "aab"), ("a.h5", "aabc")]
    assert [event.growing for event in world.events if isinstance(event, Mapped)] == [True, False]


def test_a_scan_that_grows_without_pause_is_mapped_now_and_then(world):
    for second in range(100):
        world.at(second, world.write, "a.h5", "a" * (second + 1))
    world.watch(200, patience=30)
    assert [len(content) for _, content in world.labelled] == [31, 62, 93, 100]
    assert [event.growing for event in world.events if isinstance(event, Mapped)] == [True, True, True, False]


def test_mapping_a_growing_scan_takes_no_more_than_half_of_the_time(world):
    world.cost = 40
    for second in range(500):
        world.at(second, world.write, "a.h5", str(second))
    told = world.watch(490, patience=10)
    mapped = np.array([time for time, kind, _ in told if kind is Mapped])
    assert len(mapped) > 3
    assert np.diff(mapped).min() >= 80


def test_a_scan_that_was_mapped_and_grows_later_is_mapped_again_into_the_same_folder(world):
    world.at(0, world.write, "a.h5", "a")
    world.at(100, world.write, "a.h5", "ab")
    assert [(time, kind) for time, kind, _ in world.watch(200)] == [
        (0, NewFile),
        (2, Mapped),
        (100, NewFile),
        (102, Mapped),
    ]
    assert [event.changed for event in world.events if isinstance(event, NewFile)] == [False, True]
    assert {event.folder for event in world.events if isinstance(event, Mapped)} == {world.out / "a"}


def test_a_change_of_time_alone_is_a_change(world):
    world.at(0, world.write, "a.h5", "a")
    world.at(50, world.write, "a.h5", "b")
    world.watch(100)
    assert world.labelled == [("a.h5", "a"), ("a.h5", "b")]


def test_a_deleted_file_is_forgotten_without_a_word(world):
    world.at(0, world.write, "a.h5")
    world.at(1, world.remove, "a.h5")
    assert world.watch(60) == [(0, NewFile, "a.h5")]


def test_a_file_that_vanishes_while_it_is_read_is_no_failure(world):
    world.cost = 2
    world.at(0, world.write, "a.h5", "?")
    world.at(3, world.remove, "a.h5")
    assert world.watch(60) == [(0, NewFile, "a.h5")]


def test_a_restart_does_nothing_twice(world):
    world.at(0, world.write, "a.h5")
    world.watch(10)
    assert world.watch(100) == []
    assert len(world.labelled) == 1


def test_a_file_that_changed_while_nobody_watched_is_mapped_at_the_restart(world):
    world.at(0, world.write, "a.h5", "a")
    world.watch(10)
    world.write("a.h5", "ab")
    assert [kind for _, kind, _ in world.watch(100)] == [NewFile, Mapped]
    assert world.labelled[-1] == ("a.h5", "ab")


@pytest.mark.parametrize("other", [{"model": "cd"}, {"options": {"centre": (1, 3)}}])
def test_another_model_or_other_options_map_everything_again(world, other):
    world.at(0, world.write, "a.h5")
    world.watch(10)
    assert [kind for _, kind, _ in world.watch(100, made_with=MADE_WITH | other)] == [NewFile, Mapped]


def test_a_watch_that_is_killed_while_it_maps_does_so_again_and_finds_its_folder(world):
    def killed(path, target):
        target.mkdir()
        (target / "maps.h5").write_text("half")
        raise KeyboardInterrupt

    world.write("a.h5")
    whole, world.label = world.label, killed
    with pytest.raises(KeyboardInterrupt):
        world.watch(10)
    world.label = whole
    assert [kind for _, kind, _ in world.watch(100)] == [NewFile, Mapped]
    assert world.events[-1].folder == world.out / "a"


def test_a_bad_file_is_reported_once_and_tried_again_when_it_is_repaired(world):
    world.at(0, world.write, "a.h5", "?")
    world.at(50, world.write, "a.h5", "a")
    told = world.watch(100)
    assert told == [(0, NewFile, "a.h5"), (2, Failed, "a.h5"), (50, NewFile, "a.h5"), (52, Mapped, "a.h5")]
    assert world.events[1].message == f"{world.folder / 'a.h5'}: cut off"


def test_a_bad_file_keeps_no_other_from_being_mapped_whatever_it_raises(world):
    def fault(path, target):
        if path.name == "a.h5":
            raise IndexError("index 7 is out of bounds")
        return whole(path, target)

    whole, world.label = world.label, fault
    world.write("a.h5")
    world.write("b.h5")
    assert world.watch(60)[2:] == [(2, Failed, "a.h5"), (2, Mapped, "b.h5")]
    assert world.events[2].message == f"{world.folder / 'a.h5'}: IndexError: index 7 is out of bounds"


def test_two_files_at_once_are_mapped_in_the_order_in_which_they_were_written(world):
    world.at(5, world.write, "b.h5")
    world.at(5, world.write, "a.h5")
    assert world.watch(60) == [
        (5, NewFile, "b.h5"),
        (5, NewFile, "a.h5"),
        (7, Mapped, "b.h5"),
        (7, Mapped, "a.h5"),
    ]


def test_a_file_that_may_not_be_opened_is_reported_once_and_mapped_when_it_may(world, monkeypatch):
    class Locked:
        now = True

    opened = Path.open

    def locked(path, *arguments, **options):
        if Locked.now and path.name == "a.h5":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", locked)
    world.at(0, world.write, "b.h5")
    (world.folder / "a.h5").touch()
    world.at(20, setattr, Locked, "now", False)
    told = [(time, kind) for time, kind, name in world.watch(60) if name == "a.h5"]
    assert told == [(0, NewFile), (2, Failed), (20, Mapped)]
    (failed,) = (event for event in world.events if isinstance(event, Failed))
    assert failed.message == f"{world.folder / 'a.h5'}: cannot be opened: Permission denied"


def test_only_files_whose_names_fit_are_taken(world):
    for name in ("a.h5", "b.csv", "c.txt", ".1.part.d.h5"):
        world.write(name)
    (world.folder / "folder.h5").mkdir()
    world.watch(10, patterns=("*.h5", "*.csv"))
    assert sorted(name for name, _ in world.labelled) == ["a.h5", "b.csv"]


def test_files_of_one_stem_and_folders_of_others_get_folders_of_their_own(world):
    (world.out / "b").mkdir(parents=True)
    for name in ("a.h5", "a.csv", "b.h5"):
        world.write(name)
    world.watch(10, patterns=("*",))
    folders = {event.path.name: event.folder.name for event in world.events if isinstance(event, Mapped)}
    assert folders == {"a.h5": "a", "a.csv": "a.csv", "b.h5": "b.h5"}


def test_once_maps_what_is_there_and_returns(world):
    world.write("a.h5")
    world.at(1, world.write, "b.h5")
    world.at(2, world.write, "b.h5", "bb")
    assert world.watch(1000, once=True) == [(0, NewFile, "a.h5"), (1, NewFile, "b.h5"), (2, Mapped, "a.h5")]
    assert world.watch(1000, once=True)[-1][1:] == (Mapped, "b.h5")
    before = world.now
    assert world.watch(1000, once=True) == []
    assert world.now == before


def test_once_waits_until_the_files_of_the_first_look_have_settled_however_slow_the_machine(world):
    world.tick = 0.9
    world.write("a.h5")
    assert [kind for _, kind, _ in world.watch(1000, once=True)] == [NewFile, Mapped]


def test_a_drive_that_goes_away_is_waited_for(world):
    away = world.folder.with_name("away")
    world.write("a.h5")
    world.at(10, world.folder.rename, away)
    world.at(20, away.rename, world.folder)
    world.at(21, world.write, "b.h5")
    told = world.watch(60)
    assert told == [
        (0, NewFile, "a.h5"),
        (2, Mapped, "a.h5"),
        (10, Failed, "data"),
        (21, NewFile, "b.h5"),
        (23, Mapped, "b.h5"),
    ]
    assert world.events[2].message == f"{world.folder}: cannot be read: No such file or directory: waiting for it"


def test_a_folder_that_was_never_there_is_an_error(world):
    world.folder.rmdir()
    with pytest.raises(InvalidScan, match="data: cannot be read: No such file"):
        world.watch(10)


@pytest.mark.parametrize(
    "content", ["no json", '{"schema": 9, "files": {}}', '{"schema": 1, "files": {"a": {}}}', "[]"]
)
def test_a_foreign_memory_is_refused_and_kept(world, content):
    world.out.mkdir()
    (world.out / "watch.json").write_text(content)
    with pytest.raises(GpuediffError, match=r"watch\.json: not the memory of a watch"):
        world.watch(10)
    assert (world.out / "watch.json").read_text() == content


# The same with real files, a real clock and the command that a person calls.


def write_scan(path, rows):
    """Write rows of a scan, or add them to those that are there, as a detector does."""
    with h5py.File(path, "a") as file:
        name = "4DSTEM/braggpeaks/data"
        data = file.get(name)
        if data is None:
            kind = h5py.vlen_dtype(PEAK)
            data = file.create_dataset(name, (0, 3), maxshape=(None, 3), dtype=kind)
            file.create_dataset("padding", data=np.zeros(10_000))
        first = data.shape[0]
        data.resize(first + rows, axis=0)
        for row in range(first, first + rows):
            for column in range(3):
                peaks = np.zeros(6, PEAK)
                peaks["qx"], peaks["qy"], peaks["intensity"] = pattern(2, 0.5)
                data[row, column] = peaks


def map_without_pictures(scan, hierarchy, out, screen, **options):
    maps = map_scan(scan, hierarchy, **options)
    out.mkdir(exist_ok=True)
    write_maps(maps, out / "maps.h5")
    return maps, find_particles(scan, maps, hierarchy), [out / "maps.h5"]


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Call the command on a folder, with a hierarchy that reads its answers out of the patterns."""
    monkeypatch.setattr(command, "load_bundle", lambda model: FakeHierarchy())
    monkeypatch.setattr(command, "model_checksum", lambda model: "ab")
    monkeypatch.setattr(command, "map_and_show", map_without_pictures)
    folder = tmp_path / "data"
    folder.mkdir()

    def call(**options):
        options = {
            "settle": 0.02,
            "interval": 0.01,
            "once": True,
            "reading": {"pixel_size": 1.0, "centre": (0, 0)},
        } | options
        watch_and_show(Path("model"), folder, Screen(as_json=True), out=tmp_path / "maps", **options)

    call.folder, call.out = folder, tmp_path / "maps"
    return call


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_real_scans_are_mapped_as_they_land_grow_break_and_are_repaired(watched, capsys):
    write_scan(watched.folder / "a.h5", 3)
    write_scan(watched.folder / "b.h5", 2)
    watched()
    events = lines(capsys)
    assert [(one["event"], Path(one["file"]).name) for one in events] == [
        ("new", "a.h5"),
        ("new", "b.h5"),
        ("mapped", "a.h5"),
        ("mapped", "b.h5"),
    ]
    assert events[2]["shape"] == [3, 3]
    assert (events[2]["labelled"], events[2]["systems"], events[2]["particles"]) == (9, {"cubic": 1.0}, 1)
    assert (watched.out / "a" / "maps.h5").exists()

    write_scan(watched.folder / "a.h5", 4)
    whole = (watched.folder / "b.h5").read_bytes()
    (watched.folder / "b.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(typer.Exit) as ended:
        watched()
    assert ended.value.exit_code == 1
    events = lines(capsys)
    assert {(one["event"], Path(one["file"]).name) for one in events[2:]} == {("mapped", "a.h5"), ("failed", "b.h5")}
    (mapped,) = (one for one in events if one["event"] == "mapped")
    (failed,) = (one for one in events if one["event"] == "failed")
    assert mapped["shape"] == [7, 3]
    assert "b.h5: cannot be read, perhaps cut off while copying" in failed["message"]

    (watched.folder / "b.h5").write_bytes(whole)
    watched()
    assert [one["event"] for one in lines(capsys)] == ["changed", "mapped"]
    watched()
    assert lines(capsys) == []


@pytest.mark.slow
def test_a_watch_writes_what_the_command_scan_writes(watched, monkeypatch):
    monkeypatch.setattr(command, "map_and_show", map_and_show)
    write_scan(watched.folder / "a.h5", 2)
    watched()
    assert {path.suffix for path in (watched.out / "a").iterdir()} >= {".h5", ".png", ".parquet"}


def test_ctrl_c_ends_with_a_summary_and_code_130(watched, capsys, monkeypatch):
    write_scan(watched.folder / "a.h5", 2)
    (watched.folder / "b.h5").write_text("no scan")
    looks = []

    def pressed(path, **options):
        looks.append(path)
        if len(looks) > 2:
            raise KeyboardInterrupt
        return read_scan(path, **options)

    monkeypatch.setattr(command, "read_scan", pressed)
    write_scan(watched.folder / "c.h5", 2)
    with pytest.raises(typer.Exit) as ended:
        watched(once=False)
    assert ended.value.exit_code == 130
    told = capsys.readouterr().err
    assert "interrupted: 1 file mapped, 1 failed (b.h5), 1 not finished; the same command goes on" in told


def test_two_watches_do_not_write_to_one_folder(watched):
    watched.out.mkdir()
    with exclusive(watched.out / "watch.json"), pytest.raises(GpuediffError, match="maps: another watch writes to it"):
        watched()
