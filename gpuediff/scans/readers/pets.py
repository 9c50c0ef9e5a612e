"""Read the peak list of a rotation series from the files of PETS 2: one frame is one probe position of a 1 x n scan.

The project (.pts) names the frames and their tilt angles, and states the pixel size and the centre; the peak list
(.rpl) has a line a peak and no head. Its columns were found by recomputing them for a series of glycine that was
published in 2022: x, y, z (Å⁻¹, turned back by the tilt), intensity, its standard uncertainty, pixel of the maximum
(column, row), position of the peak (column, row), tilt angle, intensity of the maximum, number of the frame from 1.
Other versions of PETS may write other columns, so every list is checked against its project: the tilt angle of the
frame, and the length of x, y, z against the distance from the centre. The direct beam is not among the peaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.readers.reading import Asked, Block, gather
from gpuediff.scans.scan import Scan

RPL_COLUMNS = 12
ANGLE_TOLERANCE = 0.01  # degrees: the list rounds to 0.001
LENGTH_TOLERANCE = 0.05  # of the length: the centre of a frame may be refined by a few pixels
LINES_PER_BLOCK = 200_000
_PROJECT = re.compile(r"^\s*(aperpixel\s+\S|imagelist\s*$)", re.MULTILINE | re.IGNORECASE)
_LIST = re.compile(r"\s*([-+]?\d*\.\d+\s+){3,}")


@dataclass(frozen=True)
class _Project:
    """What a .pts file says.

    pixel_size : Å⁻¹; centre : (column, row) in pixels; tilts : of every frame, degrees. None where it says nothing.
    """

    pixel_size: float | None
    centre: tuple[float, float] | None
    tilts: np.ndarray


def looks_like_pets(head: str) -> bool:
    """Tell whether a text begins as a project or a peak list of PETS."""
    return bool(_PROJECT.search(head) or _LIST.match(head))


def read_pets(path: Path, asked: Asked) -> Scan:
    """Read a series from its project or its peak list; the other of the two is looked for beside it.

    Raises
    ------
    InvalidScan
        If one of the two is missing, their contents do not fit each other, or there is no pixel size or centre.
    """
    if asked.dataset is not None:
        raise InvalidScan(f"{path}: a series holds one set of peaks: leave out --dataset {asked.dataset}")
    with path.open(encoding="latin-1") as file:
        is_list = not _PROJECT.search(file.read(65_536))
    if is_list:
        peak_file, project_file = path, _partner(path, "project (.pts)", (".pts", ".pts2"), path.parent.parent)
    else:
        data = path.parent / f"{path.stem}_petsdata"
        peak_file, project_file = _partner(path, "peak list (.rpl)", (".rpl",), data), path
    project = _read_project(project_file)
    size = asked.pixel_size or project.pixel_size
    if size is None:
        raise InvalidScan(f"{project_file}: no aperpixel: pass --pixel-size (Å⁻¹ per pixel)")
    frames = len(project.tilts)
    centres, where = _centres(peak_file, project_file, project, frames, asked)

    # Rows of an image count downwards, and PETS takes qy upwards.
    calibration = Calibration((1, frames), (centres[:, 0][None], -centres[:, 1][None]), pixel_size=size)
    # The list was made with the pixel size of the project, whatever is to be taken instead.
    made_with = project.pixel_size or size
    peaks, _ = gather(_blocks(peak_file, project_file, project, centres, made_with, asked), calibration)
    applied = Calibration((1, frames), (centres[:, 0], centres[:, 1]), pixel_size=size).describe()
    applied["origin"] += where
    applied["pixel_size"] += " (given by the user)" if asked.pixel_size is not None else ""
    note = "a rotation series of PETS: one row of frames; the direct beam is not among the peaks"
    return Scan(peaks, (1, frames), f"{peak_file}", applied, note)


def _partner(path: Path, what: str, suffixes: tuple[str, ...], elsewhere: Path) -> Path:
    stem = path.stem
    candidates = [folder / f"{stem}{suffix}" for folder in (path.parent, elsewhere) for suffix in suffixes]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise InvalidScan(f"{path}: no {what} of this series: looked for {looked}")


def _read_project(path: Path) -> _Project:
    pixel_size: float | None = None
    centre: tuple[float, float] | None = None
    tilts: list[float] = []
    inside = ended = False
    with path.open(encoding="latin-1") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if not words or line.lstrip().startswith("#"):
                continue
            key = words[0].lower()
            if key == "endimagelist":
                inside, ended = False, True
            elif inside:
                tilts.append(_tilt(path, number, line))
            elif key == "imagelist":
                inside = True
            elif key == "aperpixel":
                pixel_size = _number(path, number, "aperpixel", words[1:2])
                if pixel_size <= 0:
                    raise InvalidScan(f"{path}: line {number}: aperpixel = {pixel_size}: expected > 0 Å⁻¹ per pixel")
            elif key == "center" and len(words) > 2:
                centre = (_number(path, number, "center", words[1:2]), _number(path, number, "center", words[2:3]))
    if not ended or not tilts:
        what = "no imagelist" if not tilts else "the imagelist has no endimagelist: the file is cut off"
        raise InvalidScan(f"{path}: {what}: expected the frames and their tilt angles")
    return _Project(pixel_size, centre, np.array(tilts))


def _tilt(path: Path, number: int, line: str) -> float:
    quoted = re.match(r'\s*"[^"]*"\s+(\S+)', line)
    words = [quoted[1]] if quoted else line.split()[1:2]
    return _number(path, number, "tilt angle", words)


def _number(path: Path, number: int, name: str, words: list[str]) -> float:
    try:
        value = float(words[0])
    except (ValueError, IndexError):
        value = np.nan
    if not np.isfinite(value):
        raise InvalidScan(f"{path}: line {number}: {name} = {' '.join(words) or 'nothing'}: expected a number")
    return value


def _centres(
    peak_file: Path, project_file: Path, project: _Project, frames: int, asked: Asked
) -> tuple[np.ndarray, str]:
    """Return the direct beam of every frame, shape (frames, 2), pixels, and where it is from."""
    if asked.centre is not None:
        return np.tile(asked.centre, (frames, 1)), " (given by the user)"
    found = peak_file.with_suffix(".cenloc")
    if found.is_file():
        try:
            centres = np.loadtxt(found, usecols=(0, 1), ndmin=2)
        except ValueError as error:
            raise InvalidScan(f"{found}: cannot be read as centres: {error}: pass --centre, or remove it") from error
        if centres.shape != (frames, 2) or not np.isfinite(centres).all():
            raise InvalidScan(
                f"{found}: {len(centres)} centres, but {project_file.name} has {frames} frames: "
                f"pass --centre (direct beam, column and row in pixels), or remove {found.name}"
            )
        return centres, f" ({found.name})"
    if project.centre is not None:
        return np.tile(project.centre, (frames, 1)), f" ({project_file.name})"
    raise InvalidScan(
        f"{project_file}: no center in numbers, and no {found.name}: "
        f"pass --centre (direct beam, column and row in pixels)"
    )


def _blocks(
    path: Path, project_file: Path, project: _Project, centres: np.ndarray, size: float, asked: Asked
) -> Iterator[Block]:
    """Go through the list, which is ordered by frames, and hand out whole frames."""
    frames = len(project.tilts)
    held = np.empty((0, RPL_COLUMNS))
    next_frame = 0
    for lines in asked.track(_numbers(path), "reading peaks"):
        frame = _check(path, project_file, project, lines, centres, size)
        last = held[-1, -1] - 1 if len(held) else next_frame
        falls = np.flatnonzero(np.diff(frame, prepend=last) < 0)
        if len(falls):
            raise InvalidScan(
                f"{path}: frame {frame[falls[0]] + 1} after a later one: expected the peaks in the order of the frames"
            )
        held = np.concatenate([held, lines])
        end = int(frame[-1])  # the last frame of the block may go on in the next
        whole = held[:, -1] <= end
        yield _block(held[whole], next_frame, end)
        held, next_frame = held[~whole], end
    yield _block(held, next_frame, frames)


def _block(lines: np.ndarray, first: int, end: int) -> Block:
    frame = lines[:, -1].astype(np.int64) - 1
    return Block(lines[:, 7], -lines[:, 8], lines[:, 3], np.bincount(frame - first, minlength=end - first))


def _numbers(path: Path) -> Iterator[np.ndarray]:
    """Yield the lines of a peak list as arrays, shape (lines, 12), float64."""
    number = 0
    with path.open(encoding="latin-1") as file:
        while lines := list(islice(file, LINES_PER_BLOCK)):
            rows = [line.split() for line in lines]
            for index, row in enumerate(rows):
                if row and len(row) != RPL_COLUMNS:
                    raise InvalidScan(
                        f"{path}: line {number + index + 1}: {len(row)} columns: expected {RPL_COLUMNS}, the one "
                        f"layout of PETS 2 that is known; this is of another version, or cut off"
                    )
            filled = [row for row in rows if row]
            try:
                values = np.array(filled, dtype=np.float64).reshape(-1, RPL_COLUMNS)
            except ValueError as error:
                raise InvalidScan(f"{path}: lines {number + 1} and after: {error}: expected numbers") from error
            number += len(lines)
            if len(values):
                yield values


def _check(
    path: Path, project_file: Path, project: _Project, lines: np.ndarray, centres: np.ndarray, size: float
) -> np.ndarray:
    """Check that the columns are what they are taken for; return the frame of every peak, from 0."""
    what = f"the columns are not those of PETS 2 that are known, or {project_file.name} is of another series"
    frame = lines[:, -1] - 1
    wrong = np.flatnonzero((frame != np.floor(frame)) | (frame < 0) | (frame >= len(project.tilts)))
    if len(wrong):
        raise InvalidScan(
            f"{path}: frame {lines[wrong[0], -1]:g}, but {project_file.name} has {len(project.tilts)} frames: {what}"
        )
    frame = frame.astype(np.int64)
    wrong = np.flatnonzero(~(np.abs(lines[:, 9] - project.tilts[frame]) < ANGLE_TOLERANCE))
    if len(wrong):
        first = int(wrong[0])
        raise InvalidScan(
            f"{path}: frame {frame[first] + 1}: tilt angle {lines[first, 9]:g}°, but {project.tilts[frame[first]]:g}° "
            f"in {project_file.name}: {what}"
        )
    length = np.linalg.norm(lines[:, :3], axis=1)
    measured = size * np.linalg.norm(lines[:, 7:9] - centres[frame], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        off = float(np.median(np.abs(measured - length) / length))
    if not off < LENGTH_TOLERANCE:
        raise InvalidScan(
            f"{path}: |q| from the pixels differs from |x, y, z| by {off:.0%} (median): {what}, "
            f"or pixel size {size:g} or centre are wrong"
        )
    return frame
