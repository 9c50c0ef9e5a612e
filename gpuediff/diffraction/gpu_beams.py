"""Which reflections become beams, computed on a GPU: the same beams as `beams.select_beams` selects."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuediff import arrays
from gpuediff.arrays import Device
from gpuediff.diffraction.beams import ON_THE_LIMIT, UNREACHABLE, Beams, Reflections, excitation_errors
from gpuediff.diffraction.electron import wavelength
from gpuediff.errors import InvalidStructure
from gpuediff.peaks import offsets_of
from gpuediff.settings import Simulation

THREADS = 128
SHARED_MEMORY = 48 * 1024  # bytes that every CUDA device grants a block
BEAMS_MAX = (SHARED_MEMORY - 4 * THREADS) // 6

_BYTES_A_REFLECTION = 80  # and zone axis, while excitation errors are computed


def select_beams(
    reflections: Reflections,
    zone_axis: np.ndarray,
    settings: Simulation,
    device: Device,
    *,
    incidence: np.ndarray | None = None,
) -> Beams:
    """Select the beams of every zone axis.

    Parameters
    ----------
    reflections : Reflections
        Of one crystal.
    zone_axis : array, shape (n, 3), float64
        Unit vectors in the crystal's Cartesian frame.
    settings : Simulation
        Beam energy and largest excitation error.
    device : Device
        A GPU.
    incidence : array, shape (n, 3), float64, optional
        Unit vectors towards the source; the zone axes if absent.

    Returns
    -------
    Beams
        On the host. The direct beam is among the beams of every pattern.

    Raises
    ------
    InvalidStructure
        If a pattern has more than `BEAMS_MAX` reflections within the largest excitation error.
    """
    zone_axis = np.atleast_2d(zone_axis)
    coupling = arrays.to_device(np.ascontiguousarray(reflections.coupling, dtype=np.complex128), device)
    xp = arrays.namespace(coupling)
    g = arrays.to_device(reflections.g, device)
    address = arrays.to_device(reflections.address.astype(np.int32), device)
    electron_wavelength = wavelength(settings.beam_energy, scattering=settings.scattering)
    limit = settings.excitation_error_max * ON_THE_LIMIT
    least = UNREACHABLE * float(xp.abs(coupling).max())
    parts: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))]

    def compute(batch: slice) -> None:
        tilted = None if incidence is None else arrays.to_device(np.ascontiguousarray(incidence[batch]), device)
        normal = arrays.to_device(np.ascontiguousarray(zone_axis[batch]), device)
        errors = excitation_errors(g, normal, electron_wavelength, incidence=tilted)
        pattern, reflection = xp.nonzero(xp.abs(errors) <= limit)
        offsets = xp.searchsorted(pattern, xp.arange(len(errors) + 1)).astype(np.int64)
        kept = reachable(coupling, reflections.centre, least, address[reflection], offsets) != 0
        pattern, reflection = pattern[kept], reflection[kept]
        counts = xp.bincount(pattern, minlength=len(errors))
        parts.append(tuple(arrays.to_host(part) for part in (reflection, errors[pattern, reflection], counts)))

    memory = _BYTES_A_REFLECTION * len(reflections.g)
    arrays.run_batches(compute, arrays.plan_batches(len(zone_axis), memory, arrays.memory_budget(xp)))
    reflection, errors, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Beams(reflection, errors, offsets_of(counts))


def reachable(coupling: Any, centre: int, least: float, address: Any, offsets: Any) -> Any:
    """Tell which beams a chain of couplings connects with the direct beam of their pattern.

    Parameters
    ----------
    coupling : array, flat, complex64 or complex128
        As in `Reflections`, with U_000 at `centre`.
    centre : int
        Where U_000 stands.
    least : float
        Couplings whose magnitude is not above this count as zero.
    address : array, shape (beams,), int32
        Of all patterns, one behind the other; 0 for the direct beam.
    offsets : array, shape (n + 1,), int64
        Start of every pattern, and the end of the last.

    Returns
    -------
    array, shape (beams,), int32
        1 or 0, on the device of the others.

    Raises
    ------
    InvalidStructure
        If a pattern has more than `BEAMS_MAX` beams.
    """
    xp = arrays.namespace(coupling)
    reached = xp.empty(len(address), dtype=np.int32)
    if len(offsets) < 2:
        return reached
    most = int((offsets[1:] - offsets[:-1]).max())
    if most > BEAMS_MAX:
        raise InvalidStructure(
            f"a pattern has {most} reflections within excitation_error_max, a GPU takes up to {BEAMS_MAX}: "
            "use --device cpu, or make g_max or excitation_error_max smaller"
        )
    kernel = arrays.kernel("beams", "float32" if coupling.dtype == np.complex64 else "float64", "beams_reachable")
    arguments = (coupling, np.int64(centre), np.float64(least**2), address, offsets, reached)
    kernel((len(offsets) - 1,), (THREADS,), arguments, shared_mem=shared_memory(most))
    return reached


def shared_memory(beams: int) -> int:
    """Return the bytes of shared memory for patterns of up to this many beams."""
    return 6 * beams + 4 * THREADS
