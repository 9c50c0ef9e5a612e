"""What all pictures of a scan share: sizes, colours, maps over probe positions, scale bars."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from matplotlib.transforms import ScaledTranslation

from gpuediff.crystals.symmetry import short_symbol
from gpuediff.scans.maps import ScanMaps

# Okabe & Ito, told apart by colour-blind readers; the two darkest hues go to systems that are rarely neighbours.
COLOURS = {
    "cubic": "#E69F00",
    "hexagonal": "#56B4E9",
    "trigonal": "#009E73",
    "tetragonal": "#F0E442",
    "orthorhombic": "#CC79A7",
    "monoclinic": "#D55E00",
    "triclinic": "#0072B2",
}
NOT_PREDICTED = "#000000"
NO_VALUE = "#D9D9D9"
DIMMEST = 0.35  # brightness at confidence zero, so that the hue can still be told
SINGLE, DOUBLE = 3.4, 7.0  # inches, one and two columns of a journal
ANGSTROM_TO = ((1e4, "µm"), (10.0, "nm"), (1.0, "Å"))
STRIP = 0.45  # inches, height of the strip that stands for a line scan
CURVE = 1.0  # inches, height of the curve of a line scan
FLATTEST, TALLEST = 0.12, 1.6  # height over width of the space that a map gets
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "figure.titlesize": 8,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "hatch.linewidth": 0.5,
}

Arguments = ParamSpec("Arguments")


def in_print(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw with the fonts and lines of a journal, whatever the caller's settings are."""

    @wraps(draw)
    def drawn(*arguments: Arguments.args, **options: Arguments.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn


def is_line(maps: ScanMaps) -> bool:
    """Tell whether the scan is one row of several probe positions, or one column."""
    return min(maps.shape) == 1 < max(maps.shape)


def lying(maps: ScanMaps) -> ScanMaps:
    """Turn a scan of one column into one of one row; others stay as they are."""
    if not (is_line(maps) and maps.shape[1] == 1):
        return maps
    images = {field.name: getattr(maps, field.name) for field in dataclasses.fields(maps)}
    turned: dict[str, Any] = {
        name: image.swapaxes(0, 1) for name, image in images.items() if isinstance(image, np.ndarray)
    }
    return dataclasses.replace(maps, **turned)


def panel_grid(maps: ScanMaps, count: int, *, width: float = DOUBLE) -> tuple[int, int, float]:
    """Lay out some maps side by side, or one below the other where the scan is flat.

    Parameters
    ----------
    maps : ScanMaps
    count : int
        Number of maps.
    width : float
        Of the figure, inches.

    Returns
    -------
    rows, columns : int
    height : float
        Of one row, inches, with its title.
    """
    if is_line(maps):
        return count, 1, CURVE
    aspect = map_aspect(maps)
    columns = 1 if aspect <= 0.2 else count
    if count > 3 and aspect > 0.2:
        columns = 3
    # Beside a map is its colour bar, and the axis where there is one.
    return -(-count // columns), columns, (width / columns - 0.6) * aspect + 0.45


def map_aspect(maps: ScanMaps) -> float:
    """Height over width of the space that a map gets; what is flatter or taller is drawn smaller."""
    return float(np.clip(maps.shape[0] / maps.shape[1], FLATTEST, TALLEST))


def grid_figure(maps: ScanMaps, count: int, *, title: str = "") -> tuple[Figure, list[Axes]]:
    """Make a figure of two columns' width for some maps, and their axes."""
    rows, columns, height = panel_grid(maps, count)
    figure = Figure(figsize=(DOUBLE, rows * height + (0.3 if title else 0.1)), layout="constrained")
    if title:
        figure.suptitle(title, color="0.35")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=is_line(maps)).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def shown_systems(maps: ScanMaps) -> list[int]:
    """Systems that some probe position has, most frequent first."""
    counts = np.bincount(maps.filtered_system[maps.filtered_system >= 0], minlength=len(maps.systems))
    return [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]


def full_brightness(values: np.ndarray) -> float:
    """Value that is drawn at full brightness, so that a few outliers do not darken the others."""
    finite = values[np.isfinite(values)]
    highest = float(np.percentile(finite, 98)) if finite.size else 0.0
    return highest if highest > 0 else 1.0


def coloured(shape: tuple[int, int], members: Sequence[tuple[np.ndarray, str]], share: np.ndarray) -> np.ndarray:
    """Paint regions, each (ny, nx) bool in its colour, as bright as `share` (0..1) says; (ny, nx, 3)."""
    image = np.empty((*shape, 3))
    image[...] = to_rgb(NOT_PREDICTED)
    shade = brightness(np.nan_to_num(share))
    for inside, colour in members:
        image[inside] = shade[inside, None] * np.array(to_rgb(colour))
    return image


def draw_systems(axes: Axes, maps: ScanMaps, title: str, *, scale: bool = True) -> None:
    """Draw the filtered crystal systems, as bright as their filtered difference confidence."""
    members = [(maps.filtered_system == index, COLOURS[name]) for index, name in enumerate(maps.systems)]
    share = maps.filtered_difference_confidence / full_brightness(shown_lead(maps))
    show(axes, maps, coloured(maps.shape, members, share), scale=scale)
    axes.set_title(title)


def draw_values(
    axes: Axes,
    maps: ScanMaps,
    values: np.ndarray,
    title: str,
    *,
    cmap: str,
    low: float | None = None,
    high: float | None = None,
    scale: bool = True,
) -> None:
    """Draw an image of values with a colour bar, of a line scan a curve.

    Limits that are not given are the percentiles 2 and 98, so that a few outliers do not hide the rest; the colour bar
    shows by a pointed end that there are values beyond.
    """
    axes.set_title(title)
    finite = values[np.isfinite(values)]
    if is_line(maps):
        _draw_curve(axes, maps, values, low, high)
    else:
        limits = np.percentile(finite, (2, 98)) if finite.size else np.array([0.0, 1.0])
        lowest, highest = limits[0] if low is None else low, limits[1] if high is None else high
        if highest <= lowest:
            middle, margin = lowest, max(abs(lowest) * 0.01, 1e-3)
            lowest, highest = middle - margin, middle + margin
        picture = show(axes, maps, values, scale=scale, cmap=cmap, vmin=lowest, vmax=highest)
        beyond = (finite < lowest).any(), (finite > highest).any()
        extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
        # An axes of its own beside the image is exactly as high as the image; an inch of the figure is about this part:
        inch = _columns(axes) / (DOUBLE - 0.6 * _columns(axes))
        place = axes.inset_axes((1 + 0.06 * inch, 0.0, 0.09 * inch, 1.0))
        bar = axes.figure.colorbar(picture, cax=place, extend=extend)
        bar.locator = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
        formatter = ScalarFormatter(useMathText=True)
        formatter.set_powerlimits((-3, 4))
        bar.formatter = formatter
        bar.outline.set_linewidth(0.5)
    if not finite.size:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color="0.35")


