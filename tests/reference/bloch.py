"""Dynamical diffraction, slow and obvious: a dense matrix and its exponential, float64."""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm


def dynamical_matrix(hkl, excitation_error, potential, wavelength):
    """A_gh in Å⁻¹; beam j scatters into beam i by U of h_j - h_i, as the phase of U_g is exp(+2πi g·r)."""
    n = len(hkl)
    matrix = np.zeros((n, n), dtype=complex)
    for i in range(n):
        for j in range(n):
            index = tuple(hkl[j] - hkl[i] + potential.extent)
            if all(0 <= a < b for a, b in zip(index, potential.table.shape, strict=True)):
                matrix[i, j] = potential.table[index] * wavelength / 2
        matrix[i, i] = excitation_error[i] + 0.5j * wavelength * potential.table[tuple(potential.extent)].imag
    return matrix


def intensities(matrix, direct, thicknesses):
    """|exp(2πi t A) e_0|², shape (thicknesses, beams)."""
    return np.abs([expm(2j * np.pi * t * matrix)[:, direct] for t in thicknesses]) ** 2
