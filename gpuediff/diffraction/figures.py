"""Pictures of simulated patterns: where the peaks are, and how their intensities swing with thickness.

Drawing only; what is drawn is computed in `simulate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import AbstractPathEffect, withStroke

from gpuediff.crystals.crystal import Crystal, cell_vectors
from gpuediff.diffraction.simulate import SimulatedPatterns
from gpuediff.settings import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito, safe for colour-blind readers; dashes tell them apart in grey print too.
STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", (0, (5, 1, 1, 1, 1, 1))),
    ("#E69F00", (0, (7, 2))),
    ("#56B4E9", ":"),
)
DIRECT = "#000000"
OTHERS = "#8C8C8C"
LABELS_MAX = 14  # more would hide the spots
# Where a label may be, seen from its spot.
WAYS = np.array([(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)])
AXES_POINTS = 297.0  # about the width of the pattern's axes
FULL_AREA = 220.0  # points², of a spot as bright as the brightest reflection, where there is room for it
LEAST_AREA = 1.2
KEY_INTENSITIES = (1e-1, 1e-2, 1e-3, 1e-4)
ON_AXIS = np.radians(0.05)  # within which a direction counts as that of whole indices
SIMPLE, NEAR = 12, 5  # largest index of a zone axis that is met, and of one that is only near


@dataclass(frozen=True)
class Family:
    """Reflections of one pattern that have the same intensity at every thickness, as symmetry makes them.

    Parameters
    ----------
    peaks : array, shape (k,), int64
        Their places among the peaks of the pattern, one by one as they are there.
    intensity : array, shape (t,)
        Of one of them.
    """

    peaks: np.ndarray
    intensity: np.ndarray


def pattern_figure(
    crystal: Crystal, patterns: SimulatedPatterns, settings: Simulation, *, index: int = 0, thickness_index: int = 0
) -> Figure:
    """Draw one pattern, and the intensities of its strongest reflections against thickness.

    Parameters
    ----------
    crystal : Crystal
    patterns : SimulatedPatterns
        Of this crystal; the curves go through its thicknesses.
    settings : Simulation
        By which it was simulated; names the beam energy.
    index : int
        Which pattern.
    thickness_index : int
        At which thickness the pattern is drawn, and its reflections ranked.

    Returns
    -------
    Figure
        Miller indices and zone axis are of the conventional cell.
    """
    peaks = slice(int(patterns.offsets[index]), int(patterns.offsets[index + 1]))
    intensity = patterns.intensity[:, peaks]
    position = np.stack([patterns.qx[peaks], patterns.qy[peaks]], axis=1)
    hkl = conventional_indices(crystal, patterns.hkl[peaks])
    direct = int(np.flatnonzero((hkl == 0).all(axis=1))[0])
    families = _named_first(strongest_families(intensity, direct, thickness_index, len(STYLES)), hkl)

    figure = Figure(figsize=(11.5, 5.6), layout="constrained")
    figure.suptitle(_title(crystal, patterns.orientation[index, 2], settings), fontsize=11)
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.05), squeeze=False)[0]
    pattern = left.subplots()
    _draw_pattern(pattern, position, hkl, intensity[thickness_index], direct, families, settings)
    thickness = float(patterns.thicknesses[thickness_index])
    pattern.set_title(f"pattern at {thickness:g} Å, $hkl$ of the conventional cell", fontsize=10)
    upper, lower = right.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    _draw_direct(upper, patterns.thicknesses, intensity, direct)
    _draw_families(lower, patterns.thicknesses, hkl, families)
    right.supylabel("intensity (incident beam = 1)", fontsize=9)
    for axes in (upper, lower):
        axes.axvline(thickness, color="0.25", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    upper.annotate(
        f"{thickness:g} Å",
        (thickness, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=8,
    )
    return figure


def conventional_indices(crystal: Crystal, hkl: np.ndarray) -> np.ndarray:
    """Turn Miller indices of the primitive cell into those of the conventional one.

    Parameters
    ----------
    crystal : Crystal
    hkl : array, shape (n, 3), int

    Returns
    -------
    array, shape (n, 3), int64
    """
    # h = g · a, and both cells are in one Cartesian frame.
    indices = hkl @ crystal.reciprocal @ cell_vectors(crystal.conventional).T
    return np.rint(indices).astype(np.int64)


def strongest_families(intensity: np.ndarray, direct: int, thickness_index: int, count: int) -> list[Family]:
    """Gather the reflections that are strongest, those that are equal at every thickness together.

    Parameters
    ----------
    intensity : array, shape (t, peaks)
        Of one pattern.
    direct : int
        Which peak is the direct beam; it is left out.
    thickness_index : int
        The reflections that are strong here come first; those at noise level here are not taken.
    count : int
        Of families, at most.

    Returns
    -------
    list of Family
        The strongest first.
    """
    order = np.argsort(-intensity[thickness_index], kind="stable")
    left = order[(order != direct) & (intensity[thickness_index, order] > 0)]
    families: list[Family] = []
    while left.size and len(families) < count:
        curve = intensity[:, left[0]]
        # Propagation in float32 is right to 2e-6, and equal reflections come out that far apart.
        limit = 1e-5 + 2e-3 * curve.max()
        equal = np.abs(intensity[:, left] - curve[:, None]).max(axis=0) <= limit
        families.append(Family(left[equal], curve))
        left = left[~equal]
    return families


def _named_first(families: list[Family], hkl: np.ndarray) -> list[Family]:
    """Put the reflections of every family in the order in which one would name them: 200 before 020, and -200 last."""

    def key(peak: int) -> tuple[int, tuple[int, ...]]:
        return int((hkl[peak] < 0).sum()), tuple(-hkl[peak])

    return [Family(np.array(sorted(family.peaks, key=key)), family.intensity) for family in families]


def zone_axis_name(crystal: Crystal, zone_axis: np.ndarray) -> str:
    """Name a direction by whole indices [uvw] of the conventional cell, and how far off it is if it only is near.

    Parameters
    ----------
    crystal : Crystal
    zone_axis : array, shape (3,)
        In the crystal's Cartesian frame, of any length.

    Returns
    -------
    str
        For matplotlib: mathtext with bars over negative indices.
    """
    indices = np.array([uvw for uvw in product(range(-SIMPLE, SIMPLE + 1), repeat=3) if gcd(*uvw) == 1])
    directions = indices @ cell_vectors(crystal.conventional)
    lengths = np.linalg.norm(directions, axis=1)
    unit = zone_axis / np.linalg.norm(zone_axis)
    # The sine is exact where the cosine rounds to 1.
    angle = np.arctan2(np.linalg.norm(np.cross(directions, unit), axis=1), directions @ unit)
    met = np.flatnonzero(angle < ON_AXIS)
    if met.size:
        return f"[{_indices_text(indices[met[np.argmin(lengths[met])]])}]"
    near = np.flatnonzero(np.abs(indices).max(axis=1) <= NEAR)
    closest = near[np.argmin(angle[near])]
    return f"near [{_indices_text(indices[closest])}], {np.degrees(angle[closest]):.1f}° off"


def _indices_text(indices: np.ndarray) -> str:
    values = indices.tolist()
    short = all(abs(value) < 10 for value in values)
    bar = r"\bar" if short else r"\overline"
    parts = [rf"{bar}{{{-value}}}" if value < 0 else str(value) for value in values]
    return "$" + (r"\," if short else r"\;").join(parts) + "$"


def _title(crystal: Crystal, zone_axis: np.ndarray, settings: Simulation) -> str:
    subscripted = "".join(f"$_{{{part}}}$" if part.isdigit() else part for part in _split_digits(crystal.formula))
    material_id = crystal.material_id.replace("$", r"\$")  # a file's name is no formula
    conditions = [f"{settings.beam_energy / 1e3:g} keV"]
    if settings.theory != "dynamical":
        conditions.append(settings.theory)
    if settings.precession is not None:
        conditions.append(f"precession {settings.precession.angle:g}°")
    return (
        f"{subscripted}  ({material_id}),  space group {crystal.space_group_number}, {crystal.crystal_system}\n"
        f"zone axis {zone_axis_name(crystal, zone_axis)};  {', '.join(conditions)}"
    )


def _split_digits(formula: str) -> list[str]:
    """Split a formula into runs of digits and of others; fractions of mixed sites stay as they are."""
    if "." in formula:
        return [formula]
    parts: list[str] = []
    for character in formula:
        if parts and parts[-1].isdigit() == character.isdigit():
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def _draw_pattern(
    axes: Axes,
    position: np.ndarray,
    hkl: np.ndarray,
    intensity: np.ndarray,
    direct: int,
    families: list[Family],
    settings: Simulation,
) -> None:
    drawn = intensity >= settings.intensity_min
    limit = 1.06 * float(np.abs(position[drawn]).max(initial=0.1))
    named = np.concatenate([np.array([direct]), *(family.peaks for family in families)])
    scale = _Scale(
        brightest=max((float(intensity[family.peaks[0]]) for family in families), default=1.0),
        full_area=_area_with_room(position[named] / (2 * limit) * AXES_POINTS),
    )
    colour = np.full(len(intensity), OTHERS, dtype=object)
    for family, (family_colour, _) in zip(families, STYLES, strict=False):
        colour[family.peaks] = family_colour
    spots = np.flatnonzero(drawn & (np.arange(len(intensity)) != direct))
    spots = spots[np.argsort(-intensity[spots])]  # the faint on top of the bright, which would hide them
    x, y = position.T
    axes.scatter(x[spots], y[spots], s=scale.area(intensity[spots]), c=list(colour[spots]), linewidths=0)
    axes.scatter(x[direct], y[direct], s=60, facecolors="none", edgecolors=DIRECT, linewidths=1.1, zorder=4)
    axes.scatter(x[direct], y[direct], s=60, marker="+", color=DIRECT, linewidths=0.9, zorder=4)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    axes.set_xlabel("$q_x$ (Å$^{-1}$)", fontsize=9)
    axes.set_ylabel("$q_y$ (Å$^{-1}$)", fontsize=9)
    axes.tick_params(labelsize=8)
    _label_spots(axes, position, hkl, intensity, drawn, families, scale)
    keys = [value for value in KEY_INTENSITIES if settings.intensity_min <= value <= 2 * scale.brightest][:3]
    handles = [
        Line2D([], [], marker="o", linestyle="", color=OTHERS, markeredgewidth=0, markersize=size)
        for size in np.sqrt(scale.area(np.array(keys)))
    ]
    beam = Line2D([], [], marker="$\\oplus$", linestyle="", color=DIRECT, markersize=8, markeredgewidth=0.2)
    axes.legend(
        [beam, *handles],
        [f"direct beam, {intensity[direct]:.2g}", *(f"$I$ = {value:g}" for value in keys)],
        fontsize=8,
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.11),
        ncols=1 + len(keys),
        handletextpad=0.4,
        columnspacing=1.4,
    )


@dataclass(frozen=True)
class _Scale:
    """From intensity to the area of a spot, points²."""

    brightest: float
    full_area: float

    def area(self, intensity: np.ndarray) -> np.ndarray:
        """Grow with the root of the intensity, so that what is 10,000 times fainter is still seen."""
        return np.maximum(self.full_area * np.sqrt(intensity / self.brightest), LEAST_AREA)


def _area_with_room(position: np.ndarray) -> float:
    """Choose the largest area at which neighbours, at these places in points, do not touch."""
    distance = np.linalg.norm(position[:, None] - position, axis=2)
    nearest = distance[distance > 1].min(initial=np.inf)  # what is nearer lies on top anyway
    return float(min(FULL_AREA, np.pi * (0.46 * nearest) ** 2))


def _label_spots(
    axes: Axes,
    position: np.ndarray,
    hkl: np.ndarray,
    intensity: np.ndarray,
    drawn: np.ndarray,
    families: list[Family],
    scale: _Scale,
) -> None:
    """Label the coloured spots, one of every family first, where a label covers no other spot that has a colour."""
    halo: list[AbstractPathEffect] = [withStroke(linewidth=2, foreground="white")]
    width = float(np.diff(axes.get_xlim())[0])
    coloured = np.concatenate([np.empty(0, np.int64), *(family.peaks for family in families)])
    radius = np.sqrt(scale.area(intensity) / np.pi) / AXES_POINTS * width
    # Centre and half the size of what is there already; the direct beam is at the origin.
    taken = [(position[peak], np.full(2, radius[peak])) for peak in coloured]
    taken.append((np.zeros(2), np.full(2, 0.015 * width)))
    # In the colour of its spot, because the nearest spot may be another's.
    kinds = list(zip(families, (colour for colour, _ in STYLES), strict=False))
    order = [(family, colour, rank) for rank in range(LABELS_MAX) for family, colour in kinds]
    labels = 0
    for family, colour, rank in order:
        if rank >= len(family.peaks):
            continue
        peak = family.peaks[rank]
        if labels == LABELS_MAX or not drawn[peak]:
            continue
        half = np.array([0.009 * sum(len(str(abs(index))) for index in hkl[peak]) + 0.008, 0.02]) * width
        gaps = (0.003, 0.06) if rank == 0 else (0.003,)
        places = (position[peak] + way * (radius[peak] + half + gap * width) for gap in gaps for way in WAYS)
        place = next((place for place in places if _is_free(place, half, taken, width)), None)
        if place is None:
            continue
        labels += 1
        taken.append((place, half))
        if (np.abs(place - position[peak]) > radius[peak] + half + 0.01 * width).any():
            axes.plot(*zip(position[peak], place, strict=True), color=colour, linewidth=0.8, zorder=3)
        text = axes.text(place[0], place[1], _indices_text(hkl[peak]), ha="center", va="center", zorder=5)
        text.set(fontsize=8.5, color=colour, path_effects=halo)


def _is_free(place: np.ndarray, half: np.ndarray, taken: list[tuple[np.ndarray, np.ndarray]], width: float) -> bool:
    """Tell whether a label at this place, of this half size, is inside the axes and covers nothing."""
    if (np.abs(place) + half > width / 2).any():
        return False
    return all((np.abs(place - centre) >= half + size).any() for centre, size in taken)


def _draw_direct(axes: Axes, thicknesses: np.ndarray, intensity: np.ndarray, direct: int) -> None:
    axes.plot(thicknesses, intensity[:, direct], color=DIRECT, linewidth=1.5, label="direct beam")
    axes.plot(thicknesses, intensity.sum(axis=1), color=OTHERS, linewidth=1.2, linestyle="--", label="all peaks")
    axes.set_ylim(0, 1.05)
    _dress(axes)


def _draw_families(axes: Axes, thicknesses: np.ndarray, hkl: np.ndarray, families: list[Family]) -> None:
    for family, (colour, dashes) in zip(families, STYLES, strict=False):
        others = len(family.peaks) - 1
        label = _indices_text(hkl[family.peaks[0]]) + (f" and {others} equal" if others else "")
        axes.plot(thicknesses, family.intensity, color=colour, linestyle=dashes, linewidth=1.6, label=label)
    axes.set_ylim(0, None)
    axes.set_xlim(0, float(thicknesses[-1]))
    axes.set_xlabel("thickness (Å)", fontsize=9)
    _dress(axes)


def _dress(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_lines():
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=2.6)
