"""Make reference.h5 with py4DSTEM 0.14.18; see README.md for the command."""

from __future__ import annotations

import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import py4DSTEM
import scipy
from py4DSTEM.process.diffraction import Crystal

from tests.oracle.py4dstem.structures import RECIPES, build

BEAM_ENERGY = 300e3  # eV
G_MAX = 2.0  # Å⁻¹
SIGMA, MULTIPLE = 0.02, 3.0  # excitation error up to 0.06 Å⁻¹
DISPLACEMENT = 0.08  # Å
THICKNESSES = np.array([20.0, 200.0, 1000.0, 2000.0])  # Å
COUPLINGS = 400  # U_g kept of each structure, besides those of small indices


def cell_vectors(a, b, c, alpha, beta, gamma):
    """Rows a, b, c: c along z, a in the xz plane with x > 0, b with y > 0."""
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    sb = np.sin(np.radians(beta))
    bx = (cg - ca * cb) / sb
    return np.array([[a * sb, 0, a * cb], [b * bx, b * np.sqrt(1 - ca**2 - bx**2), b * ca], [0, 0, c]])


def spread(operations, sites):
    """Apply the space group's operations (matrix, vector) to sites (Z, occupancy, x, y, z); every position once."""
    numbers, occupancies, positions = [], [], []
    for number, occupancy, *xyz in sites:
        images = []
        for matrix, vector in operations:
            image = (np.array(matrix) @ xyz + vector) % 1.0
            if not any(np.abs((image - other + 0.5) % 1.0 - 0.5).max() < 1e-6 for other in images):
                images.append(image)
        positions += images
        numbers += [number] * len(images)
        occupancies += [occupancy] * len(images)
    return np.array(numbers), np.array(positions), np.array(occupancies, dtype=float)


def with_inversion(operations):
    return [*operations, *((-np.array(m), -np.array(v)) for m, v in operations)]


def centred(operations, *translations):
    return [(m, np.array(v) + t) for t in ((0, 0, 0), *translations) for m, v in operations]


