"""From a crystal and its orientations to peak lists at every thickness."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import get_num_threads

from gpuediff.crystals.crystal import Crystal
from gpuediff.diffraction.beams import Beams, Reflections, select_beams
from gpuediff.diffraction.electron import wavelength
from gpuediff.diffraction.potential import structure_potential
from gpuediff.diffraction.propagation import propagate
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Simulation

_TOGETHER = 16  # patterns that one thread computes at a time, at most; bounds the memory


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


def simulate(crystal: Crystal, orientations: np.ndarray, settings: Simulation) -> SimulatedPatterns:
    """Simulate the dynamical diffraction of a crystal.

    Every pattern is a pure function of crystal, orientation and settings: bit by bit the same whatever else is
    simulated with it and by however many threads (`numba.set_num_threads`, or NUMBA_NUM_THREADS in the environment).

    Parameters
    ----------
    crystal : Crystal
        Best a primitive cell: another gives the same patterns, and takes longer.
    orientations : array, shape (n, 3, 3)
        Rotations with rows e_x, e_y, e_z; the beam travels along -e_z.
    settings : Simulation
        `settings.orientations` is not used.

    Returns
    -------
    SimulatedPatterns
        Without the peaks that stay below `settings.intensity_min` at every thickness; the direct beam is kept always.

    Raises
    ------
    InvalidStructure
        If an element has no scattering factor, or the structure has values that are not finite.
    ValueError
        If a matrix is not a rotation; names the first such.
    """
    orientation = _checked_rotations(orientations)
    potential = structure_potential(crystal, settings)
    reflections = Reflections.of_potential(potential, settings.g_max)
    reflections.couples  # noqa: B018  # computed here, once, and not by every thread
    workers = get_num_threads()
    together = max(1, min(_TOGETHER, math.ceil(len(orientation) / (4 * workers))))
    starts = range(0, max(1, len(orientation)), together)
    with ThreadPoolExecutor(workers) as threads:  # what takes long is compiled, and runs without the interpreter's lock
        parts = list(
            threads.map(
                lambda start: _simulate_together(reflections, orientation[start : start + together], settings), starts
            )
        )
    reflection, excitation_error, intensity, counts = (
        np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True)
    )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    e_x, e_y = np.repeat(orientation[:, :2], counts, axis=0).transpose(1, 0, 2)
    g = reflections.g[reflection]
    return SimulatedPatterns(
        thicknesses=np.array(settings.thicknesses, dtype=np.float64),
        qx=np.sum(e_x * g, axis=1).astype(np.float32),
        qy=np.sum(e_y * g, axis=1).astype(np.float32),
        hkl=reflections.hkl[reflection].astype(np.int16),
        excitation_error=excitation_error.astype(np.float32),
        intensity=intensity,
        offsets=offsets,
        orientation=orientation,
    )


def _simulate_together(
    reflections: Reflections, orientation: np.ndarray, settings: Simulation
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Simulate some patterns; return reflection, excitation error and intensity of the peaks kept, and their counts."""
    beams: Beams = select_beams(reflections, orientation[:, 2], settings)
    electron_wavelength = wavelength(settings.beam_energy, scattering=settings.scattering)
    intensity = propagate(
        reflections, beams, electron_wavelength, np.array(settings.thicknesses), np.dtype(settings.precision)
    )
    is_direct = beams.reflection == reflections.direct
    kept = is_direct | (intensity >= settings.intensity_min).any(axis=0)
    counts = np.add.reduceat(kept, beams.offsets[:-1], dtype=np.int64) if len(orientation) else np.empty(0, np.int64)
    return beams.reflection[kept], beams.excitation_error[kept], intensity[:, kept], counts


def _checked_rotations(orientations: np.ndarray) -> np.ndarray:
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