def show(axes: Axes, maps: ScanMaps, image: np.ndarray, *, scale: bool = True, **options: Any) -> Any:
    """Show an image over the probe positions.

    A scale bar says how large it is where the step size is known, axes elsewhere, unless another panel does (`scale`).
    A line scan becomes a strip.
    """
    axes.set_facecolor(NO_VALUE)
    if is_line(maps):
        start, end, _ = _distances(maps)
        picture = axes.imshow(image, interpolation="nearest", aspect="auto", extent=(start, end, 1, 0), **options)
        axes.set_yticks([])
        _label_line(axes, maps)
        return picture
    picture = axes.imshow(image, interpolation="nearest", **options)
    if maps.step_size is not None or not scale:
        axes.set_xticks([])
        axes.set_yticks([])
    if maps.step_size is not None and scale:
        _draw_scale_bar(axes, maps.shape, maps.step_size)
    elif scale:
        axes.set_xlabel("column")
        axes.set_ylabel("row")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    return picture


def _columns(axes: Axes) -> int:
    """How many panels stand side by side."""
    grid = axes.get_gridspec()
    return 1 if grid is None else int(grid.ncols)


def _draw_curve(axes: Axes, maps: ScanMaps, values: np.ndarray, low: float | None, high: float | None) -> None:
    _, _, step = _distances(maps)
    places = np.arange(values.size) * step
    axes.plot(places, values.reshape(-1), color="0.15", lw=0.7, marker="o", markersize=1.6)
    if low is not None and high is not None:
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    else:
        axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(_distances(maps)[:2])
    _label_line(axes, maps)


