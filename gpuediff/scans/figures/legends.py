"""Legends of scan maps, in which a colour runs from dark to bright as it does in the map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerBase
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import Transform

from gpuediff.scans.figures.drawing import (
    COLOURS,
    NOT_PREDICTED,
    brightness,
    full_brightness,
    map_aspect,
    shown_lead,
    shown_systems,
)
from gpuediff.scans.maps import ScanMaps


def system_legend(figure: Figure, maps: ScanMaps) -> Legend:
    """Name the systems that are there, and say what brightness means."""
    named = [(COLOURS[maps.systems[index]], maps.systems[index]) for index in shown_systems(maps)]
    meaning = f"dark to bright: filtered\ndifference confidence\n0 to {full_brightness(shown_lead(maps)):.2g}"
    return ramp_legend(figure, maps, named, meaning, unanswered=bool((maps.filtered_system < 0).any()))


def ramp_legend(
    figure: Figure, maps: ScanMaps, named: Sequence[tuple[str, str]], meaning: str, *, unanswered: bool
) -> Legend:
    """Put a legend of (colour, name) beside the map, or below one that is flat; each colour from dark to bright.

    Without a meaning of brightness the colours are plain.
    """
    handles: list[Artist] = [
        Ramp(color=colour) if meaning else Rectangle((0, 0), 1, 1, color=colour) for colour, _ in named
    ]
    names = [name for _, name in named]
    if unanswered:
        handles.append(Rectangle((0, 0), 1, 1, color=NOT_PREDICTED))
        names.append("no answer")
    below = legend_below(maps)
    return figure.legend(
        handles,
        names,
        title=meaning.replace("\n", " ") if below else meaning,
        loc="outside lower center" if below else "outside right upper",
        ncols=1 if not below else 3 if max(map(len, names), default=0) <= 15 else 2,
        alignment="left",
        handler_map={Ramp: _RampHandler()},
        handlelength=2.4 if meaning else 1.4,
        borderpad=0.1,
    )


def legend_below(maps: ScanMaps) -> bool:
    """Whether a map leaves room for its legend below rather than beside it."""
    return map_aspect(maps) < 0.5


class Ramp(Patch):
    """A colour from its darkest to its brightest, in a legend."""


class _RampHandler(HandlerBase):
    STEPS = 12

    def create_artists(
        self,
        legend: Legend,
        orig_handle: Artist,
        xdescent: float,
        ydescent: float,
        width: float,
        height: float,
        fontsize: float,
        trans: Transform,
    ) -> list[Artist]:
        assert isinstance(orig_handle, Patch)
        colour = np.array(to_rgb(orig_handle.get_facecolor()))
        step = width / self.STEPS
        return [
            Rectangle(
                (number * step - xdescent, -ydescent), step, height, color=shade * colour, lw=0.2, transform=trans
            )
            for number, shade in enumerate(brightness(np.linspace(0, 1, self.STEPS)))
        ]
