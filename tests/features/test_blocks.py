import json

import numpy as np
import pytest
from hypothesis import given, settings

from gpuediff import arrays
from gpuediff.errors import InvalidBundle, InvalidPeaks
from gpuediff.features.blocks import RadialBasisBlock, block_from_description
from gpuediff.features.preparation import remove_direct_beam
from gpuediff.features.radial_basis import ROUNDING_LEVEL
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Features
from tests.host_shim import shim
from tests.kernels.implementations import host_shim_as_gpu
from tests.reference import radial_basis as reference
from tests.strategies import peak_batches

BLOCK = RadialBasisBlock.from_settings(Features())
DESCRIPTION = BLOCK.description()


def test_the_papers_block_has_1066_float32_features():
    features = BLOCK.compute(PeakBatch.from_lists([([0.4], [0.2], [0.3])]))
    assert (features.shape, features.dtype, BLOCK.width) == ((1, 1066), BLOCK.dtype, 1066)
    assert BLOCK.dtype == np.float32


def test_a_column_is_named_by_what_stands_in_it():
    """A peak of intensity 0.5 halfway between rings 3 and 4, at φ = 30°."""
    phi = np.pi / 6
    features = BLOCK.compute(PeakBatch.from_lists([([0.175 * np.cos(phi)], [0.175 * np.sin(phi)], [0.5])]))[0]
    by_name = dict(zip(BLOCK.columns, features, strict=True))
    assert len(by_name) == BLOCK.width
    assert BLOCK.columns[:4] == ("abs_R_00_00", "arg_R_00_00", "abs_R_00_01", "arg_R_00_01")
    assert by_name["abs_R_03_00"] == pytest.approx(0.25, rel=1e-5)
    assert by_name["abs_R_04_12"] == pytest.approx(0.25, rel=1e-5)
    assert by_name["arg_R_03_01"] == pytest.approx(phi, rel=1e-5)
    assert by_name["arg_R_04_07"] == pytest.approx(7 * phi - 2 * np.pi, rel=1e-5)
    assert by_name["abs_R_05_00"] == by_name["arg_R_05_01"] == 0


@settings(deadline=None, max_examples=20)
@given(peaks=peak_batches(max_patterns=4, max_peaks=20))
def test_features_are_the_expansion_of_what_is_left_without_the_direct_beam(peaks):
    wanted = reference.magnitudes_and_arguments(
        remove_direct_beam(peaks, "centre"), BLOCK.basis, rounding_level=ROUNDING_LEVEL
    ).reshape(len(peaks), BLOCK.width)
    got = BLOCK.compute(peaks)
    np.testing.assert_allclose(got[:, ::2], wanted[:, ::2], rtol=2e-5, atol=2e-6)


@pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")
def test_a_block_gives_the_same_features_by_the_way_of_the_gpu():
    rng = np.random.default_rng(6)
    peaks = PeakBatch.from_lists([rng.uniform(-1, 1, (count, 3)) ** (1, 1, 2) for count in (30, 0, 1, 90)])
    angles = np.linspace(-2, 2, 4)
    wanted = BLOCK.compute(peaks, rotation=angles)
    with host_shim_as_gpu():
        got = BLOCK.compute(peaks, rotation=angles)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=5e-7)


def test_the_direct_beam_is_removed_the_way_that_was_set():
    peaks = PeakBatch.from_lists([([0.0, 0.4], [0.0, 0.0], [0.2, 0.7])])
    columns = (BLOCK.columns.index("abs_R_00_00"), BLOCK.columns.index("abs_R_08_00"))
    paper = RadialBasisBlock.from_settings(Features(direct_beam="brightest"))
    np.testing.assert_allclose(BLOCK.compute(peaks)[0, columns], [0, 0.7], rtol=1e-5)
    np.testing.assert_allclose(paper.compute(peaks)[0, columns], [0.2, 0], rtol=1e-5)


def test_features_have_the_same_bits_whatever_the_memory(monkeypatch):
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 60, 30)
    peaks = PeakBatch.from_lists([rng.uniform(0, 1, (count, 3)) for count in counts])
    angles = rng.uniform(-3, 3, 30)
    whole = BLOCK.compute(peaks, rotation=angles)
    for budget in (1, 20_000, 100_000):
        monkeypatch.setattr(arrays, "HOST_BUDGET", budget)
        np.testing.assert_array_equal(BLOCK.compute(peaks, rotation=angles), whole)


def test_an_in_plane_rotation_changes_arguments_and_no_magnitude():
    rng = np.random.default_rng(5)
    peaks = PeakBatch.from_lists([rng.uniform(0.1, 1, (40, 3))])
    still, turned = BLOCK.compute(peaks)[0], BLOCK.compute(peaks, rotation=np.array([0.2]))[0]
    np.testing.assert_allclose(turned[::2], still[::2], rtol=1e-5, atol=1e-6)
    shift = np.exp(1j * (turned[1::2] - still[1::2])).reshape(41, 13)
    inside = still[::2].reshape(41, 13).min(axis=1) > 1e-3
    assert inside.sum() > 5
    np.testing.assert_allclose(
        shift[inside], np.broadcast_to(np.exp(0.2j * np.arange(13)), (inside.sum(), 13)), atol=1e-5
    )


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_impossible_intensities_are_refused_by_their_place_in_the_whole_batch(monkeypatch, value):
    monkeypatch.setattr(arrays, "HOST_BUDGET", 1)
    patterns = [np.full((2, 3), 0.2) for _ in range(7)]
    patterns[5][1, 2] = value
    with pytest.raises(InvalidPeaks, match="pattern 5, peak 1"):
        BLOCK.compute(PeakBatch.from_lists(patterns))


def test_no_patterns_give_no_rows():
    assert BLOCK.compute(PeakBatch.from_lists([])).shape == (0, 1066)


@pytest.mark.parametrize(
    "features", [Features(), Features(rings=12, ring_spacing=0.125, orders=5, direct_beam="brightest")]
)
def test_a_description_survives_json_and_makes_the_same_block(features):
    block = RadialBasisBlock.from_settings(features)
    assert block_from_description(json.loads(json.dumps(block.description()))) == block


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "wavelets"}, "feature block 'wavelets' is unknown; known are lattice, radial_basis"),
        ({"version": 2}, "feature block 'radial_basis', version 2: this gpuediff computes 'radial_basis', version 1"),
        ({"rings": -1}, "rings = -1: .*1 <= value <= 1000"),
        ({"orders": "13"}, "orders = '13'"),
        ({"colour": "red"}, "colour = 'red'"),
    ],
)
def test_a_description_that_was_not_made_here_is_refused(change, message):
    with pytest.raises(InvalidBundle, match=message):
        block_from_description({**DESCRIPTION, **change})


@pytest.mark.parametrize("key", sorted(DESCRIPTION))
def test_a_description_with_a_gap_is_refused(key):
    with pytest.raises(InvalidBundle):
        block_from_description({k: value for k, value in DESCRIPTION.items() if k != key})
