"""Scan maps for programs of texture analysis: a crystal map of orix, and EDAX's .ang text file.

A phase is a crystal system that the scan has: its space group is the most frequent one among the labelled probe
positions, its cell their median, or one with edges of 1 Å where no position has a lattice. Orientations are not what
the models predict: unless they are given, every labelled position has the identity, Euler angles (0, 0, 0), which
means "not determined".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import gpuediff
from gpuediff.crystals.crystal import cell_vectors
from gpuediff.crystals.symmetry import complete_lattice, independent_parameters, laue_class
from gpuediff.durable import complete_or_absent
from gpuediff.errors import InvalidScan
from gpuediff.scans.maps import ScanMaps

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

PROPERTIES = (
    "status",
    "n_peaks",
    "confidence",
    "difference_confidence",
    "filtered_difference_confidence",
    "probability",
    "several_grains",
    "novelty",
    "space_group_number",
    "space_group_confidence",
    "bright_field",
    "dark_field",
)
NOT_INDEXED_ANGLE = 4 * np.pi  # EDAX's mark in all three Euler angles
NOT_INDEXED_FIT = 180.0  # degrees
ANGSTROM_PER_MICROMETRE = 1e4
# EDAX names a Laue class by its proper rotations; 20 is the two-fold axis along b.
EDAX_SYMMETRY = {
    "-1": "1",
    "2/m": "20",
    "mmm": "22",
    "4/m": "4",
    "4/mmm": "42",
    "-3": "3",
    "-3m1": "32",
    "-31m": "32",
    "6/m": "6",
    "6/mmm": "62",
    "m-3": "23",
    "m-3m": "43",
}


@dataclass(frozen=True)
class MapPhase:
    """What stands for all probe positions of one crystal system.

    Parameters
    ----------
    index : int
        Of the system in the maps.
    name : str
        Of the system.
    space_group_number : int
        The most frequent one, the lowest of equals.
    lattice : array, shape (6,), float64
        Medians of a, b, c (Å), alpha, beta, gamma (degrees); edges of 1 Å if no position has a lattice.
    lattices : int
        Number of positions whose lattices are known.
    """

    index: int
    name: str
    space_group_number: int
    lattice: np.ndarray
    lattices: int


def map_phases(maps: ScanMaps) -> list[MapPhase]:
    """Describe the crystal systems that some probe position has, in the order of `maps.systems`.

    Raises
    ------
    InvalidScan
        If space groups and lattices are not those of the position's own system, or a position has no space group.
    """
    asked = maps.options.get("lattice_system")
    if asked is not None and set(np.unique(maps.crystal_system)) - {"", asked}:
        raise InvalidScan(
            f"{maps.source}: space groups and lattices are those of {asked} crystals everywhere: map the scan without "
            f"lattice_system, so that every phase has its own"
        )
    phases = []
    for index, name in enumerate(maps.systems):
        inside = maps.filtered_system == index
        if not inside.any():
            continue
        numbers = maps.space_group_number[inside]
        if not (numbers > 0).all():
            raise InvalidScan(f"{maps.source}: a {name} probe position has no space group: map the scan again")
        cells = maps.lattice[inside].astype(np.float64)
        cells = cells[np.isfinite(cells).all(axis=1)]
        lattice = np.median(cells, axis=0) if len(cells) else _unknown_cell(name)
        phases.append(MapPhase(index, name, int(np.bincount(numbers).argmax()), lattice, len(cells)))
    return phases


def to_crystal_map(maps: ScanMaps, *, orientations: np.ndarray | None = None) -> CrystalMap:
    """Turn maps into a crystal map of orix.

    Parameters
    ----------
    maps : ScanMaps
    orientations : array, shape (ny, nx, 3, 3), optional
        Rows are the laboratory's axes in the crystal's Cartesian frame (c along z, a in the xz plane), as everywhere
        in gpuediff; they are turned into orix's frame (a along x, c* along z). A position whose matrix is not finite
        counts as not determined. Without them all rotations are the identity, which says nothing about the crystal.

    Returns
    -------
    orix.crystal_map.CrystalMap
        One point a probe position, in the data where it is labelled; `x` along columns, `y` along rows, in nm, or in
        px where the step size is unknown. The phase id is the index of the crystal system in `maps.systems`, and the
        properties are the maps of `PROPERTIES` and the lattice parameters.

    Raises
    ------
    InvalidScan
        If orix is not installed, no position is labelled, the shape of the orientations is another one, or as in
        `map_phases`.
    """
    try:
        from orix.crystal_map import CrystalMap, Phase, PhaseList
        from orix.quaternion import Rotation
    except ImportError as error:
        raise InvalidScan("a crystal map needs orix: pip install 'gpuediff[orix]'") from error
    from diffpy.structure import Lattice, Structure

    phases = _labelled_phases(maps)
    step = 1.0 if maps.step_size is None else maps.step_size / 10
    row, column = np.indices(maps.shape)
    properties = {name: np.asarray(getattr(maps, name)).reshape(-1) for name in PROPERTIES}
    for number, name in enumerate(("a", "b", "c", "alpha", "beta", "gamma")):
        properties[f"lattice_{name}"] = maps.lattice[..., number].reshape(-1)
    return CrystalMap(
        rotations=Rotation.from_matrix(_sample_to_crystal(maps, orientations)),
        phase_id=maps.filtered_system.reshape(-1).astype(int),
        x=column.reshape(-1) * step,
        y=row.reshape(-1) * step,
        phase_list=PhaseList(
            {
                phase.index: Phase(
                    name=phase.name,
                    space_group=phase.space_group_number,
                    structure=Structure(title=phase.name, lattice=Lattice(*phase.lattice)),
                )
                for phase in phases
            }
        ),
        prop=properties,
        scan_unit="px" if maps.step_size is None else "nm",
        is_in_data=maps.filtered_system.reshape(-1) >= 0,
    )


def write_ang(maps: ScanMaps, path: str | Path, *, orientations: np.ndarray | None = None) -> None:
    """Write maps as EDAX's .ang text file, complete or not at all; needs no other program.

    One line a probe position, row by row: three Euler angles (Bunge, radians), x and y (µm), image quality, confidence
    index, phase, detector signal and fit. Image quality is the dark field, detector signal the bright field,
    confidence index the share of the trees. Phases are numbered from 1 in the order of `maps.systems` and listed
    backwards, as EDAX's programs expect. Positions without a label are marked as EDAX and orix do: Euler angles 4π,
    confidence index -1, fit 180°, phase 0 (-1 where there is only one phase). Labelled positions whose orientation is
    not determined have the Euler angles 0: with 4π a reader would drop their phase. The header says which it is.

    Parameters
    ----------
    maps : ScanMaps
        Where the step size is unknown, x and y count probe positions; the header says so.
    path : str or Path
        A file of that name is replaced.
    orientations : array, shape (ny, nx, 3, 3), optional
        As in `to_crystal_map`.

    Raises
    ------
    InvalidScan
        If no position is labelled, the shape of the orientations is another one, or as in `map_phases`.
    """
    phases = _labelled_phases(maps)
    labelled = maps.filtered_system.reshape(-1) >= 0
    matrices = _sample_to_crystal(maps, orientations)
    angles = _bunge_angles(matrices)
    angles[~labelled] = NOT_INDEXED_ANGLE
    number = np.full(len(labelled), 0 if len(phases) > 1 else -1)
    for position, phase in enumerate(phases, start=1):
        number[maps.filtered_system.reshape(-1) == phase.index] = position
    step = 1.0 if maps.step_size is None else maps.step_size / ANGSTROM_PER_MICROMETRE
    row, column = np.indices(maps.shape)

    def values(image: np.ndarray, otherwise: float) -> np.ndarray:
        return np.where(labelled, np.nan_to_num(image.reshape(-1)), otherwise)

    table = np.column_stack(
        [
            angles,
            column.reshape(-1) * step,
            row.reshape(-1) * step,
            values(maps.dark_field, 0.0),
            values(maps.confidence, -1.0),
            number,
            values(maps.bright_field, 0.0),
            np.where(labelled, 0.0, NOT_INDEXED_FIT),
        ]
    )
    header = "\n".join(_ang_header(maps, phases, step, orientations is not None))
    formats = ["%9.5f"] * 3 + ["%12.7f"] * 2 + ["%.7g", "%8.5f", "%2d", "%.7g", "%9.5f"]
    complete_or_absent(
        Path(path),
        lambda temporary: np.savetxt(temporary, table, fmt="  ".join(formats), header=header, encoding="utf-8"),
    )


def _unknown_cell(system: str) -> np.ndarray:
    one = {name: np.array([1.0 if name in "abc" else 90.0]) for name in independent_parameters(system)}
    return complete_lattice(system, one)[0]


def _labelled_phases(maps: ScanMaps) -> list[MapPhase]:
    phases = map_phases(maps)
    if not phases:
        raise InvalidScan(f"{maps.source}: no probe position has a label: lower the confidence that map_scan demands")
    return phases


def _sample_to_crystal(maps: ScanMaps, orientations: np.ndarray | None) -> np.ndarray:
    """Matrices from the laboratory into orix's crystal frame, (ny * nx, 3, 3); the identity where unknown."""
    result = np.tile(np.eye(3), (maps.status.size, 1, 1))
    if orientations is None:
        return result
    if orientations.shape != (*maps.shape, 3, 3):
        raise InvalidScan(f"orientations: shape {orientations.shape}, expected {(*maps.shape, 3, 3)}")
    matrices = np.asarray(orientations, dtype=np.float64).reshape(-1, 3, 3)
    cells = maps.lattice.reshape(-1, 6)
    known = np.isfinite(matrices).all(axis=(1, 2)) & np.isfinite(cells).all(axis=1)
    for place in np.flatnonzero(known):
        # An orientation's rows are the laboratory's axes in the crystal's frame, so its transpose takes vectors there.
        result[place] = _into_orix_frame(cells[place].astype(np.float64)) @ matrices[place].T
    return result


