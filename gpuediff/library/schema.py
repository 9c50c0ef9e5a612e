"""Layout of a pattern library on disk: HDF5, schema version 1.

n patterns of m materials at t thicknesses, with p places for peaks::

    /                              attributes: format, schema_version, configuration (JSON of `settings.Run`),
                                   crystals_checksum, versions (JSON: software that wrote the file)
    /thicknesses          (t,)     Å, rising
    /materials/...        (m,)     id, formula, labels, conventional cell, origin of the structure
    /skipped/...          (s,)     structures that are not in the library, and why
    /patterns/...         (n,)     material, orientation, and which peaks belong to the pattern
    /peaks/qx, qy         (p,)     Å⁻¹, once a pattern: a peak stays where it is at every thickness
    /peaks/intensity      (t, p)   fraction of the incident beam

Pattern i holds the peaks `first_peak[i] : first_peak[i] + peak_count[i]`, and patterns follow each other in file
order. Now and then places between two patterns belong to neither: every shard of a build ends on a chunk boundary,
so that shards are joined by moving compressed chunks, without a decompression.

Metadata is written in the checksummed structures of HDF5 1.10, peaks as zlib streams, which carry a checksum of their
own, all other arrays with one of HDF5's: damage is found when it is read. No timestamps: equal content gives equal
bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

FORMAT = "gpuediff pattern library"
SCHEMA_VERSION = 1
CHUNK_PEAKS = 32_768  # 128 KiB of float32: the least that is read for one pattern
CHUNK_ROWS = 4_096  # patterns or materials a chunk
COMPRESSION_LEVEL = 1  # zlib; level 9 saves another 1 % of the intensities, in three times the time

Axis = Literal["thickness", "material", "skipped", "pattern", "peak"]


@dataclass(frozen=True)
class Column:
    """One array of the file: its path, element type, axes and unit; `dtype` is "str" for text."""

    name: str
    dtype: str
    axes: tuple[Axis | int, ...]
    unit: str = ""

    @property
    def field(self) -> str:
        """Name of the array in its group."""
        return self.name.rpartition("/")[2]

    def shape(self, sizes: dict[Axis, int]) -> tuple[int, ...]:
        """Return the shape of the array for the given length of every axis."""
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in self.axes)


THICKNESSES = Column("thicknesses", "float64", ("thickness",), "Å")
MATERIALS = (
    Column("materials/material_id", "str", ("material",)),
    Column("materials/formula", "str", ("material",)),
    Column("materials/space_group_number", "int32", ("material",)),
    Column("materials/crystal_system", "str", ("material",)),
    Column("materials/conventional", "float64", ("material", 6), "a, b, c: Å; alpha, beta, gamma: degrees"),
    Column("materials/source", "str", ("material",)),
    Column("materials/checksum", "str", ("material",)),
)
SKIPPED = (
    Column("skipped/material_id", "str", ("skipped",)),
    Column("skipped/reason", "str", ("skipped",)),
)
PATTERNS = (
    Column("patterns/material", "int64", ("pattern",)),
    Column("patterns/zone_axis", "float64", ("pattern", 3)),
    Column("patterns/orientation", "float64", ("pattern", 3, 3)),
    Column("patterns/first_peak", "int64", ("pattern",)),
    Column("patterns/peak_count", "int64", ("pattern",)),
)
POSITIONS = (
    Column("peaks/qx", "float32", ("peak",), "Å⁻¹"),
    Column("peaks/qy", "float32", ("peak",), "Å⁻¹"),
)
INTENSITY = Column("peaks/intensity", "float32", ("thickness", "peak"), "fraction of the incident beam")
COLUMNS = (THICKNESSES, *MATERIALS, *SKIPPED, *PATTERNS, *POSITIONS, INTENSITY)


def padded(peaks: int) -> int:
    """Round a number of peaks up to whole chunks."""
    return -(-peaks // CHUNK_PEAKS) * CHUNK_PEAKS


def create_file(path: Path) -> h5py.File:
    """Open a new, empty file for writing, in place of one that may be there."""
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    return h5py.File(h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, creation, access))


def write_head(file: h5py.File, configuration: str, crystals_checksum: str, versions: dict[str, str]) -> None:
    """Write the root attributes."""
    write_text(file, "format", FORMAT)
    file.attrs["schema_version"] = SCHEMA_VERSION
    write_text(file, "configuration", configuration)
    write_text(file, "crystals_checksum", crystals_checksum)
    write_text(file, "versions", json.dumps(versions))


def write_text(owner: h5py.File | h5py.Dataset, name: str, text: str) -> None:
    """Write a text attribute, of fixed length: texts of variable length lie where HDF5 keeps no checksum."""
    encoded = text.encode()
    owner.attrs.create(name, np.array(encoded, dtype=h5py.string_dtype("utf-8", len(encoded))))


def read_text(owner: h5py.File | h5py.Dataset, name: str) -> str:
    """Read a text attribute; KeyError if it is not there."""
    value = owner.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def create_column(file: h5py.File, column: Column, sizes: dict[Axis, int]) -> h5py.Dataset:
    """Create an array of numbers, to be filled piece by piece."""
    return _create(file, column, column.shape(sizes), np.dtype(column.dtype))


def write_column(file: h5py.File, column: Column, values: np.ndarray | Sequence[Any]) -> None:
    """Create an array and fill it."""
    if column.dtype == "str":
        encoded = [str(value).encode() for value in values]
        length = max((len(value) for value in encoded), default=0)
        data = np.array(encoded, dtype=h5py.string_dtype("utf-8", max(length, 1)))
    else:
        data = np.asarray(values, dtype=column.dtype)
    dataset = _create(file, column, data.shape, data.dtype)
    if data.size:
        dataset[...] = data


def compressed_chunks(values: np.ndarray) -> list[bytes]:
    """Encode a row of whole chunks as the HDF5 filters of a column of peaks would (shuffle, then gzip).

    Parameters
    ----------
    values : array, shape (a multiple of CHUNK_PEAKS,), float32

    Returns
    -------
    list of bytes
        To be written with `write_direct_chunk`.
    """
    chunks = np.ascontiguousarray(values, dtype="<f4").view(np.uint8).reshape(-1, CHUNK_PEAKS, 4)
    return [zlib.compress(chunk.T.tobytes(), COMPRESSION_LEVEL) for chunk in chunks]


def _create(file: h5py.File, column: Column, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    group = column.name.rpartition("/")[0]
    if group and group not in file:
        # Through the low-level interface, because h5py before 3.16 stamps new groups with the time.
        creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        creation.set_obj_track_times(False)
        h5py.h5g.create(file.id, group.encode(), gcpl=creation)
    storage = {}
    if all(shape):  # HDF5 has no chunks in an empty array
        storage = {
            "chunks": _chunks(column, shape),
            "compression": "gzip",
            "compression_opts": COMPRESSION_LEVEL,
            "shuffle": True,
            # Chunks of peaks are always zlib streams; others HDF5 stores as they are where that is shorter, unchecked.
            "fletcher32": "peak" not in column.axes,
        }
    dataset = file.create_dataset(column.name, shape=shape, dtype=dtype, track_times=False, **storage)
    if column.unit:
        write_text(dataset, "unit", column.unit)
    return dataset


def _chunks(column: Column, shape: tuple[int, ...]) -> tuple[int, ...]:
    rows = {"thickness": 1 if "peak" in column.axes else shape[0], "peak": CHUNK_PEAKS}
    return tuple(
        length if isinstance(axis, int) else min(length, rows.get(axis, CHUNK_ROWS))
        for axis, length in zip(column.axes, shape, strict=True)
    )
