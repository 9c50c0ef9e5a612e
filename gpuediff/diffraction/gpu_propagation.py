"""Bloch waves through crystals on a GPU: the Chebyshev expansion of `chebyshev`, many patterns at a time.

Patterns of several crystals go through `kernels/bloch_chebyshev.cu` together, one block each. They are sorted by their
number of beams, so that the blocks of a launch take about as long, and cut into batches that fit the memory.

The half-width of a pattern's spectrum is measured on the device, and rounded up so that patterns share their tables
(`expansions`). Where it was too narrow after all, the kernel says so, and the pattern is done again with a wider one,
as on the CPU.
What is done with a pattern depends on it and the thicknesses alone: it has the same bits in any company.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from gpuediff import arrays
from gpuediff.arrays import Device
from gpuediff.diffraction.beams import Beams, Reflections
from gpuediff.diffraction.chebyshev import (
    ATTEMPTS_MAX,
    GAIN_MAX,
    GROWTH_MAX,
    HALVING,
    MARGIN,
    MARGIN_OF_GAIN,
    STEP_MAX,
    WIDENING,
)
from gpuediff.diffraction.expansions import (
    WIDTH_STEP,
    concatenated,
    expansion,
    outputs_wanted,
    starts_of,
    width_class,
)
from gpuediff.errors import InvalidStructure

Matrix = Literal["gathered", "dense"]

THREADS_MAX = 256  # of a block, as the kernels' launch bounds have it; more beams are rows a thread
THREADS_MIN = 128  # where there are fewer rows, several threads share a row
SHARED_MEMORY = 48 * 1024  # bytes that every CUDA device grants a block
SHARED_MEMORY_MAX = 99 * 1024  # bytes that every device from sm_80 on grants a block that asks for them; 64 KiB before
SHARED_MEMORY_OF_STEPS = 64 * 1024  # where more would be needed, steps have fewer thicknesses; an H100 runs three such
LEADING = 16  # elements; columns of a dense matrix start at multiples of this
TABLES_SHARE = 0.25  # of the memory, for the coupling tables of crystals

_TRIDIAGONAL = 2 * 12 * 8  # bytes
_NO_CONVERGENCE = "the expansion of a pattern does not converge; check the atoms' positions and the thicknesses"
_NOT_FINITE = (
    "crystal {}: the potential or an excitation error is not finite; "
    "check the atoms' positions, occupancies and elements"
)


def propagate(
    crystals: Sequence[tuple[Reflections, Beams]],
    wavelength: float,
    thicknesses: np.ndarray,
    precision: np.dtype,
    device: Device,
    *,
    matrix: Matrix = "gathered",
) -> list[np.ndarray]:
    """Compute the intensity of every beam at every thickness, for the patterns of several crystals.

    The more patterns, the better is the device used: some ten thousand keep it busy.

    Parameters
    ----------
    crystals : sequence of (Reflections, Beams)
        Each crystal with the beams of its patterns.
    wavelength : float
        Å.
    thicknesses : array, shape (t,), float64
        Rising, above 0, Å.
    precision : dtype
        float32 or float64: of the computation and of the result.
    device : Device
        A GPU.
    matrix : "gathered" or "dense"
        Whether elements of the dynamical matrix are looked up in the crystal's table at every use, or stored before;
        both give the same intensities.

    Returns
    -------
    list of array, shape (t, beams), float32 or float64
        On the host, for each crystal; fractions of the incident beam. A pattern's values do not depend on the others.

    Raises
    ------
    InvalidStructure
        If a potential or an excitation error is not finite, or a pattern has more than `beams_max(precision)` beams;
        names the crystal by its place in `crystals`.
    """
    precision = np.dtype(precision)
    run = _Run(
        wavelength, tuple(np.asarray(thicknesses, dtype=np.float64).tolist()), precision, device, _checked(matrix)
    )
    _check(crystals, precision)
    results: list[np.ndarray] = []
    xp = arrays.namespace(arrays.to_device(np.empty(0), device))
    # The table comes as complex128, and takes half of that and as much again while it is converted.
    table_bytes = np.array([2 * reflections.coupling.nbytes for reflections, _ in crystals])
    together = arrays.plan_batches(len(crystals), table_bytes, arrays.memory_budget(xp), share=TABLES_SHARE)

    def compute(batch: slice) -> None:
        results.extend(_propagate_crystals(crystals[batch], batch.start, run))

    arrays.run_batches(compute, together)
    return results


def beams_max(precision: np.dtype) -> int:
    """Return how many beams a pattern may have: its vectors must fit the shared memory of a block."""
    beams = 64
    while _shared_memory(beams + 64, THREADS_MAX, 1, np.dtype(precision)) <= SHARED_MEMORY_MAX:
        beams += 64
    return beams


class LaunchGeometry(NamedTuple):
    """How patterns of about one size are laid over the GPU."""

    threads: int  # of a block
    slices: int  # threads that share a row of the matrix
    outputs: int  # thicknesses within one step, at most
    shared_memory: int  # bytes a block
    shared_memory_of_bounds: int


def launch_geometry(beams: int, outputs: int, precision: np.dtype) -> LaunchGeometry:
    """Lay out a block for a pattern; patterns of similar size get the same.

    Parameters
    ----------
    beams : int
        Of the pattern, up to `beams_max(precision)`.
    outputs : int
        Thicknesses within one step that are wanted; there are fewer where shared memory is too small.
    precision : dtype
        float32 or float64.
    """
    size = int(_rounded_size(np.int64(beams)))
    rows_a_thread = math.ceil(size / THREADS_MAX)
    rows = 32 * math.ceil(size / (32 * rows_a_thread))
    slices = max(1, THREADS_MIN // rows)
    threads = rows * slices
    while outputs > 1 and _shared_memory(size, threads, outputs, precision) > SHARED_MEMORY_OF_STEPS:
        outputs -= 1
    return LaunchGeometry(
        threads,
        slices,
        outputs,
        _shared_memory(size, threads, outputs, precision),
        _shared_memory(size, threads, 0, precision),
    )


def _shared_memory(size: int, threads: int, outputs: int, precision: np.dtype) -> int:
    vectors = 4 * precision.itemsize + 4 + precision.itemsize  # two vectors, address, diagonal
    return 16 * outputs * size + 16 * threads + _TRIDIAGONAL + vectors * size


# --- GPU: the only place that knows the kernels' arguments -------------------------------------------------------


class _Run(NamedTuple):
    wavelength: float
    thicknesses: tuple[float, ...]
    precision: np.dtype
    device: Device
    matrix: Matrix

    @property
    def complex_type(self) -> np.dtype:
        return np.result_type(self.precision, np.complex64)

    def upload(self, array: Any, dtype: Any) -> Any:
        return arrays.to_device(np.ascontiguousarray(array, dtype=dtype), self.device)

    def kernel(self, function: str) -> Any:
        return arrays.kernel("bloch_chebyshev", self.precision.name, function)


class _Patterns(NamedTuple):
    """Patterns of several crystals on the host."""

    address: np.ndarray  # (beams,) int64
    excitation_error: np.ndarray  # (beams,) float64
    offsets: np.ndarray  # (n + 1,) int64
    centre: np.ndarray  # (n,) int64, in the tables one behind the other
    damping: np.ndarray  # (n,) float64, Å⁻¹

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)

    def take(self, which: np.ndarray) -> tuple[_Patterns, np.ndarray]:
        """Return some of the patterns, and where their beams stood."""
        sizes = self.sizes[which]
        offsets = starts_of(sizes)
        beams = np.arange(offsets[-1]) + np.repeat(self.offsets[which] - offsets[:-1], sizes)
        taken = _Patterns(
            self.address[beams], self.excitation_error[beams], offsets, self.centre[which], self.damping[which]
        )
        return taken, beams


def _propagate_crystals(
    crystals: Sequence[tuple[Reflections, Beams]], first_crystal: int, run: _Run
) -> list[np.ndarray]:
    coupling = _upload_tables(crystals, first_crystal, run)
    xp = arrays.namespace(coupling)
    patterns = _concatenated(crystals, run.wavelength)
    intensity = np.empty((len(run.thicknesses), len(patterns.address)), dtype=run.precision)

    # The largest first, so that no long pattern is left for the end.
    order = np.argsort(-patterns.sizes, kind="stable")
    order = order[patterns.sizes[order] > 0]
    sizes = patterns.sizes[order]
    item = run.precision.itemsize
    memory = sizes * (12 + len(run.thicknesses) * item) + 64
    if run.matrix == "dense":
        memory = memory + 2 * item * sizes * _leading(sizes)

    def compute(batch: slice) -> None:
        taken, beams = patterns.take(order[batch])
        intensity[:, beams] = arrays.to_host(_Batch.upload(taken, coupling, run).intensities())

    if run.thicknesses:
        arrays.run_batches(compute, arrays.plan_batches(len(order), memory, arrays.memory_budget(xp)))
    ends = np.cumsum([len(beams.reflection) for _, beams in crystals])
    return np.split(intensity, ends[:-1], axis=1)


def _upload_tables(crystals: Sequence[tuple[Reflections, Beams]], first_crystal: int, run: _Run) -> Any:
    """Return iA of all crystals, one table behind the other, without the diagonal."""
    starts = starts_of([len(reflections.coupling) for reflections, _ in crystals])
    tables = None
    for index, (reflections, _) in enumerate(crystals):
        table = arrays.to_device(reflections.coupling, run.device)
        xp = arrays.namespace(table)
        if tables is None:
            tables = xp.empty(int(starts[-1]), dtype=run.complex_type)
        own = tables[int(starts[index]) : int(starts[index + 1])]
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found below
            own[...] = 0.5j * run.wavelength * table
        if not bool(xp.isfinite(own).all()):
            raise InvalidStructure(_NOT_FINITE.format(first_crystal + index))
        own[reflections.centre] = 0
    return tables


def _concatenated(crystals: Sequence[tuple[Reflections, Beams]], wavelength: float) -> _Patterns:
    starts = starts_of([len(reflections.coupling) for reflections, _ in crystals])[:-1]
    counts = [len(beams.offsets) - 1 for _, beams in crystals]
    centres = [reflections.centre for reflections, _ in crystals]
    dampings = [0.5 * wavelength * reflections.coupling[reflections.centre].imag for reflections, _ in crystals]
    return _Patterns(
        np.concatenate([reflections.address[beams.reflection] for reflections, beams in crystals]),
        np.concatenate([beams.excitation_error for _, beams in crystals]),
        starts_of(np.concatenate([np.diff(beams.offsets) for _, beams in crystals])),
        np.repeat(starts + centres, counts),
        np.repeat(dampings, counts),
    )


@dataclass(frozen=True, eq=False)
class _Batch:
    """Patterns that are on the device together."""

    run: _Run
    patterns: _Patterns
    elements: tuple[Any, Any]  # what an element of iA is read from, and where a pattern's are
    beams: tuple[Any, Any, Any]  # address, excitation error, offsets, as every kernel takes them
    rounded_size: np.ndarray  # of every pattern; patterns of one are launched together

    @classmethod
    def upload(cls, patterns: _Patterns, coupling: Any, run: _Run) -> _Batch:
        """Bring patterns to the device, and fill in their matrices where they are dense."""
        xp = arrays.namespace(coupling)
        address = run.upload(patterns.address, np.int32)
        offsets = run.upload(patterns.offsets, np.int64)
        beams = (address, run.upload(patterns.excitation_error, np.float64), offsets)
        centre = run.upload(patterns.centre, np.int64)
        rounded_size = _rounded_size(patterns.sizes)
        if run.matrix == "gathered":
            return cls(run, patterns, (coupling, centre), beams, rounded_size)
        starts = starts_of(patterns.sizes * _leading(patterns.sizes))
        matrix = xp.empty(int(starts[-1]), dtype=run.complex_type)
        matrix_start = run.upload(starts[:-1], np.int64)
        columns_at_once = min(64, int(patterns.sizes.max()))
        arguments = (coupling, centre, address, offsets, matrix_start, matrix)
        run.kernel("bloch_fill")((len(rounded_size), columns_at_once), (THREADS_MIN,), arguments)
        return cls(run, patterns, (matrix, matrix_start), beams, rounded_size)

    def intensities(self) -> Any:
        """Compute the intensities, shape (t, beams), on the device."""
        run, patterns = self.run, self.patterns
        xp = arrays.namespace(self.beams[0])
        low, high = self.bounds()
        gain = np.maximum(patterns.damping, 0)  # what U' >= 0 leaves no Bloch wave to exceed; else it is noticed
        half_width = 0.5 * MARGIN * (high - low) + MARGIN_OF_GAIN * gain
        if not np.isfinite(half_width).all():
            raise InvalidStructure(_NO_CONVERGENCE)
        width = width_class(half_width)
        with np.errstate(divide="ignore"):
            halvings = np.ceil(np.log2(2 * math.pi * gain * STEP_MAX / GAIN_MAX))
        halvings = np.maximum(halvings, 0).astype(np.int64)

        middle = run.upload(0.5 * (low + high), np.float64)
        damping = run.upload(patterns.damping, np.float64)
        intensity = xp.empty((len(run.thicknesses), int(patterns.offsets[-1])), dtype=run.precision)
        status = xp.empty(len(patterns.sizes), dtype=np.int32)
        waiting = np.arange(len(patterns.sizes))
        widening = math.ceil(math.log(WIDENING) / math.log(WIDTH_STEP))
        for attempt in range(1, ATTEMPTS_MAX + 2):
            for geometry, which in self._by_geometry(waiting):
                self._expand(geometry, which, width, halvings, (middle, damping), intensity, status)
            waiting = waiting[arrays.to_host(status)[waiting] != 0]
            if not len(waiting):
                return intensity
            width[waiting] += widening
            if attempt % HALVING == 0:
                halvings[waiting] += 1
        raise InvalidStructure(_NO_CONVERGENCE)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Measure between which numbers the eigenvalues of every A lie, Å⁻¹; the diagonal bounds them from inside."""
        patterns = self.patterns
        xp = arrays.namespace(self.beams[0])
        bounds = xp.empty(len(patterns.sizes), dtype=np.complex128)
        for geometry, which in self._by_geometry(np.arange(len(patterns.sizes))):
            arguments = (*self.elements, *self.beams, self.run.upload(which, np.int32), np.int32(geometry.slices))
            self._launch("bounds", geometry, geometry.shared_memory_of_bounds, len(which), (*arguments, bounds))
        measured = arrays.to_host(bounds)
        starts = patterns.offsets[:-1]
        return (
            np.minimum(measured.real, np.minimum.reduceat(patterns.excitation_error, starts)),
            np.maximum(measured.imag, np.maximum.reduceat(patterns.excitation_error, starts)),
        )

    def _by_geometry(self, which: np.ndarray) -> list[tuple[LaunchGeometry, np.ndarray]]:
        outputs = outputs_wanted(self.run.thicknesses)
        sizes = self.rounded_size[which]
        return [
            (launch_geometry(int(size), outputs, self.run.precision), which[sizes == size])
            for size in np.unique(sizes)[::-1]
        ]

    def _expand(
        self,
        geometry: LaunchGeometry,
        which: np.ndarray,
        width: np.ndarray,
        halvings: np.ndarray,
        middle_and_damping: tuple[Any, Any],
        intensity: Any,
        status: Any,
    ) -> None:
        run = self.run
        keys, own = np.unique(np.stack([width, halvings], axis=1)[which], axis=0, return_inverse=True)
        shared = [expansion(int(key[0]), int(key[1]), run.thicknesses, geometry.outputs, run.precision) for key in keys]
        tables = concatenated(shared)
        expansion_of = np.zeros(len(width), dtype=np.int32)
        expansion_of[which] = own.ravel()
        arguments = (
            *self.elements,
            *self.beams,
            run.upload(which, np.int32),
            np.int32(geometry.slices),
            *middle_and_damping,
            run.upload(expansion_of, np.int32),
            *(run.upload(table, table.dtype) for table in tables),
            np.int32(geometry.outputs),
            np.float64(GROWTH_MAX**2),
            np.int64(intensity.shape[1]),
            intensity,
            status,
        )
        self._launch("expand", geometry, geometry.shared_memory, len(which), arguments)

    def _launch(
        self, stage: str, geometry: LaunchGeometry, shared_memory: int, patterns: int, arguments: tuple[Any, ...]
    ) -> None:
        kernel = self.run.kernel(f"bloch_{stage}_{self.run.matrix}")
        if shared_memory > SHARED_MEMORY:  # more must be asked for
            kernel.max_dynamic_shared_size_bytes = shared_memory
        kernel((patterns,), (geometry.threads,), arguments, shared_mem=shared_memory)


