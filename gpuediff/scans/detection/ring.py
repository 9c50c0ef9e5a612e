"""Pixel size and elliptical distortion from the rings of a known polycrystal.

Peaks of many grains lie on circles of known radius; on the detector these are ellipses, all alike but for their size.
A x² + B x y + C y² = g² holds for every peak of the ring g, so that, once every peak has its ring, three numbers follow
by linear least squares. Which ring a peak is on follows from the pixel size that brings most peaks onto rings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from gpuediff.errors import InvalidScan

GRID_STEP = 1.002  # ratio of neighbouring trial pixel sizes
WIDTHS = (0.006, 0.012, 0.024)  # of rings, of their radius, that are tried
STRETCHES = (1.04, 1.08)  # ellipses that are tried, at ANGLES angles each, beside the circle
ANGLES = 6
TREND = 0.15  # of log radius, over which the number of peaks is smoothed to what it would be without rings
ROUGH = 1.12  # a pixel size that is roughly known is within this ratio
NEAR = 1.05  # pixel sizes with a smaller ratio are not two answers
LEAST_PEAKS = 50
LEAST_EVIDENCE = 15.0  # logarithm of how much more likely the peaks are with the best pixel size than with another
LEAST_SHARE = 0.4  # of the peaks up to the last ring, that must be on rings
FIRST_RING = 0.01  # of the peaks, that must be on the first ring: half of the rings fit many another lattice
OTHER_RING = 0.08  # of the peaks, that are enough for a ring which should not be there
BIN = 0.02  # of the radius, in which such a ring is looked for
EDGES = (0.2, 4.0)  # Å⁻¹, where the outermost peaks may be if nothing is known of the pixel size
TOLERANCES = (0.06, 0.04, 0.03, 0.02)  # of the radius, in the first rounds; then what the scatter allows
ROUNDS = 20


@dataclass(frozen=True)
class RingFit:
    """What rings tell of the detector.

    Parameters
    ----------
    pixel_size, pixel_size_error : float
        Å⁻¹ per pixel along the minor axis, where nothing is stretched, and its standard uncertainty.
    ellipse : tuple of float
        Semi-axes a >= b of the first ring that is used, pixels, and the angle of a from qx towards qy, radians: as
        py4DSTEM's `Calibration.set_ellipse`.
    ratio_error, angle_error : float
        Standard uncertainties of a / b and of the angle, radians.
    spacings : tuple of float
        Of the rings that peaks are on, Å.
    peaks : int
        On rings.
    scatter : float
        Robust standard deviation of the peaks' radii, of the radius.
    """

    pixel_size: float
    pixel_size_error: float
    ellipse: tuple[float, float, float]
    ratio_error: float
    angle_error: float
    spacings: tuple[float, ...]
    peaks: int
    scatter: float


def face_centred_spacings(lattice: float, *, most: int = 12) -> tuple[float, ...]:
    """List the plane spacings of a cubic F lattice, the widest first: h, k, l all even or all odd.

    Parameters
    ----------
    lattice : float
        a, Å.
    most : int
        How many.
    """
    line = range(7)
    squares = {
        h * h + k * k + l * l for h in line for k in line for l in line if h % 2 == k % 2 == l % 2 and h + k + l > 0
    }
    return tuple(lattice / math.sqrt(square) for square in sorted(squares)[:most])


def fit_rings(
    qx: np.ndarray,
    qy: np.ndarray,
    spacings: Sequence[float],
    *,
    pixel_size: float | None = None,
    ellipse: bool = True,
) -> RingFit:
    """Fit pixel size and ellipse to peaks around the direct beam.

    Parameters
    ----------
    qx, qy : array, shape (peaks,), float
        From the direct beam, pixels; of many grains. What is nearer to it than the first ring is left out.
    spacings : sequence of float
        Of the polycrystal, Å: all that are not narrower than the narrowest one.
    pixel_size : float, optional
        Roughly, within a tenth, Å⁻¹ per pixel; searched for if absent.
    ellipse : bool
        Whether to fit it, or to take rings for circles.

    Returns
    -------
    RingFit
        Uncertainties take every peak for a measurement of its own; frames that share a grain are not.

    Raises
    ------
    InvalidScan
        If the spacings are no lengths, peaks are few, or no pixel size brings them onto rings; says what to do.
    """
    lengths = np.asarray(sorted(set(map(float, spacings)), reverse=True), dtype=np.float64)
    if not len(lengths) or not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InvalidScan(f"rings: spacings = {list(spacings)}: expected lengths in Å, all > 0")
    rings = 1 / lengths
    x, y = (np.asarray(axis, dtype=np.float64) for axis in (qx, qy))
    kept = np.isfinite(x) & np.isfinite(y) & (x**2 + y**2 > 0)
    x, y = x[kept], y[kept]
    if len(x) < LEAST_PEAKS:
        raise InvalidScan(f"rings: {len(x)} diffracted peaks, at least {LEAST_PEAKS} are needed: pass the pixel size")
    conic = _search(x, y, rings, pixel_size, ellipse=ellipse)
    tolerances = (*TOLERANCES, *(None,) * ROUNDS)
    scatter = TOLERANCES[-1]
    for tolerance in tolerances:
        before = conic
        width = tolerance or min(TOLERANCES[-1], max(4 * scatter, 0.004))
        ring, on = _assign(x, y, rings, conic, width)
        if on.sum() < LEAST_PEAKS:
            raise InvalidScan(
                f"rings: {int(on.sum())} peaks within {width:.1%} of the rings, at least {LEAST_PEAKS} are needed: "
                f"check the spacings, or pass the pixel size"
            )
        conic, covariance, scatter = _fit(x[on], y[on], rings[ring[on]], ellipse=ellipse)
        if tolerance is None and np.allclose(conic, before, rtol=1e-9, atol=1e-12 * conic[0]):
            break
    _check(x, y, rings, conic, width)
    used = np.flatnonzero(np.bincount(ring[on], minlength=len(rings)))
    names = ("pixel_size", "ratio", "angle")
    values = _axes(conic)
    steps = np.sqrt(np.diag(covariance)) * 1e-2 + 1e-12 * conic[0]
    jacobian = np.array([_turned(_axes(conic + step) - values) / step.sum() for step in np.diag(steps)]).T
    errors = dict(zip(names, np.sqrt(np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian)), strict=True))
    minor = float(rings[used[0]] / values[0])
    return RingFit(
        pixel_size=float(values[0]),
        pixel_size_error=float(errors["pixel_size"]),
        ellipse=(minor * float(values[1]), minor, float(values[2])),
        ratio_error=float(errors["ratio"]) if ellipse else 0.0,
        angle_error=float(errors["angle"]) if ellipse else 0.0,
        spacings=tuple(float(lengths[index]) for index in used),
        peaks=int(on.sum()),
        scatter=scatter,
    )


def _search(x: np.ndarray, y: np.ndarray, rings: np.ndarray, pixel_size: float | None, *, ellipse: bool) -> np.ndarray:
    """Find the pixel size, and roughly the ellipse, at which peaks are on rings and not beside them; A, B, C."""
    if pixel_size is not None:
        low, high = pixel_size / ROUGH, pixel_size * ROUGH
    else:
        outermost = float(np.quantile(np.hypot(x, y), 0.99))
        low, high = EDGES[0] / outermost, EDGES[1] / outermost
    sizes = low * GRID_STEP ** np.arange(math.ceil(math.log(high / low) / math.log(GRID_STEP)) + 1)
    angles = np.arange(ANGLES) * math.pi / ANGLES
    shapes = [(1.0, 0.0)] + [(ratio, angle) for ratio in STRETCHES if ellipse for angle in angles]
    conics = [_conic(1.0, *shape) for shape in shapes]
    evidence = np.array([_evidence(_radii(x, y, conic), rings, sizes) for conic in conics])
    shape, best = np.unravel_index(int(evidence.argmax()), evidence.shape)
    top = float(evidence[shape, best])
    far = np.abs(np.log(sizes / sizes[best])) > math.log(NEAR)
    rest = max(0.0, float(evidence[:, far].max())) if far.any() and pixel_size is None else 0.0
    if top - rest < LEAST_EVIDENCE:
        around = "" if pixel_size is None else f" within 12 % of {pixel_size:g} Å⁻¹"
        raise InvalidScan(
            f"rings: no pixel size{around} stands out that brings {len(x)} peaks onto {len(rings)} rings (best "
            f"{sizes[best]:.4g} Å⁻¹ with evidence {top:.0f}, another with {rest:.0f}): check the spacings and the "
            f"centre, or pass {'a rough' if pixel_size is None else 'another'} pixel size"
        )
    return conics[int(shape)] * sizes[best] ** 2


def _conic(minor: float, ratio: float, angle: float) -> np.ndarray:
    """Return A, B, C of an ellipse whose minor axis is scaled by `minor` and whose major axis by `minor` / `ratio`."""
    along, across = (minor / ratio) ** 2, minor**2
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array(
        [along * cos**2 + across * sin**2, 2 * (along - across) * cos * sin, along * sin**2 + across * cos**2]
    )


def _radii(x: np.ndarray, y: np.ndarray, conic: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(conic[0] * x**2 + conic[1] * x * y + conic[2] * y**2, 1e-30))


def _evidence(radius: np.ndarray, rings: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Logarithm of how much likelier radii are with rings, each of a strength of its own, than without, for each size.

    Without rings the radii are spread as they are when smoothed over `TREND`. The best of the `WIDTHS` is taken.
    """
    logs = np.sort(np.log(radius))
    step = TREND / 50
    grid = np.arange(logs[0] - 4 * TREND, logs[-1] + 4 * TREND, step)
    density = gaussian_filter1d(np.bincount(np.searchsorted(grid, logs), minlength=len(grid)).astype(float), 50)
    trend = np.cumsum(density) / density.sum()
    middles = 0.5 * np.log(rings[1:] * rings[:-1])
    best = np.full(len(sizes), -np.inf)
    for width in WIDTHS:
        lower = np.maximum(np.concatenate([[-np.inf], middles]), np.log(rings) - width)
        upper = np.minimum(np.concatenate([middles, [np.inf]]), np.log(rings) + width)
        lower, upper = (edge - np.log(sizes)[:, None] for edge in (lower, upper))  # as radii
        counts = (np.searchsorted(logs, upper) - np.searchsorted(logs, lower)).astype(float)
        expected = (np.interp(upper, grid, trend) - np.interp(lower, grid, trend)) * len(logs)
        expected = np.where(expected < 1e-3, 0.0, expected)  # beyond the peaks
        counts[expected == 0] = 0
        between = len(logs) - counts.sum(axis=1), len(logs) - expected.sum(axis=1)
        counts = np.concatenate([counts, between[0][:, None]], axis=1)
        expected = np.concatenate([expected, np.maximum(between[1], 1e-3)[:, None]], axis=1)
        gain = np.where(counts > 0, counts * np.log(np.where(counts > 0, counts, 1) / np.maximum(expected, 1e-3)), 0)
        # A ring's strength is a free number: it costs what it would gain from chance.
        best = np.maximum(best, gain.sum(axis=1) - 0.5 * math.log(len(logs)) * (expected > 0).sum(axis=1))
    return best


