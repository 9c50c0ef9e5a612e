"""Diffraction patterns of disks at known places, drawn pixel by pixel, to hold detection against."""

import math

import numpy as np

from gpuediff.peaks import PeakBatch

_erf = np.vectorize(math.erf, otypes=[float])


def expected_counts(peaks: PeakBatch, shape, *, radius, edge=0.6, background=0.0, decay=25.0, tilt=0.0):
    """Mean counts of frames, shape (n, *shape), float64.

    Parameters
    ----------
    peaks : PeakBatch
        qx (axis 0) and qy (axis 1) in pixels; intensity in counts of a whole disk.
    radius : float
        Of the disks, pixels; their edge is an error function of width `edge`.
    background : float
        Counts of a whole frame, falling exponentially from its centre over `decay` pixels.
    tilt : float
        How uneven disks are: along a direction that differs from disk to disk, from 1 - tilt to 1 + tilt.
    """
    frames = np.zeros((len(peaks), *shape))
    x, y = np.indices(shape)
    if background:
        glow = np.exp(-np.hypot(x - shape[0] / 2, y - shape[1] / 2) / decay)
        frames += background * glow / glow.sum()
    reach = math.ceil(radius + 5 * edge) + 1
    number = 0
    for frame, pattern in zip(frames, peaks, strict=True):
        for qx, qy, intensity in zip(*pattern, strict=True):
            number += 1
            rows, columns = (slice(max(0, round(float(q)) - reach), round(float(q)) + reach + 1) for q in (qx, qy))
            dx, dy = x[rows, columns] - qx, y[rows, columns] - qy
            if not dx.size:
                continue
            disk = 0.5 * (1 - _erf((np.hypot(dx, dy) - radius) / (math.sqrt(2) * edge)))
            angle = 2.4 * number
            disk *= 1 + tilt * (dx * np.cos(angle) + dy * np.sin(angle)) / radius
            whole = math.pi * (radius**2 + edge**2)  # also of disks that the frame's edge cuts
            frame[rows, columns] += intensity * np.clip(disk, 0, None) / whole
    return frames
