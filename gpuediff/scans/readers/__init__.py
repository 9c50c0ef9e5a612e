"""Read the peak lists of a 4D-STEM scan, whatever program wrote them.

`read_scan` is the only entry point. It looks into the file, not at its name, for one of the known formats; what comes
back is calibrated, or an error says what is missing.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.progress import Track, silent
from gpuediff.scans.readers.arrays import read_npz
from gpuediff.scans.readers.hyperspy import is_hyperspy, read_hspy, read_zspy
from gpuediff.scans.readers.pets import looks_like_pets, read_pets
from gpuediff.scans.readers.py4dstem import read_py4dstem
from gpuediff.scans.readers.reading import Asked
from gpuediff.scans.readers.tables import read_csv, read_parquet
from gpuediff.scans.scan import Scan

READABLE = (
    "py4DSTEM files (.h5: BraggVectors or PointListArray), pyxem DiffractionVectors (.hspy, .zspy), "
    "tables (.csv, .parquet: row, column, qx, qy, intensity), NumPy archives (.npz: qx, qy, intensity, offsets, shape) "
    "and PETS peak lists (.pts with .rpl)"
)
_HEAD = 4096  # bytes that tell the format
_DAMAGE: tuple[type[Exception], ...] = (OSError, RuntimeError, KeyError, EOFError, zlib.error, zipfile.BadZipFile)
#: What h5py raises depends on where in the file it meets the damage: in a name, a type, a chunk.
_HDF5_DAMAGE: tuple[type[Exception], ...] = (*_DAMAGE, TypeError, ValueError)


def read_scan(
    path: str | Path,
    *,
    dataset: str | None = None,
    pixel_size: float | None = None,
    centre: tuple[float, float] | None = None,
    track: Track = silent,
) -> Scan:
    """Read and calibrate a scan.

    Parameters
    ----------
    path : str or Path
        File with detected Bragg peaks: of py4DSTEM, pyxem (.hspy, .zspy) or PETS, a table, or a NumPy archive.
    dataset : str, optional
        Which peaks, by name or by path in the file; needed where a file holds several.
    pixel_size : float, optional
        Å⁻¹ per pixel, instead of that of the file; 1 says that the stored positions are Å⁻¹.
    centre : tuple of float, optional
        Direct beam (qx0, qy0) in the unit of the stored positions, instead of that of the file.
    track : Track, optional
        Shows progress over blocks.

    Returns
    -------
    Scan
        Peaks float32 in Å⁻¹; many of them are mapped from temporary files. Empty probe positions stay empty; values
        that are not finite stay as they are.

    Raises
    ------
    InvalidScan
        If the file is missing, damaged or of an unknown format, holds several sets of peaks, is not calibrated, or
        needs a package that is not there; names the file, what was found, and what to do.
    """
    path = Path(path)
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InvalidScan(f"{path}: pixel size = {pixel_size}: must be > 0 Å⁻¹ per pixel")
    if centre is not None and (np.shape(centre) != (2,) or not np.isfinite(centre).all()):
        raise InvalidScan(f"{path}: centre = {centre}: expected two finite numbers, qx0 and qy0 in pixels")
    asked = Asked(dataset, pixel_size, centre, track)
    damage = _HDF5_DAMAGE if h5py.is_hdf5(path) else _DAMAGE
    try:
        return _reader(path)(path, asked)
    except FileNotFoundError as error:
        raise InvalidScan(f"{path}: no such file") from error
    except damage as error:
        raise InvalidScan(f"{path}: cannot be read, perhaps cut off while copying: {error}") from error


def _reader(path: Path) -> Callable[[Path, Asked], Scan]:
    if path.is_dir():
        if (path / ".zgroup").is_file() or (path / "zarr.json").is_file():
            return read_zspy
        raise InvalidScan(f"{path}: a folder: expected a file, or a .zspy folder; read are {READABLE}")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise InvalidScan(f"{path}: the file is empty")
    if h5py.is_hdf5(path) or head.startswith(b"\x89HDF\r\n\x1a\n"):
        return read_hspy if is_hyperspy(path) else read_py4dstem
    if head.startswith(b"PAR1"):
        return read_parquet
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with zipfile.ZipFile(path) as archive:
            return read_zspy if ".zgroup" in archive.namelist() else read_npz
    if head.startswith(b"\x1f\x8b"):
        with gzip.open(path) as file:
            head = file.read(_HEAD)
    text = _text(head)
    if text is None:
        raise InvalidScan(f"{path}: not a known format: read are {READABLE}")
    if looks_like_pets(text):
        return read_pets
    if "," in text.lstrip("# \t").split("\n", 1)[0] or text.startswith("#"):
        return read_csv
    raise InvalidScan(f"{path}: not a known format (it begins with {text[:40]!r}): read are {READABLE}")


def _text(head: bytes) -> str | None:
    """Decode the head of a text file; None where it is binary."""
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return None
    # The last character may be cut; names of files in a project of PETS may be in any encoding.
    return head.decode("utf-8-sig", errors="replace")
