"""Building a pattern library: simulate every crystal, in shards that survive a crash, then join the shards.

While a build is under way, `<path>.parts/` holds the shards, a journal and, at last, the library itself, which gets
its name when it is complete. A build that was killed, at whatever moment, resumes after its last complete shard and
ends with the same bytes as one that was not.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpuediff.arrays import CPU, Device
from gpuediff.durable import exclusive, lock_of, publish, sha256_of_file
from gpuediff.errors import GpuediffError, InvalidLibrary, InvalidPeaks
from gpuediff.library.identity import crystals_checksum, differences, identity, software_versions
from gpuediff.library.journal import Journal, ShardRecord, is_of
from gpuediff.library.reader import Library
from gpuediff.library.schema import MATERIALS, SKIPPED, THICKNESSES, create_file, write_column, write_head
from gpuediff.library.shards import Piece, expected_cost, merge_shards, plan_shards, write_shard
from gpuediff.progress import Track, Workload, silent
from gpuediff.settings import MEMORY, Run, Simulation

if TYPE_CHECKING:
    from gpuediff.crystals.crystal import Crystal
    from gpuediff.crystals.sources import Skipped
    from gpuediff.diffraction.simulate import SimulatedPatterns

Outcome = Literal["built", "resumed", "existed"]

CRYSTALS_AHEAD = 256  # handed to an executor before the first is waited for; bounds what waits in memory


def build_library(
    path: str | Path,
    run: Run,
    crystals: Sequence[Crystal],
    skipped: Sequence[Skipped] = (),
    *,
    executor: Executor | None = None,
    device: Device = CPU,
    memory: int = MEMORY,
    track: Track = silent,
) -> Outcome:
    """Simulate crystals and write their patterns to a library.

    Parameters
    ----------
    path : str or Path
        The library's file; its folder is made if it is not there.
    run : Run
        `run.simulation` says how; the whole run is kept in the file.
    crystals : sequence of Crystal
        Every material once. One that cannot be simulated is skipped, with the reason.
    skipped : sequence of Skipped
        Structures that were left out before; kept in the file.
    executor : Executor, optional
        Whose workers simulate, a crystal at a time: a process pool, or `get_executor()` of a Dask client. This
        process does it if absent. The bytes are the same where the workers' software is.
    device : Device
        Where this process simulates; on a GPU, the crystals of a shard together.
    memory : int
        Bytes that a simulation on the CPU may take.
    track : Track

    Returns
    -------
    "built", "resumed" or "existed"
        Whether all was simulated now, or a part by an earlier build, or all of it: a library of these crystals,
        structure settings and simulation settings is already there, and left as it is.

    Raises
    ------
    InvalidLibrary
        If something else is at `path` or in `<path>.parts`, another process is building `path`, a material comes
        twice, or no crystal could be simulated.
    """
    path = Path(path)
    _check_crystals(path, crystals)
    made_from = identity(run, crystals_checksum(crystals, skipped))
    parts = Path(f"{path}.parts")
    if path.exists() and not parts.exists() and not lock_of(path).exists():
        # Nothing to remove either, so that this works where nobody may write.
        _check_existing(path, made_from)
        return "existed"
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path):
        if path.exists():
            _check_existing(path, made_from)
            if is_of(parts, made_from) or (parts.exists() and not any(parts.iterdir())):
                _remove(parts)  # a build was killed while it did so itself
            return "existed"
        journal = Journal(parts, made_from, software_versions(device))
        resumed = bool(journal.records)
        plan = plan_shards(crystals, run.simulation)
        simulator = _Simulator(run.simulation, executor, device, memory)
        _complete_shards(parts, journal, plan, simulator, crystals, track)
        records = [journal.records[shard] for shard in range(len(plan))]
        failed = {index: reason for record in records for index, reason in record.failed.items()}
        if len(failed) == len(crystals):
            _remove(parts)
            raise InvalidLibrary(
                f"{path}: none of {len(crystals)} crystals could be simulated; the first, "
                f"{crystals[0].material_id}: {failed[0]}"
            )
        merged = parts / "library.h5"
        _merge(merged, run, crystals, skipped, records, failed, software_versions(device), track)
        publish(merged, path)
        _remove(parts)
    return "resumed" if resumed else "built"


@dataclass(frozen=True)
class _Simulator:
    """By whom and how crystals are simulated."""

    settings: Simulation
    executor: Executor | None
    device: Device
    memory: int

    def outcomes(
        self, work: Sequence[tuple[int, Piece]], crystals: Sequence[Crystal]
    ) -> Iterator[tuple[int, Piece, SimulatedPatterns | str]]:
        """Yield shard, piece, and its patterns or the reason why there are none, in the order of the work."""
        if self.executor is not None:
            yield from self._by_workers(self.executor, work, crystals)
        elif self.device.kind == "gpu":
            yield from self._on_gpu(work, crystals)
        else:
            for shard, piece in work:
                yield shard, piece, self.patterns_or_reason(crystals[piece.crystal], piece)

    def patterns_or_reason(self, crystal: Crystal, piece: Piece) -> SimulatedPatterns | str:
        """Simulate a piece of a crystal on the CPU."""
        try:
            orientations = slice(piece.start, piece.stop)
            return _checked(simulate_crystal(crystal, self.settings, orientations, memory=self.memory))
        except GpuediffError as error:
            return str(error)

    def _by_workers(
        self, executor: Executor, work: Sequence[tuple[int, Piece]], crystals: Sequence[Crystal]
    ) -> Iterator[tuple[int, Piece, SimulatedPatterns | str]]:
        alone = replace(self, executor=None, device=CPU)  # what travels to the workers
        waiting: deque = deque()
        for shard, piece in work:
            future = executor.submit(alone.patterns_or_reason, crystals[piece.crystal], piece)
            waiting.append((shard, piece, future))
            if len(waiting) == CRYSTALS_AHEAD:
                shard, piece, future = waiting.popleft()
                yield shard, piece, future.result()
        for shard, piece, future in waiting:
            yield shard, piece, future.result()

    def _on_gpu(
        self, work: Sequence[tuple[int, Piece]], crystals: Sequence[Crystal]
    ) -> Iterator[tuple[int, Piece, SimulatedPatterns | str]]:
        from gpuediff.diffraction.gpu_simulation import simulate_crystals
        from gpuediff.diffraction.orientations import orientations_for

        for shard, entries in itertools.groupby(work, key=lambda entry: entry[0]):
            pieces = [piece for _, piece in entries]
            batch = []
            for piece in pieces:
                crystal = crystals[piece.crystal]
                orientations = orientations_for(crystal, self.settings.orientations)
                batch.append((crystal, orientations[piece.start : piece.stop]))
            for piece, outcome in zip(pieces, simulate_crystals(batch, self.settings, self.device), strict=True):
                try:
                    yield shard, piece, str(outcome) if isinstance(outcome, Exception) else _checked(outcome)
                except InvalidPeaks as error:
                    yield shard, piece, str(error)


def simulate_crystal(
    crystal: Crystal, settings: Simulation, orientations: slice = slice(None), *, memory: int = MEMORY
) -> SimulatedPatterns:
    """Simulate the orientations of a crystal, all or some.

    Raises
    ------
    GpuediffError
        If the crystal cannot be simulated.
    """
    from gpuediff.diffraction.orientations import orientations_for
    from gpuediff.diffraction.simulate import simulate

    return simulate(crystal, orientations_for(crystal, settings.orientations)[orientations], settings, memory=memory)


def _check_crystals(path: Path, crystals: Sequence[Crystal]) -> None:
    if not crystals:
        raise InvalidLibrary(f"{path}: no crystals to build a library from: see what the structure source skipped")
    name, times = Counter(crystal.material_id for crystal in crystals).most_common(1)[0]
    if times > 1:
        raise InvalidLibrary(f"{path}: material {name!r} comes {times} times: material ids must be unique")


def _check_existing(path: Path, made_from: dict) -> None:
    try:
        with Library(path) as library:
            other = differences(library.identity, made_from)
    except InvalidLibrary as error:
        raise InvalidLibrary(f"{error}. To build this name, remove it first, or choose another name") from error
    if other:
        raise InvalidLibrary(
            f"{path}: already there, made from another configuration ({'; '.join(other)}): "
            f"remove it, or choose another name"
        )


def _shard_path(parts: Path, shard: int) -> Path:
    return parts / f"shard-{shard:05d}.h5"


def _complete_shards(
    parts: Path,
    journal: Journal,
    plan: Sequence[Sequence[Piece]],
    simulator: _Simulator,
    crystals: Sequence[Crystal],
    track: Track,
) -> None:
    """Simulate the crystals of all shards that are not on the disk as the journal says."""
    for record in track(list(journal.records.values()), "checking finished shards"):
        path = _shard_path(parts, record.shard)
        if not path.exists() or sha256_of_file(path) != record.sha256:
            del journal.records[record.shard]
    work = [(shard, piece) for shard in range(len(plan)) if shard not in journal.records for piece in plan[shard]]
    done: list[tuple[int, SimulatedPatterns]] = []
    failed: dict[int, str] = {}
    outcomes = Workload(
        simulator.outcomes(work, crystals),
        sizes=[piece.stop - piece.start for _, piece in work],
        costs=[expected_cost(piece, crystals[piece.crystal], simulator.settings) for _, piece in work],
        unit="patterns",
    )
    for shard, piece, outcome in track(outcomes, "simulating crystals"):
        if isinstance(outcome, str):
            failed[piece.crystal] = outcome
        else:
            done.append((piece.crystal, outcome))
        if piece == plan[shard][-1]:
            temporary, path = parts / "shard.tmp", _shard_path(parts, shard)
            patterns, peaks = write_shard(temporary, done, len(simulator.settings.thicknesses))
            checksum = sha256_of_file(temporary)
            publish(temporary, path)
            journal.add(ShardRecord(shard, checksum, patterns, peaks, failed))
            done, failed = [], {}


def _checked(patterns: SimulatedPatterns) -> SimulatedPatterns:
    """Let no value into a library that no pattern can have: training would only notice it much later."""
    if not (np.isfinite(patterns.qx).all() and np.isfinite(patterns.qy).all()):
        raise InvalidPeaks("the simulation gave a peak position that is not finite")
    if not (patterns.intensity >= 0).all() or np.isinf(patterns.intensity).any():
        raise InvalidPeaks("the simulation gave an intensity that is negative or not finite")
    return patterns


def _merge(
    merged: Path,
    run: Run,
    crystals: Sequence[Crystal],
    skipped: Sequence[Skipped],
    records: Sequence[ShardRecord],
    failed: dict[int, str],
    versions: dict[str, str],
    track: Track,
) -> None:
    kept = np.array([index not in failed for index in range(len(crystals))])
    materials = [crystal for crystal, keep in zip(crystals, kept, strict=True) if keep]
    left_out = {
        "material_id": [entry.material_id for entry in skipped] + [crystals[index].material_id for index in failed],
        "reason": [entry.reason for entry in skipped] + list(failed.values()),
    }
    with create_file(merged) as file:
        kept_run = run.without_folders().model_dump_json()
        write_head(file, kept_run, crystals_checksum(crystals, skipped), versions)
        write_column(file, THICKNESSES, np.array(run.simulation.thicknesses))
        for column in MATERIALS:
            write_column(file, column, [getattr(crystal, column.field) for crystal in materials])
        for column in SKIPPED:
            write_column(file, column, left_out[column.field])
        shards = [(_shard_path(merged.parent, record.shard), record) for record in records]
        merge_shards(shards, file, kept, len(run.simulation.thicknesses), track=track)


def _remove(parts: Path) -> None:
    """Remove what a build leaves, and nothing else; the journal last, so that the folder stays known as ours."""
    for pattern in ("shard-*.h5", "shard.tmp", "library.h5", "journal.tmp", "journal.jsonl"):
        for file in parts.glob(pattern):
            file.unlink()
    if not any(parts.iterdir()):
        parts.rmdir()
