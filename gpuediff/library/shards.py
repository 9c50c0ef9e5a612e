"""Shards: pieces of a library that are small enough for memory, each made and kept on its own.

How crystals are divided into shards depends on the crystals and the settings alone, never on the machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from gpuediff.errors import InvalidLibrary
from gpuediff.library.journal import ShardRecord
from gpuediff.library.schema import (
    CHUNK_PEAKS,
    INTENSITY,
    PATTERNS,
    POSITIONS,
    Axis,
    Column,
    compressed_chunks,
    create_column,
    create_file,
    padded,
    write_column,
)
from gpuediff.peaks import offsets_of
from gpuediff.progress import Track
from gpuediff.settings import Simulation

if TYPE_CHECKING:
    from gpuediff.crystals.crystal import Crystal
    from gpuediff.diffraction.simulate import SimulatedPatterns

SHARD_BYTES = 128 * 2**20  # of expected peaks, uncompressed: what a build holds in memory
SHARD_CRYSTALS = 32  # at most, or as many pieces of crystals; a killed build loses the work of one shard


@dataclass(frozen=True)
class Piece:
    """Some orientations of a crystal, or all of them: what is simulated at a time.

    Parameters
    ----------
    crystal : int
        Its index.
    start, stop : int
        Its orientations `start:stop`.
    """

    crystal: int
    start: int
    stop: int


def plan_shards(crystals: Sequence[Crystal], settings: Simulation) -> list[list[Piece]]:
    """Divide crystals into shards, and the orientations of a crystal too where they alone would fill a shard.

    Returns
    -------
    list of list of Piece
        The pieces of every shard, in the order of crystals and orientations; a shard has at least one.
    """
    bytes_per_peak = 4 * (len(POSITIONS) + len(settings.thicknesses))
    count = settings.orientations.count
    plan: list[list[Piece]] = [[]]
    size = 0.0
    for index, crystal in enumerate(crystals):
        bytes_per_pattern = bytes_per_peak * expected_peaks(crystal, settings)
        together = min(count, max(1, int(SHARD_BYTES / bytes_per_pattern)))
        for start in range(0, count, together):
            stop = min(count, start + together)
            expected = bytes_per_pattern * (stop - start)
            if plan[-1] and (size + expected > SHARD_BYTES or len(plan[-1]) == SHARD_CRYSTALS):
                plan.append([])
                size = 0.0
            plan[-1].append(Piece(index, start, stop))
            size += expected
    return plan if plan[-1] else []


def expected_peaks(crystal: Crystal, settings: Simulation) -> float:
    """Estimate the peaks of a pattern: reciprocal lattice points within g_max and the excitation error.

    They lie in a shell around the Ewald sphere, of volume π g_max² · 2 s_max, at a density of one to 1/V.
    """
    return math.pi * settings.g_max**2 * 2 * settings.excitation_error_max * crystal.volume


def expected_cost(piece: Piece, crystal: Crystal, settings: Simulation) -> float:
    """Forecast how long a piece takes to simulate, in a unit of its own.

    Crystals of 60 to 1000 Å³ took a time that went as the number of beams to the power 1.4.
    """
    return (piece.stop - piece.start) * expected_peaks(crystal, settings) ** 1.4


def write_shard(path: Path, patterns: Sequence[tuple[int, SimulatedPatterns]], thicknesses: int) -> tuple[int, int]:
    """Write the patterns of some crystals.

    Parameters
    ----------
    path : Path
    patterns : sequence of (index of the crystal, patterns of it)
    thicknesses : int
        How many thicknesses the patterns have; needed where there are no patterns.

    Returns
    -------
    patterns, peaks : int
        How many were written; peaks with the places that fill up the last chunk.
    """
    counts = _joined([np.diff(simulated.offsets) for _, simulated in patterns], np.int64, (0,))
    orientation = _joined([simulated.orientation for _, simulated in patterns], np.float64, (0, 3, 3))
    values = {
        "material": np.repeat(
            np.array([index for index, _ in patterns], dtype=np.int64),
            [len(simulated.orientation) for _, simulated in patterns],
        ),
        "orientation": orientation,
        "zone_axis": orientation[:, 2],  # e_z of the rows e_x, e_y, e_z
        "first_peak": offsets_of(counts)[:-1],
        "peak_count": counts,
    }
    sizes: dict[Axis, int] = {"thickness": thicknesses, "peak": padded(int(counts.sum()))}
    with create_file(path) as file:
        for column in PATTERNS:
            write_column(file, column, values[column.field])
        rows: list[tuple[Column, tuple[int, ...]]] = [(column, ()) for column in POSITIONS]
        rows += [(INTENSITY, (row,)) for row in range(thicknesses)]
        columns = {column.name: create_column(file, column, sizes) for column in (*POSITIONS, INTENSITY)}

        def compressed_row(where: tuple[Column, tuple[int, ...]]) -> list[bytes]:
            column, row = where
            flat = [getattr(simulated, column.field)[row] for _, simulated in patterns]
            return compressed_chunks(_joined(flat, np.float32, (0,), length=sizes["peak"]))

        # Compression takes longer than all else here, and zlib leaves the interpreter to others.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for (column, row), chunks in zip(rows, pool.map(compressed_row, rows), strict=True):
                for index, chunk in enumerate(chunks):
                    columns[column.name].id.write_direct_chunk((*row, index * CHUNK_PEAKS), chunk)
    return len(counts), sizes["peak"]


def merge_shards(
    shards: Sequence[tuple[Path, ShardRecord]], file: h5py.File, kept: np.ndarray, thicknesses: int, *, track: Track
) -> None:
    """Join shards in a new file, a chunk at a time and without decompressing the peaks.

    Parameters
    ----------
    shards : sequence of (path, record)
    file : h5py.File
        Open for writing; gets the columns of patterns and peaks.
    kept : array, shape (crystals,), bool
        Which crystals were simulated: they are the materials of the library, in this order.
    thicknesses : int
    track : Track

    Raises
    ------
    InvalidLibrary
        If a crystal is not kept, and there are patterns of it.
    """
    sizes: dict[Axis, int] = {
        "thickness": thicknesses,
        "pattern": sum(record.patterns for _, record in shards),
        "peak": sum(record.peaks for _, record in shards),
    }
    columns = {column.name: create_column(file, column, sizes) for column in (*PATTERNS, *POSITIONS, INTENSITY)}
    material_of_crystal = np.cumsum(kept) - 1
    pattern, place = 0, 0
    for path, record in track(shards, "joining shards"):
        with h5py.File(path, "r") as shard:
            rows = slice(pattern, pattern + record.patterns)
            for column in PATTERNS:
                values = shard[column.name][...]
                if column.field == "material":
                    if not kept[values].all():
                        raise InvalidLibrary(
                            f"{path}: a crystal could be simulated in some orientations, and not in all"
                        )
                    values = material_of_crystal[values]
                elif column.field == "first_peak":
                    values = values + place
                if record.patterns:
                    columns[column.name][rows] = values
            for column in (*POSITIONS, INTENSITY):
                _append_chunks(shard[column.name], columns[column.name], place)
        pattern, place = rows.stop, place + record.peaks


def _append_chunks(source: h5py.Dataset, target: h5py.Dataset, place: int) -> None:
    """Move compressed chunks along the last axis; sources are padded to whole chunks for this."""
    for row in np.ndindex(source.shape[:-1]):
        for start in range(0, source.shape[-1], CHUNK_PEAKS):
            mask, chunk = source.id.read_direct_chunk((*row, start))
            target.id.write_direct_chunk((*row, place + start), chunk, mask)


def _joined(pieces: Sequence[np.ndarray], dtype: type, empty: tuple[int, ...], length: int | None = None) -> np.ndarray:
    """Concatenate, also nothing at all, and fill up with zeros to `length`."""
    joined: np.ndarray = np.concatenate([np.empty(empty, dtype), *pieces]).astype(dtype, copy=False)
    if length is None or length == len(joined):
        return joined
    return np.concatenate([joined, np.zeros(length - len(joined), dtype)])
