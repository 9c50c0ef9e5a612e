"""Elastic scattering factors of Lobato & Van Dyck, Acta Cryst. A 70, 636 (2014)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpuediff.diffraction.data.tables import read_table


@lru_cache(maxsize=1)
def parameters() -> np.ndarray:
    """Return a_i (Å) and b_i (Å²) alternating, one row an element from H to Lr: shape (103, 10), float64."""
    return read_table("lobato_2014.csv")


def elastic(atomic_number: int, g: np.ndarray) -> np.ndarray:
    """First-Born electron scattering factor of an atom at rest.

    f(g) = Σ_i a_i (2 + b_i g²) / (1 + b_i g²)², five terms, fitted for 0 <= g <= 12 Å⁻¹.

    Parameters
    ----------
    atomic_number : int
        1 .. 103.
    g : array, float64
        Length of the scattering vector, Å⁻¹.

    Returns
    -------
    array, shape of `g`, float64
        f in Å, without relativistic factor.
    """
    row = parameters()[atomic_number - 1]
    factor = np.zeros_like(g)
    for a, b in zip(row[0::2], row[1::2], strict=True):
        broadened = b * np.square(g)
        factor += a * (2 + broadened) / np.square(1 + broadened)
    return factor
