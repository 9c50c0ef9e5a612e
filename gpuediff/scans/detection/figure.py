"""One picture that tells whether peaks were found where they are; drawing only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from gpuediff.scans.detection.peak_finding import Example, FoundPeaks
from gpuediff.scans.detection.ring import RingFit

MARK = "#E69F00"  # on grey and on blue alike, and told from both by colour-blind readers
BINS = 256  # of the Bragg-vector map, along an axis
FEW = 10_000  # peaks, up to which each is a point: a map of so few is dust
PANEL = 3.5  # inches


def detection_figure(found: FoundPeaks) -> Figure:
    """Draw mean pattern, all peaks together, peaks per probe position, and some frames with their peaks.

    Parameters
    ----------
    found : FoundPeaks
    """
    figure = Figure(figsize=(3 * PANEL + 1, 2 * PANEL + 0.9), layout="constrained")
    figure.suptitle(_name(found.source), fontsize=9, color="0.35")
    upper, lower = figure.subplots(2, 3)
    _draw_mean(upper[0], found)
    _draw_all_peaks(upper[1], found)
    _draw_counts(upper[2], found)
    for axes, example in zip(lower, found.examples, strict=False):
        _draw_example(axes, found, example)
    for axes in lower[len(found.examples) :]:
        axes.set_axis_off()
    return figure


def _name(source: str) -> str:
    file, _, dataset = source.partition(": ")
    return f"{Path(file).name}, {dataset}" if dataset else Path(file).name


def _draw_mean(axes: Axes, found: FoundPeaks) -> None:
    survey = found.survey
    _show_frame(axes, survey.mean)
    qx, qy = survey.centre
    axes.add_patch(Circle((qy, qx), found.probe.radius, fill=False, color=MARK, lw=1.2))
    axes.plot(qy, qx, "+", color=MARK, ms=5, mew=1)
    axes.set_title(f"mean of {survey.frames} frames; probe radius {found.probe.radius:.2f} pixels", fontsize=9)


def _show_frame(axes: Axes, frame: np.ndarray) -> None:
    """Show counts on a scale that lets weak disks be seen beside the direct beam."""
    values = np.asarray(frame, dtype=np.float64)
    finite = values[np.isfinite(values)]
    high = max(float(finite.max()), 1e-12) if finite.size else 1.0
    low = max(float(np.quantile(finite, 0.3)), 0.0) if finite.size else 0.0
    axes.imshow(
        values, cmap="gray", norm=PowerNorm(0.25, vmin=low, vmax=max(high, low + 1e-12)), interpolation="nearest"
    )
    _label(axes, "$q_y$, pixels", "$q_x$, pixels")


def _draw_all_peaks(axes: Axes, found: FoundPeaks) -> None:
    """Draw how many peaks there are at every place around the direct beam, calibrated as far as that is known."""
    kept, calibration = found.kept, found.calibration
    stand_alone = type(calibration)((1, 1), None, calibration.ellipse, calibration.pixel_size)
    qx, qy = stand_alone.apply(
        kept.qx.astype(np.float64), kept.qy.astype(np.float64), np.zeros(len(kept.qx), dtype=np.int64)
    )
    size = calibration.pixel_size
    reach = 0.5 * max(found.survey.mean.shape) * (1.0 if size is None else size)
    axes.set_facecolor("black")
    if len(qx) <= FEW:
        axes.plot(qy, qx, ".", color="white", ms=1.6, mew=0, alpha=0.8)
        axes.set_aspect("equal")
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach))
    else:
        image, edges, _ = np.histogram2d(qx, qy, bins=BINS, range=((-reach, reach), (-reach, reach)))
        axes.imshow(
            np.where(image > 0, image, np.nan),
            cmap="viridis",
            norm=LogNorm(vmin=1, vmax=max(2.0, float(image.max()))),
            extent=(edges[0], edges[-1], edges[-1], edges[0]),
            interpolation="nearest",
        )
    title = f"{len(qx):,} peaks of {len(kept):,} frames"
    if found.ring is not None:
        _draw_rings(axes, found.ring, reach)
        title += f"; rings of {len(found.ring.spacings)} spacings"
    axes.set_title(title, fontsize=9)
    unit = "pixels" if size is None else "Å⁻¹"
    _label(axes, f"$q_y$, {unit}", f"$q_x$, {unit}")


def _draw_rings(axes: Axes, ring: RingFit, reach: float) -> None:
    """Draw the upper half of every ring, so that the peaks on the lower half can be judged without it."""
    angle = np.linspace(0, np.pi, 200)
    for spacing in ring.spacings:
        if 1 / spacing < reach:
            axes.plot(np.cos(angle) / spacing, -np.sin(angle) / spacing, color=MARK, lw=0.7)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(reach, -reach)


def _draw_counts(axes: Axes, found: FoundPeaks) -> None:
    counts = found.counts.astype(float)
    high = max(1.0, float(np.percentile(counts, 99.5)))
    aspect: Literal["equal", "auto"] = "equal" if max(counts.shape) <= 8 * min(counts.shape) else "auto"
    picture = axes.imshow(counts, cmap="cividis", vmin=0, vmax=high, interpolation="nearest", aspect=aspect)
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.03, aspect=18)
    bar.ax.tick_params(labelsize=8)
    bar.locator = MaxNLocator(5, integer=True)
    bar.outline.set_linewidth(0.5)
    axes.set_title(f"peaks per probe position, median {np.median(counts):.0f}", fontsize=9)
    _label(axes, "probe position, column", "row")


def _draw_example(axes: Axes, found: FoundPeaks, example: Example) -> None:
    _show_frame(axes, example.frame)
    for qx, qy in zip(example.qx, example.qy, strict=True):
        axes.add_patch(Circle((qy, qx), 1.5 * found.probe.radius, fill=False, color=MARK, lw=0.8))
    row, column = divmod(example.index, found.scan_shape[1])
    qx0, qy0 = found.centres.qx[row, column], found.centres.qy[row, column]
    axes.plot(qy0, qx0, "+", color=MARK, ms=5, mew=1)
    axes.set_title(f"row {row}, column {column}: {len(example.qx)} peaks", fontsize=9)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8, width=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
