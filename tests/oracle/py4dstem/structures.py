"""The crystals that pymatgen's space groups make from a few sites; `generate.py` holds the ones written out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pymatgen.core import Lattice, Structure

# Rows: primitive vectors in units of the conventional ones. R: obverse setting of hexagonal axes.
PRIMITIVE = {
    "P": np.eye(3),
    "C": np.array([[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]]),
    "I": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "F": np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}


class Recipe(NamedTuple):
    formula: str
    space_group: int
    symbol: str  # origin choice 1
    cell: tuple[float, ...]  # conventional: Å, degrees
    sites: list  # (element, or {element: occupancy}; x, y, z)
    zone_axes: list[tuple[int, int, int]]  # lattice directions of the conventional cell
    more: int  # how many zone axes at random
    centring: str = "P"  # which primitive cell is used; "P": the conventional cell itself


def cubic(a):
    return (a, a, a, 90, 90, 90)


def tetragonal(a, c):
    return (a, a, c, 90, 90, 90)


def hexagonal(a, c):
    return (a, a, c, 90, 90, 120)


CALCITE = (
    "CaCO3",
    167,
    "R-3c",
    hexagonal(4.9896, 17.0610),
    [("Ca", 0, 0, 0), ("C", 0, 0, 0.25), ("O", 0.2568, 0, 0.25)],
)

RECIPES = {
    "NaCl": Recipe(
        "NaCl", 225, "Fm-3m", cubic(5.6402), [("Na", 0, 0, 0), ("Cl", 0.5, 0.5, 0.5)], [(0, 0, 1), (1, 1, 2)], 1
    ),
    "CsCl": Recipe("CsCl", 221, "Pm-3m", cubic(4.123), [("Cs", 0, 0, 0), ("Cl", 0.5, 0.5, 0.5)], [(0, 0, 1)], 2),
    "Fe": Recipe("Fe", 229, "Im-3m", cubic(2.8665), [("Fe", 0, 0, 0)], [(0, 0, 1), (1, 1, 1)], 1),
    "GaAs": Recipe(
        "GaAs", 216, "F-43m", cubic(5.6533), [("Ga", 0, 0, 0), ("As", 0.25, 0.25, 0.25)], [(1, 1, 0)], 2, "F"
    ),
    "UO2": Recipe(
        "UO2", 225, "Fm-3m", cubic(5.4704), [("U", 0, 0, 0), ("O", 0.25, 0.25, 0.25)], [(0, 0, 1), (1, 1, 0)], 2, "F"
    ),
    "NH4Cl": Recipe(
        "NH4Cl",
        215,
        "P-43m",
        cubic(3.8758),
        [("N", 0, 0, 0), ("Cl", 0.5, 0.5, 0.5), ("H", 0.1526, 0.1526, 0.1526)],
        [(0, 0, 1), (1, 1, 1)],
        2,
    ),
    "Cu3Au": Recipe("Cu3Au", 221, "Pm-3m", cubic(3.7493), [("Au", 0, 0, 0), ("Cu", 0, 0.5, 0.5)], [(0, 0, 1)], 2),
    "Cu3Au-disordered": Recipe(
        "Cu3Au", 225, "Fm-3m", cubic(3.7630), [({"Cu": 0.75, "Au": 0.25}, 0, 0, 0)], [(0, 0, 1)], 2, "F"
    ),
    "wustite": Recipe(
        "Fe19O20",
        225,
        "Fm-3m",
        cubic(4.3108),
        [({"Fe": 0.95}, 0, 0, 0), ("O", 0.5, 0.5, 0.5)],
        [(1, 1, 0)],
        2,
    ),
    "pyrite": Recipe(
        "FeS2", 205, "Pa-3", cubic(5.4166), [("Fe", 0, 0, 0), ("S", 0.3848, 0.3848, 0.3848)], [(0, 0, 1)], 2
    ),
    "LiMn2O4": Recipe(
        "LiMn2O4",
        227,
        "Fd-3m",
        cubic(8.2476),
        [("Li", 0, 0, 0), ("Mn", 0.625, 0.625, 0.625), ("O", 0.3882, 0.3882, 0.3882)],
        [(1, 1, 0)],
        1,
        "F",
    ),
    "rutile": Recipe(
        "TiO2",
        136,
        "P4_2/mnm",
        tetragonal(4.5937, 2.9587),
        [("Ti", 0, 0, 0), ("O", 0.3053, 0.3053, 0)],
        [(0, 0, 1), (1, 0, 0)],
        2,
    ),
    "anatase": Recipe(
        "TiO2",
        141,
        "I4_1/amd",
        tetragonal(3.7845, 9.5143),
        [("Ti", 0, 0, 0), ("O", 0, 0, 0.2081)],
        [(1, 0, 0)],
        2,
    ),
    "tin": Recipe("Sn", 141, "I4_1/amd", tetragonal(5.8318, 3.1818), [("Sn", 0, 0, 0)], [(0, 0, 1)], 2, "I"),
    "BaTiO3": Recipe(
        "BaTiO3",
        99,
        "P4mm",
        tetragonal(3.9970, 4.0314),
        [("Ba", 0, 0, 0), ("Ti", 0.5, 0.5, 0.5215), ("O", 0.5, 0.5, -0.0244), ("O", 0.5, 0, 0.4895)],
        [(0, 0, 1), (1, 0, 0)],
        2,
    ),
    "scheelite": Recipe(
        "CaWO4",
        88,
        "I4_1/a",
        tetragonal(5.2430, 11.3760),
        [("Ca", 0, 0, 0.5), ("W", 0, 0, 0), ("O", 0.2414, 0.1507, 0.0856)],
        [(0, 0, 1)],
        1,
        "I",
    ),
    "Mg": Recipe(
        "Mg", 194, "P6_3/mmc", hexagonal(3.2094, 5.2108), [("Mg", 1 / 3, 2 / 3, 0.25)], [(0, 0, 1), (1, 0, 0)], 1
    ),
    "ZnO": Recipe(
        "ZnO",
        186,
        "P6_3mc",
        hexagonal(3.2498, 5.2066),
        [("Zn", 1 / 3, 2 / 3, 0), ("O", 1 / 3, 2 / 3, 0.3819)],
        [(1, 0, 0)],
        2,
    ),
    "calcite": Recipe(*CALCITE, [(0, 0, 1), (1, 0, 0)], 1, "R"),
    "calcite-hexagonal": Recipe(*CALCITE, [(0, 0, 1)], 1),
    "corundum": Recipe(
        "Al2O3",
        167,
        "R-3c",
        hexagonal(4.7589, 12.9919),
        [("Al", 0, 0, 0.3522), ("O", 0.3063, 0, 0.25)],
        [(0, 0, 1)],
        2,
        "R",
    ),
    "LiCoO2": Recipe(
        "LiCoO2",
        166,
        "R-3m",
        hexagonal(2.8156, 14.0542),
        [("Co", 0, 0, 0), ("Li", 0, 0, 0.5), ("O", 0, 0, 0.2605)],
        [(0, 0, 1), (1, 0, 0)],
        1,
    ),
    "LiNbO3": Recipe(
        "LiNbO3",
        161,
        "R3c",
        hexagonal(5.1483, 13.8631),
        [("Nb", 0, 0, 0), ("Li", 0, 0, 0.2787), ("O", 0.0476, 0.3433, 0.0633)],
        [(1, 0, 0)],
        1,
        "R",
    ),
    "cementite": Recipe(
        "Fe3C",
        62,
        "Pnma",
        (5.0890, 6.7433, 4.5235, 90, 90, 90),
        [("Fe", 0.0367, 0.25, 0.8402), ("Fe", 0.1816, 0.0666, 0.3374), ("C", 0.8770, 0.25, 0.4440)],
        [(1, 0, 0)],
        1,
    ),
    "uranium": Recipe(
        "U", 63, "Cmcm", (2.8537, 5.8695, 4.9548, 90, 90, 90), [("U", 0, 0.1025, 0.25)], [(0, 0, 1)], 2, "C"
    ),
    "NaNO2": Recipe(
        "NaNO2",
        44,
        "Imm2",
        (3.569, 5.384, 5.563, 90, 90, 90),
        [("Na", 0, 0, 0.5853), ("N", 0, 0, 0.1200), ("O", 0, 0.1944, 0)],
        [(1, 0, 0)],
        2,
    ),
    "baddeleyite": Recipe(
        "ZrO2",
        14,
        "P2_1/c",
        (5.1505, 5.2116, 5.3173, 90, 99.23, 90),
        [("Zr", 0.2754, 0.0395, 0.2083), ("O", 0.0700, 0.3317, 0.3447), ("O", 0.4496, 0.7569, 0.4792)],
        [(0, 1, 0)],
        2,
    ),
    "Li2MnO3": Recipe(
        "Li2MnO3",
        12,
        "C2/m",
        (4.937, 8.532, 5.030, 90, 109.46, 90),
        [
            ("Li", 0, 0.5, 0),
            ("Li", 0, 0, 0.5),
            ("Li", 0, 0.6606, 0.5),
            ("Mn", 0, 0.16708, 0),
            ("O", 0.2189, 0, 0.2273),
            ("O", 0.2540, 0.32119, 0.2233),
        ],
        [(1, 0, 0)],
        1,
        "C",
    ),
    "oblique": Recipe(  # invented: no symmetry at all, obtuse angles, a mixed and a partly occupied site
        "Cu3Zn2H4O8",
        1,
        "P1",
        (3.9, 4.6, 5.4, 95, 103, 111),
        [
            ({"Cu": 0.6, "Zn": 0.4}, 0, 0, 0),
            ("O", 0.31, 0.42, 0.27),
            ({"O": 0.6}, 0.70, 0.17, 0.64),
            ("H", 0.5, 0.6, 0.2),
        ],
        [(0, 0, 1)],
        2,
    ),
}


def build(recipe: Recipe):
    """Return (vectors in units of the conventional cell's or None, (atomic numbers, positions, occupancies))."""
    species, coordinates = zip(*((site[0], site[1:]) for site in recipe.sites), strict=True)
    cell = Structure.from_spacegroup(recipe.symbol, Lattice.from_parameters(*recipe.cell), species, coordinates)
    numbers, positions, occupancies = [], [], []
    vectors = PRIMITIVE[recipe.centring]
    for site in cell:
        position = site.frac_coords @ np.linalg.inv(vectors)
        position -= np.floor(position + 1e-9)
        for element, occupancy in site.species.items():
            same = [other for other, number in zip(positions, numbers, strict=True) if number == element.Z]
            if any(np.abs((position - other + 0.5) % 1.0 - 0.5).max() < 1e-6 for other in same):
                continue  # a lattice point of the centred cell
            numbers.append(element.Z)
            positions.append(position)
            occupancies.append(occupancy)
    atoms = np.array(numbers), np.array(positions), np.array(occupancies, dtype=float)
    return (None if recipe.centring == "P" else vectors), atoms
