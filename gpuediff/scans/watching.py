"""Scans labelled as they land in a folder, and again as they grow.

The folder is looked into again and again, because a network drive sends no notice of what another machine writes to
it; and only a file's size and time are compared with what they were before, because that machine's clock may differ
from ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

from gpuediff.durable import complete_or_absent
from gpuediff.errors import GpuediffError, InvalidScan
from gpuediff.hierarchy.bundle import bundle_info

MEMORY = "watch.json"
SCHEMA = 1


@dataclass(frozen=True)
class Signature:
    """By what a file is known to have changed: its size in bytes, and when it was modified, nanoseconds."""

    size: int
    modified: int


@dataclass(frozen=True)
class NewFile:
    """A file that was not there before, or that changed after it was mapped or failed."""

    path: Path
    changed: bool


@dataclass(frozen=True)
class Mapped:
    """A file that was mapped.

    Parameters
    ----------
    path, folder : Path
        The file, and where its maps are.
    result : object
        What the labelling returned.
    seconds : float
        That it took.
    growing : bool
        The file was still changing: this will not be the last time.
    """

    path: Path
    folder: Path
    result: Any
    seconds: float
    growing: bool


@dataclass(frozen=True)
class Failed:
    """A file that could not be mapped, or a folder that cannot be reached; tried again when that changes."""

    path: Path
    message: str


Event: TypeAlias = NewFile | Mapped | Failed


class Memory:
    """What has been mapped, kept in a file of the output folder from one watch to the next.

    Parameters
    ----------
    folder : Path
        Output folder; made if it is not there. Every file gets a folder of its own in it.
    made_with : dict
        Model and options, as JSON values; what was mapped with others is not known.

    Raises
    ------
    GpuediffError
        If the file is there but is not such a memory.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        self.folder = folder
        self._file = folder / MEMORY
        self._made_with = json.loads(json.dumps(dict(made_with)))  # as it comes back from the file
        self._files: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._files = _read_memory(self._file)

    def holds(self, path: Path, signature: Signature) -> bool:
        """Tell whether the file was mapped as it is, by this model with these options."""
        return self._files.get(_key(path), {}).get("mapped") == self._record(signature)

    def knows(self, path: Path) -> bool:
        """Tell whether the file was mapped at all, be it in another state or by another model."""
        return bool(self._files.get(_key(path), {}).get("mapped"))

    def folder_of(self, path: Path) -> Path:
        """Return where the maps of a file go: always the same folder, and one that nothing else was written to."""
        key = _key(path)
        if key not in self._files:
            taken = {entry["folder"] for entry in self._files.values()}
            names = [path.stem, path.name, *(f"{path.name}-{number}" for number in range(2, len(taken) + 3))]
            free = [name for name in names if name not in taken and not os.path.lexists(self.folder / name)]
            if not free:
                raise GpuediffError(f"{self.folder / path.stem}: already exists: remove it, or choose another --out")
            # Written down before the maps are: a watch that is killed meanwhile finds its own folder again.
            self._files[key] = {"folder": free[0], "mapped": None}
            self._write()
        return self.folder / self._files[key]["folder"]

    def remember(self, path: Path, signature: Signature) -> None:
        """Write down that the file was mapped as it is."""
        self._files[_key(path)]["mapped"] = self._record(signature)
        self._write()

    def _record(self, signature: Signature) -> dict[str, Any]:
        return {"size": signature.size, "modified": signature.modified, **self._made_with}

    def _write(self) -> None:
        text = json.dumps({"schema": SCHEMA, "files": self._files}, indent=1, ensure_ascii=False) + "\n"
        complete_or_absent(self._file, lambda path: path.write_text(text, encoding="utf-8"))


def _key(path: Path) -> str:
    return os.path.abspath(path)


