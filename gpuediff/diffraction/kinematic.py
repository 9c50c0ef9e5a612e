"""Kinematic diffraction: every beam is scattered once, out of a direct beam that loses nothing.

The first Born approximation of what `propagation` solves, for comparison, and for users who have it in their habits.
It holds while the intensities of all diffracted beams stay well below 1: in a heavy crystal for some ten Å, at high
symmetry zone axes for less, in a light one far from a zone axis for a few hundred. Beyond, intensities grow as t² past
1 where dynamical ones oscillate: that is the theory's own failure, and not corrected. Forbidden reflections have none.
"""

from __future__ import annotations

import numpy as np

from gpuediff.diffraction.beams import Beams, Reflections


def kinematic_intensities(
    reflections: Reflections, beams: Beams, wavelength: float, thicknesses: np.ndarray, precision: np.dtype
) -> np.ndarray:
    """Compute the intensity of every beam at every thickness.

    I_g(t) = (π λ |U_g| t sin(π t s_g) / (π t s_g))²: the two-beam case in the limit of weak scattering (M. De Graef,
    Introduction to conventional TEM, 2003, section 6.3).

    Parameters
    ----------
    reflections : Reflections
        Of one crystal.
    beams : Beams
        Of n patterns of this crystal.
    wavelength : float
        Å.
    thicknesses : array, shape (t,), float64
        Å.
    precision : dtype
        float32 or float64: of the result.

    Returns
    -------
    array, shape (t, beams), float32 or float64
        In units of the incident beam; 1 for the direct beam.
    """
    address = reflections.address[beams.reflection]
    coupling = np.where(reflections.couples, np.abs(reflections.coupling), 0.0)[reflections.centre - address]
    thickness = np.asarray(thicknesses, dtype=np.float64)[:, None]
    amplitude = np.pi * wavelength * coupling * thickness * np.sinc(thickness * beams.excitation_error)
    intensity = np.square(amplitude)
    intensity[:, beams.reflection == reflections.direct] = 1.0
    return intensity.astype(precision, copy=False)