ONE = (np.eye(3), (0, 0, 0))
FACES = ((0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
P3121 = [
    ONE,
    ([[0, -1, 0], [1, -1, 0], [0, 0, 1]], (0, 0, 1 / 3)),
    ([[-1, 1, 0], [-1, 0, 0], [0, 0, 1]], (0, 0, 2 / 3)),
    ([[0, 1, 0], [1, 0, 0], [0, 0, -1]], (0, 0, 0)),
    ([[1, -1, 0], [0, -1, 0], [0, 0, -1]], (0, 0, 2 / 3)),
    ([[-1, 0, 0], [-1, 1, 0], [0, 0, -1]], (0, 0, 1 / 3)),
]
PBNM = with_inversion(
    [
        ONE,
        (np.diag([-1, -1, 1]), (0, 0, 0.5)),
        (np.diag([-1, 1, -1]), (0.5, 0.5, 0.5)),
        (np.diag([1, -1, -1]), (0.5, 0.5, 0)),
    ]
)
C2M = centred(with_inversion([ONE, (np.diag([-1, 1, -1]), (0, 0, 0))]), (0.5, 0.5, 0))
SIX = [[1, -1, 0], [1, 0, 0], [0, 0, 1]]
P63M = with_inversion([(np.linalg.matrix_power(SIX, n), (0, 0, n / 2)) for n in range(6)])

FCC = np.array(FACES)  # rows: primitive vectors in units of the cubic ones

# name: formula, space group, conventional cell, primitive vectors in the cell's or None, atoms,
# zone axes as lattice directions of the conventional cell, and how many more at random
STRUCTURES = {
    "Au": (
        "Au",
        225,
        (4.0782,) * 3 + (90,) * 3,
        None,
        spread(centred([ONE], *FACES), [(79, 1, 0, 0, 0)]),
        [(0, 0, 1), (1, 1, 0), (1, 1, 1)],
        3,
    ),
    "Si": (
        "Si",
        227,
        (5.431,) * 3 + (90,) * 3,
        FCC,
        (np.array([14, 14]), np.array([[0, 0, 0], [0.25, 0.25, 0.25]]), np.ones(2)),
        [(0, 0, 1), (1, 1, 0), (1, 1, 1)],
        3,
    ),
    "quartz": (
        "SiO2",
        152,
        (4.9134, 4.9134, 5.4052, 90, 90, 120),
        None,
        spread(P3121, [(14, 1, 0.4697, 0, 1 / 3), (8, 1, 0.4135, 0.2669, 0.7858)]),
        [(0, 0, 1), (1, 0, 0), (2, 1, 0)],
        3,
    ),
    "GdFeO3": (
        "GdFeO3",
        62,
        (5.349, 5.611, 7.669, 90, 90, 90),
        None,
        spread(
            PBNM,
            [
                (64, 1, -0.01556, 0.06284, 0.25),
                (26, 1, 0, 0.5, 0),
                (8, 1, 0.1005, 0.4672, 0.25),
                (8, 1, 0.6957, 0.3016, 0.0506),
            ],
        ),
        [(0, 0, 1), (1, 1, 0)],
        2,
    ),
    "orthoclase": (
        "KAlSi3O8",
        12,
        (8.5632, 12.963, 7.2099, 90, 116.07, 90),
        None,
        spread(
            C2M,
            [
                (19, 1, 0.2840, 0, 0.1372),
                (14, 0.75, 0.0097, 0.1850, 0.2233),
                (13, 0.25, 0.0097, 0.1850, 0.2233),
                (14, 0.75, 0.7089, 0.1178, 0.3444),
                (13, 0.25, 0.7089, 0.1178, 0.3444),
                (8, 1, 0, 0.1459, 0),
                (8, 1, 0.6343, 0, 0.2858),
                (8, 1, 0.8273, 0.1469, 0.2253),
                (8, 1, 0.0347, 0.3100, 0.2579),
                (8, 1, 0.1793, 0.1269, 0.4024),
            ],
        ),
        [(0, 1, 0)],
        1,
    ),
    "hexagonal": (  # invented: Nb3S4 with a stretched and c shortened to a/c = 3.1
        "Nb3S4",
        176,
        (10.0, 10.0, 3.2, 90, 90, 120),
        None,
        spread(P63M, [(41, 1, 0.488, 0.115, 0.25), (16, 1, 1 / 3, 2 / 3, 0.25), (16, 1, 0.277, 0.341, 0.25)]),
        [(0, 0, 1), (1, 0, 0)],
        2,
    ),
    "triclinic": (  # invented: an oblique cell
        "TiO2",
        2,
        (4.1, 5.3, 6.2, 64, 71, 57),
        None,
        spread(
            with_inversion([ONE]), [(22, 1, 0.21, 0.13, 0.36), (8, 1, 0.62, 0.41, 0.11), (8, 0.8, 0.83, 0.27, 0.71)]
        ),
        [(0, 0, 1)],
        3,
    ),
}
SEED = 20261122
# How many of the last zone axes are also done elastically.
LOBATO = {"Au": 3, "Si": 2, "quartz": 2, "triclinic": 2} | {
    "UO2": 2,
    "NH4Cl": 2,
    "Cu3Au-disordered": 2,
    "rutile": 2,
    "BaTiO3": 2,
    "ZnO": 2,
    "calcite": 2,
    "uranium": 2,
    "baddeleyite": 2,
    "oblique": 2,
}


def structures():
    """Yield (name, entry as in STRUCTURES, random generator), those written out first.

    These share one generator, every other has its own: one more does not change the numbers of the rest.
    """
    shared = np.random.default_rng(SEED)
    for name, structure in STRUCTURES.items():
        yield name, structure, shared
    for name, recipe in RECIPES.items():
        primitive, atoms = build(recipe)
        structure = recipe.formula, recipe.space_group, recipe.cell, primitive, atoms, recipe.zone_axes, recipe.more
        yield name, structure, np.random.default_rng([SEED, zlib.crc32(name.encode())])


def patterns(crystal, method, zone_axes):
    """Yield (zone axis, orientation with rows e_x, e_y, e_z, hkl, intensity (thicknesses, beams))."""
    for zone_axis in zone_axes:
        # Nothing is dropped for weakness: a forbidden beam may be excited by multiple scattering.
        beams, orientation = crystal.generate_diffraction_pattern(
            zone_axis_cartesian=zone_axis,
            sigma_excitation_error=SIGMA,
            tol_excitation_error_mult=MULTIPLE,
            tol_intensity=-1.0,
            k_max=G_MAX,
            return_orientation_matrix=True,
        )
        series = crystal.generate_dynamical_diffraction_pattern(
            beams, thickness=THICKNESSES, zone_axis_cartesian=zone_axis, always_return_list=True
        )
        hkl = np.stack([beams.data[axis] for axis in "hkl"], axis=1)
        yield orientation.T, hkl.astype(np.int16), np.stack([peaks.data["intensity"] for peaks in series])
        print(f"  {method} {np.round(zone_axis, 3)}: {len(hkl)} beams", flush=True)


def write_method(group, crystal, method, zone_axes, rng):
    crystal.calculate_structure_factors(k_max=G_MAX, tol_structure_factor=-1.0)
    crystal.calculate_dynamical_structure_factors(
        BEAM_ENERGY,
        method=method,
        k_max=2 * G_MAX,
        thermal_sigma=DISPLACEMENT,
        tol_structure_factor=0.0,
        recompute_kinematic_structure_factors=False,
    )
    indices = np.array(list(crystal.Ug_dict), dtype=np.int16)
    values = np.array(list(crystal.Ug_dict.values()))
    kept = np.flatnonzero(np.abs(indices).max(axis=1) <= 2)
    kept = np.union1d(kept, rng.choice(len(indices), size=min(COUPLINGS, len(indices)), replace=False))
    group.attrs["displacement"] = DISPLACEMENT if method.startswith("WK") else 0.0
    group.attrs["couplings"] = len(indices)
    group.attrs["beams"] = crystal.hkl.shape[1]
    group.attrs["wavelength"] = crystal.wavelength
    write_array(group, "potential/hkl", indices[kept])
    write_array(group, "potential/u", values[kept])
    for number, (orientation, hkl, intensity) in enumerate(patterns(crystal, method, zone_axes)):
        pattern = group.create_group(f"patterns/{number}")
        pattern.create_dataset("orientation", data=orientation)
        write_array(pattern, "hkl", hkl)
        write_array(pattern, "intensity", intensity)


def write_array(group, name, data):
    # In one chunk: the index of several would be larger than most of the data.
    group.create_dataset(name, data=data, chunks=data.shape, compression="gzip", compression_opts=9, shuffle=True)


def write_structure(group, structure, elastic, rng):
    formula, space_group, cell, primitive, atoms, zone_axes, more = structure
    numbers, positions, occupancies = atoms
    directions = [np.array(zone_axis) @ cell_vectors(*cell) for zone_axis in zone_axes]
    directions += list(rng.normal(size=(more, 3)))
    directions = [direction / np.linalg.norm(direction) for direction in directions]
    lattice = cell_vectors(*cell) if primitive is None else primitive @ cell_vectors(*cell)
    print(f"{group.name}: {len(numbers)} atoms, {abs(np.linalg.det(lattice)):.1f} Å³", flush=True)
    group.attrs["formula"] = formula
    group.attrs["space_group_number"] = space_group
    group["conventional"] = np.array(cell, dtype=float)
    group["lattice"] = lattice
    group["atomic_numbers"] = numbers.astype(np.int64)
    group["positions"] = positions
    group["occupancies"] = occupancies
    crystal = Crystal(positions, numbers, lattice, occupancy=occupancies)
    write_method(group.create_group("wk-cp"), crystal, "WK-CP", directions, rng)
    if elastic:
        write_method(group.create_group("lobato"), crystal, "Lobato", directions[-elastic:], rng)


def main(path, names=(*STRUCTURES, *RECIPES)):
    """Write the structures named; of those that share a generator all that precede must be named too."""
    with h5py.File(path, "w", track_order=True, libver="v110") as file:
        file.attrs["py4DSTEM"] = py4DSTEM.__version__
        file.attrs["numpy"] = np.__version__
        file.attrs["scipy"] = scipy.__version__
        file.attrs["pymatgen"] = version("pymatgen")
        file.attrs["python"] = sys.version.split()[0]
        file.attrs["beam_energy"] = BEAM_ENERGY
        file.attrs["g_max"] = G_MAX
        file.attrs["excitation_error_max"] = SIGMA * MULTIPLE
        file["thicknesses"] = THICKNESSES
        for name, structure, rng in structures():
            if name in names:
                write_structure(file.create_group(name, track_order=True), structure, LOBATO.get(name, 0), rng)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *([sys.argv[2:]] if sys.argv[2:] else []))
