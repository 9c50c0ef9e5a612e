"""Read a scan from a table with one row a peak: CSV (also gzipped) or Parquet, batch by batch.

Columns `row`, `column` (of the probe position, from 0), `qx`, `qy` (Å⁻¹ around the direct beam), `intensity`; the rows
may come in any order. A position without rows is an empty pattern. What a table cannot hold in its rows stands in the
file's metadata under the same names (Parquet), or in lines before the head (CSV): `# shape: 80, 58` and
`# step_size: 25` (Å).
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.readers.reading import Asked, Extent, refuse_implausible
from gpuediff.scans.readers.spool import allocate
from gpuediff.scans.scan import Scan

COLUMNS = ("row", "column", "qx", "qy", "intensity")
ALIASES = {"Rx": "row", "Ry": "column", "scan_y": "row", "scan_x": "column"}
SIDE_MAX = 1_000_000  # probe positions along an axis, and
POSITIONS_MAX = 20_000_000  # in all: an index beyond is a mistake, and would cost the memory of all those before it
ROWS_PER_BATCH = 262_144
_BYTES_PER_BATCH = 4 << 20  # PyArrow reads some 30 of them ahead

#: Batches of a table as arrays by name, where only the columns of the first argument are needed.
Batches = Callable[[tuple[str, ...]], Iterator[dict[str, np.ndarray]]]


def read_csv(path: Path, asked: Asked) -> Scan:
    """Read a scan from a .csv or .csv.gz table.

    Raises
    ------
    InvalidScan
        If PyArrow is missing, a column is missing, or a value is not possible; names row and column.
    OSError, EOFError, zlib.error
        If the file is damaged.
    """
    _require_pyarrow(path)
    skipped, stated = _lines_before_head(path)

    def open_table() -> Any:
        from pyarrow import csv

        return csv.open_csv(
            path,
            csv.ReadOptions(block_size=_BYTES_PER_BATCH, skip_rows=skipped),
            convert_options=csv.ConvertOptions(
                # None of these is to be guessed from the first rows; columns that are not there are no error here.
                column_types=dict.fromkeys(("row", "column", *ALIASES), "int64")
                | dict.fromkeys(("qx", "qy", "intensity"), "float64"),
                null_values=[""],
            ),
        )

    with _explained(path), open_table() as table:
        names = _match_columns(path, table.schema.names)

    def batches(wanted: tuple[str, ...]) -> Iterator[dict[str, np.ndarray]]:
        with _explained(path), open_table() as table:
            first = 0
            for batch in table:
                yield _arrays(path, batch, names, wanted, first)
                first += batch.num_rows

    return _read(path, batches, stated, asked)


def read_parquet(path: Path, asked: Asked) -> Scan:
    """Read a scan from a .parquet table.

    Raises
    ------
    InvalidScan
        As `read_csv`; and if the file is damaged.
    """
    _require_pyarrow(path)
    from pyarrow import parquet

    with _explained(path), parquet.ParquetFile(path) as file:
        names = _match_columns(path, file.schema_arrow.names)
        metadata = file.schema_arrow.metadata or {}
        stated = {key: metadata[key.encode()].decode() for key in ("shape", "step_size") if key.encode() in metadata}

    def batches(wanted: tuple[str, ...]) -> Iterator[dict[str, np.ndarray]]:
        with _explained(path), parquet.ParquetFile(path) as file:
            first = 0
            columns = [names[name] for name in wanted]
            for group in range(file.num_row_groups):  # one iterator over all keeps what it has read
                for batch in file.iter_batches(ROWS_PER_BATCH, row_groups=[group], columns=columns):
                    yield _arrays(path, batch, names, wanted, first)
                    first += batch.num_rows

    return _read(path, batches, stated, asked)


class _explained:
    """Turn what PyArrow raises into an error that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import pyarrow as pa

        if isinstance(error, (pa.ArrowException, UnicodeDecodeError)) and not isinstance(error, MemoryError):
            raise InvalidScan(f"{self.path}: cannot be read as a table: {error}") from error


