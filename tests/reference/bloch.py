"""Dynamical diffraction, slow and obvious: dense matrix, matrix exponential, float64."""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm


def dynamical_matrix(hkl, excitation_error, coupling, wavelength):
    """A_gh in Å⁻¹: `coupling(hkl)` gives U_g in Å⁻² with the phase exp(+2πi g·r)."""
    n = len(hkl)
    matrix = np.zeros((n, n), dtype=complex)
    for i in range(n):
        for j in range(n):
            matrix[i, j] = coupling(hkl[j] - hkl[i]) * wavelength / 2
        matrix[i, i] = excitation_error[i] + 0.5j * wavelength * coupling(np.zeros(3, int)).imag
    return matrix


def intensities(matrix, direct, thicknesses):
    """|exp(2πi t A) e_0|², shape (thicknesses, beams)."""
    return np.abs([expm(2j * np.pi * t * matrix)[:, direct] for t in thicknesses]) ** 2
