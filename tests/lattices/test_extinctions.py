"""Reflections that a glide plane or a screw axis forbids are found weak, and only those."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpuediff.lattices.bravais import conventional
from gpuediff.lattices.extinctions import (
    CONDITIONS,
    CUBIC_PLANES,
    DIAGONAL,
    HEX_PLANES,
    PLANE_KL,
    free_indices,
    strengths,
)
from gpuediff.lattices.holohedries import TYPES
from gpuediff.lattices.indexing import index_patterns
from gpuediff.lattices.pooling import pooled
from gpuediff.lattices.reciprocal import inverse_metrics
from gpuediff.lattices.reduction import bases_of
from gpuediff.peaks import PeakBatch
from tests.lattices.cuts import WAVELENGTH, cut

CELL = np.diag([5.1, 6.3, 7.7])
COUNT = 16


def seen(forbidden=None):
    """Strengths of an orthorhombic crystal, of whose reflections `forbidden` ones are a thousand times weaker."""
    rng = np.random.default_rng(11)
    lists = []
    for _ in range(COUNT):
        peaks, basis = cut(CELL, Rotation.random(random_state=rng).as_matrix(), rng)
        if forbidden is not None:
            z = 1 / WAVELENGTH - np.sqrt(1 / WAVELENGTH**2 - (peaks[:, :2] ** 2).sum(axis=1))
            hkl = np.rint(np.column_stack([peaks[:, :2], z]) @ np.linalg.inv(basis)).astype(int)
            peaks[forbidden(*hkl.T), 2] *= 1e-3
        lists.append(peaks)
    peaks = PeakBatch.from_lists(lists)
    indexed = index_patterns(peaks, wavelength=WAVELENGTH)
    group = np.zeros(COUNT, int)
    members = np.arange(COUNT)
    found = pooled(peaks, members, group, 1, indexed, wavelength=WAVELENGTH)
    metric, covariance = inverse_metrics(found.metric, found.covariance)
    cells = conventional(bases_of(metric), covariance)
    np.testing.assert_allclose(cells.parameters[0, TYPES.index("oP"), :3], np.diag(CELL), rtol=5e-3)
    change = cells.transformation[:, TYPES.index("oP")]
    result = strengths(peaks, members, group, found, {"orthorhombic": change}, wavelength=WAVELENGTH)["orthorhombic"]
    names = [condition.name for condition in CONDITIONS["orthorhombic"]]
    return dict(zip(names, result.ratio[0], strict=True)), dict(zip(names, result.breaking[0], strict=True))


def test_without_extinctions_no_class_of_reflections_is_much_weaker():
    ratio, breaking = seen()
    planes = [name for name in ratio if breaking[name] > 20]
    assert len(planes) >= 6
    assert all(abs(ratio[name]) < 0.7 for name in planes)


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [
        ("0kl_k", lambda h, k, l: (h == 0) & (k % 2 != 0)),
        ("h0l_hl", lambda h, k, l: (k == 0) & ((h + l) % 2 != 0)),
    ],
)
def test_a_glide_plane_is_seen(name, forbidden):
    without, breaking = seen()
    ratio, _ = seen(forbidden)
    assert breaking[name] > 10
    assert ratio[name] < without[name] - 1
    other = "hk0_h"
    assert abs(ratio[other] - without[other]) < 0.5


def test_the_free_indices_of_a_zone_are_those_that_are_not_fixed():
    assert free_indices(PLANE_KL, 0, 3, -2) == (True, 3, -2)
    assert not free_indices(PLANE_KL, 1, 3, -2)[0]
    assert free_indices(DIAGONAL, 2, -2, 5) == (True, 2, 5)
    assert free_indices(HEX_PLANES, 3, -3, 1) == (True, 3, 1)
    assert not free_indices(HEX_PLANES, 1, 1, 1)[0]
    assert free_indices(CUBIC_PLANES, 2, 0, -3) == (True, 3, 2)
    assert not free_indices(CUBIC_PLANES, 0, 0, 0)[0]
