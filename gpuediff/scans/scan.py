"""A scan: the calibrated peak lists of all probe positions."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch

PATTERNS_PER_BATCH = 16_384  # bounds the memory of features: 70 MB for the 1,066 of the paper


@dataclass(frozen=True)
class Scan:
    """Calibrated peak lists of all probe positions.

    Parameters
    ----------
    peaks : PeakBatch
        Pattern `row * nx + column`; positions in Å⁻¹ around the direct beam, which is among the peaks.
    shape : tuple of int
        Probe positions (ny, nx).
    source : str
        File and dataset.
    calibration : dict of str
        Step to what it did, in the order of application; empty where the positions are taken as they are stored.
    note : str
        What a reader of the results should know about the positions, such as a unit that the file does not state.
    step_size : float, optional
        Distance between probe positions, Å.
    intensity_unit : str
        Intensities are never rescaled on reading.

    Raises
    ------
    InvalidScan
        If the number of patterns is not ny * nx.
    """

    peaks: PeakBatch
    shape: tuple[int, int]
    source: str
    calibration: dict[str, str] = field(default_factory=dict)
    note: str = ""
    step_size: float | None = None
    intensity_unit: str = "as stored"

    def __post_init__(self) -> None:
        if self.shape[0] * self.shape[1] != len(self.peaks):
            raise InvalidScan(
                f"{self.source}: {len(self.peaks)} patterns do not fill {self.shape[0]} x {self.shape[1]} positions"
            )