def _bunge_angles(matrices: np.ndarray) -> np.ndarray:
    """Euler angles (n, 3), 0 .. 2π, of matrices from the laboratory into the crystal's frame (Bunge 1982, eq. 2.31)."""
    tilt = np.arccos(np.clip(matrices[:, 2, 2], -1, 1))
    first = np.arctan2(matrices[:, 2, 0], -matrices[:, 2, 1])
    last = np.arctan2(matrices[:, 0, 2], matrices[:, 1, 2])
    # With both z axes along one line only the sum or the difference of the other two is determined.
    along = np.abs(matrices[:, 2, 2]) > 1 - 1e-12
    first[along] = np.arctan2(matrices[along, 0, 1], matrices[along, 0, 0])
    last[along] = 0.0
    return np.stack([first, tilt, last], axis=1) % (2 * np.pi)


def _into_orix_frame(cell: np.ndarray) -> np.ndarray:
    """Matrix from the Cartesian frame with c along z to that with a along x and c* along z, (3, 3)."""
    a, b, _ = cell_vectors(cell)
    x, z = a / np.linalg.norm(a), np.cross(a, b)
    z /= np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z])


def _ang_header(maps: ScanMaps, phases: list[MapPhase], step: float, oriented: bool) -> list[str]:
    ny, nx = maps.shape
    lines = [f"{name:<21}  {value:.6f}" for name, value in (("TEM_PIXperUM", 1.0),)]
    lines += [f"{name:<21}  0.000000" for name in ("x-star", "y-star", "z-star", "WorkingDistance")]
    lines.append("")
    for number, phase in reversed(list(enumerate(phases, start=1))):
        lines += [
            f"Phase {number}",
            f"MaterialName    {phase.name}",
            f"Formula    {phase.name}",
            f"Info    space group {phase.space_group_number}, the most frequent; "
            + (f"median lattice of {phase.lattices} points" if phase.lattices else "lattice unknown, edges of 1"),
            f"Symmetry    {EDAX_SYMMETRY[laue_class(phase.space_group_number)]}",
            f"LatticeConstants    {' '.join(f'{value:.3f}' for value in phase.lattice)}",
            "NumberFamilies    0",
        ]
    notes = ["Euler angles as given" if oriented else "Euler angles are not determined: 0 at every labelled position"]
    if maps.step_size is None:
        notes.append("step size unknown: x and y count probe positions")
    return [
        *lines,
        "GRID: SqrGrid",
        f"XSTEP: {step:.7f}",
        f"YSTEP: {step:.7f}",
        f"NCOLS_ODD: {nx}",
        f"NCOLS_EVEN: {nx}",
        f"NROWS: {ny}",
        "",
        f"OPERATOR: gpuediff {gpuediff.__version__}",
        "",
        "SAMPLEID:",
        "",
        f"SCANID: {'; '.join(notes)}",
        "",
        "Column names: phi1, Phi, phi2, x, y, image_quality, confidence_index, phase_id, detector_signal, pattern_fit",
        "",
    ]
