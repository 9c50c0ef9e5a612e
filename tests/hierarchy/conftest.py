"""A small hierarchy over synthetic features: clouds around a centre for each space group."""

import numpy as np
import pytest

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, complete_lattice, independent_parameters
from gpuediff.features.blocks import RadialBasisBlock
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.hierarchy.labels import crystal_systems_of
from gpuediff.settings import Features, Forest, Training

SPACE_GROUPS = (2, 14, 15, 62, 139, 166, 194, 221, 225)  # hexagonal and others have one alone
SETTINGS = Training(
    crystal_system=Forest(trees=12, depth=8),
    space_group=Forest(trees=9, depth=7),
    lattice=Forest(trees=8, depth=9),
    seed=3,
)


def small_block() -> RadialBasisBlock:
    return RadialBasisBlock.from_settings(Features(rings=3, orders=2))


class Patterns:
    """Labelled synthetic patterns; the first feature carries the lattice parameter a."""

    def __init__(self, count, space_groups=SPACE_GROUPS, *, spread=0.8, seed=0):
        rng = np.random.default_rng(seed)
        self.space_group_number = rng.permutation(np.resize(space_groups, count))
        centres = np.random.default_rng(50).normal(size=(231, 12))
        self.features = (centres[self.space_group_number] + spread * rng.normal(size=(count, 12))).astype(np.float32)
        self.lattice = np.empty((count, 6))
        for system in np.unique(self.crystal_system):
            rows = np.flatnonzero(self.crystal_system == system)
            values = {}
            for name in independent_parameters(system):
                column = LATTICE_PARAMETERS.index(name)
                values[name] = (4.0 if column < 3 else 80.0) + column + rng.uniform(size=len(rows))
            self.lattice[rows] = complete_lattice(system, values)
        self.features[:, 0] = self.lattice[:, 0]

    @property
    def crystal_system(self):
        return crystal_systems_of(self.space_group_number)

    def fit(self, settings=SETTINGS) -> Hierarchy:
        return Hierarchy(small_block(), settings).fit(self.features, self.space_group_number, self.lattice)


@pytest.fixture(scope="session")
def hierarchy():
    return Patterns(450).fit()


@pytest.fixture(scope="session")
def unseen():
    return Patterns(180, seed=1)


def assert_same(a, b):
    """Every array of two predictions has the same bits."""
    assert a.systems == b.systems
    for name in vars(a):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