def _require_pyarrow(path: Path) -> None:
    try:
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise InvalidScan(f"{path}: tables need PyArrow; with NumPy 1.26: pip install 'pyarrow<25'") from error


def _lines_before_head(path: Path) -> tuple[int, dict[str, str]]:
    """Count the lines that begin with #, and take `name: value` from them."""
    stated: dict[str, str] = {}
    with _opened(path) as file:
        for number, line in enumerate(file):
            if not line.removeprefix(b"\xef\xbb\xbf").startswith(b"#"):
                return number, stated
            name, _, value = line.decode("utf-8-sig", errors="replace").lstrip("# \t").partition(":")
            if name.strip() in ("shape", "step_size"):
                stated[name.strip()] = value.strip()
    raise InvalidScan(f"{path}: no head: expected the columns {', '.join(COLUMNS)}")


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")  # type: ignore[return-value]


def _match_columns(path: Path, found: list[str]) -> dict[str, str]:
    """Find the name in the file of every column."""
    names: dict[str, str] = {}
    for name in found:
        column = ALIASES.get(name, name)
        if column in names:
            raise InvalidScan(f"{path}: columns {names[column]} and {name} both say {column}: leave out one of them")
        if column in COLUMNS:
            names[column] = name
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        patterns = (
            "; a table of patterns that are not of a scan is read by `gpuediff predict`" if "pattern" in found else ""
        )
        raise InvalidScan(
            f"{path}: no column {', '.join(missing)} (found: {', '.join(found) or 'none'}); "
            f"the table of a scan has {', '.join(COLUMNS)}{patterns}"
        )
    return names


def _arrays(
    path: Path, batch: Any, names: Mapping[str, str], wanted: tuple[str, ...], first: int
) -> dict[str, np.ndarray]:
    import pyarrow.types as types

    arrays = {}
    for name in wanted:
        column = batch.column(batch.schema.get_field_index(names[name]))
        integer = name in ("row", "column")
        fits = types.is_integer(column.type) or (not integer and types.is_floating(column.type))
        if not fits:
            what = "integers" if integer else "real numbers"
            raise InvalidScan(f"{path}: column {names[name]} is {column.type}: expected {what}")
        if column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise InvalidScan(f"{path}: row {row + 1}: {names[name]} is empty: expected a number")
        values = column.to_numpy(zero_copy_only=False)
        arrays[name] = values.astype(np.int64) if integer else values
    return arrays


def _read(path: Path, batches: Batches, stated: Mapping[str, str], asked: Asked) -> Scan:
    """Go through the table twice: once to count the peaks of every position, once to put them there."""
    if asked.dataset is not None:
        raise InvalidScan(f"{path}: a table holds one set of peaks: leave out --dataset {asked.dataset}")
    step = _stated_step(path, stated)
    shape, counts, note = _count(path, batches, _stated_shape(path, stated), asked)
    calibration = asked.over(Calibration(shape))
    peaks, extent = _fill(batches, shape, counts, calibration, asked)
    refuse_implausible(str(path), extent, asked)
    return Scan(peaks, shape, str(path), asked.describe(calibration), note, step)


def _stated_shape(path: Path, stated: Mapping[str, str]) -> tuple[int, int] | None:
    if "shape" not in stated:
        return None
    try:
        rows, columns = (int(part) for part in stated["shape"].strip("()[]").split(","))
    except ValueError as error:
        raise InvalidScan(f"{path}: shape = {stated['shape']!r}: expected two integers, ny and nx") from error
    if not (0 < rows <= SIDE_MAX and 0 < columns <= SIDE_MAX and rows * columns <= POSITIONS_MAX):
        raise InvalidScan(
            f"{path}: shape = {stated['shape']}: expected ny and nx > 0, {POSITIONS_MAX:,} in all at most"
        )
    return rows, columns


