"""From a crystal and its orientations to peak lists at every thickness."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import get_num_threads
from threadpoolctl import ThreadpoolController

from gpuediff.crystals.crystal import Crystal
from gpuediff.diffraction.beams import Beams, Reflections, select_beams
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.kinematic import kinematic_intensities
from gpuediff.diffraction.potential import structure_potential
from gpuediff.diffraction.precession import ConeMean, incidences
from gpuediff.diffraction.propagation import propagate
from gpuediff.errors import InvalidStructure
from gpuediff.peaks import PeakBatch, offsets_of
from gpuediff.settings import MEMORY, Simulation

THEORIES: dict[str, Callable[..., np.ndarray]] = {"dynamical": propagate, "kinematic": kinematic_intensities}

_TOGETHER = 16  # patterns that one thread computes at a time, at most
_BYTES_OF_A_REFLECTION = 24  # while beams are selected


@dataclass(frozen=True, eq=False)
class SimulatedPatterns:
    """Peaks of n patterns of one crystal; pattern i holds the peaks `offsets[i]:offsets[i + 1]`.

    Within a pattern the peaks are in the order of their Miller indices (h slowest).

    Parameters
    ----------
    thicknesses : array, shape (t,), float64
        Å.
    qx, qy : array, shape (peaks,), float32
        Position in the detector plane, Å⁻¹.
    hkl : array, shape (peaks, 3), int16
        Miller indices in the primitive cell.
    excitation_error : array, shape (peaks,), float32
        s_g in Å⁻¹, positive inside the Ewald sphere.
    intensity : array, shape (t, peaks), float32 or float64
        Fraction of the incident beam.
    offsets : array, shape (n + 1,), int64
        Start of every pattern, and the end of the last.
    orientation : array, shape (n, 3, 3), float64
        Rows e_x, e_y, e_z in the crystal's Cartesian frame.
    """

    thicknesses: np.ndarray
    qx: np.ndarray
    qy: np.ndarray
    hkl: np.ndarray
    excitation_error: np.ndarray
    intensity: np.ndarray
    offsets: np.ndarray
    orientation: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def at(self, thickness_index: int) -> PeakBatch:
        """Take the peak lists of one thickness; peaks that are weak just there are still among them."""
        intensity = self.intensity[thickness_index].astype(np.float32, copy=False)
        return PeakBatch(self.qx, self.qy, intensity, self.offsets)


def simulate(
    crystal: Crystal, orientations: np.ndarray, settings: Simulation, *, memory: int = MEMORY
) -> SimulatedPatterns:
    """Simulate the diffraction of a crystal.

    Every pattern is a pure function of crystal, orientation and settings: bit by bit the same whatever else is
    simulated with it and by however many threads (`numba.set_num_threads`, or NUMBA_NUM_THREADS in the environment).

    Parameters
    ----------
    crystal : Crystal
        Best a primitive cell: another gives the same patterns, and takes longer.
    orientations : array, shape (n, 3, 3)
        Rotations with rows e_x, e_y, e_z; the beam travels along -e_z, or on a cone about it.
    settings : Simulation
        `settings.orientations` is not used.
    memory : int
        Bytes that the computation may take beside the result. Fewer threads work where all together would take more.

    Returns
    -------
    SimulatedPatterns
        Without the peaks that stay below `settings.intensity_min` at every thickness; the direct beam is kept always.

    Raises
    ------
    InvalidStructure
        If an element has no scattering factor, the structure has values that are not finite, or a single pattern has
        so many beams that it takes more than `memory`.
    ValueError
        If a matrix is not a rotation; names the first such.
    """
    return simulate_orientations(reflections_of(crystal, settings), orientations, settings, memory=memory)


def reflections_of(crystal: Crystal, settings: Simulation) -> Reflections:
    """Compute what all patterns of a crystal share: its reflections and the couplings between them.

    Raises
    ------
    InvalidStructure
        If an element has no scattering factor, or the potential is not finite.
    """
    return Reflections.of_potential(structure_potential(crystal, settings), settings.g_max)


def simulate_orientations(
    reflections: Reflections, orientations: np.ndarray, settings: Simulation, *, memory: int = MEMORY
) -> SimulatedPatterns:
    """Simulate the diffraction of a crystal whose couplings are known; arguments and result as of `simulate`."""
    orientation = checked_rotations(orientations)
    threads = get_num_threads()
    share = min(threads, max(1, int(memory / _bytes_of_a_pattern(reflections, settings))))
    together = max(1, min(_TOGETHER, math.ceil(len(orientation) / (4 * threads)))) if settings.precession is None else 1
    starts = range(0, max(1, len(orientation)), together)
    # What every thread reads is computed before there are any.
    reflections.couples, reflections.absorbs, reflections.is_real  # noqa: B018

    def part(start: int) -> tuple[Beams, np.ndarray]:
        own = orientation[start : start + together]
        if settings.precession is None or not len(own):
            return above_minimum(reflections, *_diffracted(reflections, own, slice(None), settings, memory), settings)
        mean = ConeMean(len(settings.thicknesses))
        for first in range(0, settings.precession.azimuths, _TOGETHER):
            mean.add(*_diffracted(reflections, own, slice(first, first + _TOGETHER), settings, memory))
        return above_minimum(reflections, *averaged(mean, reflections, own[0, 2], settings), settings)

    # What takes long is compiled, and runs without the interpreter's lock; each thread keeps to its own core.
    with ThreadPoolExecutor(share) as pool, _libraries().limit(limits=1, user_api="blas"):
        parts = list(map(part, starts) if share == 1 else pool.map(part, starts))  # a pool of one costs its waking
    return assembled(reflections, orientation, parts, settings)


@dataclass(frozen=True, eq=False)
class Illumination:
    """Whence the beam comes: one direction for each orientation, or all those of a cone, one after the other.

    Parameters
    ----------
    zone_axis : array, shape (patterns, 3), float64
        Foil normals.
    incidence : array, shape (patterns, 3), float64, or None
        Unit vectors towards the source; the zone axes if None.
    wavelength_along_normal : float
        1 / k_n in Å, with k_n the part of the wave vector along the foil normal.
    """

    zone_axis: np.ndarray
    incidence: np.ndarray | None
    wavelength_along_normal: float


def illumination(orientation: np.ndarray, settings: Simulation, azimuths: slice = slice(None)) -> Illumination:
    """Find the directions that make up the patterns of some orientations, shape (n, 3, 3), or some of them."""
    vacuum = wavelength(settings.beam_energy, scattering=settings.scattering)
    if settings.precession is None:
        return Illumination(orientation[:, 2], None, vacuum)
    directions = incidences(orientation, settings.precession)[:, azimuths]
    zone_axis = np.broadcast_to(orientation[:, None, 2], directions.shape).reshape(-1, 3)
    cosine = math.cos(math.radians(settings.precession.angle))
    return Illumination(zone_axis, directions.reshape(-1, 3), vacuum / cosine)


def averaged(
    mean: ConeMean, reflections: Reflections, zone_axis: np.ndarray, settings: Simulation
) -> tuple[Beams, np.ndarray]:
    """Return the beams and intensities of a pattern whose directions were all added to the mean."""
    vacuum = wavelength(settings.beam_energy, scattering=settings.scattering)
    return mean.pattern(reflections, zone_axis, vacuum, np.dtype(settings.precision))


def above_minimum(
    reflections: Reflections, beams: Beams, intensity: np.ndarray, settings: Simulation
) -> tuple[Beams, np.ndarray]:
    """Leave out the peaks that are too weak at every thickness, but for the direct beam."""
    kept = (beams.reflection == reflections.direct) | (intensity >= settings.intensity_min).any(axis=0)
    offsets = offsets_of(kept)[beams.offsets]
    return Beams(beams.reflection[kept], beams.excitation_error[kept], offsets), intensity[:, kept]


def assembled(
    reflections: Reflections,
    orientation: np.ndarray,
    parts: Sequence[tuple[Beams, np.ndarray]],
    settings: Simulation,
) -> SimulatedPatterns:
    """Join the peaks of consecutive orientations of a crystal."""
    reflection = np.concatenate([beams.reflection for beams, _ in parts])
    counts = np.concatenate([np.diff(beams.offsets) for beams, _ in parts])
    e_x, e_y = np.repeat(orientation[:, :2], counts, axis=0).transpose(1, 0, 2)
    g = reflections.g[reflection]
    return SimulatedPatterns(
        thicknesses=np.array(settings.thicknesses, dtype=np.float64),
        qx=np.sum(e_x * g, axis=1).astype(np.float32),
        qy=np.sum(e_y * g, axis=1).astype(np.float32),
        hkl=reflections.hkl[reflection].astype(np.int16),
        excitation_error=np.concatenate([beams.excitation_error for beams, _ in parts]).astype(np.float32),
        intensity=np.concatenate([intensity for _, intensity in parts], axis=1),
        offsets=offsets_of(counts),
        orientation=orientation,
    )


def _diffracted(
    reflections: Reflections, orientation: np.ndarray, azimuths: slice, settings: Simulation, memory: int
) -> tuple[Beams, np.ndarray]:
    """Select the beams of some directions, and compute their intensities."""
    light = illumination(orientation, settings, azimuths)
    beams = select_beams(reflections, light.zone_axis, settings, incidence=light.incidence)
    if settings.theory == "dynamical":
        _check_memory(beams, settings, memory)
    thicknesses, precision = np.array(settings.thicknesses), np.dtype(settings.precision)
    scatter = THEORIES[settings.theory]
    return beams, scatter(reflections, beams, light.wavelength_along_normal, thicknesses, precision)


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _bytes_of_a_pattern(reflections: Reflections, settings: Simulation) -> float:
    """Estimate what a thread takes: the matrix of a typical pattern, and the intensities of some."""
    # Reflections fill a sphere, beams a shell about the Ewald sphere in it.
    beams = len(reflections.g) * 1.5 * settings.excitation_error_max / settings.g_max
    itemsize = np.dtype(settings.precision).itemsize
    outputs = len(settings.thicknesses) * _TOGETHER * (itemsize + 8) * beams  # and what the kinematic formula holds
    return 2 * itemsize * beams**2 + outputs + _BYTES_OF_A_REFLECTION * len(reflections.g)


def _check_memory(beams: Beams, settings: Simulation, memory: int) -> None:
    most = int(np.diff(beams.offsets).max(initial=0))
    needed = 2 * np.dtype(settings.precision).itemsize * most**2
    if needed > memory:
        raise InvalidStructure(
            f"a pattern has {most:,} beams, whose matrix takes {needed / 2**30:.1f} GiB, more than the "
            f"{memory / 2**30:.1f} GiB allowed: allow more (--memory), or make g_max or excitation_error_max smaller"
        )


def checked_rotations(orientations: np.ndarray) -> np.ndarray:
    """Return the matrices as float64 if all are rotations, to the precision of float32."""
    matrices = np.ascontiguousarray(orientations, dtype=np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3):
        raise ValueError(f"orientations: expected shape (n, 3, 3), got {matrices.shape}")
    with np.errstate(invalid="ignore"):
        off = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0)
        bad = np.flatnonzero(~(off < 1e-5) | ~(np.linalg.det(matrices) > 0))
    if bad.size:
        raise ValueError(f"orientations[{int(bad[0])}] is not a rotation: {matrices[bad[0]].tolist()}")
    return matrices
