"""What the models of the hierarchy are called, and what each of them is trained to say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, crystal_system, independent_parameters
from gpuediff.errors import InvalidFeatures
from gpuediff.settings import CRYSTAL_SYSTEMS

CRYSTAL_SYSTEM = "crystal_system"  # the model at the top
# The models of what is said of a pattern beside its crystal, and the classes that each tells apart.
SEVERAL_GRAINS = "several_grains"
NOVELTY = "novelty"
FLAG_CLASSES = {SEVERAL_GRAINS: ("one_grain", "several_grains"), NOVELTY: ("crystal", "broken")}
SPACE_GROUPS = 230


def space_group_model(system: str) -> str:
    """Name the model of the space groups of a crystal system."""
    return f"space_group-{system}"


def lattice_model(system: str, parameter: str) -> str:
    """Name the model of one lattice parameter of a crystal system."""
    return f"lattice-{system}-{parameter}"


def model_names(systems: Iterable[str], *, lattice: bool = True) -> tuple[str, ...]:
    """Name all models of a hierarchy over these crystal systems, in the order of training.

    `lattice` says whether there are models of lattice parameters; a feature block can make them needless.
    """
    names = [CRYSTAL_SYSTEM]
    for system in systems:
        names.append(space_group_model(system))
        if lattice:
            names.extend(lattice_model(system, parameter) for parameter in independent_parameters(system))
    return tuple(names)


def model_seed(seed: int, model: str) -> int:
    """Derive a model's seed, 0 .. 2³² - 1, from the hierarchy's: no model's depends on which others there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {model}".encode()).digest()[:4], "big")


def crystal_systems_of(space_group_number: np.ndarray) -> np.ndarray:
    """Name the crystal system of every space group number in 1 .. 230, (n,) str."""
    by_number = np.array(["", *(crystal_system(number) for number in range(1, SPACE_GROUPS + 1))])
    return by_number[np.asarray(space_group_number)]


def systems_among(names: np.ndarray) -> tuple[str, ...]:
    """Return the distinct crystal systems, from triclinic to cubic."""
    present = set(np.unique(names).tolist())
    return tuple(system for system in CRYSTAL_SYSTEMS if system in present)


def check_labels(patterns: int, space_group_number: np.ndarray, lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels as arrays, if every pattern has possible ones.

    Raises
    ------
    InvalidFeatures
        If shapes do not fit, a space group number is not an integer in 1 .. 230, or a lattice parameter is not
        finite and positive; names the first such pattern.
    """
    numbers, lattice = np.asarray(space_group_number), np.asarray(lattice)
    if numbers.shape != (patterns,) or not np.issubdtype(numbers.dtype, np.integer):
        raise InvalidFeatures(
            f"space_group_number of shape {numbers.shape}, {numbers.dtype}: expected ({patterns},), integers"
        )
    if lattice.shape != (patterns, len(LATTICE_PARAMETERS)) or lattice.dtype.kind not in "fiu":
        raise InvalidFeatures(f"lattice of shape {lattice.shape}, {lattice.dtype}: expected ({patterns}, 6), numbers")
    possible = (numbers >= 1) & (numbers <= SPACE_GROUPS)
    if not possible.all():
        pattern = int(np.argmin(possible))
        raise InvalidFeatures(f"pattern {pattern}: space group number {numbers[pattern]}: expected 1 .. {SPACE_GROUPS}")
    possible = np.isfinite(lattice) & (lattice > 0)
    if not possible.all():
        pattern, column = divmod(int(np.argmin(possible)), len(LATTICE_PARAMETERS))
        raise InvalidFeatures(
            f"pattern {pattern}: lattice parameter {LATTICE_PARAMETERS[column]} = {lattice[pattern, column]}: "
            f"expected a finite number > 0"
        )
    return numbers, lattice
