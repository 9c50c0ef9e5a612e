"""Radial-angular basis of Bragg peak lists.

A pattern's peaks become coefficients R[n, m] on overlapping rings n and angular orders m
(Gleason et al., Phys. Rev. Mater. 8, 093802, Eqs. 1 and 2):

    R[n, m] = Σ_j I_j max(0, 1 - |q_j - k_n| / Δk) exp(i m φ_j),    k_n = n Δk

`coefficients` gives them as complex numbers, `magnitudes_and_arguments` as the forests take them. The device is
that of the peaks: numba on the CPU, `kernels/radial_basis.cu` on the GPU, with sums in float64 on both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from gpuediff import arrays
from gpuediff.errors import InvalidConfig, InvalidPeaks
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Features

#: Where |R[n, m]|, or its imaginary part, is not above this part of R[n, 0], it counts as zero in the features.
#: Rounding a position to float32 turns φ by at most 2⁻²⁴, order 12 by 7.2e-7: below, an argument would be noise.
#: It also moves the weight on a ring, by up to 2.4e-6 at 2 Å⁻¹, and simulated intensities are themselves rounded:
#: where equivalent peaks are not equal to this level, what symmetry cancels in theory stays above it.
ROUNDING_LEVEL = 1e-6

THREADS = 64  # of a CUDA block, and peaks that it stages at a time
SHARED_MEMORY = 48 * 1024  # bytes that every CUDA device grants a block

_TILE = 16  # peaks that the CPU expands side by side, in vector registers


@dataclass(frozen=True)
class RadialBasis:
    """Rings at n `ring_spacing` (Å⁻¹), n = 0 .. rings - 1, and angular orders 0 .. orders - 1.

    Ring weights fall linearly from 1 on the ring to 0 on its neighbours, so that the weights of a peak between two
    rings sum to 1. Peaks at `rings` x `ring_spacing` and beyond contribute nothing.
    """

    rings: int
    ring_spacing: float
    orders: int

    def __post_init__(self) -> None:
        for name in ("rings", "orders"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"{name} = {getattr(self, name)}: a basis needs at least one")
        if not (math.isfinite(self.ring_spacing) and self.ring_spacing > 0):
            raise InvalidConfig(f"ring_spacing = {self.ring_spacing}: must be > 0 Å⁻¹ and finite")

    @classmethod
    def from_settings(cls, settings: Features) -> RadialBasis:
        """Take the basis of a run."""
        return cls(settings.rings, settings.ring_spacing, settings.orders)


def coefficients(peaks: PeakBatch, basis: RadialBasis, *, rotation: Any = None, scale: Any = None) -> Any:
    """Expand every pattern in the basis.

    The bits of the result do not depend on the number of threads, nor on which patterns are in one batch.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns; q in Å⁻¹, intensity as a fraction of the incident beam, direct beam removed. A peak at q = 0 has
        φ = 0.
    basis : RadialBasis
        Rings and angular orders.
    rotation : array, shape (n,), optional
        In-plane rotation of each pattern, radians, anticlockwise: multiplies order m by exp(i m θ).
    scale : array, shape (n,), optional
        Factor on the intensities of each pattern, such as `preparation.intensity_scale` gives.

    Returns
    -------
    array, shape (n, basis.rings, basis.orders), complex64
        On the device of `peaks`.

    Raises
    ------
    InvalidPeaks
        If a position or an intensity is not finite, or an intensity is negative; names the first such pattern and
        peak. If `rotation` or `scale` does not hold one finite number for each pattern.
    """
    return _expand("coefficients", _expand_coefficients, peaks, basis, rotation, scale)


def magnitudes_and_arguments(peaks: PeakBatch, basis: RadialBasis, *, rotation: Any = None, scale: Any = None) -> Any:
    """Expand every pattern, in polar form.

    A coefficient at rounding level, |R[n, m]| <= 1e-6 R[n, 0], has magnitude 0 and argument 0: symmetry cancelled
    it, and its argument would be noise. So it is with an imaginary part at rounding level: it counts as zero, lest
    the argument of a negative coefficient jump between π and -π.

    Parameters, errors : as for `coefficients`.

    Returns
    -------
    array, shape (n, basis.rings, basis.orders, 2), float32
        |R| and arg R in (-π, π], on the device of `peaks`.
    """
    polar = _expand("polar", _expand_polar, peaks, basis, rotation, scale, np.float64(ROUNDING_LEVEL))
    return polar.view(np.float32).reshape(*polar.shape, 2)


def _expand(
    layout: str,
    on_cpu: Callable[..., None],
    peaks: PeakBatch,
    basis: RadialBasis,
    rotation: Any,
    scale: Any,
    *extra: Any,
) -> Any:
    inputs = _inputs(peaks, rotation, scale)
    xp = arrays.namespace(inputs.qx)
    out = xp.empty((len(peaks), basis.rings, basis.orders), dtype=np.complex64)
    if xp is np:
        on_cpu(*inputs, basis.ring_spacing, *extra, out)
    else:
        launch(arrays.kernel("radial_basis", "float64", f"radial_basis_{layout}"), inputs, basis, *extra, out=out)
    return out


class Inputs(NamedTuple):
    """What both devices are handed: contiguous arrays of exactly these types."""

    qx: Any  # (peaks,) float32
    qy: Any  # (peaks,) float32
    intensity: Any  # (peaks,) float32
    offsets: Any  # (n + 1,) int64
    turn: Any  # (n,) complex128: exp(iθ)
    scale: Any  # (n,) float64


def _inputs(peaks: PeakBatch, rotation: Any, scale: Any) -> Inputs:
    xp = arrays.namespace(peaks.qx)
    n = len(peaks)
    qx, qy, intensity = (
        xp.ascontiguousarray(array, dtype=np.float32) for array in (peaks.qx, peaks.qy, peaks.intensity)
    )
    offsets = xp.ascontiguousarray(peaks.offsets, dtype=np.int64)
    PeakBatch(qx, qy, intensity, offsets).validate()
    turn = xp.ones(n, dtype=np.complex128)
    if rotation is not None:
        turn = xp.exp(1j * _per_pattern("rotation", rotation, n, xp))
    factor = xp.ones(n) if scale is None else _per_pattern("scale", scale, n, xp)
    return Inputs(qx, qy, intensity, offsets, turn, factor)


def _per_pattern(name: str, values: Any, n: int, xp: Any) -> Any:
    values = xp.ascontiguousarray(values, dtype=np.float64)
    if values.shape != (n,) or not bool(xp.isfinite(values).all()):
        raise InvalidPeaks(f"{name}: expected one finite number for each of {n} patterns, got shape {values.shape}")
    return values


# --- GPU: the only place that knows the kernels' arguments -----------------------------------------------------------


def launch(kernel: Callable[..., None], inputs: Inputs, basis: RadialBasis, *extra: Any, out: Any) -> None:
    """Run one of the kernels of `kernels/radial_basis.cu` over a batch; `out` is complex64, C order."""
    n = len(inputs.offsets) - 1
    if n == 0:
        return  # CUDA refuses an empty grid
    geometry = launch_geometry(n, basis)
    sizes = (np.int32(basis.rings), np.float64(basis.ring_spacing), np.int32(basis.orders))
    arguments = (*inputs, *sizes, np.int32(geometry.orders_per_block), *extra, out)
    kernel(geometry.grid, (THREADS,), arguments, shared_mem=geometry.shared_memory)


class LaunchGeometry(NamedTuple):
    """How a batch is laid over the GPU."""

    grid: tuple[int, int]  # patterns, chunks of orders
    shared_memory: int  # bytes a block
    orders_per_block: int  # orders m > 0 that a block sums; order 0 it sums besides


def launch_geometry(patterns: int, basis: RadialBasis) -> LaunchGeometry:
    """Cut the orders into as few chunks as let a block's sums and peaks fit its shared memory.

    Raises
    ------
    InvalidConfig
        If a single order does not fit.
    """

    def shared_memory(orders: int) -> int:
        columns = 2 * orders + 1  # order 0 is real
        return 8 * ((basis.rings + THREADS) * columns + THREADS) + 4 * THREADS

    above_zero = basis.orders - 1
    chunks = 1
    while shared_memory(math.ceil(above_zero / chunks)) > SHARED_MEMORY:
        if chunks >= above_zero:
            raise InvalidConfig(f"rings = {basis.rings}: too many for the shared memory of a GPU")
        chunks += 1
    orders = math.ceil(above_zero / chunks)
    chunks = max(1, math.ceil(above_zero / max(orders, 1)))
    return LaunchGeometry((patterns, chunks), shared_memory(orders), orders)


# --- CPU -------------------------------------------------------------------------------------------------------------


@njit(parallel=True, cache=True, error_model="numpy")
def _expand_coefficients(qx, qy, intensity, offsets, turn, scale, ring_spacing, out):
    patterns, rings, orders = out.shape
    for p in prange(patterns):
        own = slice(offsets[p], offsets[p + 1])
        sums = _sum_pattern(qx[own], qy[own], intensity[own], turn[p], scale[p], ring_spacing, rings, orders)
        for n in range(rings):
            for m in range(orders):
                out[p, n, m] = complex(sums[0, n, m], sums[1, n, m])


@njit(parallel=True, cache=True, error_model="numpy")
def _expand_polar(qx, qy, intensity, offsets, turn, scale, ring_spacing, rounding_level, out):
    patterns, rings, orders = out.shape
    for p in prange(patterns):
        own = slice(offsets[p], offsets[p + 1])
        sums = _sum_pattern(qx[own], qy[own], intensity[own], turn[p], scale[p], ring_spacing, rings, orders)
        magnitude = np.empty(orders)
        argument = np.empty(orders)
        for n in range(rings):
            real, imaginary = sums[0, n], sums[1, n]
            level = rounding_level * real[0]
            for m in range(orders):  # apart from the stores, so that it runs in vector registers
                size = math.sqrt(real[m] * real[m] + imaginary[m] * imaginary[m])
                magnitude[m] = size if size > level else 0.0
                x = real[m] if size > level else 0.0
                y = imaginary[m] if abs(imaginary[m]) > level else 0.0
                argument[m] = _arctan2(y, x)
            for m in range(orders):
                out[p, n, m] = complex(magnitude[m], argument[m])


@njit(cache=True, error_model="numpy")
def _sum_pattern(qx, qy, intensity, turn, scale, ring_spacing, rings, orders):
    """Sum one pattern's peaks; shape (2, rings + 1, orders), float64: real and imaginary parts.

    The ring past the last takes the outer half of peaks beyond the last ring, and is never read.
    """
    sums = np.zeros((2, rings + 1, orders))
    ring = np.empty(_TILE, np.int64)
    outer = np.empty(_TILE)
    cosine, sine = np.zeros(_TILE), np.zeros(_TILE)
    real, imaginary = np.zeros(_TILE), np.zeros(_TILE)
    powers_real, powers_imaginary = np.empty((orders, _TILE)), np.empty((orders, _TILE))
    row_real, row_imaginary = np.empty(orders), np.empty(orders)
    for first in range(0, len(qx), _TILE):
        count = min(_TILE, len(qx) - first)
        for t in range(count):
            x, y = np.float64(qx[first + t]), np.float64(qy[first + t])  # float() would leave them float32
            q = math.sqrt(x * x + y * y)
            position = min(q / ring_spacing, np.float64(rings))
            ring[t] = int(position)
            outer[t] = position - ring[t]
            unit_x = x / q if q > 0 else 1.0
            unit_y = y / q if q > 0 else 0.0
            cosine[t] = unit_x * turn.real - unit_y * turn.imag
            sine[t] = unit_x * turn.imag + unit_y * turn.real
            real[t] = intensity[first + t] * scale
            imaginary[t] = 0.0
        for m in range(orders):  # I exp(imφ) from I exp(i(m-1)φ), all peaks of the tile at once
            for t in range(_TILE):
                powers_real[m, t], powers_imaginary[m, t] = real[t], imaginary[t]
                next_real = real[t] * cosine[t] - imaginary[t] * sine[t]
                imaginary[t] = real[t] * sine[t] + imaginary[t] * cosine[t]
                real[t] = next_real
        for t in range(count):
            n = ring[t]
            if n == rings:
                continue
            inner = 1.0 - outer[t]
            for m in range(orders):
                row_real[m], row_imaginary[m] = powers_real[m, t], powers_imaginary[m, t]
            for m in range(orders):
                sums[0, n, m] += inner * row_real[m]
                sums[1, n, m] += inner * row_imaginary[m]
                sums[0, n + 1, m] += outer[t] * row_real[m]
                sums[1, n + 1, m] += outer[t] * row_imaginary[m]
    return sums


@njit(inline="always", error_model="numpy")
def _arctan2(y, x):
    """Arc tangent without branches, to 3e-7: the polynomial of atanf in S. L. Moshier's Cephes library.

    A call of the C library's atan2 for each coefficient takes longer than the expansion itself.
    """
    low, high = min(abs(x), abs(y)), max(abs(x), abs(y))
    steep = low > 0.41421356237309503 * high  # tan(π/8)
    numerator = low - high if steep else low
    denominator = low + high if steep else high
    t = numerator / denominator if denominator > 0 else 0.0
    u = t * t
    angle = (((8.05374449538e-2 * u - 1.38776856032e-1) * u + 1.99777106478e-1) * u - 3.33329491539e-1) * u * t + t
    angle = angle + 0.25 * math.pi if steep else angle
    angle = 0.5 * math.pi - angle if abs(y) > abs(x) else angle
    angle = math.pi - angle if x < 0 else angle
    return -angle if y < 0 else angle
