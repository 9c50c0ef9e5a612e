"""A probability is worth what materials say that no forest has seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuediff.errors import InvalidBundle
from gpuediff.evaluation.calibration import calibration as judged
from gpuediff.hierarchy.bundle import bundle_info, load_bundle, save_bundle
from gpuediff.hierarchy.calibration import (
    ERROR_RATES,
    GAMMA_MAX,
    Calibration,
    Learned,
    ProbabilityMap,
    Threshold,
    fitted_map,
    learn,
)
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.settings import Boosting
from tests.hierarchy.conftest import SETTINGS, Patterns, assert_same, small_block


def forest_that_says(power, *, answers=6000, classes=5, seed=0):
    """Truths drawn from probabilities, and what a forest says that tells their `power`."""
    generator = np.random.default_rng(seed)
    true = generator.dirichlet(np.full(classes, 0.4), answers)
    truth = (generator.random((answers, 1)) > np.cumsum(true, axis=1)).sum(axis=1).clip(max=classes - 1)
    told = np.maximum(true, 1e-12) ** power
    return told / told.sum(axis=1, keepdims=True), truth


def expected_error(probability, truth):
    answer = probability.argmax(axis=1)
    return judged(probability[np.arange(len(answer)), answer], answer == truth).expected_error


@pytest.mark.parametrize("power", [2.5, 0.4])  # says more than it knows, and less
def test_a_forest_that_is_too_sure_or_too_doubtful_is_put_right_on_unseen_answers(power):
    told, truth = forest_that_says(power)
    found = fitted_map(told, truth, materials=6000)
    assert found.gamma == pytest.approx(1 / power, rel=0.08)
    unseen, unseen_truth = forest_that_says(power, seed=1)
    assert expected_error(unseen, unseen_truth) > 0.06
    assert expected_error(found.apply(unseen), unseen_truth) < 0.02


def test_a_forest_that_counts_few_trees_is_put_right_too():
    """Trees that are counted leave classes without a vote, which are true all the same."""
    generator = np.random.default_rng(3)

    def counted(seed):
        told, truth = forest_that_says(0.5, seed=seed)
        return generator.multinomial(80, told) / 80, truth

    told, truth = counted(0)
    assert (told == 0).any()
    found = fitted_map(told, truth, materials=6000)
    unseen, unseen_truth = counted(1)
    assert expected_error(found.apply(unseen), unseen_truth) < 0.02 < 0.1 < expected_error(unseen, unseen_truth)


@given(st.floats(1 / GAMMA_MAX, GAMMA_MAX), st.floats(-4, 4), st.floats(1e-6, 0.1), st.integers(0, 1000), st.booleans())
def test_no_map_changes_an_answer_or_the_sum(gamma, slope, floor, seed, certain):
    probability = np.random.default_rng(seed).dirichlet(np.full(4, 0.3), 20)
    if certain:
        probability[0] = [0, 0, 1, 0]
    mapped = ProbabilityMap(gamma=gamma, slope=slope, floor=floor).apply(probability)
    assert np.isfinite(mapped).all()
    np.testing.assert_allclose(mapped.sum(axis=1), 1, rtol=1e-12)
    rows = np.arange(20)
    # Equal ones may come of different ones by rounding, never another order.
    np.testing.assert_array_equal(mapped[rows, probability.argmax(axis=1)], mapped.max(axis=1))


def test_few_materials_move_the_probabilities_little():
    told = np.tile([0.8, 0.2], (40, 1))
    right = np.zeros(40, dtype=int)
    few, many = (fitted_map(told, right, materials).apply(told)[0, 0] for materials in (4, 4000))
    assert 0.8 < few < 0.96 < many


def test_answers_whose_truth_is_not_known_leave_the_map_alone():
    told, truth = forest_that_says(2.0)
    unknown = np.full(500, -1)
    a = fitted_map(told, truth, 6000)
    b = fitted_map(np.concatenate([told, told[:500]]), np.concatenate([truth, unknown]), 6000)
    assert a == b
    nothing = fitted_map(told[:500], unknown, 500)
    assert (nothing.gamma, nothing.slope) == (pytest.approx(1), pytest.approx(0))


def learned_from(probability, right, materials, protocol=None):
    """Learn from answers to two classes with the probability of class 0, which is always the answer."""
    told = np.stack([probability, 1 - probability], axis=1)
    zero, ones = np.zeros(len(told), dtype=int), np.ones(len(told), dtype=int)
    return learn(
        told,
        zero,
        np.where(right, 0, 1),
        material=np.arange(len(told)) % materials,
        patterns=ones,
        protocol=zero if protocol is None else protocol,
    ).single


def test_thresholds_keep_what_they_promise_on_unseen_answers():
    generator = np.random.default_rng(6)
    probability = generator.uniform(0.5, 1, 40_000)
    right = generator.random(40_000) < probability
    learned = learned_from(probability[::2], right[::2], 20_000)
    unseen = np.stack([probability[1::2], 1 - probability[1::2]], axis=1)
    calibrated = learned.map.apply(unseen)[:, 0]
    for one in learned.thresholds:
        given_ = calibrated >= one.probability
        # Uniform from 0.5 to 1: of those above p the share 1 - (1 + p) / 2 is wrong.
        assert one.probability == pytest.approx(max(1 - 2 * one.error_rate, 0.5), abs=0.06)
        assert abs((~right[1::2][given_]).mean() - one.error_rate) < 0.012
        assert given_.mean() == pytest.approx(one.coverage, abs=0.03)


def test_a_threshold_is_reached_only_if_one_material_more_could_be_wrong():
    sure = np.full(60, 0.9)
    # 20 materials of 3 answers, all right: with one more, all wrong, 3 of 63 are, which is less than 5 %
    learned = learned_from(sure, np.ones(60, bool), 20)
    assert [one.probability is not None for one in learned.thresholds] == [False, False, True, True, True]
    learned = learned_from(sure, np.arange(60) > 0, 20)  # one is wrong: 4 of 63
    assert [one.probability is not None for one in learned.thresholds] == [False, False, False, True, True]


def test_an_error_rate_is_kept_to_under_every_protocol():
    generator = np.random.default_rng(9)
    probability = generator.uniform(0.5, 1, 20_000)
    protocol = np.arange(20_000) % 2
    # Right as often as said under protocol 0, and as its square under protocol 1.
    right = generator.random(20_000) < probability ** (1 + protocol)
    together, apart = (learned_from(probability, right, 10_000, protocol * each) for each in (0, 1))
    assert together.map == apart.map
    calibrated = apart.map.apply(np.stack([probability, 1 - probability], axis=1))[:, 0].astype(np.float32)
    for loose, strict in zip(together.thresholds[2:], apart.thresholds[2:], strict=True):
        errors = [(~right[(calibrated >= one.probability) & (protocol == 1)]).mean() for one in (loose, strict)]
        assert errors[1] <= strict.error_rate < errors[0]
        assert strict.coverage == pytest.approx((calibrated >= strict.probability).mean())
    # Too few answers of one protocol prove nothing for it.
    few = np.where(np.arange(20_000) < 15, 1, 0)
    assert learned_from(np.full(20_000, 0.9), np.ones(20_000, bool), 20_000, few).thresholds[2].probability is None


def test_answers_of_one_probability_are_given_or_left_together():
    learned = learned_from(np.full(1000, 0.9), np.arange(1000) >= 300, 1000)
    assert all(one.probability is None for one in learned.thresholds)
    learned = learned_from(np.full(1000, 0.9), np.arange(1000) >= 30, 1000)
    assert [one.coverage for one in learned.thresholds] == [0, 0, 1, 1, 1]


# In the hierarchy -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated():
    """A small hierarchy that was calibrated on a thousand patterns of unseen materials, each of one."""
    validation = Patterns(1200, spread=1.2, seed=2)
    hierarchy = Patterns(450, spread=1.2).fit()
    return hierarchy.calibrate(
        validation.features,
        validation.space_group_number,
        material=np.arange(1200),
        patterns=np.resize([1, 3], 1200),
    )


@pytest.fixture(scope="module")
def doubtful():
    return Patterns(1500, spread=1.2, seed=5)


def plain(hierarchy):
    """The same forests without calibration."""
    copy = Hierarchy(hierarchy.block, hierarchy.settings)
    copy.forests_ = hierarchy.forests_
    return copy


def test_a_calibrated_hierarchy_gives_the_same_answers_with_truer_probabilities(calibrated, doubtful):
    after, before = calibrated.predict(doubtful.features), plain(calibrated).predict(doubtful.features)
    for name in ("system_index", "confidence", "system_votes", "space_group_number", "lattice"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    right = after.crystal_system == doubtful.crystal_system
    errors = [judged(one.system_probability, right).expected_error for one in (before, after)]
    assert errors[1] < 0.03 < errors[0]


def test_groups_have_a_map_of_their_own(calibrated, doubtful):
    X = doubtful.features[:50]
    single, groups = calibrated.calibration_.single.map, calibrated.calibration_.groups.map
    raw = plain(calibrated).forests_["crystal_system"].probability(X)
    for patterns, expected in ((None, single), (np.ones(50, int), single), (np.full(50, 10), groups)):
        probability = calibrated.predict(X, patterns=patterns).probability
        np.testing.assert_allclose(probability, expected.apply(raw), rtol=1e-6)
    assert np.isnan(calibrated.aggregate(X, np.zeros(50, int)).probability).all()


def test_answers_above_the_least_probability_keep_to_the_error_rate(calibrated, doubtful):
    prediction = calibrated.predict(doubtful.features)
    right = prediction.crystal_system == doubtful.crystal_system
    for rate in (0.1, 0.2):
        given_ = prediction.system_probability >= calibrated.least_probability(rate)
        assert given_.sum() > 100
        assert (~right[given_]).mean() < rate + 0.03
    assert (~right).mean() > 0.23


def test_training_again_drops_the_calibration(calibrated):
    few = Patterns(60, (62, 225))
    again = Hierarchy(small_block(), SETTINGS)
    again.calibration_ = calibrated.calibration_
    assert again.fit(few.features, few.space_group_number, few.lattice).calibration_ is None


def test_a_truth_that_no_forest_knows_counts_as_wrong():
    patterns = Patterns(200, (62, 225))
    model = patterns.fit()
    strangers = Patterns(200, (194,), seed=3)
    model.calibrate(
        strangers.features, strangers.space_group_number, material=np.arange(200), patterns=np.ones(200, int)
    )
    assert all(one.probability is None for one in model.calibration_.single.thresholds)
    with pytest.raises(InvalidBundle, match=r"no probability promises it.*nor any larger one"):
        model.least_probability(0.2)


def test_what_cannot_be_promised_is_said_with_what_can(calibrated, hierarchy):
    with pytest.raises(InvalidBundle, match=r"error rate 0\.03: the model knows 0\.01, 0\.02, 0\.05, 0\.1, 0\.2"):
        calibrated.least_probability(0.03)
    with pytest.raises(InvalidBundle, match="votes of several have no probability"):
        calibrated.least_probability(0.1, together=True)
    with pytest.raises(
        InvalidBundle, match=r"no validation materials; train again with split\.validation_fraction > 0"
    ):
        hierarchy.least_probability(0.1)


def test_the_calibration_travels_with_the_bundle(calibrated, doubtful, tmp_path):
    save_bundle(calibrated, tmp_path / "model")
    loaded = load_bundle(tmp_path / "model")
    assert loaded.calibration_ == calibrated.calibration_
    assert_same(loaded.predict(doubtful.features), calibrated.predict(doubtful.features))
    assert bundle_info(tmp_path / "model")["calibration"]["single"]["answers"] == 600
    save_bundle(plain(calibrated), tmp_path / "plain")
    assert load_bundle(tmp_path / "plain").calibration_ is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 0.0}, "allowed range"),
        ({"floor": 0.5}, "allowed range"),
        ({"materials": 40}, "40 materials with 30 answers"),
        ({"rates": (0.1, 0.05)}, "rising"),
        ({"rates": ()}, "rising"),
        ({"coverage": 0.0}, "if and only if"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(change, message):
    told = {"gamma": 1.0, "floor": 1e-3, "materials": 3, "rates": (0.05, 0.1), "coverage": 0.5} | change

    def make():
        thresholds = tuple(
            Threshold(error_rate=rate, probability=0.9, coverage=told["coverage"]) for rate in told["rates"]
        )
        probability_map = ProbabilityMap(gamma=told["gamma"], slope=0.0, floor=told["floor"])
        single = Learned(map=probability_map, answers=30, materials=told["materials"], thresholds=thresholds)
        return Calibration(single=single, groups=None)

    with pytest.raises(ValidationError, match=message):
        make()
    told |= {"gamma": 1.0, "floor": 1e-3, "materials": 3, "rates": ERROR_RATES, "coverage": 0.5}
    assert Calibration.model_validate_json(make().model_dump_json()) == make()


# Asked anew, and class weights ----------------------------------------------------------------------------------------


def test_asking_anew_in_other_systems_is_predicting_with_them(hierarchy, unseen):
    groups = np.arange(len(unseen.features)) % 12 + 3
    for given_ in ("cubic", unseen.crystal_system, None):
        free = hierarchy.predict(unseen.features)
        names = free.crystal_system if given_ is None else given_
        wanted = hierarchy.predict(unseen.features, crystal_system=names)
        assert_same(hierarchy.in_systems(free, unseen.features, names), wanted)
    free = hierarchy.aggregate(unseen.features, groups)
    for names in ("hexagonal", ["cubic", "monoclinic"] * 6, free.crystal_system):
        wanted = hierarchy.aggregate(unseen.features, groups, crystal_system=names)
        assert_same(hierarchy.in_systems(free, unseen.features, names, groups=groups), wanted)


def test_asking_anew_does_not_ask_for_the_crystal_system_again(hierarchy, unseen, monkeypatch):
    free = hierarchy.predict(unseen.features)
    monkeypatch.setattr(type(hierarchy.forests_["crystal_system"]), "probability", None)
    rest = {name: forest for name, forest in hierarchy.forests_.items() if name != "crystal_system"}
    top = hierarchy.forests_["crystal_system"]
    monkeypatch.setattr(hierarchy, "forests_", rest | {"crystal_system": type("Names", (), {"classes_": top.classes_})})
    hierarchy.in_systems(free, unseen.features, "cubic")


@pytest.mark.parametrize("kind", ["random forest", "boosted"])
def test_balanced_classes_find_more_of_the_rare_one(kind):
    rare, common = Patterns(40, (225,), spread=1.6, seed=1), Patterns(600, (62,), spread=1.6, seed=2)
    top = SETTINGS.crystal_system if kind == "random forest" else Boosting(rounds=20, min_samples_leaf=5)
    parts = [
        np.concatenate([getattr(one, name) for one in (rare, common)]) for name in ("features", "space_group_number")
    ]
    lattice = np.concatenate([rare.lattice, common.lattice])
    unseen = Patterns(400, (225,), spread=1.6, seed=3)
    found = []
    for weight in (None, "balanced"):
        model = top.model_copy(update={"class_weight": weight, **({"depth": 3} if kind == "random forest" else {})})
        fitted = Hierarchy(small_block(), SETTINGS.model_copy(update={"crystal_system": model})).fit(*parts, lattice)
        found.append(np.mean(fitted.predict(unseen.features).crystal_system == "cubic"))
    assert found[1] > found[0] + 0.1


def test_space_groups_are_balanced_within_their_system():
    numbers = np.repeat([221, 225], [30, 570])
    patterns = Patterns(600, (225,), spread=1.6)
    centres = np.random.default_rng(50).normal(size=(231, 12))
    patterns.features[:30] += (centres[221] - centres[225]).astype(np.float32)
    unseen = Patterns(400, (221,), spread=1.6, seed=7)
    found = []
    for weight in (None, "balanced"):
        below = SETTINGS.space_group.model_copy(update={"class_weight": weight, "depth": 3})
        model = Hierarchy(small_block(), SETTINGS.model_copy(update={"space_group": below}))
        model.fit(patterns.features, numbers, patterns.lattice)
        forest = model.forests_["space_group-cubic"]
        assert forest.classes_.tolist() == [221, 225]
        found.append(forest.probability(unseen.features)[:, 0].mean())
    assert found[1] > found[0] + 0.05
