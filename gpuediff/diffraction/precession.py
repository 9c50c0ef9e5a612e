"""Precession electron diffraction: the beam circles on a cone, and what it diffracts is brought back to one pattern.

Every direction on the cone diffracts for itself, and intensities are summed, not amplitudes (R. Vincent and
P. A. Midgley, Ultramicroscopy 53, 271, 1994). Peaks stay where they are without precession, for the tilt of the beam is
undone below the specimen. The foil normal is the zone axis; the wave vector's part along it sets the couplings,
A_gh = U_{g-h} / (2 k cos φ), and the excitation errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpuediff.diffraction.beams import Beams, Reflections, excitation_errors, select_beams
from gpuediff.diffraction.electron import wavelength
from gpuediff.settings import Precession, Simulation

AZIMUTHS_TOGETHER = 16  # bounds the memory

Scatter = Callable[[Reflections, Beams, float, np.ndarray, np.dtype], np.ndarray]


def incidences(orientation: np.ndarray, precession: Precession) -> np.ndarray:
    """Return the directions towards the source, evenly around the cone, the first tilted towards the detector's x.

    Parameters
    ----------
    orientation : array, shape (3, 3), float64
        Rows e_x, e_y, e_z.
    precession : Precession

    Returns
    -------
    array, shape (azimuths, 3), float64
        Unit vectors in the crystal's Cartesian frame.
    """
    azimuth = 2 * math.pi * np.arange(precession.azimuths) / precession.azimuths
    angle = math.radians(precession.angle)
    in_detector = np.stack(
        [
            math.sin(angle) * np.cos(azimuth),
            math.sin(angle) * np.sin(azimuth),
            np.full(precession.azimuths, math.cos(angle)),
        ],
        axis=1,
    )
    x, y, z = in_detector.T[:, :, None]
    return x * orientation[0] + y * orientation[1] + z * orientation[2]


def precessed(
    reflections: Reflections, orientation: np.ndarray, settings: Simulation, scatter: Scatter
) -> tuple[Beams, np.ndarray]:
    """Average one pattern over the directions of the cone.

    Parameters
    ----------
    reflections : Reflections
        Of one crystal.
    orientation : array, shape (3, 3), float64
        Rows e_x, e_y, e_z.
    settings : Simulation
        With `precession`.
    scatter : callable
        `propagation.propagate`, or another function of the same arguments.

    Returns
    -------
    beams : Beams
        All that are beams for some direction, of one pattern; excitation errors are those of the untilted beam.
    intensity : array, shape (t, beams), float64
        Mean over the directions: a beam has none in those for which it is too far from the Ewald sphere.
    """
    assert settings.precession is not None
    vacuum = wavelength(settings.beam_energy, scattering=settings.scattering)
    towards_source = incidences(orientation, settings.precession)
    zone_axis = orientation[2]
    chunks = []
    for start in range(0, len(towards_source), AZIMUTHS_TOGETHER):
        incidence = towards_source[start : start + AZIMUTHS_TOGETHER]
        normals = np.broadcast_to(zone_axis, incidence.shape)
        chunks.append(select_beams(reflections, normals, settings, incidence=incidence))
    united = np.unique(np.concatenate([beams.reflection for beams in chunks]))
    thicknesses = np.array(settings.thicknesses)
    total = np.zeros((len(thicknesses), len(united)))
    along_normal = vacuum / math.cos(math.radians(settings.precession.angle))
    for beams in chunks:
        intensity = scatter(reflections, beams, along_normal, thicknesses, np.dtype(settings.precision))
        place = np.searchsorted(united, beams.reflection)
        for start, stop in zip(beams.offsets[:-1], beams.offsets[1:], strict=True):
            total[:, place[start:stop]] += intensity[:, start:stop]
    errors = excitation_errors(reflections.g[united], zone_axis[None], vacuum)[0]
    return Beams(united, errors, np.array([0, len(united)])), total / len(towards_source)