def _rounded_size(sizes: Any) -> Any:
    return np.where(sizes <= 32, 32, (sizes + 63) // 64 * 64)


def _leading(sizes: np.ndarray) -> np.ndarray:
    return (sizes + LEADING - 1) // LEADING * LEADING


def _checked(matrix: Matrix) -> Matrix:
    if matrix not in ("gathered", "dense"):
        raise ValueError(f"matrix = {matrix!r}: expected 'gathered' or 'dense'")
    return matrix


def _check(crystals: Sequence[tuple[Reflections, Beams]], precision: np.dtype) -> None:
    limit = beams_max(precision)
    for index, (reflections, beams) in enumerate(crystals):
        most = int(np.diff(beams.offsets).max(initial=0))
        if most > limit:
            raise InvalidStructure(
                f"crystal {index}: a pattern has {most} beams, a GPU takes up to {limit} in {precision.name}: "
                "use --device cpu, or make g_max or excitation_error_max smaller"
            )
        if len(reflections.coupling) > np.iinfo(np.int32).max:
            raise InvalidStructure(
                f"crystal {index}: a table of {len(reflections.coupling)} couplings is too large for a GPU: "
                "use --device cpu, or make g_max smaller"
            )
        if not np.isfinite(beams.excitation_error).all():
            raise InvalidStructure(_NOT_FINITE.format(index))
