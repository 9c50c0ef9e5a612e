"""Tables that go in and come out: peak lists, one row a peak, and predictions, one row a pattern."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS
from gpuediff.durable import complete_or_absent
from gpuediff.errors import GpuediffError, InvalidPeaks
from gpuediff.peaks import DIRECT_BEAM_RADIUS, Q_PLAUSIBLE, PeakBatch, offsets_of

if TYPE_CHECKING:
    import pandas as pd

    from gpuediff.hierarchy.flags import Flags
    from gpuediff.hierarchy.prediction import Prediction

PEAKS_MIN = 5  # as for scans in Gleason et al. 2024
COLUMNS = ("pattern", "qx", "qy", "intensity")
_NOT_FLOATS = ("pattern", "status", "crystal_system", "space_group_number")  # of predictions


def read_peak_table(path: str | Path) -> tuple[list[str], PeakBatch]:
    """Read a CSV (also .csv.gz) or Parquet table with the columns pattern, qx, qy, intensity.

    q is in Å⁻¹ from the direct beam, which is among the peaks. Rows of one pattern need not be neighbours.

    Returns
    -------
    names : list of str
        Each pattern's name, in order of first appearance.
    peaks : PeakBatch
        In the same order.

    Raises
    ------
    InvalidPeaks
        If the file cannot be read, a column is missing, there are no peaks, positions cannot be in Å⁻¹, or a value
        is not a number or not possible; names file and row, or pattern and peak.
    GpuediffError
        If the table is Parquet and PyArrow is missing or does not work with this NumPy.
    """
    import pandas as pd

    path = Path(path)
    if path.suffix == ".parquet":
        _require_pyarrow(path)
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"pattern": str})
    # pandas' and pyarrow's parser errors are ValueErrors; a .csv.gz that is cut short or damaged raises the last two.
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InvalidPeaks(f"{path}: cannot be read as a table: {error}") from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns)) or "none"
        raise InvalidPeaks(
            f"{path}: no column {', '.join(missing)} (found: {found}); a peak table has {', '.join(COLUMNS)}"
        )
    if table["pattern"].isna().any():
        row = int(np.flatnonzero(table["pattern"].isna())[0])
        raise InvalidPeaks(f"{path}: row {row + 1}: no pattern name")
    values = {}
    for name in COLUMNS[1:]:
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float32)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size:
            row = int(bad[0])
            raise InvalidPeaks(f"{path}: row {row + 1}: {name} = {table[name].iloc[row]}: expected a finite number")
        values[name] = numbers
    if len(table) == 0:
        raise InvalidPeaks(f"{path}: no peaks: the table has a head and no rows")
    farthest = float(np.hypot(values["qx"], values["qy"]).max())
    if farthest > Q_PLAUSIBLE:
        raise InvalidPeaks(
            f"{path}: the farthest peak is at |q| = {farthest:.4g}: positions must be in Å⁻¹ from the direct beam, "
            f"where electron diffraction ends below {Q_PLAUSIBLE:g}; they look like pixels or nm⁻¹"
        )
    index, names = pd.factorize(table["pattern"].astype(str))
    order = np.argsort(index, kind="stable")
    qx, qy, intensity = (values[name][order] for name in COLUMNS[1:])
    peaks = PeakBatch(qx, qy, intensity, offsets_of(np.bincount(index)))
    try:
        return list(names), peaks.validate()
    except InvalidPeaks as error:
        raise InvalidPeaks(f"{path}: {error}") from error


def doubts(peaks: PeakBatch) -> list[str]:
    """Say what makes answers to these patterns doubtful; empty if nothing does."""
    near = np.hypot(peaks.qx, peaks.qy) <= DIRECT_BEAM_RADIUS
    centred = np.bincount(peaks.pattern_of_peak[near], minlength=len(peaks)) > 0
    found = []
    if few := int((peaks.counts < PEAKS_MIN).sum()):
        found.append(f"{few:,} of {len(peaks):,} patterns have fewer than {PEAKS_MIN} peaks: their answers say little")
    if missing := int((~centred).sum()):
        found.append(f"{missing:,} of {len(peaks):,} patterns have no direct beam: brightness cannot be compared")
    return found


def prediction_records(
    names: Sequence[str], prediction: Prediction, decided: np.ndarray | None = None, flags: Flags | None = None
) -> list[dict[str, Any]]:
    """Return one flat record a pattern: name, answers, confidences, lattice (Å, degrees) with its interval.

    What is not known is None.

    Parameters
    ----------
    decided : array, shape (n,), bool, optional
        Which answers are given: the others have the status "undecided", and neither system, space group nor lattice.
        Without it there is no status.
    flags : Flags, optional
        Whether patterns are of several grains, or new; without it the records do not say.
    """
    records = []
    for row, name in enumerate(names):
        record: dict[str, Any] = {"pattern": name}
        given = decided is None or bool(decided[row])
        if decided is not None:
            record["status"] = "answered" if given else "undecided"
        record |= {
            "crystal_system": str(prediction.crystal_system[row]) if given else None,
            "probability": _number(prediction.system_probability[row]),
            "confidence": float(prediction.confidence[row]),
            "difference_confidence": float(prediction.difference_confidence[row]),
            "space_group_number": int(prediction.space_group_number[row]) if given else None,
            "space_group_confidence": float(prediction.space_group_confidence[row]) if given else None,
            "space_group_difference_confidence": (
                float(prediction.space_group_difference_confidence[row]) if given else None
            ),
        }
        for end, lattice in (
            ("", prediction.lattice),
            ("_low", prediction.lattice_low),
            ("_high", prediction.lattice_high),
        ):
            values = [_number(value) if given else None for value in lattice[row]]
            record |= {f"{name}{end}": value for name, value in zip(LATTICE_PARAMETERS, values, strict=True)}
        if flags is not None:
            record["several_grains"] = _number(flags.several_grains[row])
            record["novelty"] = _number(flags.novelty[row])
        record |= {
            f"votes_{system}": float(votes)
            for system, votes in zip(prediction.systems, prediction.system_votes[row], strict=True)
        }
        records.append(record)
    return records


def write_predictions(
    path: str | Path,
    names: Sequence[str],
    prediction: Prediction,
    decided: np.ndarray | None = None,
    flags: Flags | None = None,
) -> None:
    """Write `prediction_records` to a table, where what is not known is an empty cell; see `write_table`."""
    import pandas as pd

    check_table_path(path)
    table = pd.DataFrame.from_records(prediction_records(names, prediction, decided, flags))
    # Of one kind, whether or not a table has an empty cell, or nothing else.
    kinds = {"space_group_number": "Int32"} if decided is not None else {}
    kinds |= {name: "float64" for name in table if name not in (*_NOT_FLOATS, *kinds)}
    write_table(table.astype(kinds), path)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV or Parquet, by the suffix, complete or not at all.

    Raises
    ------
    GpuediffError
        If `check_table_path` refuses the path.
    """
    check_table_path(path)
    path = Path(path)

    def write(temporary: Path) -> None:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, engine="pyarrow", index=False)

    complete_or_absent(path, write)


def check_table_path(path: str | Path) -> None:
    """Make sure that `write_table` takes a path; to be asked before the work whose result goes there.

    Raises
    ------
    GpuediffError
        If the suffix is neither .csv nor .parquet, the folder does not exist, or Parquet is asked for and PyArrow is
        missing or does not work with this NumPy.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise GpuediffError(f"{path}: unknown kind of table: name it .csv or .parquet")
    if not path.parent.is_dir():
        raise GpuediffError(f"{path}: there is no folder {path.parent}: make it first, or choose another")
    if path.suffix == ".parquet":
        _require_pyarrow(path)


def _require_pyarrow(path: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise GpuediffError(f"{path}: Parquet needs PyArrow; with NumPy 1.26: pip install 'pyarrow<25'") from error


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
