"""Structure factors and dynamical intensities computed by py4DSTEM 0.14.18, read by `load`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from gpuediff.crystals.crystal import Crystal
from gpuediff.settings import Simulation

PATH = Path(__file__).with_name("reference.h5")


def _names(form_factors: str) -> tuple[str, ...]:
    with h5py.File(PATH) as file:
        groups = {name: entry for name, entry in file.items() if isinstance(entry, h5py.Group)}
        return tuple(name for name, structure in groups.items() if form_factors in structure)


NAMES = _names("wk-cp")
LOBATO_NAMES = _names("lobato")


@dataclass(frozen=True)
class Pattern:
    """One orientation; its beams are those with |g| <= g_max and |s_g| <= excitation_error_max that py4DSTEM finds."""

    orientation: np.ndarray  # (3, 3) rows e_x, e_y, e_z (zone axis): q_lab = orientation @ g
    hkl: np.ndarray  # (beams, 3) int16; some are not reachable from 000 and have no intensity
    intensity: np.ndarray  # (thicknesses, beams) float64, fraction of the incident beam; 000 included


@dataclass(frozen=True)
class Reference:
    """One structure, computed with one family of form factors."""

    name: str
    crystal: Crystal
    settings: Simulation  # that reproduce it: scattering = "py4dstem", precision = "float64", intensity_min = 0
    wavelength: float  # Å
    couplings: int  # number of U_g that py4DSTEM finds within |g| <= 2 g_max
    beams: int  # number of g that it finds within |g| <= g_max
    hkl: np.ndarray  # (n, 3) int16, a sample of the couplings
    u: np.ndarray  # (n,) complex128, U_g in Å⁻²
    patterns: list[Pattern]


def load(name: str, form_factors: str = "wk-cp") -> Reference:
    """Read the reference of one of `NAMES` ("wk-cp"), or of one of `LOBATO_NAMES` ("lobato")."""
    with h5py.File(PATH) as file:
        structure, computed = file[name], file[name][form_factors]
        crystal = Crystal(
            material_id=name,
            formula=structure.attrs["formula"],
            lattice=structure["lattice"][()],
            atomic_numbers=structure["atomic_numbers"][()],
            positions=structure["positions"][()],
            occupancies=structure["occupancies"][()],
            space_group_number=int(structure.attrs["space_group_number"]),
            conventional=structure["conventional"][()],
            source="py4DSTEM reference",
            checksum="",
        )
        settings = Simulation(
            beam_energy=float(file.attrs["beam_energy"]),
            g_max=float(file.attrs["g_max"]),
            excitation_error_max=float(file.attrs["excitation_error_max"]),
            displacement=float(computed.attrs["displacement"]),
            form_factors=form_factors,
            scattering="py4dstem",
            thicknesses=tuple(file["thicknesses"][()].tolist()),
            intensity_min=0.0,
            precision="float64",
        )
        patterns = [
            Pattern(pattern["orientation"][()], pattern["hkl"][()], pattern["intensity"][()])
            for pattern in (computed["patterns"][number] for number in sorted(computed["patterns"], key=int))
        ]
        return Reference(
            name=name,
            crystal=crystal,
            settings=settings,
            wavelength=float(computed.attrs["wavelength"]),
            couplings=int(computed.attrs["couplings"]),
            beams=int(computed.attrs["beams"]),
            hkl=computed["potential/hkl"][()],
            u=computed["potential/u"][()],
            patterns=patterns,
        )
