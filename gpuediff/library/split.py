"""Division of materials into training and test materials.

The side of a material depends on its id and the seed alone: not on the other materials, their order, the library
or the model. So a test material is a test material everywhere, and stays one when a library grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from gpuediff.settings import Split


def split_materials(material_ids: Iterable[str], settings: Split) -> np.ndarray:
    """Say which materials are for training.

    A material is for training if the first 64 bits of sha256(f"{seed}:{material_id}"), read as a fraction of 2⁶⁴,
    lie below `settings.train_fraction`. Raising the fraction only ever moves materials from test to training.

    Parameters
    ----------
    material_ids : iterable of str, m ids
    settings : Split

    Returns
    -------
    array, shape (m,), bool
        True where the material is for training, False where it is for testing.
    """
    sides = [_fraction(str(material_id), settings.seed) < settings.train_fraction for material_id in material_ids]
    return np.array(sides, dtype=bool)


def _fraction(material_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{material_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
