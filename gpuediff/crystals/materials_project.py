"""The Materials Project as a source: one query, kept as a table that every later run reads instead.

The snapshot makes a run reproducible (the database changes) and lets it go on without a network. It holds every
material that experiments have shown to exist; which of them are taken is for the settings of each run.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import warnings
from pathlib import Path
from typing import Any

from gpuediff.durable import complete_or_absent
from gpuediff.errors import InvalidStructureSource

SNAPSHOT_COLUMNS = ("material_id", "formula", "cif")


def save_snapshot(path: Path) -> None:
    """Ask the Materials Project for its experimentally known materials and write them to a table.

    Parameters
    ----------
    path : Path
        A `.csv.gz` file with the columns of `SNAPSHOT_COLUMNS`, sorted by material id; complete or absent. The same
        answer gives the same bytes.

    Raises
    ------
    InvalidStructureSource
        If the path has another suffix, the package mp-api or the key in the environment variable MP_API_KEY is
        missing, or the query fails.
    """
    if not path.name.endswith(".csv.gz"):
        raise InvalidStructureSource(f"{path}: structures.path of a Materials Project snapshot must end in .csv.gz")
    rows = sorted((str(document.material_id), document) for document in _query())
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(SNAPSHOT_COLUMNS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for material_id, document in rows:
            table.writerow((material_id, document.formula_pretty, document.structure.to(fmt="cif")))
    _write(path, gzip.compress(text.getvalue().encode(), mtime=0))


def _query() -> list[Any]:
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise InvalidStructureSource(
            "materials-project: the package mp-api is not installed: run pip install 'gpuediff[materials-project]'"
        ) from error
    key = os.environ.get("MP_API_KEY", "").strip()
    if not key:
        raise InvalidStructureSource(
            "materials-project: no key: get one at https://next-gen.materialsproject.org/api and set the environment "
            "variable MP_API_KEY to it, or set structures.path to a snapshot made before"
        )
    try:
        with MPRester(key) as client:
            found = client.materials.summary.search(
                theoretical=False, all_fields=False, fields=["material_id", "formula_pretty", "structure"]
            )
    except Exception as error:  # the client and the network fail in many ways, all of them the query's
        reason = str(error).replace(key, "<key>")  # a client may quote its request
        raise InvalidStructureSource(f"materials-project: the query failed: {reason}") from None
    if not found:
        raise InvalidStructureSource("materials-project: the query found nothing: try again later")
    return list(found)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        complete_or_absent(path, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        raise InvalidStructureSource(f"{path}: the snapshot cannot be written: {error}") from error
