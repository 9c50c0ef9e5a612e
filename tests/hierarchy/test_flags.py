"""Flags of single patterns: several grains, and novelty, on made-up crystals that no forest has seen."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import kstest

from gpuediff.errors import GpuediffError, InvalidBundle, InvalidFeatures
from gpuediff.features.examples import Examples, examples
from gpuediff.features.lattice import LatticeBlock
from gpuediff.hierarchy.bundle import bundle_info, load_bundle, save_bundle
from gpuediff.hierarchy.calibration import ProbabilityMap
from gpuediff.hierarchy.flags import QUANTILES, FlagCalibration, Flags
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Boosting, Forest, Training
from gpuediff.settings import Flags as FlagSettings
from tests.features.fakes import RandomLattices
from tests.hierarchy.conftest import Patterns, small_block

BLOCK = LatticeBlock(300e3)
TRAIN, VALIDATION, TEST = 24, 14, 14  # materials
TINY = Training(
    **{name: Forest(trees=2, depth=3) for name in ("crystal_system", "space_group", "lattice")},
    flags=FlagSettings(forest=Boosting(rounds=30, leaves=15)),
)


@pytest.fixture(scope="module")
def library():
    return RandomLattices(TRAIN + VALIDATION + TEST, 6)


@pytest.fixture(scope="module")
def sides(library):
    """Examples of training, validation and test materials."""
    first = np.array([0, TRAIN, TRAIN + VALIDATION, TRAIN + VALIDATION + TEST])
    place = np.arange(first[-1])
    return [
        examples(library, BLOCK, 200.0, (start <= place) & (place < end), protocol="any", count=10_000)
        for start, end in pairwise(first)
    ]


@pytest.fixture(scope="module")
def hierarchy(sides):
    training, validation, _ = sides
    count = len(training)
    lattice = np.tile([3.0, 4.0, 5.0, 90.0, 90.0, 90.0], (count, 1))
    model = Hierarchy(BLOCK, TINY).fit(training.one_grain, np.full(count, 47), lattice)
    return model.learn_flags(training, validation)


def probabilities(hierarchy, data):
    """Give the probability of several grains of patterns of one grain, and of overlapping ones."""
    return (hierarchy.flags(features).several_grains for features in (data.one_grain, data.several_grains))


def area(lower, higher):
    """Probability that one of the `higher` is above one of the `lower`; ties count half."""
    difference = np.asarray(higher)[:, None] - np.asarray(lower)
    return np.mean(difference > 0) + np.mean(difference == 0) / 2


def test_overlapping_grains_of_unseen_materials_are_told_from_single_ones(hierarchy, sides):
    one, several = (
        hierarchy.flags(features).several_grains for features in (sides[2].one_grain, sides[2].several_grains)
    )
    assert area(one, several) > 0.95
    assert np.mean(one) < 0.25 < 0.75 < np.mean(several)


def test_the_probability_of_several_grains_is_how_often_there_are(hierarchy, sides):
    one, several = (
        hierarchy.flags(features).several_grains for features in (sides[2].one_grain, sides[2].several_grains)
    )
    assert np.mean(np.concatenate([one, several])) == pytest.approx(0.5, abs=0.07)
    sure = np.concatenate([one, several]) > 0.8
    truth = np.repeat([False, True], [len(one), len(several)])
    assert truth[sure].mean() == pytest.approx(np.concatenate([one, several])[sure].mean(), abs=0.08)


def test_the_novelty_of_validation_patterns_is_uniform(hierarchy, sides):
    novelty = hierarchy.flags(sides[1].one_grain).novelty
    assert kstest(novelty, "uniform").statistic < 0.02
    # Other materials: patterns of one material are alike, so that these are fewer than they seem.
    assert kstest(hierarchy.flags(sides[2].one_grain).novelty, "uniform").statistic < 0.25


def test_peaks_at_random_are_new_and_a_wrong_pixel_size_is_newer_than_the_right_one(hierarchy, library, sides):
    pattern = np.arange((TRAIN + VALIDATION) * 6, len(library.material_of_pattern))
    peaks = library.peaks(200.0, pattern)
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * rng.random(len(peaks.qx))
    radius = np.hypot(peaks.qx, peaks.qy) * rng.uniform(0.7, 1.4, len(peaks.qx))
    glass = PeakBatch(*(radius * trig(angle) for trig in (np.cos, np.sin)), peaks.intensity, peaks.offsets)
    assert np.mean(hierarchy.flags(BLOCK.compute(glass)).novelty > 0.95) > 0.9
    usual = hierarchy.flags(sides[2].one_grain).novelty
    for factor in (1.3, 1 / 1.3):
        wrong = PeakBatch(peaks.qx * np.float32(factor), peaks.qy * np.float32(factor), peaks.intensity, peaks.offsets)
        assert area(usual, hierarchy.flags(BLOCK.compute(wrong)).novelty) > 0.8


def test_patterns_do_not_see_each_other(hierarchy, sides):
    features = sides[2].one_grain
    together = hierarchy.flags(features)
    assert together.several_grains.dtype == together.novelty.dtype == np.float32
    for start in range(0, len(features), 50):
        part = hierarchy.flags(features[start : start + 50])
        assert_same_flags(part, together[start : start + 50])
    assert len(together[3]) == 1
    assert len(hierarchy.flags(features[:0])) == 0


def test_learning_again_gives_the_same_flags(saved):
    unseen = Patterns(90, seed=5).features
    before = saved[0].flags(unseen)
    again = Patterns(60, (62, 221, 225)).fit(TINY).learn_flags(*made_up())
    assert_same_flags(again.flags(unseen), before)


def test_nothing_is_said_of_several_patterns_together(hierarchy, sides):
    features = sides[2].one_grain[:40]
    together = np.where(np.arange(40) % 3 == 0, 10, 1)
    flags, alone = hierarchy.flags(features, patterns=together), hierarchy.flags(features)
    for name in ("several_grains", "novelty"):
        assert np.isnan(getattr(flags, name)[together > 1]).all()
        np.testing.assert_array_equal(getattr(flags, name)[together == 1], getattr(alone, name)[together == 1])


def test_a_hierarchy_without_flags_says_nothing_and_training_anew_forgets_them(sides):
    patterns = Patterns(60, (62, 225))
    model = patterns.fit(TINY)
    assert np.isnan(model.flags(patterns.features).novelty).all()
    assert np.isnan(model.flags(patterns.features).several_grains).all()
    model.learn_flags(*made_up())
    before = set(model.forests_)
    assert np.isfinite(model.flags(patterns.features).novelty).all()
    model.fit(patterns.features, patterns.space_group_number, patterns.lattice)
    assert before - set(model.forests_) == {"several_grains", "novelty"}
    assert np.isnan(model.flags(patterns.features).novelty).all()


def test_flags_do_not_change_predictions(sides):
    patterns = Patterns(60, (62, 225))
    model = patterns.fit(TINY)
    before = model.predict(patterns.features)
    after = model.learn_flags(*made_up()).predict(patterns.features)
    np.testing.assert_array_equal(after.system_votes, before.system_votes)
    np.testing.assert_array_equal(after.lattice, before.lattice)


def test_questions_that_make_no_sense_are_refused(hierarchy, sides):
    with pytest.raises(InvalidFeatures, match="features of shape"):
        hierarchy.flags(sides[2].one_grain[:, :5])
    with pytest.raises(GpuediffError, match="call fit"):
        Hierarchy(BLOCK, TINY).learn_flags(*sides[:2])
    part = Examples(sides[1].one_grain, sides[1].several_grains[:0], sides[1].broken, sides[1].material)
    with pytest.raises(InvalidFeatures, match="no overlapping validation patterns"):
        hierarchy.learn_flags(sides[0], part)
    with pytest.raises(InvalidFeatures, match=r"expected \(patterns, 12\)"):
        Patterns(60, (62, 225)).fit(TINY).learn_flags(*sides[:2])


def test_equal_odds_count_half_as_nearer():
    ends = np.concatenate([[-3.0], np.zeros(199), [5.0]])
    share = calibration(ends).share_nearer(np.array([-9.0, -3.0, 0.0, 5.0, 9.0, 2.5]))
    np.testing.assert_allclose(share, [0, 0, 0.5, 1, 1, 0.75], atol=1e-12)
    np.testing.assert_array_equal(calibration(np.zeros(QUANTILES)).share_nearer(np.array([-1.0, 0.0, 1.0])), 0.5)


@pytest.mark.parametrize("quantiles", [np.arange(QUANTILES)[::-1] / 100, np.zeros(5), np.full(QUANTILES, np.nan)])
def test_quantiles_that_cannot_be_are_refused(quantiles):
    with pytest.raises(ValidationError):
        calibration(quantiles)


# On disk --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small hierarchy with flags, and its bundle."""
    patterns = Patterns(60, (62, 221, 225))
    model = patterns.fit(TINY).learn_flags(*made_up())
    path = tmp_path_factory.mktemp("bundles") / "model"
    save_bundle(model, path)
    return model, path


