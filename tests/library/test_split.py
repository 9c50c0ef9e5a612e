import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuediff.library.split import split_materials
from gpuediff.settings import Split

IDS = [f"mp-{index}" for index in range(20_000)]
TEST_OF_THE_FIRST_THIRTY = [0, 3, 11, 16, 22, 27, 28]  # seed 0, fraction 0.75


@pytest.mark.parametrize(("train", "validation"), [(0.05, 0.0), (0.5, 0.25), (0.75, 0.1), (0.95, 0.5)])
def test_the_fractions_are_met_within_four_standard_deviations(train, validation):
    sides = split_materials(IDS, Split(train_fraction=train, validation_fraction=validation))
    for side, fraction in (("train", train - validation), ("validation", validation), ("test", 1 - train)):
        assert abs((sides == side).mean() - fraction) <= 4 * np.sqrt(fraction * (1 - fraction) / len(IDS))


def test_no_validation_fraction_moves_a_material_into_or_out_of_the_test_side():
    test = split_materials(IDS, Split(validation_fraction=0)) == "test"
    for fraction in (0.01, 0.1, 0.5):
        np.testing.assert_array_equal(split_materials(IDS, Split(validation_fraction=fraction)) == "test", test)


def test_a_larger_validation_fraction_only_takes_from_the_training_side():
    small, large = (split_materials(IDS, Split(validation_fraction=fraction)) for fraction in (0.1, 0.2))
    assert (large[small == "validation"] == "validation").all()
    assert ((small == "train") >= (large == "train")).all()
    assert (large == "validation").sum() > (small == "validation").sum()


@given(st.lists(st.text(), unique=True, max_size=30), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_a_material_is_on_the_same_side_in_whatever_company_and_order(ids, seed, random):
    settings = Split(seed=seed)
    sides = dict(zip(ids, split_materials(ids, settings), strict=True))
    some = random.sample(ids, len(ids) // 2)
    assert [sides[name] for name in some] == list(split_materials(some, settings))


def test_the_rule_is_the_documented_one_and_never_changes():
    fraction = int(hashlib.sha256(b"3:mp-149").hexdigest()[:16], 16) / 2**64
    for end, validation, side in (
        (fraction - 1e-6, 0.1, "test"),
        (fraction + 1e-6, 0.1, "validation"),
        (fraction + 0.1 - 1e-6, 0.1, "validation"),
        (fraction + 0.1 + 1e-6, 0.1, "train"),
        (fraction + 1e-6, 0.0, "train"),
    ):
        assert list(split_materials(["mp-149"], Split(seed=3, train_fraction=end, validation_fraction=validation))) == [
            side
        ]
    assert np.flatnonzero(split_materials(IDS[:30], Split()) == "test").tolist() == TEST_OF_THE_FIRST_THIRTY


def test_a_larger_train_fraction_only_adds_training_materials():
    small, large = (
        split_materials(IDS, Split(train_fraction=fraction, validation_fraction=0)) == "train"
        for fraction in (0.4, 0.6)
    )
    assert large[small].all()
    assert large.sum() > small.sum()


def test_seeds_divide_independently():
    first, second = (split_materials(IDS, Split(train_fraction=0.5, seed=seed)) == "test" for seed in (0, 1))
    assert abs((first == second).mean() - 0.5) < 0.02


def test_there_is_one_side_a_material_even_for_none():
    sides = split_materials([], Split())
    assert sides.shape == (0,)
    assert sides.dtype.kind == "U"
    assert split_materials(np.array(IDS[:3]), Split()).tolist() == split_materials(IDS[:3], Split()).tolist()
