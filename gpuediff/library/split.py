"""Division of materials into training, validation and test materials.

The side of a material depends on its id and the seed alone: not on the other materials, their order, the library
or the model. So a test material is a test material everywhere, and stays one when a library grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from gpuediff.settings import Split


def split_materials(material_ids: Iterable[str], settings: Split) -> np.ndarray:
    """Say on which side each material is.

    The first 64 bits of sha256(f"{seed}:{material_id}"), read as a fraction of 2⁶⁴, decide: a material is for testing
    from `settings.train_fraction` on, for validation in the part of `settings.validation_fraction` just below, and for
    training below that. So no validation fraction moves anything into or out of the test side, and raising one of the
    two fractions only ever moves materials from test to training, or from training to validation.

    Parameters
    ----------
    material_ids : iterable of str, m ids
    settings : Split

    Returns
    -------
    array, shape (m,), str
        "train", "validation" or "test".
    """
    fractions = hash_fractions(material_ids, settings)
    seen = fractions < settings.train_fraction
    learned = fractions < settings.train_fraction - settings.validation_fraction
    return np.where(learned, "train", np.where(seen, "validation", "test"))


def hash_fractions(material_ids: Iterable[str], settings: Split) -> np.ndarray:
    """Give the fraction in [0, 1) that decides on each material's side, (m,) float64.

    The materials of a side with the smallest fractions are a random sample of it, and a smaller sample is part of a
    larger one. The first in a library's order are no random sample, where it is sorted.
    """
    return np.array([_fraction(str(material_id), settings.seed) for material_id in material_ids], dtype=np.float64)


def _fraction(material_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{material_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
