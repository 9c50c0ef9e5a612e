import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, complete_lattice, independent_parameters
from gpuediff.errors import GpuediffError, InvalidFeatures
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.hierarchy.labels import crystal_systems_of, model_names, model_seed
from gpuediff.settings import CRYSTAL_SYSTEMS, Training
from tests.hierarchy.conftest import SETTINGS, SPACE_GROUPS, Patterns, assert_same, small_block
from tests.reference import aggregation as reference


def test_the_papers_hierarchy_has_a_forest_for_each_free_parameter():
    names = model_names(CRYSTAL_SYSTEMS[1:])  # the paper leaves triclinic out
    assert len(names) == 1 + 6 + (4 + 3 + 2 + 2 + 2 + 1)
    assert names[:3] == ("crystal_system", "space_group-monoclinic", "lattice-monoclinic-a")
    assert names[-2:] == ("space_group-cubic", "lattice-cubic-a")


def test_a_models_seed_is_its_own_and_stable():
    assert model_seed(0, "crystal_system") == 2784559801  # first 8 hex digits of sha256sum of "0 crystal_system"
    seeds = {model_seed(seed, name) for seed in range(3) for name in model_names(CRYSTAL_SYSTEMS)}
    assert len(seeds) == 3 * len(model_names(CRYSTAL_SYSTEMS))
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_every_space_group_belongs_to_its_crystal_system():
    last = dict(zip(CRYSTAL_SYSTEMS, (2, 15, 74, 142, 167, 194, 230), strict=True))
    systems = crystal_systems_of(np.arange(1, 231))
    for system, number in last.items():
        assert np.flatnonzero(systems == system).max() + 1 == number


def test_the_models_are_those_of_the_labels(hierarchy):
    assert hierarchy.systems == CRYSTAL_SYSTEMS
    assert set(hierarchy.forests_) == set(model_names(CRYSTAL_SYSTEMS))
    assert hierarchy.forests_["space_group-cubic"].classes_.tolist() == [221, 225]
    assert hierarchy.forests_["space_group-hexagonal"].classes_.tolist() == [194]
    few = Patterns(60, (225, 62)).fit()
    assert few.systems == ("orthorhombic", "cubic")
    assert set(few.forests_) == set(model_names(few.systems))


def test_each_forest_has_the_size_that_the_settings_say(hierarchy):
    for name, forest in hierarchy.forests_.items():
        wanted = getattr(SETTINGS, name.split("-")[0])
        assert forest.trees == wanted.trees
        assert forest.hyper_parameters["max_depth"] == wanted.depth
        assert forest.hyper_parameters["random_state"] == model_seed(SETTINGS.seed, name)


def test_it_learns(hierarchy, unseen):
    prediction = hierarchy.predict(unseen.features)
    assert np.mean(prediction.crystal_system == unseen.crystal_system) > 0.8
    assert np.mean(prediction.space_group_number == unseen.space_group_number) > 0.75
    assert np.median(np.abs(prediction.lattice[:, 0] - unseen.lattice[:, 0])) < 0.2  # of a range of 1 Å