def _label_line(axes: Axes, maps: ScanMaps) -> None:
    """Name the axis along a line scan; of several panels only the lowest shows it."""
    unit = None if maps.step_size is None else _unit(max(maps.shape) * maps.step_size)[1]
    axes.set_xlabel("probe position" if unit is None else f"distance ({unit})")
    axes.label_outer()


def _distances(maps: ScanMaps) -> tuple[float, float, float]:
    """Where a line scan begins and ends, and the step, in the unit of its axis."""
    count = max(maps.shape)
    step = 1.0 if maps.step_size is None else maps.step_size / _unit(count * maps.step_size)[0]
    return -0.5 * step, (count - 0.5) * step, step


def line_place(maps: ScanMaps, index: int) -> float:
    """Where a probe position of a line scan lies on its axis."""
    return index * _distances(maps)[2]


def scale_bar(width: float) -> tuple[float, str]:
    """Choose a scale bar for an image.

    Parameters
    ----------
    width : float
        Of the image, Å.

    Returns
    -------
    length : float
        1, 2 or 5 times a power of ten of its unit, at most a third of the width; Å.
    text : str
        The length with its unit.
    """
    largest = width / 3
    factor, unit = _unit(largest)
    power = 10.0 ** np.floor(np.log10(largest / factor))
    value = max(step * power for step in (1, 2, 5) if step * power <= largest / factor * (1 + 1e-9))
    return float(value * factor), f"{value:g} {unit}"


def _unit(length: float) -> tuple[float, str]:
    """Unit in which a length, Å, is at least 1, and how many Å it has."""
    return next(((factor, unit) for factor, unit in ANGSTROM_TO if length >= factor), ANGSTROM_TO[-1])


def _draw_scale_bar(axes: Axes, shape: tuple[int, int], step_size: float) -> None:
    """Draw the bar below the image, where it hides nothing."""
    length, text = scale_bar(shape[1] * step_size)
    part = length / (shape[1] * step_size)
    # Offset in points, because a part of the height would be nothing below a flat image.
    figure = axes.get_figure(root=True)
    assert figure is not None
    below = axes.transAxes + ScaledTranslation(0, -7 / 72, figure.dpi_scale_trans)
    axes.add_artist(
        Line2D((0, part), (0, 0), transform=below, clip_on=False, color="black", lw=2.0, solid_capstyle="butt")
    )
    axes.text(part + 0.03, 0, text, transform=below, va="center", fontsize=7)


def draw_outlines(axes: Axes, labels: np.ndarray) -> None:
    """Draw the edges between probe positions of different particles."""
    rows, columns = np.nonzero(labels[:, 1:] != labels[:, :-1])
    axes.vlines(columns + 0.5, rows - 0.5, rows + 0.5, color="white", lw=0.6)
    rows, columns = np.nonzero(labels[1:] != labels[:-1])
    axes.hlines(rows + 0.5, columns - 0.5, columns + 0.5, color="white", lw=0.6)


def space_group_symbol(number: int) -> str:
    """Write the short Hermann-Mauguin symbol of a space group, in its standard setting, for Matplotlib.

    Parameters
    ----------
    number : int
        1 .. 230.

    Returns
    -------
    str
        Such as ``$Fm\\bar{3}m$``.
    """
    short = short_symbol(number)
    text = ""
    for position, character in enumerate(short):
        if character == "-":
            text += rf"\bar{{{short[position + 1]}}}"
        elif position == 0 or short[position - 1] != "-":
            text += character
    return f"${text}$"


def shown_lead(maps: ScanMaps) -> np.ndarray:
    """Filtered difference confidence of the probe positions that have a label, (labelled,)."""
    return maps.filtered_difference_confidence[maps.filtered_system >= 0]


def brightness(share: np.ndarray) -> np.ndarray:
    """Brightness, DIMMEST .. 1, that stands for a share, 0 .. 1, of the largest confidence."""
    # The root, because low confidence is the rule in noisy scans, and its hues shall still be told apart.
    return DIMMEST + (1 - DIMMEST) * np.sqrt(np.clip(share, 0, 1))
