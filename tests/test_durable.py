"""A file is complete or absent, and one process at a time builds it."""

import fcntl

import pytest

from gpuediff.durable import complete_or_absent, exclusive, lock_of
from gpuediff.errors import InvalidLibrary


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "answers.csv.gz"
    path.write_text("old")

    def write(temporary):
        assert temporary.parent == tmp_path
        assert temporary.suffixes[-2:] == [".csv", ".gz"]  # by which pandas and matplotlib know what to write
        temporary.write_text("new")
        assert path.read_text() == "old"

    complete_or_absent(path, write)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", ["old", None])
def test_a_write_that_fails_leaves_what_was_there_and_no_rubbish(tmp_path, before):
    path = tmp_path / "answers.csv"
    if before is not None:
        path.write_text(before)

    def write(temporary):
        temporary.write_text("half of")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        complete_or_absent(path, write)
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_lock_file_that_its_last_holder_removed_in_between_locks_nobody_out_and_nobody_in(tmp_path, monkeypatch):
    path = tmp_path / "library.h5"
    flock = fcntl.flock

    def flock_just_after_the_holder_left(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        lock_of(path).unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_just_after_the_holder_left)
    with exclusive(path), pytest.raises(InvalidLibrary, match="another process"), exclusive(path):
        pass
    assert not lock_of(path).exists()
