"""Pictures of single patterns of a scan, with what is predicted from them; drawing only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MultipleLocator

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters
from gpuediff.errors import InvalidScan
from gpuediff.peaks import DIRECT_BEAM_RADIUS
from gpuediff.scans.figures import drawing
from gpuediff.scans.figures.distributions import SYMBOLS
from gpuediff.scans.figures.drawing import DOUBLE, in_print
from gpuediff.scans.maps import ScanMaps, Status
from gpuediff.scans.scan import Scan

COLUMNS = 3
SHOWN_MAX = 12  # more would not fit a page
LARGEST = 0.045  # radius of the brightest diffracted peak, of the half width of the pattern
MAP_WIDTH = 1.5  # inches


@in_print
def pattern_figure(scan: Scan, maps: ScanMaps, positions: Sequence[tuple[int, int]]) -> Figure:
    """Draw patterns as they were measured, a map beside them that shows where.

    Peaks are discs whose area goes with the square root of the intensity, the brightest diffracted one of each pattern
    as large as that of the others; the direct beam is a ring. As in py4DSTEM, qx points down like the rows of the scan
    and qy to the right like its columns.

    Parameters
    ----------
    scan : Scan
    maps : ScanMaps
        Of this scan.
    positions : sequence of (row, column)
        At most 12 probe positions; numbered in this order.

    Raises
    ------
    InvalidScan
        If there are no positions, too many, or one outside the scan, or the maps are of another shape.
    """
    _check(scan, maps, positions)
    columns = min(COLUMNS, len(positions))
    lines = -(-len(positions) // columns)
    panel = (DOUBLE - MAP_WIDTH - 0.3) / (2 if columns == 1 else COLUMNS)
    size = (MAP_WIDTH + 0.3 + panel * columns, lines * (panel + 0.6) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(MAP_WIDTH, panel * columns), squeeze=False)[0]
    _draw_places(left.subplots(), maps, positions)

    peaks = [scan.peaks.pattern(row * scan.shape[1] + column) for row, column in positions]
    limit = _limit([np.hypot(qx, qy) for qx, qy, _ in peaks])
    grid = right.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(positions) :]:
        axes.set_axis_off()
    for number, (axes, (qx, qy, intensity)) in enumerate(zip(grid.flat, peaks, strict=False)):
        _draw_peaks(axes, np.asarray(qx), np.asarray(qy), np.asarray(intensity), limit)
        axes.set_title(_answer(maps, number + 1, *positions[number]), fontsize=7, loc="left")
        if number % columns == 0:
            axes.set_ylabel("$q_x$ (Å⁻¹)")
        if number + columns >= len(positions):
            axes.set_xlabel("$q_y$ (Å⁻¹)")
            axes.tick_params(labelbottom=True)
    return figure


def _check(scan: Scan, maps: ScanMaps, positions: Sequence[tuple[int, int]]) -> None:
    if scan.shape != maps.shape:
        raise InvalidScan(f"{scan.source}: maps of {maps.shape} positions are not those of a scan of {scan.shape}")
    if not 1 <= len(positions) <= SHOWN_MAX:
        raise InvalidScan(f"positions: {len(positions)} given: choose 1 to {SHOWN_MAX}")
    for row, column in positions:
        if not (0 <= row < scan.shape[0] and 0 <= column < scan.shape[1]):
            raise InvalidScan(f"positions: ({row}, {column}) is outside the scan of {scan.shape[0]} x {scan.shape[1]}")


def _limit(distances: list[np.ndarray]) -> float:
    """Half width of all patterns: the farthest peak, rounded up to quarters of Å⁻¹."""
    farthest = max((float(distance.max()) for distance in distances if len(distance)), default=0.0)
    return max(0.5, np.ceil(1.05 * farthest * 4) / 4)


def _draw_peaks(axes: Axes, qx: np.ndarray, qy: np.ndarray, intensity: np.ndarray, limit: float) -> None:
    distance = np.hypot(qx, qy)
    direct = np.zeros(len(qx), dtype=bool)
    if len(qx) and distance.min() <= DIRECT_BEAM_RADIUS:
        direct[distance.argmin()] = True
    brightest = intensity[~direct].max(initial=0.0)
    share = intensity / brightest if brightest > 0 else np.zeros_like(intensity)
    diameter = np.where(direct, 1.0, np.clip(share, 0, 1) ** 0.25) * 2 * LARGEST * limit
    for members, style in (
        (~direct, {"facecolors": "0.1", "linewidths": 0}),
        (direct, {"facecolors": "none", "edgecolors": "0.1", "linewidths": 0.8}),
    ):
        axes.add_collection(
            EllipseCollection(
                diameter[members],
                diameter[members],
                np.zeros(members.sum()),
                units="xy",
                offsets=np.stack([qy[members], qx[members]], axis=1),
                transOffset=axes.transData,
                **style,
            )
        )
    axes.set(xlim=(-limit, limit), ylim=(limit, -limit), aspect="equal")
    step = 1.0 if limit > 1 else 0.5
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.yaxis.set_major_locator(MultipleLocator(step))


def _draw_places(axes: Axes, maps: ScanMaps, positions: Sequence[tuple[int, int]]) -> None:
    drawing.draw_systems(axes, drawing.lying(maps), "")
    line = drawing.is_line(maps)
    axes.set_anchor("N")
    if drawing.is_line(maps):
        axes.set_box_aspect(0.25)
    halo = [withStroke(linewidth=1.5, foreground="black")]
    for number, (row, column) in enumerate(positions, start=1):
        place = (drawing.line_place(maps, max(row, column)), 0.5) if line else (column, row)
        axes.plot(*place, "o", markersize=3, markerfacecolor="none", markeredgecolor="white", path_effects=halo)
        # towards the inside, so that no number leaves the map
        along, length = (max(row, column), max(maps.shape)) if line else (column, maps.shape[1])
        right, high = along > 0.8 * length, line or row < 0.15 * maps.shape[0]
        axes.annotate(
            str(number),
            place,
            xytext=(-3 if right else 3, -2 if high else 2),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top" if high else "bottom",
            color="white",
            fontsize=7,
            fontweight="bold",
            path_effects=halo,
        )


def _answer(maps: ScanMaps, number: int, row: int, column: int) -> str:
    """Say in four lines what is predicted at a probe position."""
    place = (row, column)
    head = f"{number}: row {row}, column {column}"
    status = Status(int(maps.status[place]))
    if status != Status.PREDICTED:
        return f"{head}\nno answer: {status.name.lower().replace('_', ' ')}\n\n"
    system = maps.systems[maps.filtered_system[place]]
    raw = maps.systems[maps.raw_system[place]]
    trust = f"confidence {maps.confidence[place]:.2f}"
    if raw != system:
        trust = f"by itself {raw}"  # whose confidence and probability are not those of the filtered system
    elif np.isfinite(maps.probability[place]):
        trust = f"probability {maps.probability[place]:.2f}"
    group = int(maps.space_group_number[place])
    symbol = f"{drawing.space_group_symbol(group)} ({group})" if group else "no space group"
    asked = maps.options.get("lattice_system")
    lattice = _free_lattice(str(asked or system), maps.lattice[place])
    return f"{head}\n{system}, {trust}\n{symbol}\n{lattice}"


def _free_lattice(system: str, lattice: np.ndarray) -> str:
    if not np.isfinite(lattice).all():
        return "no lattice"
    free = independent_parameters(system)
    lengths, angles = [name for name in free if name in "abc"], [name for name in free if name not in "abc"]

    def told(names: list[str], unit: str, digits: int) -> str:
        values = ", ".join(f"{lattice[LATTICE_PARAMETERS.index(name)]:.{digits}f}" for name in names)
        return f"{', '.join(SYMBOLS[name] for name in names)} = {values}{unit}"

    parts = [told(lengths, " Å", 2)] + ([told(angles, "°", 0)] if angles else [])
    return "; ".join(parts)
