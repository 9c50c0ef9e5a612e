"""Maps with every kind of answer, as a scan of two phases in vacuum would give, without any model."""

import dataclasses

import numpy as np

from gpuediff.crystals.symmetry import complete_lattice
from gpuediff.scans.maps import ScanMaps, Status

SYSTEMS = ("monoclinic", "hexagonal", "cubic")
GROUPS = {"monoclinic": (14, 15), "hexagonal": (194, 191), "cubic": (225, 221)}
CELLS = {
    "monoclinic": {"a": 5.1, "b": 6.2, "c": 7.3, "beta": 99.0},
    "hexagonal": {"a": 3.2, "c": 5.2},
    "cubic": {"a": 4.08},
}


def example_maps(system, *, seed=0, **fields) -> ScanMaps:
    """Make maps in which every probe position has the system of an image, an index of SYSTEMS; -1 is vacuum."""
    rng = np.random.default_rng(seed)
    system = np.asarray(system, dtype=np.int16)
    there = system >= 0

    def values(low, high, shape=()):
        drawn = rng.uniform(low, high, (*system.shape, *shape)).astype(np.float32)
        return np.where(there.reshape(*system.shape, *[1] * len(shape)), drawn, np.float32(np.nan))

    lattice = np.full((*system.shape, 6), np.nan, np.float32)
    group = np.zeros(system.shape, np.int32)
    for index, name in enumerate(SYSTEMS):
        inside = system == index
        count = int(inside.sum())
        cell = {key: np.full(count, value) + rng.normal(0, 0.02, count) for key, value in CELLS[name].items()}
        lattice[inside] = complete_lattice(name, cell)
        group[inside] = rng.choice(GROUPS[name], count, p=(0.8, 0.2))
    width = values(0.01, 0.1, (6,))
    maps = ScanMaps(
        systems=SYSTEMS,
        status=np.where(there, Status.PREDICTED, Status.TOO_FEW_PEAKS).astype(np.uint8),
        n_peaks=np.where(there, 20, 1).astype(np.int32),
        raw_system=system.copy(),
        filtered_system=system.copy(),
        confidence=values(0.4, 0.9),
        difference_confidence=values(0.1, 0.6),
        filtered_difference_confidence=values(0.1, 0.6),
        probability=values(0.5, 1.0),
        votes=values(0.0, 0.5, (len(SYSTEMS),)),
        space_group_number=group,
        space_group_confidence=values(0.2, 0.8),
        space_group_difference_confidence=values(0.0, 0.5),
        lattice=lattice,
        lattice_low=lattice - width,
        lattice_high=lattice + width,
        several_grains=values(0.0, 1.0),
        novelty=values(0.0, 1.0),
        bright_field=rng.uniform(0.2, 1.0, system.shape).astype(np.float32),
        dark_field=rng.uniform(0.0, 0.5, system.shape).astype(np.float32),
        source="scan.h5: braggpeaks",
    )
    return dataclasses.replace(maps, **fields)
