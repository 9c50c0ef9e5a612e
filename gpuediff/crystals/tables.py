"""Tables of structures: one row a material, with its CIF text in the column `cif`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpuediff.errors import InvalidStructureSource

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def read_table(path: Path) -> Iterator[tuple[str, str]]:
    """Read material id and CIF text of every row; other columns are not read.

    Parameters
    ----------
    path : Path
        A table in CSV (plain or gzip) or Parquet with a column `cif`, and `material_id` if there is one. Without it a
        material is called by its row, counted from 0 and padded with zeros: "row-00042". The tables of MP-20 and
        similar benchmarks are of this kind.

    Yields
    ------
    material_id, text : str
        In the order of the table; the text is empty where the table has none.

    Raises
    ------
    InvalidStructureSource
        If there is no such file, its kind is unknown, it is damaged or empty, or has no column `cif`.
    """
    if not path.is_file():
        raise InvalidStructureSource(f"{path}: there is no such table: check structures.path")
    if not path.name.lower().endswith(TABLE_SUFFIXES):
        raise InvalidStructureSource(f"{path}: expected a table in one of {', '.join(TABLE_SUFFIXES)}")
    try:
        columns = _columns(path)
        if "cif" not in columns:
            raise InvalidStructureSource(
                f"{path}: no column 'cif' among {', '.join(columns) or '(none)'}: "
                "give the table a column 'cif' that holds the CIF text of each structure"
            )
        wanted = ["material_id", "cif"] if "material_id" in columns else ["cif"]
        content = _read(path, wanted)
    except (OSError, EOFError, ValueError) as error:  # of these families are all that pandas, pyarrow and gzip raise
        raise InvalidStructureSource(f"{path}: the table cannot be read: {error}") from error
    texts = content["cif"]
    if not texts:
        raise InvalidStructureSource(f"{path}: the table has no rows")
    width = len(str(len(texts) - 1))
    names = content.get("material_id") or [f"row-{row:0{width}d}" for row in range(len(texts))]
    return zip(names, texts, strict=True)


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _columns(path: Path) -> list[str]:
    if _is_parquet(path):
        import pyarrow.parquet

        return list(pyarrow.parquet.read_schema(path).names)
    import pandas

    return [str(name) for name in pandas.read_csv(path, nrows=0).columns]


def _read(path: Path, columns: list[str]) -> dict[str, list[str]]:
    if _is_parquet(path):
        import pyarrow.parquet

        content = pyarrow.parquet.read_table(path, columns=columns).to_pydict()
        return {name: ["" if value is None else str(value) for value in content[name]] for name in columns}
    import pandas

    frame = pandas.read_csv(path, usecols=columns, dtype=str, keep_default_na=False)
    return {name: frame[name].tolist() for name in columns}
