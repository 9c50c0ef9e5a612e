"""Reading a pattern library: lazily, and with every fault of the file named."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from pydantic import ValidationError

from gpuediff.errors import InvalidLibrary
from gpuediff.library import schema
from gpuediff.library.identity import differences, identity
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.settings import CRYSTAL_SYSTEMS, Run

if TYPE_CHECKING:
    from gpuediff.crystals.sources import Skipped

SPAN_PEAKS = 64 * schema.CHUNK_PEAKS  # read at once, 8 MiB an array, where patterns do not follow each other


@dataclass(frozen=True)
class Materials:
    """The m materials of a library.

    Parameters
    ----------
    material_id, formula, crystal_system, source, checksum : array, shape (m,), str
        `source` and `checksum` say where the structure came from, and the sha256 of its text.
    space_group_number : array, shape (m,), int32
    conventional : array, shape (m, 6), float64
        a, b, c (Å), alpha, beta, gamma (degrees) of the conventional standard cell.
    """

    material_id: np.ndarray
    formula: np.ndarray
    space_group_number: np.ndarray
    crystal_system: np.ndarray
    conventional: np.ndarray
    source: np.ndarray
    checksum: np.ndarray

    def __len__(self) -> int:
        return len(self.material_id)


class Library:
    """A pattern library, opened for reading; a context manager.

    Opening checks the layout of the file; arrays are read when they are asked for.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    run : Run
        The run that the library was built by.
    thicknesses : array, shape (t,), float64
        Å, rising.
    versions : dict of str to str
        The software that built it.

    Raises
    ------
    InvalidLibrary
        If the file cannot be opened, is damaged, is something else, or was written by a newer gpuediff. Every
        method and property raises it where it meets damage.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self._open()
        try:
            with self._reading("root attributes"):
                self._check_format()
                self.run = self._configuration()
                self.versions: dict[str, str] = json.loads(schema.read_text(self._file, "versions"))
                self.crystals_checksum = schema.read_text(self._file, "crystals_checksum")
            self._check_columns()
            self.thicknesses = self._column("thicknesses")
            self._first = self._column("patterns/first_peak")
            self._counts = self._column("patterns/peak_count")
            self._check_peaks()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._counts)

    def close(self) -> None:
        """Close the file; what was read stays."""
        self._file.close()

    @property
    def identity(self) -> dict[str, Any]:
        """What decides about the patterns: structure settings, simulation settings, checksum of the crystals."""
        return identity(self.run, self.crystals_checksum)

    def differences(self, run: Run) -> list[str]:
        """Name every structure and simulation setting in which a run is not the one that made this library."""
        return differences(self.identity, identity(run, self.crystals_checksum))

    @cached_property
    def materials(self) -> Materials:
        """The materials, in the order that `material_of_pattern` counts in."""
        return Materials(**{name: self._column(f"materials/{name}") for name in Materials.__dataclass_fields__})

    @cached_property
    def skipped(self) -> list[Skipped]:
        """Structures that are not in the library, and why."""
        from gpuediff.crystals.sources import Skipped

        ids, reasons = self._column("skipped/material_id"), self._column("skipped/reason")
        return [Skipped(str(name), str(reason)) for name, reason in zip(ids, reasons, strict=True)]

    @cached_property
    def material_of_pattern(self) -> np.ndarray:
        """Index of every pattern's material, shape (n,), int64."""
        materials = self._column("patterns/material")
        if len(materials) and not 0 <= materials.min() <= materials.max() < self._sizes["material"]:
            raise self._damaged("patterns/material: not an index of a material")
        return materials

    @cached_property
    def zone_axis(self) -> np.ndarray:
        """Unit vector of every pattern's zone axis in the crystal's Cartesian frame, shape (n, 3), float64."""
        return self._column("patterns/zone_axis")

    @cached_property
    def orientation(self) -> np.ndarray:
        """Rotation of every pattern, q_lab = R @ g_crystal, shape (n, 3, 3), float64."""
        return self._column("patterns/orientation")

    @property
    def peak_counts(self) -> np.ndarray:
        """Number of peaks in every pattern, shape (n,), int64."""
        return self._counts

    def peaks(self, thickness: float, patterns: slice | np.ndarray | Sequence[int] | None = None) -> PeakBatch:
        """Read patterns at one thickness.

        Parameters
        ----------
        thickness : float
            Å, one of `thicknesses`.
        patterns : slice or array, optional
            Which patterns: a slice, indices in any order, or a mask of shape (n,); all by default. Neighbours are
            read together, so that slices and rising indices are fast.

        Returns
        -------
        PeakBatch
            float32, in the order asked for.

        Raises
        ------
        InvalidLibrary
            If the library does not hold this thickness.
        IndexError
            If the library does not hold a pattern.
        """
        row = self._thickness_index(thickness)
        chosen = self._pattern_indices(patterns)
        offsets = offsets_of(self._counts[chosen])
        values = np.empty((3, int(offsets[-1])), dtype=np.float32)
        with self._reading("peaks"):
            qx, qy, intensity = (self._file[f"peaks/{name}"] for name in ("qx", "qy", "intensity"))
            for low, high, target, source in self._spans(chosen, offsets):
                places = slice(low, high)
                for value, read in zip(values, (qx[places], qy[places], intensity[row, places]), strict=True):
                    value[target] = read[source]
        return PeakBatch(values[0], values[1], values[2], offsets)

    def info(self) -> dict[str, Any]:
        """Describe the library in JSON types: counts, thicknesses, size, configuration, versions."""
        systems = self.materials.crystal_system
        patterns = np.bincount(self.material_of_pattern, minlength=len(self.materials))
        present = [system for system in CRYSTAL_SYSTEMS if (systems == system).any()]
        return {
            "schema_version": schema.SCHEMA_VERSION,
            "bytes": self.path.stat().st_size,
            "materials": len(self.materials),
            "patterns": len(self),
            "peaks": int(self._counts.sum()),
            "materials_of_crystal_system": {system: int((systems == system).sum()) for system in present},
            "patterns_of_crystal_system": {system: int(patterns[systems == system].sum()) for system in present},
            "thicknesses": self.thicknesses.tolist(),
            "skipped": _counted([entry.reason for entry in self.skipped]),
            "configuration": self.run.model_dump(mode="json"),
            "crystals_checksum": self.crystals_checksum,
            "versions": self.versions,
        }

    def _thickness_index(self, thickness: float) -> int:
        for index, there in enumerate(self.thicknesses):
            if math.isclose(there, thickness, rel_tol=1e-6):
                return index
        names = [f"{there:g}" for there in self.thicknesses]
        if len(names) > 8:
            names = [*names[:4], "...", names[-1]]
        raise InvalidLibrary(
            f"{self.path}: no patterns at {thickness:g} Å: the thicknesses are {', '.join(names)} Å "
            f"({len(self.thicknesses)} in all)"
        )

    def _pattern_indices(self, patterns: slice | np.ndarray | Sequence[int] | None) -> np.ndarray:
        if patterns is None:
            patterns = slice(None)
        if isinstance(patterns, slice):
            return np.arange(*patterns.indices(len(self)))
        chosen = np.asarray(patterns)
        if chosen.size == 0 and chosen.dtype != bool:
            chosen = chosen.astype(np.int64)  # [] is an array of floats to NumPy
        return np.arange(len(self))[chosen]

    def _spans(
        self, chosen: np.ndarray, offsets: np.ndarray
    ) -> Iterator[tuple[int, int, slice | np.ndarray, slice | np.ndarray]]:
        """Yield (low, high, target, source): read the places low:high, and put those at `source` to `target`.

        Patterns less than a chunk apart share a span, up to a length of SPAN_PEAKS. Where they follow each other in
        the file as in the answer, `target` and `source` are slices, else index arrays.
        """
        order = np.argsort(self._first[chosen], kind="stable")
        order = order[self._counts[chosen[order]] > 0]
        first, counts = self._first[chosen[order]], self._counts[chosen[order]]
        targets, ends = offsets[order], first + counts
        apart = first[1:] - ends[:-1] > schema.CHUNK_PEAKS
        far = first[1:] // SPAN_PEAKS != first[:-1] // SPAN_PEAKS
        bounds = [0, *(np.flatnonzero(apart | far) + 1), len(order)] if len(order) else []
        for begin, end in pairwise(bounds):
            span = slice(begin, end)
            low, high = int(first[begin]), int(ends[end - 1])
            shift = targets[span] - first[span]
            if (shift == shift[0]).all() and counts[span].sum() == high - low:
                yield low, high, slice(low + shift[0], high + shift[0]), slice(None)
            else:
                yield low, high, _ranges(targets[span], counts[span]), _ranges(first[span] - low, counts[span])

    def _open(self) -> h5py.File:
        if not self.path.is_file():
            raise InvalidLibrary(f"{self.path}: no such file: make it with gpuediff simulate, or correct the name")
        try:
            return h5py.File(self.path, "r")
        except (OSError, RuntimeError) as error:
            if not h5py.is_hdf5(self.path):
                raise InvalidLibrary(f"{self.path}: not an HDF5 file, so not a pattern library") from error
            raise self._damaged(str(error)) from error

    def _check_format(self) -> None:
        if "format" not in self._file.attrs or schema.read_text(self._file, "format") != schema.FORMAT:
            raise InvalidLibrary(f"{self.path}: an HDF5 file, but not a pattern library: give one that gpuediff built")
        version = int(self._file.attrs["schema_version"])
        if version > schema.SCHEMA_VERSION:
            raise InvalidLibrary(
                f"{self.path}: schema version {version}, written by a newer gpuediff; this one reads up to "
                f"{schema.SCHEMA_VERSION}: install a newer gpuediff, or build the library again"
            )
        if version < 1:
            raise self._damaged(f"schema_version = {version}")

    def _configuration(self) -> Run:
        try:
            return Run.model_validate_json(schema.read_text(self._file, "configuration"))
        except ValidationError as error:
            fault = error.errors()[0]
            raise InvalidLibrary(
                f"{self.path}: configuration: {'.'.join(map(str, fault['loc']))}: {fault['msg']}: the library was "
                f"made by another version of gpuediff: use that version, or build the library again"
            ) from error

    def _check_columns(self) -> None:
        """Find out the length of every axis, and that every array is there, of its type and shape."""
        sizes: dict[schema.Axis, int] = {}
        for column in schema.COLUMNS:
            with self._reading(column.name):
                dataset = self._file.get(column.name)
                if not isinstance(dataset, h5py.Dataset):
                    raise self._damaged(f"{column.name} is missing")
                text = h5py.check_string_dtype(dataset.dtype) is not None
                if (column.dtype == "str") != text or not (text or dataset.dtype == np.dtype(column.dtype)):
                    raise self._damaged(f"{column.name}: type {dataset.dtype}, expected {column.dtype}")
                for axis, length in zip(column.axes, dataset.shape, strict=False):
                    if not isinstance(axis, int):
                        sizes.setdefault(axis, length)
                if dataset.shape != column.shape(sizes):
                    raise self._damaged(f"{column.name}: shape {dataset.shape}, expected {column.shape(sizes)}")
        self._sizes = sizes

    def _check_peaks(self) -> None:
        """Every pattern's peaks must lie in the file, behind those of the pattern before it."""
        ends = self._first + self._counts
        places = self._sizes["peak"]
        if (self._counts < 0).any() or (self._first < 0).any() or (ends > places).any():
            raise self._damaged(f"patterns/first_peak, patterns/peak_count: not among the {places} places for peaks")
        if (self._first[1:] < ends[:-1]).any():
            raise self._damaged("patterns/first_peak, patterns/peak_count: patterns overlap")

    def _column(self, name: str) -> np.ndarray:
        with self._reading(name):
            dataset = self._file[name]
            if h5py.check_string_dtype(dataset.dtype) is not None:
                return np.array(dataset.asstr()[...], dtype=str)
            return dataset[...]

    def _damaged(self, what: str) -> InvalidLibrary:
        return InvalidLibrary(f"{self.path}: damaged: {what}: restore the file from a copy, or build it again")

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn whatever h5py raises on a damaged file into one error that names the file."""
        if not self._file:
            raise InvalidLibrary(f"{self.path}: {what} cannot be read: the library is closed")
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise self._damaged(f"{what} cannot be read ({error})") from error


def _counted(reasons: Sequence[str]) -> dict[str, int]:
    """Count reasons, most common first, as one where they differ in their numbers alone; those are shown as "…"."""
    texts: dict[str, set[str]] = {}
    kinds = [re.sub(r"\d+(\.\d+)?", "…", reason) for reason in reasons]
    for kind, reason in zip(kinds, reasons, strict=True):
        texts.setdefault(kind, set()).add(reason)
    return {
        next(iter(texts[kind])) if len(texts[kind]) == 1 else kind: count
        for kind, count in Counter(kinds).most_common()
    }


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate start, start + 1, ..., start + count - 1 of every pair."""
    offsets = offsets_of(counts)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
