"""Three-dimensional reciprocal lattices of single patterns, found on a GPU.

The same lattices as `indexing.index_patterns` finds, by the kernel in kernels/lattice_index.cu; a pattern is indexed
on the device from beginning to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpuediff import arrays
from gpuediff.lattices import hypotheses
from gpuediff.lattices.indexing import Found, Indexed, Indexing
from gpuediff.peaks import PeakBatch

THREADS = 32  # of a block, which is one warp and has one pattern; fewer give the same results
SHARED_MEMORY = 48 * 1024  # bytes that every CUDA device grants a block

# As in kernels/lattice_index.cu
_ALWAYS = 32 + 9 + 9 + 3 + 4  # float64, whatever the settings
_SHIFTS_MAX, _COLUMNS = 400, 12
_NUMBERS = 9 + 27 + 2 + hypotheses.VALUES  # of a hypothesis


class LaunchGeometry(NamedTuple):
    """How patterns of up to `room` peaks are laid over the GPU."""

    room: int  # peaks that are taken of a pattern, at most
    shared_memory: int  # bytes a block
    workspace: int  # int32 a pattern, for the differences of its peaks; 0 where they fit the shared memory


def index_patterns_on_gpu(peaks: PeakBatch, settings: Indexing | None = None, *, wavelength: float) -> Indexed:
    """Find the reciprocal lattices that explain each pattern.

    Every pattern is indexed alone; neither the order of its peaks nor how they are cut into batches makes a difference.

    Parameters
    ----------
    peaks : PeakBatch
        n patterns, arrays of the device; q in Å⁻¹, intensity in any unit. A direct beam as for `index_patterns`.
    settings : Indexing, optional
    wavelength : float
        Of the electrons, Å.

    Returns
    -------
    Indexed
        On the host, where all that uses lattices computes.

    Raises
    ------
    InvalidPeaks
        If a position or an intensity is not finite, or an intensity is negative.
    ValueError
        If the wavelength is not positive and finite.
    MemoryError
        If a single pattern does not fit the memory of the device.
    """
    if not (math.isfinite(wavelength) and wavelength > 0):
        raise ValueError(f"wavelength = {wavelength}: must be > 0 Å and finite")
    settings = settings or Indexing()
    xp = arrays.namespace(peaks.qx)
    peaks.validate()
    n, h = len(peaks), settings.hypotheses
    counts = arrays.to_host(peaks.counts)
    kernel = arrays.kernel("lattice_index", "float64", "lattice_index")
    found = Found.empty(np, n, h)

    def compute(batch: slice) -> None:
        own = Found.empty(xp, batch.stop - batch.start, h)
        launch(kernel, peaks[batch], settings, wavelength, out=own)
        for whole, part in zip(found, own, strict=True):
            whole[batch] = arrays.to_host(part)

    workspace = launch_geometry(int(counts.max(initial=0)), settings).workspace
    # Results; what is there for each peak is `order`, and the peaks themselves once more where they are not contiguous.
    memory = 8 * (h * _NUMBERS + 6) + 4 * workspace + 16 * counts
    arrays.run_batches(compute, arrays.plan_batches(n, memory, arrays.memory_budget(xp)))
    return found.indexed()


def launch(
    kernel: Callable[..., None],
    peaks: PeakBatch,
    settings: Indexing,
    wavelength: float,
    *,
    out: Found,
) -> None:
    """Run the kernel over a batch; the only place that knows its parameters.

    Parameters
    ----------
    kernel : callable
        An instance of `lattice_index`.
    peaks : PeakBatch
        On the device; values are checked.
    settings : Indexing
    wavelength : float
        Of the electrons, Å.
    out : tuple of arrays
        As `_index_all` in `indexing` fills them, on the device, C order.
    """
    n = len(peaks)
    if n == 0:
        return  # CUDA refuses an empty grid
    xp = arrays.namespace(peaks.qx)
    geometry = launch_geometry(int(peaks.counts.max()), settings)
    arguments = (
        *(xp.ascontiguousarray(column, dtype=np.float32) for column in (peaks.qx, peaks.qy, peaks.intensity)),
        xp.ascontiguousarray(peaks.offsets, dtype=np.int64),
        np.float64(wavelength),
        np.int32(settings.peaks_min),
        np.int32(settings.peaks_max),
        np.int32(settings.hypotheses),
        np.int32(settings.clusters),
        np.int32(settings.pairs),
        np.int32(settings.trials),
        np.float64(settings.noise_min),
        np.float64(settings.centre_noise),
        np.float64(settings.score_min),
        np.int32(geometry.room),
        xp.empty(len(peaks.qx), dtype=np.int32),
        xp.empty(n * geometry.workspace, dtype=np.int32),
        np.int64(geometry.workspace),
        *out,
    )
    kernel((n,), (THREADS,), arguments, shared_mem=geometry.shared_memory)


def launch_geometry(most_peaks: int, settings: Indexing) -> LaunchGeometry:
    """Say what memory patterns of up to `most_peaks` peaks need.

    The differences of the peaks, 6 bytes each, lie in shared memory where they fit, up to about 100 peaks.
    """
    room = max(1, min(most_peaks, settings.peaks_max))
    # All that is not the differences: fits for every setting that `Indexing` allows.
    before = 8 * (4 * room + 2 * (room + 1) + 5 * settings.clusters + 7 * settings.trials + _ALWAYS)
    before += 4 * _SHIFTS_MAX
    shifts, fit, search = 16 * _SHIFTS_MAX, 8 * _COLUMNS * room, 8 * 4 * room + 4 * room
    pairs = room * (room + 1) // 2
    keys = max(shifts, 8 * ((pairs + 1) // 2))
    with_differences = before + max(fit, search, keys + 8 * ((pairs + 3) // 4))
    if with_differences <= SHARED_MEMORY:
        return LaunchGeometry(room, with_differences, 0)
    return LaunchGeometry(room, before + max(fit, search, shifts), 2 * ((3 * pairs + 3) // 4))
