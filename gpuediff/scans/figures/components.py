"""Pictures of measured against simulated features; drawing only, what is drawn is computed in `comparison`."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter

from gpuediff.scans.comparison import Components
from gpuediff.scans.figures.drawing import COLOURS, DOUBLE, in_print

BINS = 96
SMOOTHING = (1.5, 6.0)  # bins, least and largest standard deviation of what each simulated pattern is spread over
SHARES = (0.9, 0.5)  # of the simulated patterns that a contour encloses
CONTOURS_FROM = 20  # patterns; fewer are drawn as dots
DRAWN_MAX = 4000  # measured patterns in one panel, taken at even steps
UNANSWERED = "0.4"
ALL_SIMULATED = "0.55"
COLUMNS = 4


@in_print
def component_figure(components: Components, reference_system: np.ndarray, scan_system: np.ndarray) -> Figure:
    """Draw where measured patterns lie among the simulated ones: all together, and by predicted crystal system.

    Grey contours enclose 50% and 90% of all simulated patterns. Every crystal system that was predicted has a panel
    with the contours of its own simulated patterns, and its measured patterns as dots.

    Parameters
    ----------
    components : Components
        The first two are drawn.
    reference_system : array, shape (n,), str
        Crystal system of every simulated pattern.
    scan_system : array, shape (m,), str
        Predicted system of every measured pattern; empty where there is none.
    """
    simulated, measured = components.reference[:, :2], components.scan[:, :2]
    names, counts = np.unique(scan_system[scan_system != ""], return_counts=True)
    systems = [str(name) for name in names[np.argsort(-counts, kind="stable")]]
    columns = min(COLUMNS, 1 + len(systems))
    lines = -(-(1 + len(systems)) // columns)
    figure = Figure(figsize=(DOUBLE * max(columns, 2) / COLUMNS, 0.75 + 1.72 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    box = _limits(simulated, measured)
    panels = list(grid.flat)
    for axes in panels[1 + len(systems) :]:
        axes.set_axis_off()
    _draw_contours(panels[0], simulated, box, ALL_SIMULATED)
    _draw_dots(panels[0], measured[scan_system == ""], UNANSWERED)
    for axes, system in zip(panels[1:], systems, strict=False):
        inside = scan_system == system
        _draw_dots(panels[0], measured[inside], COLOURS[system])
        _draw_contours(axes, simulated, box, "0.8")
        _draw_contours(axes, simulated[reference_system == system], box, "0.2")
        _draw_dots(axes, measured[inside], COLOURS[system])
        axes.set_title(f"{system} (n = {inside.sum():,})")
    panels[0].set_title(f"all measured (n = {len(measured):,})")
    panels[0].set(xlim=box[0], ylim=box[1])
    first, second = (f"component {k} ({share:.0%} of variance)" for k, share in enumerate(components.explained[:2], 1))
    figure.supxlabel(first, fontsize=8)
    figure.supylabel(second, fontsize=8)
    _add_legend(figure, bool((scan_system == "").any()))
    return figure


def _limits(simulated: np.ndarray, measured: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Range of both components that holds all but the outermost hundredths."""
    low = np.min([np.percentile(part, 0.5, axis=0) for part in (simulated, measured) if len(part)], axis=0)
    high = np.max([np.percentile(part, 99.5, axis=0) for part in (simulated, measured) if len(part)], axis=0)
    margin = 0.08 * np.maximum(high - low, 1e-6)
    (left, bottom), (right, top) = low - margin, high + margin
    return (float(left), float(right)), (float(bottom), float(top))


def enclosing_levels(density: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """Density above which each share of the whole lies, lowest first."""
    ordered = np.sort(density, axis=None)[::-1]
    enclosed = np.cumsum(ordered) / ordered.sum()
    last = np.minimum(np.searchsorted(enclosed, shares), ordered.size - 1)
    return sorted(ordered[last].tolist())


def _draw_contours(
    axes: Axes, places: np.ndarray, box: tuple[tuple[float, float], tuple[float, float]], colour: str
) -> None:
    counts, x, y = np.histogram2d(places[:, 0], places[:, 1], bins=BINS, range=np.array(box))
    if counts.sum() < CONTOURS_FROM:
        axes.scatter(places[:, 0], places[:, 1], s=5, marker="x", linewidths=0.6, color=colour, zorder=1)
        return
    # half of Scott's rule, because clouds of features have several maxima
    spread = places.std(axis=0) / (np.diff(box, axis=1)[:, 0] / BINS)
    width = np.clip(0.5 * spread * len(places) ** (-1 / 6), *SMOOTHING)
    density = gaussian_filter(counts, width, mode="constant").T
    levels = np.unique(enclosing_levels(density, SHARES))
    widths = np.linspace(0.6, 1.1, len(levels))
    axes.contour(
        (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2, density, levels, colors=colour, linewidths=widths, zorder=1
    )


def _draw_dots(axes: Axes, places: np.ndarray, colour: str) -> None:
    drawn = places[:: max(1, -(-len(places) // DRAWN_MAX))]
    size = 4 if len(drawn) < 300 else 1.5
    axes.scatter(drawn[:, 0], drawn[:, 1], s=size, color=colour, alpha=0.7, linewidths=0, zorder=2, rasterized=True)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _add_legend(figure: Figure, unanswered: bool) -> None:
    handles = [
        Line2D([], [], color="0.2", lw=0.9, label="simulated: 50% and 90% inside"),
        Line2D([], [], color="0.8", lw=0.9, label="of all systems"),
        Line2D([], [], color="0.2", marker="o", ls="", markersize=2.5, label="measured, coloured by predicted system"),
    ]
    if unanswered:
        handles.append(Line2D([], [], color=UNANSWERED, marker="o", ls="", markersize=2.5, label="no answer"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=1.4, columnspacing=1.2)