def _read_memory(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema = {content['schema']!r}, expected {SCHEMA}")
        files = {str(key): dict(entry) for key, entry in content["files"].items()}
        if not all(isinstance(entry["folder"], str) for entry in files.values()):
            raise ValueError("a folder is not a name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GpuediffError(
            f"{file}: not the memory of a watch ({error}): choose another --out, or remove the file: "
            f"then everything is mapped again"
        ) from error
    return files


def model_checksum(model: str | Path) -> str:
    """Return the sha256, in hex, of all that a bundle's manifest says but the metrics: they change no answer.

    Raises
    ------
    InvalidBundle
        If it is no whole bundle.
    """
    said = {name: value for name, value in bundle_info(model).items() if name != "metrics"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass
class _Watched:
    signature: Signature
    since: float  # seconds on our clock, when this signature was first seen
    due: float  # when it is mapped even if it goes on changing
    finished: bool  # with this signature: mapped, or reported
    complaint: str = ""


def watch(
    folder: Path,
    label: Callable[[Path, Path], Any],
    memory: Memory,
    *,
    patterns: Sequence[str] = ("*.h5",),
    settle: float = 2.0,
    interval: float = 1.0,
    patience: float = 30.0,
    once: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Event]:
    """Label files as they land in a folder; the files of one look the oldest first.

    Parameters
    ----------
    folder : Path
        Where files land. Folders in it, and files whose name begins with a dot, are left alone.
    label : callable
        Maps a file, the first argument, to a folder, the second. Whatever it raises is reported and the watch goes on.
    memory : Memory
        Of what has been mapped.
    patterns : sequence of str
        Which names, as in a shell; one of them must fit.
    settle : float
        Seconds for which a file must not have changed before it is taken.
    interval : float
        Seconds between two looks.
    patience : float
        Seconds after which a file that goes on changing, as a scan that grows row by row, is mapped as it is; and not
        sooner than after the time that it took before. What cannot be read while it changes is no failure.
    once : bool
        Return when what is there has been mapped; files that go on changing are left.
    clock, sleep : callable
        Seconds, not of the files' clock; and how to let them pass.

    Yields
    ------
    NewFile, Mapped or Failed

    Raises
    ------
    InvalidScan
        If the folder cannot be read at the first look; later ones wait until it can.
    """
    watched: dict[Path, _Watched] = {}
    first: float | None = None
    reachable = True
    while True:
        try:
            files = list_files(folder, patterns)
        except OSError as error:
            message = f"{folder}: cannot be read: {error.strerror or error}"
            if once or first is None:
                raise InvalidScan(f"{message}: name the folder in which scans land") from error
            if reachable:
                yield Failed(folder, f"{message}: waiting for it")
            reachable = False
            sleep(interval)
            continue
        reachable = True
        now = clock()
        first = now if first is None else first
        for path in watched.keys() - files.keys():
            del watched[path]
        for path, signature in files.items():
            seen = watched.get(path)
            if seen is None:
                seen = watched[path] = _Watched(signature, now, now + patience, memory.holds(path, signature))
                if not seen.finished:
                    yield NewFile(path, memory.knows(path))
            elif seen.signature != signature:
                if seen.finished:
                    seen.due = max(seen.due, now + patience)
                    yield NewFile(path, True)
                seen.signature, seen.since, seen.finished, seen.complaint = signature, now, False, ""
        for path in files:
            yield from _attempt(path, watched[path], now, label, memory, settle, patience, clock)
        if once and (now - first >= settle or all(seen.finished for seen in watched.values())):
            return
        sleep(interval)


def _attempt(
    path: Path,
    seen: _Watched,
    now: float,
    label: Callable[[Path, Path], Any],
    memory: Memory,
    settle: float,
    patience: float,
    clock: Callable[[], float],
) -> Iterator[Event]:
    """Map a file if it is time to; `now` is when its signature was read."""
    settled = now - seen.since >= settle
    if seen.finished or not (settled or now >= seen.due):
        return
    complaint = _why_closed(path)
    if complaint:
        if settled and complaint != seen.complaint:
            seen.complaint = complaint
            yield Failed(path, complaint)
        return
    started = clock()
    try:
        target = memory.folder_of(path)
        result = label(path, target)
    # A fault that nobody thought of, in one file of a night's many, must not keep the others from being mapped.
    except Exception as error:
        finished = clock()
        seen.due = finished + max(patience, finished - started)
        if settled and signature_of(path) == seen.signature:
            seen.finished = True
            known = isinstance(error, GpuediffError)
            yield Failed(path, str(error) if known else f"{path}: {type(error).__name__}: {error}")
        return
    finished = clock()
    memory.remember(path, seen.signature)
    seen.finished = True
    seen.due = 2 * finished - started
    yield Mapped(path, target, result, finished - started, growing=signature_of(path) != seen.signature or not settled)


def list_files(folder: Path, patterns: Sequence[str]) -> dict[Path, Signature]:
    """List the files of a folder that may be scans, the oldest first; what vanishes meanwhile is left out.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not any(fnmatch(entry.name, pattern) for pattern in patterns):
                continue
            signature = signature_of(Path(entry.path))
            if signature is not None:
                found.append((signature.modified, entry.name, signature))
    return {folder / name: signature for _, name, signature in sorted(found, key=lambda one: one[:2])}


def signature_of(path: Path) -> Signature | None:
    """Return by what a change of a file is known; None where there is no file of that name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Signature(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _why_closed(path: Path) -> str:
    """Say why a file cannot be opened; empty if it can."""
    try:
        with path.open("rb"):
            return ""
    except FileNotFoundError:
        return ""  # it will be gone at the next look
    except OSError as error:
        return f"{path}: cannot be opened: {error.strerror or error}"
