"""Files that are complete or absent, whatever happens: written beside, synchronised, renamed; and a lock."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuediff.errors import InvalidLibrary


def complete_or_absent(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that its name never stands for a part of the content, and a failure leaves what was there.

    Parameters
    ----------
    path : Path
        A file of that name is replaced.
    write : callable
        Writes everything to the path that it is given: beside `path`, with the same suffixes.
    """
    temporary = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        write(temporary)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, so that the name never stands for a part of the content."""
    synchronise(temporary)
    os.replace(temporary, path)
    synchronise(path.parent)


def synchronise(path: Path) -> None:
    """Wait until the content of a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock_of(path: Path) -> Path:
    """Return the file by which `exclusive` locks `path`."""
    return path.with_name(path.name + ".lock")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the right to build `path`; the kernel gives it back if the process is killed.

    Raises
    ------
    InvalidLibrary
        If another process holds it.
    """
    lock = lock_of(path)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InvalidLibrary(
                f"{path}: another process is building this library: wait for it, or choose another name"
            ) from error
        if _is_open_as(lock, descriptor):
            break
        os.close(descriptor)  # the last holder removed the file between our open and our lock
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _is_open_as(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
