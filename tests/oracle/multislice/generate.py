"""Make reference.h5 with abTEM; see README.md for the command. Needs neither gpuediff nor its constants."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import abtem
import h5py
import numpy as np
from abtem.parametrizations import LobatoParametrization
from abtem.potentials.iam import PotentialArray
from ase.data import chemical_symbols

ENERGY = 300e3  # eV
DISPLACEMENT = 0.08  # Å, rms in one direction: a static Debye-Waller factor
G_STORED = 2.0  # Å⁻¹
INTENSITY_MIN = 1e-7  # beams that stay below at all thicknesses are not stored
REACH = 10.0  # Å⁻¹, Fourier components along the beam beyond it are damped to below 1e-5


class Case(NamedTuple):
    cell: tuple[float, float, float]  # Å, orthogonal; the electrons travel along +c
    atoms: list  # (Z, x, y, z), fractional
    cells: tuple[int, ...]  # thicknesses in cells
    gpts: tuple[int, int]
    slices: int  # of one cell
    projected: bool  # whether the potential is averaged along the beam: no higher-order Laue zones


AU = [(79, 0, 0, 0), (79, 0, 0.5, 0.5), (79, 0.5, 0, 0.5), (79, 0.5, 0.5, 0)]
SRTIO3 = [(38, 0, 0, 0), (22, 0.5, 0.5, 0.5), (8, 0.5, 0.5, 0), (8, 0.5, 0, 0.5), (8, 0, 0.5, 0.5)]
DIAMOND = [(6, *(np.array(p) + s)) for p in ([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]) for s in (0, 0.25)]
CHIRAL = [(38, 0, 0, 0), (22, 0.46, 0.55, 0.30), (8, 0.21, 0.63, 0.62), (8, 0.77, 0.18, 0.41)]  # invented, P1
CASES = {
    "Au": Case((4.0782,) * 3, AU, (12, 25, 50, 98), (128, 128), 64, True),
    "SrTiO3": Case((3.905,) * 3, SRTIO3, (13, 26, 51, 102), (128, 128), 64, True),
    "chiral": Case((3.9, 4.6, 2.6), CHIRAL, (19, 38, 77, 154), (128, 144), 32, True),
    "diamond, three-dimensional": Case((3.567,) * 3, DIAMOND, (14, 28, 56, 112), (96, 96), 32, False),
    "chiral, three-dimensional": Case((3.9, 4.6, 2.6), CHIRAL, (19, 38, 77), (128, 144), 32, False),
}


def potential_slices(case):
    """Integrate the potential over each slice, V Å: abTEM's factors, summed over the reciprocal lattice."""
    (a, b, c), (nx, ny), n = case.cell, case.gpts, case.slices
    h, k = np.fft.fftfreq(nx, 1 / nx)[:, None], np.fft.fftfreq(ny, 1 / ny)[None]
    factors = LobatoParametrization()
    laue_zones = 0 if case.projected else int(REACH * c)
    slices = np.zeros((n, nx, ny), dtype=complex)
    for l in range(-laue_zones, laue_zones + 1):
        g_squared = (h / a) ** 2 + (k / b) ** 2 + (l / c) ** 2
        damping = np.exp(-2 * (np.pi * DISPLACEMENT) ** 2 * g_squared)
        coefficient = np.zeros((nx, ny), dtype=complex)
        for number, x, y, z in case.atoms:
            # By the projection-slice theorem the two-dimensional factor at g² is the three-dimensional one.
            factor = factors.projected_scattering_factor(chemical_symbols[number])(g_squared)
            coefficient += factor * damping * np.exp(-2j * np.pi * (h * x + k * y + l * z)) / (a * b * c)
        along = np.exp(2j * np.pi * l * (np.arange(n) + 0.5) / n) * np.sinc(l / n) * c / n
        slices += along[:, None, None] * coefficient
    return np.fft.ifft2(slices).real * nx * ny


def intensities(case):
    """Return the fraction of the incident beam at every thickness and h, k in the order of the FFT."""
    unit = PotentialArray(potential_slices(case), slice_thickness=case.cell[2] / case.slices, extent=case.cell[:2])
    crystal = abtem.CrystalPotential(unit, repetitions=(1, 1, max(case.cells)), exit_planes=case.slices)
    waves = abtem.PlaneWave(energy=ENERGY).multislice(crystal, lazy=False).array
    return np.abs(np.fft.fft2(waves[list(case.cells)]) / np.prod(case.gpts)) ** 2


def beams(case, intensity):
    """Return h, k of the beams that are stored, shape (beams, 2)."""
    h, k = (np.fft.fftfreq(n, 1 / n).astype(int) for n in case.gpts)
    length = np.hypot(h[:, None] / case.cell[0], k[None] / case.cell[1])
    x, y = np.nonzero((length <= G_STORED) & (intensity.max(axis=0) >= INTENSITY_MIN))
    return np.stack([h[x], k[y]], axis=1)


def show_convergence(name, case, out=sys.stdout):
    """Print the largest change of an intensity when slices or grid are halved, at the largest thickness too."""
    finest = intensities(case)
    hk = beams(case, finest)
    coarser = tuple(n * 3 // 4 for n in case.gpts)
    for changes in ({"slices": case.slices // 2}, {"slices": case.slices // 4}, {"gpts": coarser}):
        other = intensities(case._replace(**changes))
        change = np.abs(other[:, hk[:, 0], hk[:, 1]] - finest[:, hk[:, 0], hk[:, 1]]).max(axis=1)
        print(f"{name} {changes}: " + " ".join(f"{value:.1e}" for value in change), file=out, flush=True)
    print(f"{name}: sums of all intensities {finest.sum(axis=(1, 2)).round(6)}", file=out, flush=True)


def main(path, names=tuple(CASES)):
    abtem.config.set({"precision": "float64", "diagnostics.progress_bar": False})
    with h5py.File(path, "w", track_order=True, libver="v110") as file:
        for package in ("abtem", "numpy", "ase"):
            file.attrs[package] = version(package)
        file.attrs["beam_energy"] = ENERGY
        file.attrs["displacement"] = DISPLACEMENT
        file.attrs["g_max"] = G_STORED
        for name in names:
            case = CASES[name]
            intensity = intensities(case)
            hk = beams(case, intensity)
            group = file.create_group(name, track_order=True)
            group.attrs["cell"] = case.cell
            group.attrs["projected"] = case.projected
            group["atomic_numbers"] = np.array([atom[0] for atom in case.atoms])
            group["positions"] = np.array([atom[1:] for atom in case.atoms], dtype=float)
            group["thicknesses"] = np.array(case.cells) * case.cell[2]
            group["hk"] = hk.astype(np.int16)
            group["intensity"] = intensity[:, hk[:, 0], hk[:, 1]]
            print(f"{name}: {len(hk)} beams", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    if "--convergence" in sys.argv:
        for name, case in CASES.items():
            show_convergence(name, case)
