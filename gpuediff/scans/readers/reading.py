"""What the readers of all formats share: what the user says, how blocks become one batch, how positions are judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gpuediff.errors import InvalidScan
from gpuediff.peaks import DIRECT_BEAM_RADIUS, Q_PLAUSIBLE, PeakBatch
from gpuediff.progress import Track, silent
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.readers.spool import PeakSpool

POSITIONS_PER_BLOCK = 16_384  # bounds the memory of object arrays, one object a probe position
PEAKS_PER_BLOCK = 1_048_576


@dataclass(frozen=True)
class Asked:
    """What the user says about a file, instead of what the file says.

    Parameters
    ----------
    dataset : str, optional
        Which peaks, where a file holds several.
    pixel_size : float, optional
        Å⁻¹ per stored unit.
    centre : tuple of float, optional
        Direct beam (qx0, qy0) in the unit of the stored positions.
    track : Track
    """

    dataset: str | None = None
    pixel_size: float | None = None
    centre: tuple[float, float] | None = None
    track: Track = silent

    def over(self, calibration: Calibration) -> Calibration:
        """Return a calibration with what the user says put in the place of what it says."""
        if self.pixel_size is not None:
            calibration = replace(calibration, pixel_size=float(self.pixel_size))
        if self.centre is not None:
            origin = (np.asarray(float(self.centre[0])), np.asarray(float(self.centre[1])))
            calibration = replace(calibration, origin=origin)
        return calibration

    def describe(self, calibration: Calibration) -> dict[str, str]:
        """Say which steps of a calibration made by `over` are applied, and which of them the user gave."""
        applied = calibration.describe()
        for step, given in (("origin", self.centre), ("pixel_size", self.pixel_size)):
            if given is not None:
                applied[step] += " (given by the user)"
        return applied


class Block(NamedTuple):
    """Peak lists of the next probe positions, as stored.

    qx, qy, intensity : array, shape (peaks,), float64
    counts : array, shape (patterns,), int64
    """

    qx: np.ndarray
    qy: np.ndarray
    intensity: np.ndarray
    counts: np.ndarray


@dataclass
class Extent:
    """How far the finite positions among those seen so far reach; in the unit they are given in."""

    q_max: float = 0.0
    qx: tuple[float, float] = (np.inf, -np.inf)
    qy: tuple[float, float] = (np.inf, -np.inf)
    near_zero: int = 0  # peaks that are the direct beam if the positions are calibrated
    patterns: int = 0  # with peaks

    def add(self, qx: np.ndarray, qy: np.ndarray) -> None:
        """See more positions."""
        finite = np.isfinite(qx) & np.isfinite(qy)
        qx, qy = qx[finite], qy[finite]
        if not len(qx):
            return
        with np.errstate(over="ignore"):
            q = np.hypot(qx, qy)
        self.q_max = max(self.q_max, float(q.max()))
        self.near_zero += int((q <= DIRECT_BEAM_RADIUS).sum())
        self.qx = (min(self.qx[0], float(qx.min())), max(self.qx[1], float(qx.max())))
        self.qy = (min(self.qy[0], float(qy.min())), max(self.qy[1], float(qy.max())))

    @property
    def empty(self) -> bool:
        """Whether no finite position was seen."""
        return self.qx[0] > self.qx[1]

    @property
    def around_zero(self) -> bool:
        """Whether positions lie on both sides in qx and in qy, one side reaching at least a quarter as far."""
        return all(min(-low, high) >= max(-low, high) / 4 for low, high in (self.qx, self.qy))

    @property
    def centred(self) -> bool:
        """Whether positions lie around zero, or as many as half of the patterns have their direct beam there."""
        return self.around_zero or 2 * self.near_zero >= self.patterns


def gather(blocks: Iterable[Block], calibration: Calibration) -> tuple[PeakBatch, Extent]:
    """Calibrate blocks in float64, keep them as float32, and join them.

    Parameters
    ----------
    blocks : iterable of Block
        In the order of the probe positions, row by row.
    calibration : Calibration

    Returns
    -------
    peaks : PeakBatch
        Mapped from temporary files where they are many.
    extent : Extent
        Of the calibrated positions.
    """
    spool, extent = PeakSpool(), Extent()
    all_counts = [np.empty(0, np.int64)]
    start = 0
    for block in blocks:
        position = start + np.repeat(np.arange(len(block.counts)), block.counts)
        start += len(block.counts)
        all_counts.append(block.counts)
        with np.errstate(invalid="ignore", over="ignore"):  # a peak that is not finite shows in its map
            qx, qy = (column.astype(np.float32) for column in calibration.apply(block.qx, block.qy, position))
            intensity = block.intensity.astype(np.float32)
        extent.add(qx, qy)
        extent.patterns += int(np.count_nonzero(block.counts))
        spool.append(qx, qy, intensity)
    return spool.batch(np.concatenate(all_counts)), extent


def refuse_implausible(source: str, extent: Extent, asked: Asked, why: str = "") -> None:
    """Refuse positions that cannot be Å⁻¹ around the direct beam, though their file or its format says so.

    What the user has said is not doubted.

    Parameters
    ----------
    why : str
        What the file says about its unit, for the message.

    Raises
    ------
    InvalidScan
    """
    _refuse_unit(source, extent, asked, why)
    if asked.centre is None and not extent.empty and not extent.centred:
        raise _not_centred(source, extent)


def _refuse_unit(source: str, extent: Extent, asked: Asked, why: str) -> None:
    if asked.pixel_size is None and extent.q_max > Q_PLAUSIBLE:
        raise InvalidScan(
            f"{source}: {why}peaks as far out as {extent.q_max:.4g} cannot be Å⁻¹: "
            f"pass --pixel-size (Å⁻¹ per pixel; 1 if the positions are Å⁻¹ all the same) and --centre"
        )


def _not_centred(source: str, extent: Extent) -> InvalidScan:
    return InvalidScan(
        f"{source}: the peaks do not lie around zero "
        f"(qx {extent.qx[0]:.4g} .. {extent.qx[1]:.4g}, qy {extent.qy[0]:.4g} .. {extent.qy[1]:.4g}): "
        f"pass --centre (direct beam in the unit of the stored positions; 0 0 if it is at zero all the same)"
    )


def without_calibration(source: str, extent: Extent, asked: Asked) -> str:
    """Accept positions of which the file says nothing where they can only mean one thing; return what to note."""
    if extent.empty:
        return "no peaks"
    _refuse_unit(source, extent, asked, "no pixel size in the file, and ")
    if asked.centre is None and not extent.around_zero:
        raise _not_centred(source, extent)
    assumed = []
    if asked.pixel_size is None:
        assumed.append(f"positions taken as Å⁻¹, because they end at {extent.q_max:.4g}")
    if asked.centre is None:
        assumed.append("the direct beam taken at zero, because the peaks lie around it")
    return f"the file states no calibration: {'; '.join(assumed)}" if assumed else ""