def test_many_patterns_are_right_more_often_than_one(hierarchy):
    noisy = Patterns(1800, spread=2.0, seed=4)
    single = np.mean(hierarchy.predict(noisy.features).crystal_system == noisy.crystal_system)
    groups = noisy.space_group_number * 1000 + np.arange(1800) // 200  # some 20 patterns of a space group each
    prediction = hierarchy.aggregate(noisy.features, groups)
    together = np.mean(prediction.crystal_system == crystal_systems_of(np.unique(groups) // 1000))
    assert single < 0.6 < together


def test_shapes_and_dtypes_are_those_of_the_contract(hierarchy, unseen):
    prediction = hierarchy.predict(unseen.features)
    n = len(unseen.features)
    assert len(prediction) == n
    expected = {
        "system_votes": ((n, 7), np.float32),
        "system_index": ((n,), np.int64),
        "confidence": ((n,), np.float32),
        "difference_confidence": ((n,), np.float32),
        "space_group_number": ((n,), np.int32),
        "space_group_confidence": ((n,), np.float32),
        "space_group_difference_confidence": ((n,), np.float32),
        "lattice": ((n, 6), np.float32),
    }
    assert {name: (getattr(prediction, name).shape, getattr(prediction, name).dtype) for name in expected} == expected
    assert_allclose(prediction.system_votes.sum(axis=1), 1, rtol=1e-6)


def test_one_pattern_is_answered_by_the_forests_of_its_system(hierarchy, unseen):
    prediction = hierarchy.predict(unseen.features)
    for row in range(0, len(unseen.features), 23):
        X = unseen.features[[row]]
        votes = hierarchy.forests_["crystal_system"].votes(X)[0].tolist()
        winner, first, second = reference.top_two(votes)
        assert prediction.system_index[row] == winner
        assert prediction.confidence[row] == np.float32(first / 12)
        assert prediction.difference_confidence[row] == np.float32((first - second) / 12)
        system = CRYSTAL_SYSTEMS[winner]
        forest = hierarchy.forests_[f"space_group-{system}"]
        winner, first, second = reference.top_two(forest.votes(X)[0].tolist())
        assert prediction.space_group_number[row] == forest.classes_[winner]
        assert prediction.space_group_confidence[row] == np.float32(first / 9)
        assert prediction.space_group_difference_confidence[row] == np.float32((first - second) / 9)
        medians = {
            name: np.median(hierarchy.forests_[f"lattice-{system}-{name}"].values(X), axis=1)
            for name in independent_parameters(system)
        }
        assert_array_equal(prediction.lattice[row], complete_lattice(system, medians)[0])
        spread = {
            name: np.quantile(hierarchy.forests_[f"lattice-{system}-{name}"].values(X).astype(float), (0.16, 0.84))
            for name in independent_parameters(system)
        }
        low, high = ({name: ends[[end]] for name, ends in spread.items()} for end in (0, 1))
        np.testing.assert_allclose(prediction.lattice_low[row], complete_lattice(system, low)[0], rtol=1e-6)
        np.testing.assert_allclose(prediction.lattice_high[row], complete_lattice(system, high)[0], rtol=1e-6)


def test_a_group_is_answered_as_the_reference_does(hierarchy, unseen):
    groups = np.arange(len(unseen.features)) % 17
    prediction = hierarchy.aggregate(unseen.features, groups)
    votes = hierarchy.forests_["crystal_system"].votes(unseen.features)
    sums = np.array(reference.difference_aggregation(votes.tolist(), groups.tolist()))
    assert_allclose(prediction.system_votes, sums / sums.sum(axis=1, keepdims=True), rtol=1e-6)
    for group in range(17):
        X = unseen.features[groups == group]
        system = CRYSTAL_SYSTEMS[reference.top_two(sums[group].tolist())[0]]
        assert prediction.crystal_system[group] == system
        forest = hierarchy.forests_[f"space_group-{system}"]
        (counts,) = reference.difference_aggregation(forest.votes(X).tolist(), [0] * len(X))
        winner, first, second = reference.top_two(counts)
        assert prediction.space_group_number[group] == forest.classes_[winner]
        assert prediction.space_group_confidence[group] == np.float32(first / sum(counts))
        assert prediction.space_group_difference_confidence[group] == np.float32((first - second) / sum(counts))
        for name in independent_parameters(system):
            medians = np.median(hierarchy.forests_[f"lattice-{system}-{name}"].values(X), axis=1)
            (expected,) = reference.median_aggregation(medians.tolist(), [0] * len(X))
            assert prediction.lattice[group, LATTICE_PARAMETERS.index(name)] == np.float32(expected)


def test_the_order_of_patterns_and_the_names_of_groups_do_not_matter(hierarchy, unseen):
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 12, len(unseen.features))
    prediction = hierarchy.aggregate(unseen.features, groups)
    order = rng.permutation(len(groups))
    assert_same(hierarchy.aggregate(unseen.features[order], groups[order]), prediction)
    assert_same(hierarchy.aggregate(unseen.features, groups * 1000 - 5), prediction)
    assert_same(hierarchy.aggregate(unseen.features, -groups), prediction[::-1])


def test_groups_do_not_see_each_other(hierarchy, unseen):
    groups = np.arange(len(unseen.features)) % 12
    together = hierarchy.aggregate(unseen.features, groups)
    alone = [hierarchy.aggregate(unseen.features[groups == g], groups[groups == g]) for g in range(12)]
    for group, answer in enumerate(alone):
        assert_same(answer, together[group])


def test_patterns_do_not_see_each_other(hierarchy, unseen):
    together = hierarchy.predict(unseen.features)
    for start in range(0, 180, 50):
        part = slice(start, start + 50)
        assert_same(hierarchy.predict(unseen.features[part]), together[part])


def test_lattice_angles_and_equal_lengths_are_those_of_the_system(hierarchy, unseen):
    for predict in (hierarchy.predict, lambda X, **how: hierarchy.aggregate(X, np.arange(len(X)) % 9, **how)):
        assert_array_equal(predict(unseen.features, crystal_system="cubic").lattice[:, 3:], 90)
        hexagonal = predict(unseen.features, crystal_system="hexagonal").lattice
        assert_array_equal(hexagonal[:, 3:], np.broadcast_to([90, 90, 120], (len(hexagonal), 3)))
        assert_array_equal(hexagonal[:, 0], hexagonal[:, 1])


def test_a_named_system_gives_space_group_and_lattice_and_leaves_the_system_alone(hierarchy, unseen):
    free = hierarchy.predict(unseen.features)
    named = hierarchy.predict(unseen.features, crystal_system="cubic")
    assert set(named.space_group_number) <= {221, 225}
    assert_array_equal(named.system_index, free.system_index)
    assert_array_equal(named.confidence, free.confidence)
    assert_same(hierarchy.predict(unseen.features, crystal_system=free.crystal_system), free)
    mixed = np.where(np.arange(len(free)) % 2, "cubic", "monoclinic")
    prediction = hierarchy.predict(unseen.features, crystal_system=mixed)
    assert_array_equal(crystal_systems_of(prediction.space_group_number), mixed)


def test_a_system_can_be_named_for_each_group(hierarchy, unseen):
    groups = np.arange(len(unseen.features)) % 6 + 10
    free = hierarchy.aggregate(unseen.features, groups)
    names = ["cubic", "monoclinic"] * 3
    named = hierarchy.aggregate(unseen.features, groups, crystal_system=names)
    assert_array_equal(crystal_systems_of(named.space_group_number), names)
    assert_array_equal(named.system_votes, free.system_votes)


def test_training_again_gives_the_same_models(unseen):
    patterns = Patterns(100, (62, 225))
    once, again, other = (patterns.fit(SETTINGS.model_copy(update={"seed": seed})).predict for seed in (3, 3, 4))
    assert_same(again(unseen.features), once(unseen.features))
    assert (other(unseen.features).system_votes != once(unseen.features).system_votes).any()


def test_another_crystal_system_in_the_library_changes_no_other_systems_models(unseen):
    few, more = Patterns(300, (62, 221, 225)), Patterns(100, (14, 194), seed=9)
    alone = few.fit()
    both = Hierarchy(small_block(), SETTINGS).fit(
        np.concatenate([few.features, more.features]),
        np.concatenate([few.space_group_number, more.space_group_number]),
        np.concatenate([few.lattice, more.lattice]),
    )
    assert both.systems == ("monoclinic", "orthorhombic", "hexagonal", "cubic")
    for system in alone.systems:
        a, b = (model.predict(unseen.features, crystal_system=system) for model in (alone, both))
        assert_array_equal(a.space_group_number, b.space_group_number)
        assert_array_equal(a.lattice, b.lattice)


def test_one_crystal_system_alone_is_certain():
    patterns = Patterns(40, (225,))
    prediction = patterns.fit().predict(patterns.features)
    assert prediction.systems == ("cubic",)
    assert_array_equal(prediction.system_votes, np.ones((40, 1)))
    assert_array_equal(prediction.space_group_number, 225)


def test_no_patterns_have_no_answers(hierarchy):
    nothing = np.empty((0, 12), dtype=np.float32)
    assert len(hierarchy.predict(nothing)) == 0
    prediction = hierarchy.aggregate(nothing, np.empty(0, dtype=np.int64))
    assert prediction.lattice.shape == (0, 6)
    assert prediction.crystal_system.shape == (0,)


def test_progress_tells_of_every_forest():
    seen = []

    def track(items, description, total=None):
        for item in items:
            seen.append((description, total, item[0]))
            yield item

    patterns = Patterns(40, (225,))
    Hierarchy(small_block(), SETTINGS).fit(
        patterns.features, patterns.space_group_number, patterns.lattice, track=track
    )
    assert seen == [("forests", 3, name) for name in ("crystal_system", "space_group-cubic", "lattice-cubic-a")]


def test_labels_that_are_impossible_are_named():
    good = Patterns(40, (225, 62))
    model = Hierarchy(small_block(), SETTINGS)

    def fit(features=good.features, numbers=good.space_group_number, lattice=good.lattice):
        model.fit(features, numbers, lattice)

    wrong_number, wrong_lattice = good.space_group_number.copy(), good.lattice.copy()
    wrong_number[7], wrong_lattice[8, 4] = 231, -1
    for message, change in (
        ("pattern 7: space group number 231", {"numbers": wrong_number}),
        ("pattern 8: lattice parameter beta = -1", {"lattice": wrong_lattice}),
        ("integers", {"numbers": good.space_group_number.astype(float)}),
        (r"expected \(40,\)", {"numbers": good.space_group_number[:-1]}),
        (r"expected \(40, 6\)", {"lattice": good.lattice[:, :5]}),
        (r"expected \(patterns, 12\)", {"features": good.features[:, :5]}),
    ):
        with pytest.raises(InvalidFeatures, match=message):
            fit(**change)
    with pytest.raises(InvalidFeatures, match="nothing to train on"):
        fit(good.features[:0], good.space_group_number[:0], good.lattice[:0])
    assert not model.forests_


def test_questions_that_make_no_sense_are_refused(hierarchy, unseen):
    X = unseen.features
    with pytest.raises(InvalidFeatures, match=r"crystal_system = 'kubic': these models know triclinic"):
        hierarchy.predict(X, crystal_system="kubic")
    with pytest.raises(InvalidFeatures, match="expected one name, or 180"):
        hierarchy.predict(X, crystal_system=["cubic"] * 3)
    with pytest.raises(InvalidFeatures, match="groups of shape"):
        hierarchy.aggregate(X, np.zeros(3, dtype=int))
    with pytest.raises(InvalidFeatures, match="integers"):
        hierarchy.aggregate(X, np.zeros(len(X)))
    with pytest.raises(InvalidFeatures, match="expected"):
        hierarchy.predict(X[:, :4])
    broken = X.copy()
    broken[9, 2] = np.nan
    with pytest.raises(InvalidFeatures, match="pattern 9, feature 2"):
        hierarchy.predict(broken)
    with pytest.raises(GpuediffError, match="call fit"):
        Hierarchy(small_block(), Training()).predict(X)


def test_rows_of_a_prediction_can_be_taken(hierarchy, unseen):
    prediction = hierarchy.predict(unseen.features)
    mask = prediction.confidence > 0.5
    assert_array_equal(prediction[mask].lattice, prediction.lattice[mask])
    assert_array_equal(prediction[3].crystal_system, prediction.crystal_system[3:4])
    assert len(prediction[10:30:2]) == 10
    assert_array_equal(prediction[[5, 5, 2]].space_group_number, prediction.space_group_number[[5, 5, 2]])


def test_the_fixture_covers_systems_with_one_and_with_several_space_groups():
    systems = crystal_systems_of(np.array(SPACE_GROUPS)).tolist()
    assert {systems.count(system) for system in CRYSTAL_SYSTEMS} == {1, 2}
