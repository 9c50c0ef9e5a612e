"""Features with labels: whole materials, in every protocol that the library allows."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuediff.errors import InvalidConfig, InvalidLibrary
from gpuediff.features import labelled
from gpuediff.features.labelled import aggregate_groups, check_protocol, labelled_features
from gpuediff.peaks import PeakBatch

EACH, MATERIALS = 7, 5


class FakeLibrary:
    """Every pattern has a direct beam, and as many strong peaks as its number says."""

    path = "library.h5"
    material_of_pattern = np.repeat(np.arange(MATERIALS), EACH)
    materials = SimpleNamespace(
        space_group_number=np.arange(MATERIALS) + 1, conventional=np.arange(MATERIALS)[:, None] + np.ones(6)
    )

    def __init__(self, orientations="any"):
        self.run = SimpleNamespace(simulation=SimpleNamespace(orientations=SimpleNamespace(protocol=orientations)))

    def peaks(self, thickness, patterns):
        lists = []
        for number in patterns:
            rows = [[0, 0, 1.0]] + [[0.1 + 0.01 * k, 0, 0.01] for k in range(number)]
            lists.append(np.array(rows))
        return PeakBatch.from_lists(lists)


class FakeBlock:
    """Counts peaks, and adds them up over groups."""

    pools = True
    width = 1

    def compute(self, peaks, groups):
        counts = peaks.counts[groups.members]
        return np.bincount(groups.group_of_member, counts, minlength=len(groups))[:, None].astype(np.float32)


ALL = np.ones(MATERIALS, bool)


def features_of(protocol="any", sizes=(1,), materials=ALL, **options):
    return labelled_features(FakeLibrary(), FakeBlock(), 200.0, materials, protocol=protocol, sizes=sizes, **options)


def test_every_pattern_counts_once_for_each_size_of_group_and_no_group_mixes_materials():
    data = features_of(sizes=(1, 3))
    assert np.sum(data.patterns == 1) == MATERIALS * EACH
    assert np.sum(data.patterns == 3) == MATERIALS * (EACH // 3)
    np.testing.assert_array_equal(data.space_group_number, data.material + 1)
    np.testing.assert_array_equal(data.lattice[:, 0], data.material + 1)
    single = data[data.patterns == 1]
    np.testing.assert_array_equal(np.sort(single.features[:, 0]), np.arange(MATERIALS * EACH) + 1)


def test_only_the_materials_that_are_asked_for_are_there():
    wanted = np.array([False, True, False, True, False])
    assert set(features_of(materials=wanted).material.tolist()) == {1, 3}


def test_how_much_is_read_at_a_time_changes_nothing(monkeypatch):
    wanted = {size: features_of("measured", sizes=(size,)).features for size in (1, 3)}
    monkeypatch.setattr(labelled, "PATTERNS_AT_A_TIME", 10)
    for size in (1, 3):
        np.testing.assert_array_equal(features_of("measured", sizes=(size,)).features, wanted[size])


def test_a_detector_loses_peaks_and_the_hard_one_may_add_those_of_a_second_grain():
    perfect, measured, hard = (features_of(name).features.sum() for name in ("any", "measured", "hard"))
    assert measured < perfect
    assert hard != measured


def test_a_protocol_needs_its_orientations():
    with pytest.raises(InvalidLibrary, match=r"orientations 'grid', the protocol 'measured' needs 'any'"):
        check_protocol(FakeLibrary("grid"), "measured")
    with pytest.raises(InvalidConfig, match="protocol = 'easy': expected one of grid, any"):
        check_protocol(FakeLibrary(), "easy")


def test_groups_of_one_size_are_disjoint_and_of_one_material():
    material = FakeLibrary.material_of_pattern
    label = aggregate_groups(material, 3, seed=1)
    assert np.sum(label < 0) == MATERIALS * (EACH % 3)
    for group in range(label.max() + 1):
        assert len(set(material[label == group].tolist())) == 1
