"""The journal of a build: what its shards belong to, and which of them are complete.

One JSON object a line. The first says what is being built; each further line is written, and synchronised, after
the shard it speaks of has reached the disk. A line torn by a crash is dropped, and its shard made again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpuediff.durable import publish, synchronise
from gpuediff.errors import InvalidLibrary
from gpuediff.library.identity import differences


@dataclass(frozen=True)
class ShardRecord:
    """A complete shard.

    Parameters
    ----------
    shard : int
        Its number.
    sha256 : str
        Of the shard's file, hex.
    patterns, peaks : int
        How many it holds; peaks with the places that fill up the last chunk.
    failed : dict of int to str
        Index of every crystal that could not be simulated, and the reason.
    """

    shard: int
    sha256: str
    patterns: int
    peaks: int
    failed: dict[int, str] = field(default_factory=dict)


class Journal:
    """The journal in a folder of shards.

    Parameters
    ----------
    folder : Path
        The folder of the shards; made if it is not there.
    identity : dict
        What is being built (`identity.identity`).
    versions : dict of str to str
        The software that builds.

    Raises
    ------
    InvalidLibrary
        If the folder holds the shards of something else, or was not made by a build.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], versions: dict[str, str]) -> None:
        self.path = folder / "journal.jsonl"
        self.records: dict[int, ShardRecord] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self._start({"identity": identity, "versions": versions})
            return
        try:
            first, *lines = self._complete_lines()
            found, found_versions = first["identity"], first["versions"]
            for line in lines:
                failed = {int(index): reason for index, reason in line.pop("failed").items()}
                self.records[line["shard"]] = ShardRecord(**line, failed=failed)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidLibrary(f"{self.path}: damaged: remove the folder {folder} to start afresh") from error
        self._check(folder, differences(found, identity), differences(found_versions, versions))

    def add(self, record: ShardRecord) -> None:
        """Note that a shard is complete, its file already on the disk."""
        with self.path.open("ab") as file:
            file.write(_line(asdict(record)))
            file.flush()
            os.fsync(file.fileno())
        self.records[record.shard] = record

    def _start(self, header: dict[str, Any]) -> None:
        temporary = self.path.with_suffix(".tmp")
        foreign = sorted(entry.name for entry in self.path.parent.iterdir() if entry != temporary)
        if foreign:
            raise InvalidLibrary(
                f"{self.path.parent}: holds {foreign[0]!r} but no journal of a build: move the folder away, "
                f"or choose another name for the library"
            )
        temporary.write_bytes(_line(header))
        publish(temporary, self.path)
        synchronise(self.path.parent.parent)

    def _complete_lines(self) -> list[dict[str, Any]]:
        """Read all whole lines and cut off what follows them, so that the next line starts afresh."""
        lines, length = [], 0
        with self.path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines.append(json.loads(line))
                length += len(line)
            file.truncate(length)
        return lines

    @staticmethod
    def _check(folder: Path, other: list[str], other_versions: list[str]) -> None:
        if other:
            raise InvalidLibrary(
                f"{folder}: holds the unfinished library of another configuration ({'; '.join(other)}): "
                f"go on with that configuration, remove the folder to start afresh, or choose another name"
            )
        if other_versions:
            raise InvalidLibrary(
                f"{folder}: holds an unfinished library made by other software ({'; '.join(other_versions)}), and one "
                f"library comes from one: install those versions again, or remove the folder to start afresh"
            )


def is_of(folder: Path, identity: dict[str, Any]) -> bool:
    """Say whether a folder holds a build's journal, and of this identity."""
    try:
        with (folder / "journal.jsonl").open("rb") as file:
            return json.loads(file.readline())["identity"] == identity
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
