"""Tables of scattering factors on the disk, so that the next process need not make them again.

A file holds one table, a few 10 kB, under a name that is the checksum of all that decides its numbers: the question
(element, beam energy, displacement, form factors, scattering mode, limit), the parameters and formulas themselves, and
the arithmetic of this machine. What is read is checked before it is used. The folder is the environment variable
GPUEDIFF_CACHE (empty: nothing is kept on the disk), or gpuediff/ in XDG_CACHE_HOME, or ~/.cache/gpuediff. Where nothing
can be written, or there is no home, tables live in memory alone. Any file may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.special import expi

from gpuediff.diffraction.data.tables import SYMBOLS
from gpuediff.durable import complete_or_absent

FORMAT = 1
PARAMETERS = {"wk-cp": "weickenmeier_kohl_1991.csv", "lobato": "lobato_2014.csv"}
FORMULAS = (
    "electron.py",
    "factor_tables.py",
    "lobato.py",
    "py4dstem_factors.py",
    "scattering_factors.py",
    "thermal_absorption.py",
    "weickenmeier_kohl.py",
)

_log = logging.getLogger(__name__)


def folder() -> Path | None:
    """Return where tables are kept, whether or not it exists; None where nothing is to be kept."""
    own = os.environ.get("GPUEDIFF_CACHE")
    if own is not None:
        return Path(own) / "scattering-factors" if own else None
    try:
        users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home directory
        return None
    return users / "gpuediff" / "scattering-factors"


def read(question: dict[str, Any], points: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Look for a table.

    Parameters
    ----------
    question : dict
        What was asked for, of numbers and strings; "atomic_number" and "form_factors" are among it.
    points : int
        Coefficients of an interval.

    Returns
    -------
    edges, coefficients : arrays, shapes (n + 1,) and (n, points, 2), float64
        Bit by bit as they were written; None if the file is absent, or is not what it should be: then the log has
        a warning.
    """
    key = _key(question)
    path = _path(key)
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.debug("%s: cannot be read: %s", path, error)
        return None
    try:
        return _parsed(content, key, points)
    except ValueError as error:
        _log.warning("%s: %s: the table is made anew", path, error)
        return None


def write(question: dict[str, Any], edges: np.ndarray, coefficients: np.ndarray) -> None:
    """Keep a table; where that is impossible, it is left to the memory. Arguments and arrays as of `read`."""
    key = _key(question)
    path = _path(key)
    if path is None:
        return
    numbers = b"".join(array.astype("<f8", copy=False).tobytes() for array in (edges, coefficients))
    header = {"key": key, "intervals": len(coefficients), "sha256": hashlib.sha256(numbers).hexdigest()}
    content = json.dumps(header, sort_keys=True).encode() + b"\n" + numbers
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        complete_or_absent(path, lambda beside: beside.write_bytes(content))
    except OSError as error:
        _log.debug("%s: cannot be written, the table stays in memory: %s", path, error)


def _parsed(content: bytes, key: dict[str, Any], points: int) -> tuple[np.ndarray, np.ndarray]:
    line, separator, numbers = content.partition(b"\n")
    try:
        header = json.loads(line) if separator else None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError("not a table of scattering factors")
    if header.get("key") != key:
        raise ValueError("a table of something else")
    if hashlib.sha256(numbers).hexdigest() != header.get("sha256"):
        raise ValueError("does not match its sha256, damaged")
    intervals = header.get("intervals")
    if not isinstance(intervals, int) or len(numbers) != 8 * (intervals + 1 + 2 * points * intervals):
        raise ValueError("has not the length that it states")
    values = np.frombuffer(numbers, dtype="<f8").astype(np.float64)
    edges = values[: intervals + 1]
    if not (np.isfinite(values).all() and edges[0] == 0 and (np.diff(edges) > 0).all()):
        raise ValueError("has numbers that no table has")
    return edges, values[intervals + 1 :].reshape(intervals, points, 2)


def _key(question: dict[str, Any]) -> dict[str, Any]:
    return {
        **question,
        "format": FORMAT,
        "formulas": _checksum_of_formulas(question["form_factors"]),
        "arithmetic": _checksum_of_arithmetic(),
    }


def _path(key: dict[str, Any]) -> Path | None:
    where = folder()
    if where is None:
        return None
    checksum = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return where / f"{SYMBOLS[key['atomic_number'] - 1]}-{checksum[:32]}.table"


@lru_cache(maxsize=2)
def _checksum_of_formulas(form_factors: str) -> str:
    """Checksum of the parameters and of the code that makes a table of them."""
    here = resources.files(__package__)
    files = [*(here / name for name in FORMULAS), here / "data" / PARAMETERS[form_factors]]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


@lru_cache(maxsize=1)
def _checksum_of_arithmetic() -> str:
    """Checksum of the last bits of the functions that a factor is made of.

    They differ between versions of the libraries and between processors. Machines that share a home directory must
    not exchange tables if that changed a bit of a result.
    """
    x = np.geomspace(1e-6, 600, 501)
    bits = [function(x).tobytes() for function in (np.log, np.arcsinh, np.sqrt, np.cos, expi)]
    bits += [function(-x).tobytes() for function in (np.exp, np.expm1, expi)]
    versions = f"numpy {np.__version__} scipy {scipy.__version__}".encode()
    return hashlib.sha256(b"".join([versions, *bits])).hexdigest()
