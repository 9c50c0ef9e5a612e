"""Structure potentials computed on a GPU, by `kernels/structure_factors.cu`: the table that `potential` computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpuediff import arrays
from gpuediff.arrays import Device
from gpuediff.diffraction.factor_tables import CELLS, factor_table
from gpuediff.diffraction.potential import StructurePotential, box_of
from gpuediff.settings import Simulation

if TYPE_CHECKING:
    from gpuediff.crystals.crystal import Crystal

THREADS = 128


def structure_potential(crystal: Crystal, settings: Simulation, device: Device) -> StructurePotential:
    """Tabulate U_g for |g| <= 2 g_max.

    Parameters
    ----------
    crystal : Crystal
        As for `potential.structure_potential`.
    settings : Simulation
        Likewise.
    device : Device
        A GPU.

    Returns
    -------
    StructurePotential
        On the host; equal to that of the CPU up to rounding.

    Raises
    ------
    InvalidStructure
        If an element has no parameters in the chosen form factors.
    """
    box = box_of(crystal, settings)
    order = np.argsort(crystal.atomic_numbers, kind="stable")
    elements, atoms = np.unique(crystal.atomic_numbers, return_counts=True)
    tables = [factor_table(int(atomic_number), settings) for atomic_number in elements]
    coefficients = np.concatenate([table.coefficients for table in tables])  # real and imaginary part side by side

    def upload(values: np.ndarray, dtype: type) -> np.ndarray:
        return arrays.to_device(np.ascontiguousarray(values, dtype=dtype), device)

    def starts(counts: list[int] | np.ndarray) -> np.ndarray:
        return upload(np.concatenate([[0], np.cumsum(counts)]), np.int32)

    arguments = (
        upload(crystal.positions[order], np.float64),
        upload(crystal.occupancies[order], np.float64),
        starts(atoms),
        np.int32(len(elements)),
        upload(np.concatenate([table.intervals for table in tables]), np.float64),
        upload(coefficients.view(np.complex128)[..., 0], np.complex128),
        starts([len(table.intervals) for table in tables]),
        upload(np.concatenate([table.first for table in tables]), np.int32),
        np.int32(CELLS),
        np.float64(CELLS / tables[0].edges[-1]),  # all tables end at the same |g|
        upload(box.metric, np.float64),
        upload(np.concatenate([box.extent, box.within]), np.int32),
        np.float64(box.squared_limit),
        np.float64(1 / abs(np.linalg.det(crystal.lattice))),
    )
    xp = arrays.namespace(arguments[0])
    table = xp.empty(tuple(2 * box.extent + 1), dtype=np.complex128)
    pairs = int((box.extent[0] + 1) * np.prod(2 * box.extent[1:] + 1))
    kernel = arrays.kernel("structure_factors", "float64", "structure_factors")
    kernel((-(-pairs // THREADS),), (THREADS,), (*arguments, table.ravel()))
    return StructurePotential(crystal.reciprocal, box.extent, arrays.to_host(table), box.beam_extent)
