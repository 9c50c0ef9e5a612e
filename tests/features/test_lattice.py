"""The lattice block says the same of a crystal from wherever it is seen, and is not deceived."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpuediff.diffraction.electron import wavelength
from gpuediff.errors import InvalidBundle
from gpuediff.features.blocks import block_from_description
from gpuediff.features.groups import Groups
from gpuediff.features.lattice import UNKNOWN, LatticeBlock
from gpuediff.peaks import PeakBatch
from tests.lattices.cuts import cut

BLOCK = LatticeBlock(300e3)
CUBIC = 5.43 * np.eye(3)
ORTHORHOMBIC = np.diag([4.1, 5.3, 7.9])
EACH = 6


@pytest.fixture(scope="module")
def described():
    """Six patterns of each lattice, alone and together: (features by name of the singles, and of the groups)."""
    rng = np.random.default_rng(3)
    lists = []
    for lattice in (CUBIC, ORTHORHOMBIC):
        for _ in range(EACH):
            peaks, _ = cut(lattice, Rotation.random(random_state=rng).as_matrix(), rng)
            lists.append(peaks)
    peaks = PeakBatch.from_lists(lists)
    groups = Groups.join([Groups.singles(2 * EACH), Groups.of_labels(np.repeat([0, 1], EACH))])
    features = BLOCK.compute(peaks, groups)
    assert np.isfinite(features).all()
    singles, together = features[: 2 * EACH], features[2 * EACH :]
    return peaks, singles, together


def column(features, name):
    return features[:, BLOCK.columns.index(name)]


def test_patterns_together_know_the_cell_far_better_than_one(described):
    _, singles, together = described
    a = column(together, "cubic_a")[0]
    assert a == pytest.approx(5.43, rel=3e-3)
    found = BLOCK.lattice(together, "orthorhombic")[1]
    np.testing.assert_allclose(found, [4.1, 5.3, 7.9, 90, 90, 90], rtol=5e-3)
    assert column(together, "reduced_a_error")[0] < 0.6 * np.median(column(singles, "reduced_a_error")[:EACH])


def test_exchanged_axes_of_the_detector_change_nothing(described):
    # A mirrored pattern is one of the same lattice.
    peaks, singles, _ = described
    mirrored = BLOCK.compute(PeakBatch(peaks.qy, peaks.qx, peaks.intensity, peaks.offsets))
    assert np.isclose(mirrored, singles, rtol=1e-3, atol=1e-3).mean() > 0.99
    np.testing.assert_array_equal(column(mirrored, "support"), column(singles, "support"))


def test_a_group_says_how_many_of_its_patterns_are_on_its_lattice_and_how_surely(described):
    _, singles, together = described
    np.testing.assert_array_equal(column(together, "support"), 1)
    np.testing.assert_array_equal(np.isin(column(singles, "support"), (0, 1)), True)
    np.testing.assert_array_less(0.9, column(together, "peaks_on"))
    # Nothing was put on the pixel sizes; and a pattern alone cannot know its own.
    np.testing.assert_array_less(column(together, "scale_noise"), 2e-3)
    np.testing.assert_array_equal(column(singles, "score_over_rival"), UNKNOWN)
    found = column(singles, "support") == 1
    np.testing.assert_array_equal(column(singles, "scale_noise")[found], 0)


def test_the_likelihoods_name_the_bravais_type(described):
    _, _, together = described
    assert column(together, "cP_probability")[0] > 0.5
    assert column(together, "cP_probability")[1] < 1e-3
    assert column(together, "oP_probability")[1] > 0.5
    np.testing.assert_allclose(
        sum(column(together, name) for name in BLOCK.columns if name.endswith("_probability")), 1, rtol=1e-5
    )


def test_intensities_may_have_any_unit_and_a_turn_of_the_detector_changes_nothing(described):
    peaks, singles, _ = described
    c, s = np.cos(0.7), np.sin(0.7)
    turned = PeakBatch(
        (c * peaks.qx - s * peaks.qy).astype(np.float32),
        (s * peaks.qx + c * peaks.qy).astype(np.float32),
        (4096 * peaks.intensity).astype(np.float32),
        peaks.offsets,
    )
    again = BLOCK.compute(turned)
    known = (column(singles, "reduced_a") != UNKNOWN) & (column(again, "reduced_a") != UNKNOWN)
    assert known.mean() > 0.8
    np.testing.assert_allclose(column(again, "volume")[known], column(singles, "volume")[known], rtol=0.02)


def test_where_there_is_no_lattice_all_of_it_is_unknown():
    empty = PeakBatch.from_lists([np.zeros((0, 3)), np.array([[0, 0, 1], [0.3, 0, 0.1]])])
    features = BLOCK.compute(empty)
    assert features.shape == (2, BLOCK.width)
    assert np.isnan(BLOCK.lattice(features, "cubic")).all()
    np.testing.assert_array_equal(column(features, "share_too_few_peaks"), 1)
    np.testing.assert_array_equal(column(features, "cF_likelihood"), UNKNOWN)


def test_a_description_makes_the_block_again_and_a_damaged_one_is_refused():
    assert block_from_description(BLOCK.description()) == BLOCK
    with pytest.raises(InvalidBundle, match="beam_energy"):
        block_from_description(BLOCK.description() | {"beam_energy": -1.0})
    with pytest.raises(InvalidBundle, match="version"):
        block_from_description(BLOCK.description() | {"version": 99})
    assert wavelength(BLOCK.beam_energy) == pytest.approx(0.0197, abs=1e-4)


def test_columns_have_names_of_their_own():
    assert len(set(BLOCK.columns)) == BLOCK.width