def _assign(
    x: np.ndarray, y: np.ndarray, rings: np.ndarray, conic: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Give every peak its nearest ring, and say which peaks are on it; rings that are too near each other wait."""
    q = _radii(x, y, conic)
    middles = np.sqrt(rings[1:] * rings[:-1])
    ring = np.searchsorted(middles, q)
    gap = np.concatenate([[np.inf], np.diff(np.log(rings)), [np.inf]])
    clear = np.minimum(gap[1:], gap[:-1]) > 2 * tolerance
    return ring, (np.abs(q / rings[ring] - 1) < tolerance) & (clear[ring] if clear.any() else True)


def _fit(x: np.ndarray, y: np.ndarray, g: np.ndarray, *, ellipse: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit A x² + B x y + C y² = g², every radius with the same relative error; conic, covariance, scatter."""
    columns = np.stack([x**2, x * y, y**2], axis=1) / g[:, None] ** 2
    if not ellipse:
        columns = columns[:, :1] + columns[:, 2:]
    solution = np.linalg.lstsq(columns, np.ones(len(g)), rcond=None)[0]
    rest = columns @ solution - 1
    variance = float(rest @ rest) / (len(g) - len(solution))
    covariance = variance * np.linalg.inv(columns.T @ columns)
    if not ellipse:
        spread = np.array([[1.0], [0.0], [1.0]])
        solution, covariance = spread @ solution, spread @ covariance @ spread.T
    return solution, covariance, 1.4826 * float(np.median(np.abs(rest))) / 2


def _axes(conic: np.ndarray) -> np.ndarray:
    """Turn A, B, C into the pixel size along the minor axis, the ratio of the axes, and the major axis' angle."""
    values, vectors = np.linalg.eigh([[conic[0], conic[1] / 2], [conic[1] / 2, conic[2]]])
    if values[0] <= 0:
        raise InvalidScan("rings: the peaks do not lie on ellipses: check the spacings, or pass the pixel size")
    major = vectors[:, 0]
    return np.array([math.sqrt(values[1]), math.sqrt(values[1] / values[0]), math.atan2(major[1], major[0]) % math.pi])


def _turned(change: np.ndarray) -> np.ndarray:
    """Take a change of angle for the smallest that it can be: an axis has no head."""
    change[2] = (change[2] + math.pi / 2) % math.pi - math.pi / 2
    return change


def _check(x: np.ndarray, y: np.ndarray, rings: np.ndarray, conic: np.ndarray, width: float) -> None:
    """Refuse rings that most peaks are not on, or beside which there is another ring."""
    q = _radii(x, y, conic)
    q = q[(q > 0.5 * rings[0]) & (q < (1 + width) * rings[-1])]
    away = np.abs(q[:, None] / rings - 1).min(axis=1) >= width
    first = float((np.abs(q / rings[0] - 1) < width).mean())
    if first < FIRST_RING:
        raise InvalidScan(
            f"rings: no peaks on the ring of the widest spacing, {1 / rings[0]:.3f} Å, with the pixel size that "
            f"fits the others: these are not the spacings of this specimen; or leave that one out, or pass a pixel size"
        )
    if away.mean() > 1 - LEAST_SHARE:
        raise InvalidScan(
            f"rings: only {1 - away.mean():.0%} of the peaks up to {rings[-1]:.2f} Å⁻¹ are on rings: these are not the "
            f"spacings of this specimen, or several specimens are in it: pass the pixel size"
        )
    bins = (np.log(q[away] / (0.5 * rings[0])) / BIN).astype(int)
    counts = np.bincount(bins, minlength=3).astype(float)
    pairs = counts[1:] + counts[:-1]  # a ring may lie across two bins
    expected = gaussian_filter1d(pairs, TREND / BIN)
    excess = pairs - expected - 6 * np.sqrt(expected + 1)
    if excess.max() > 0 and pairs[excess.argmax()] > OTHER_RING * len(q):
        spacing = 1 / (0.5 * rings[0] * math.exp(BIN * (excess.argmax() + 1)))
        raise InvalidScan(
            f"rings: {pairs[excess.argmax()] / len(q):.0%} of the peaks are on a ring at {spacing:.3f} Å, which is "
            f"none of the spacings: these are not the spacings of this specimen, or one is missing: pass the pixel size"
        )