def _stated_step(path: Path, stated: Mapping[str, str]) -> float | None:
    if "step_size" not in stated:
        return None
    try:
        step = float(stated["step_size"])
    except ValueError:
        step = np.nan
    if not (np.isfinite(step) and step > 0):
        raise InvalidScan(f"{path}: step_size = {stated['step_size']!r}: expected a number > 0, Å")
    return step


def _count(
    path: Path, batches: Batches, shape: tuple[int, int] | None, asked: Asked
) -> tuple[tuple[int, int], np.ndarray, str]:
    """Count the peaks of every probe position; return the shape, the counts, and what to note."""
    limit = shape or (SIDE_MAX, SIDE_MAX)
    places: dict[int, np.ndarray] = {}  # peaks along the columns of every row seen
    largest = (-1, -1)
    first = 0
    for batch in asked.track(batches(("row", "column")), "counting peaks"):
        for name, side in zip(("row", "column"), limit, strict=True):
            wrong = np.flatnonzero((batch[name] < 0) | (batch[name] >= side))
            if len(wrong):
                raise InvalidScan(
                    f"{path}: row {first + int(wrong[0]) + 1}: {name} = {batch[name][wrong[0]]}: "
                    f"expected 0 .. {side - 1}"
                )
        first += len(batch["row"])
        largest = (
            int(batch["row"].max(initial=largest[0])),
            int(batch["column"].max(initial=largest[1])),
        )
        if (largest[0] + 1) * (largest[1] + 1) > POSITIONS_MAX:
            raise InvalidScan(
                f"{path}: rows up to {largest[0]} and columns up to {largest[1]}: "
                f"a scan has {POSITIONS_MAX:,} probe positions at most: number them from 0"
            )
        for row, columns in _by_row(batch["row"], batch["column"]):
            counted = np.bincount(columns, minlength=largest[1] + 1)
            before = places.get(row, np.zeros(0, np.int64))
            counted[: len(before)] += before
            places[row] = counted
    if first == 0:
        raise InvalidScan(f"{path}: no peaks: the table has a head and no rows")
    note = ""
    if shape is None:
        shape = (largest[0] + 1, largest[1] + 1)
        note = f"the table states no shape: {shape[0]} x {shape[1]} taken from its largest row and column"
    counts = np.zeros(shape, np.int64)
    for row, total in places.items():
        counts[row, : len(total)] = total
    return shape, counts.reshape(-1), note


def _by_row(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    order = np.argsort(rows, kind="stable")
    rows, columns = rows[order], columns[order]
    bounds = np.flatnonzero(np.diff(rows, prepend=-1, append=-1))
    for start, end in pairwise(bounds):
        yield int(rows[start]), columns[start:end]


def _fill(
    batches: Batches, shape: tuple[int, int], counts: np.ndarray, calibration: Calibration, asked: Asked
) -> tuple[PeakBatch, Extent]:
    offsets = offsets_of(counts)
    flat = allocate(int(offsets[-1]))
    free = offsets[:-1].copy()  # where the next peak of every position goes
    extent = Extent(patterns=int(np.count_nonzero(counts)))
    for batch in asked.track(batches(COLUMNS), "reading peaks"):
        position = batch["row"].astype(np.int64) * shape[1] + batch["column"].astype(np.int64)
        order = np.argsort(position, kind="stable")  # peaks of one position stay in the order of the table
        position = position[order]
        starts = np.flatnonzero(np.diff(position, prepend=-1))
        here, count = position[starts], np.diff(starts, append=len(position))
        places = np.repeat(free[here] - starts, count) + np.arange(len(position))
        free[here] += count
        qx, qy, intensity = (batch[name][order].astype(np.float64) for name in ("qx", "qy", "intensity"))
        with np.errstate(invalid="ignore", over="ignore"):  # a peak that is not finite shows in its map
            columns = [column.astype(np.float32) for column in (*calibration.apply(qx, qy, position), intensity)]
        extent.add(columns[0], columns[1])
        for values, column in zip(flat, columns, strict=True):
            values[places] = column
    return PeakBatch(*flat, offsets), extent