def test_the_loaded_hierarchy_flags_bit_for_bit_as_the_trained_one(saved):
    model, path = saved
    loaded, unseen = load_bundle(path), Patterns(90, seed=5).features
    assert loaded.flag_calibration_ == model.flag_calibration_
    assert_same_flags(loaded.flags(unseen), model.flags(unseen))
    assert {"forests/several_grains.tl", "forests/novelty.tl"} <= {
        stated["file"] for stated in bundle_info(path)["models"].values()
    }


@pytest.mark.parametrize("name", ["several_grains", "novelty"])
def test_a_damaged_or_missing_checkpoint_is_named(saved, tmp_path, name):
    path = shutil.copytree(saved[1], tmp_path / "model")
    file = path / f"forests/{name}.tl"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InvalidBundle, match=rf"forests/{name}\.tl does not match its sha256"):
        load_bundle(path)
    file.unlink()
    with pytest.raises(InvalidBundle, match=rf"forests/{name}\.tl is missing"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(flags=None), "novelty, several_grains"),
        (lambda m: m.pop("flags"), "flags"),
        (lambda m: m["models"].pop("novelty"), "novelty"),
        (lambda m: m["models"]["novelty"].update(classes=["broken", "crystal"]), "expected .*'crystal', 'broken'"),
        (lambda m: m["models"]["several_grains"].update(classes=None), "several_grains"),
        (lambda m: m["flags"]["novelty"].reverse(), "do not fall"),
        (lambda m: m["flags"]["novelty"].pop(), "expected 201 numbers"),
        (lambda m: m.update(schema_version=2), "schema_version = 2: this gpuediff reads version 3"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(saved, tmp_path, change, message):
    path = shutil.copytree(saved[1], tmp_path / "model")
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidBundle, match=message):
        load_bundle(path)


def calibration(quantiles):
    numbers = tuple(float(value) for value in quantiles)
    as_they_are = ProbabilityMap(gamma=1.0, slope=0.0, floor=1e-6)
    return FlagCalibration(several_grains=as_they_are, novelty=numbers, patterns=10, materials=2)


def made_up():
    """Training and validation examples for `small_block`: clouds of features, one for each kind."""
    rng = np.random.default_rng(1)
    material = np.arange(60) // 6
    return [
        Examples(
            *(rng.normal(centre, size=(60, small_block().width)).astype(np.float32) for centre in range(3)), material
        )
        for _ in range(2)
    ]


def assert_same_flags(a: Flags, b: Flags):
    np.testing.assert_array_equal(a.several_grains, b.several_grains)
    np.testing.assert_array_equal(a.novelty, b.novelty)
