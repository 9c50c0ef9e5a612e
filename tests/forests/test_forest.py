import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from treelite.sklearn import import_model

from gpuediff.errors import InvalidBundle, InvalidFeatures
from gpuediff.forests import treelite_forest
from gpuediff.forests.sklearn_forest import fit_classifier, fit_regressor, hyper_parameters
from gpuediff.forests.treelite_forest import RandomForest, TreeliteForest
from gpuediff.settings import Forest as ForestSettings

SETTINGS = ForestSettings(trees=13, depth=6)
FEATURES = 9


def blobs(patterns, classes, seed=0):
    """Overlapping clouds, so that trees disagree; features on a coarse lattice, so that they hit thresholds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, patterns)
    centres = np.random.default_rng(99).normal(size=(classes, FEATURES))
    return np.round(centres[labels] + rng.normal(size=(patterns, FEATURES)), 1).astype(np.float32), labels


def smooth(X):
    return X[:, 0].astype(np.float64) ** 2 + X[:, 1]


@pytest.fixture(scope="module")
def data():
    return blobs(300, 4), blobs(500, 4, seed=1)[0]


@pytest.fixture(scope="module")
def classifier(data):
    (X, labels), _ = data
    return fit_classifier(X, labels, SETTINGS, seed=5)


@pytest.fixture(scope="module")
def regressor(data):
    (X, _), _ = data
    return fit_regressor(X, smooth(X), SETTINGS, seed=5)


def sklearn_twin(kind, seed=5):
    parameters = hyper_parameters(
        SETTINGS, criterion="gini" if kind is RandomForestClassifier else "squared_error", seed=seed
    )
    return kind(**parameters)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_votes_and_probabilities_are_those_of_scikit_learns_trees(classes):
    X, labels = blobs(300, classes)
    unseen, _ = blobs(200, classes, seed=1)
    forest = fit_classifier(X, labels, SETTINGS, seed=5)
    twin = sklearn_twin(RandomForestClassifier).fit(X, labels)
    tree_by_tree = np.stack([tree.predict(unseen).astype(int) for tree in twin.estimators_], axis=1)
    expected = (tree_by_tree[:, :, np.newaxis] == np.arange(classes)).sum(axis=1)
    assert_array_equal(forest.votes(unseen), expected)
    assert_array_equal(forest.votes(unseen).sum(axis=1), SETTINGS.trees)
    assert_allclose(forest.probability(unseen), twin.predict_proba(unseen), rtol=0, atol=1e-12)
    votes, probability = forest.votes_and_probability(unseen)
    assert_array_equal(votes, forest.votes(unseen))
    assert_array_equal(probability, forest.probability(unseen))


def test_values_are_those_of_scikit_learns_trees(data, regressor):
    (X, _), unseen = data
    twin = sklearn_twin(RandomForestRegressor).fit(X, smooth(X))
    expected = np.stack([tree.predict(unseen) for tree in twin.estimators_], axis=1)
    assert regressor.values(unseen).dtype == np.float32
    assert_array_equal(regressor.values(unseen), expected.astype(np.float32))


def test_quantiles_are_those_of_the_trees_values(data, regressor):
    _, unseen = data
    shares = (0.0, 0.16, 0.5, 0.84, 1.0)
    expected = np.quantile(regressor.values(unseen).astype(np.float64), shares, axis=1).T
    assert regressor.quantiles(unseen, shares).dtype == np.float32
    assert_allclose(regressor.quantiles(unseen, shares), expected, rtol=1e-6)
    assert_array_equal(regressor.quantiles(unseen, (0.5,))[:, 0], np.median(regressor.values(unseen), axis=1))


@pytest.mark.parametrize("kind", [RandomForestClassifier, RandomForestRegressor])
def test_importances_are_scikit_learns(data, kind, classifier, regressor):
    (X, labels), _ = data
    target = labels if kind is RandomForestClassifier else smooth(X)
    forest = classifier if kind is RandomForestClassifier else regressor
    assert_allclose(forest.importances(), sklearn_twin(kind).fit(X, target).feature_importances_, rtol=1e-12)
    assert forest.importances().sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", [RandomForestClassifier, RandomForestRegressor])
def test_no_hyper_parameter_is_left_to_scikit_learns_default(kind):
    told = {*hyper_parameters(SETTINGS, criterion="gini", seed=0), "class_weight", "n_jobs", "verbose", "warm_start"}
    assert set(kind().get_params()) <= told


def test_a_value_on_the_threshold_goes_left_as_in_training():
    # The threshold between float32 neighbours is in float64 between them: rounding it must not move either.
    low = np.float32(4.0)  # scikit-learn takes values within 1e-7 for one
    high = np.nextafter(low, np.float32(5))
    X = np.array([[low], [high]] * 20, dtype=np.float32)
    forest = fit_classifier(X, np.array([0, 1] * 20), SETTINGS, seed=0)
    assert_array_equal(forest.votes(X[:2]).argmax(axis=1), [0, 1])
    twin = sklearn_twin(RandomForestClassifier, seed=0).fit(X, [0, 1] * 20)
    assert_allclose(forest.probability(X[:2]), twin.predict_proba(X[:2]), atol=1e-12)


def test_a_leafs_vote_goes_to_the_first_of_equally_probable_classes():
    X = np.zeros((400, 1), dtype=np.float32)  # nothing to split on: every tree is one leaf
    forest = fit_classifier(X, np.arange(400) % 2, ForestSettings(trees=200, depth=3), seed=0)
    estimators = sklearn_twin(RandomForestClassifier).set_params(n_estimators=200, random_state=0)
    leaves = [tree.tree_.value[0, 0] for tree in estimators.fit(X, np.arange(400) % 2).estimators_]
    assert any(a == b for a, b in leaves), "the seed gives no tie: choose another"
    assert forest.votes(X[:1])[0, 0] == sum(a >= b for a, b in leaves)


def test_the_answer_does_not_depend_on_how_many_patterns_are_asked_for(data, classifier, regressor, monkeypatch):
    _, unseen = data
    votes, probability, values = classifier.votes(unseen), classifier.probability(unseen), regressor.values(unseen)
    monkeypatch.setattr(treelite_forest, "CHUNK_BYTES", 4 * (FEATURES + SETTINGS.trees) * 7)  # 7 patterns at a time
    assert_array_equal(classifier.votes(unseen), votes)
    assert_array_equal(classifier.probability(unseen), probability)
    assert_array_equal(regressor.values(unseen), values)
    assert_array_equal(np.concatenate([classifier.votes(unseen[[row]]) for row in range(20)]), votes[:20])


def test_the_answer_does_not_depend_on_the_threads(data, classifier):
    numba = pytest.importorskip("numba")
    _, unseen = data
    threads = numba.get_num_threads()
    probability = classifier.probability(unseen)
    try:
        numba.set_num_threads(1)
        assert_array_equal(classifier.probability(unseen), probability)
    finally:
        numba.set_num_threads(threads)


def test_the_layout_of_the_features_does_not_matter(data, classifier):
    _, unseen = data
    votes = classifier.votes(unseen)
    for same in (np.asfortranarray(unseen), unseen.astype(np.float64), np.repeat(unseen, 2, axis=0)[::2]):
        assert_array_equal(classifier.votes(same), votes)


def test_the_loaded_forest_is_the_trained_one(tmp_path, data, classifier, regressor):
    _, unseen = data
    for forest in (classifier, regressor):
        forest.save(tmp_path / "forest.tl")
        loaded = TreeliteForest.load(
            tmp_path / "forest.tl", classes=forest.classes_, hyper_parameters=forest.hyper_parameters
        )
        assert (loaded.kind, loaded.features, loaded.trees) == (forest.kind, FEATURES, SETTINGS.trees)
        assert loaded.hyper_parameters == forest.hyper_parameters
        assert_array_equal(loaded.importances(), forest.importances())
        if forest.kind == "classifier":
            assert_array_equal(loaded.votes(unseen), forest.votes(unseen))
            assert_array_equal(loaded.probability(unseen), forest.probability(unseen))
        else:
            assert_array_equal(loaded.values(unseen), forest.values(unseen))


def test_a_column_is_its_label_in_whatever_order_the_labels_are_listed(data):
    (X, labels), unseen = data
    names = np.array(["oak", "ash", "elm", "fir"])
    order = ["fir", "oak", "elm", "ash"]
    by_name = fit_classifier(X, names[labels], SETTINGS, seed=5)
    by_order = fit_classifier(X, names[labels], SETTINGS, seed=5, classes=order)
    assert by_name.classes_.tolist() == sorted(names)
    assert by_order.classes_.tolist() == order
    # The trees differ in how they break ties; where they agree, they agree on the name.
    sure = (by_name.votes(unseen).max(axis=1) > 9) & (by_order.votes(unseen).max(axis=1) > 9)
    answers = [forest.classes_[forest.votes(unseen[sure]).argmax(axis=1)] for forest in (by_name, by_order)]
    assert sure.sum() > 50
    assert np.mean(answers[0] == answers[1]) > 0.99


def test_the_same_seed_gives_the_same_forest_and_another_seed_another(data, classifier):
    (X, labels), unseen = data
    assert_array_equal(fit_classifier(X, labels, SETTINGS, seed=5).probability(unseen), classifier.probability(unseen))
    assert (fit_classifier(X, labels, SETTINGS, seed=6).probability(unseen) != classifier.probability(unseen)).any()


def test_a_single_class_gets_all_votes(tmp_path, data):
    (X, _), unseen = data
    forest = fit_classifier(X, np.full(len(X), 225), SETTINGS, seed=0)
    forest.save(tmp_path / "forest.tl")
    for same in (forest, TreeliteForest.load(tmp_path / "forest.tl", classes=[225])):
        assert same.kind == "classifier"
        assert same.classes_.tolist() == [225]
        assert_array_equal(same.votes(unseen), np.full((len(unseen), 1), SETTINGS.trees))
        assert_array_equal(same.probability(unseen), np.ones((len(unseen), 1)))
        assert_array_equal(same.importances(), np.zeros(FEATURES))


def test_a_constant_target_is_every_trees_value(data):
    (X, _), unseen = data
    assert_array_equal(fit_regressor(X, np.full(len(X), 4.05), SETTINGS, seed=0).values(unseen), np.float32(4.05))


def test_no_patterns_have_no_answers(classifier, regressor):
    nothing = np.empty((0, FEATURES), dtype=np.float32)
    assert classifier.votes(nothing).shape == (0, 4)
    assert classifier.probability(nothing).shape == (0, 4)
    assert regressor.values(nothing).shape == (0, SETTINGS.trees)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_value_that_is_not_finite_is_named(data, classifier, value, monkeypatch):
    monkeypatch.setattr(treelite_forest, "CHUNK_BYTES", 4 * (FEATURES + SETTINGS.trees) * 7)
    unseen = data[1].astype(np.float64)
    unseen[20, 3] = value
    with pytest.raises(InvalidFeatures, match="pattern 20, feature 3"):
        classifier.votes(unseen)
    with pytest.raises(InvalidFeatures, match="pattern 20, feature 3"):
        fit_regressor(unseen, np.zeros(len(unseen)), SETTINGS, seed=0)


def test_features_of_another_shape_are_refused(classifier):
    for shape in ((3, FEATURES + 1), (3, FEATURES - 1), (FEATURES,), (1, 3, FEATURES)):
        with pytest.raises(InvalidFeatures, match="expected"):
            classifier.votes(np.zeros(shape, dtype=np.float32))


def test_labels_that_do_not_fit_are_refused(data):
    (X, labels), _ = data
    with pytest.raises(InvalidFeatures, match="labels of shape"):
        fit_classifier(X, labels[:-1], SETTINGS, seed=0)
    with pytest.raises(InvalidFeatures, match="neither of them 0"):
        fit_classifier(X[:0], labels[:0], SETTINGS, seed=0)
    with pytest.raises(InvalidFeatures, match="the labels are"):
        fit_classifier(X, labels, SETTINGS, seed=0, classes=[0, 1, 2])
    targets = X[:, 0].copy()
    targets[7] = np.nan
    with pytest.raises(InvalidFeatures, match="pattern 7"):
        fit_regressor(X, targets, SETTINGS, seed=0)


def test_a_forest_of_another_meaning_is_refused(tmp_path, classifier, regressor):
    classifier.save(tmp_path / "classifier.tl")
    regressor.save(tmp_path / "regressor.tl")
    for name, classes in (("classifier", [1, 2, 3]), ("classifier", None), ("regressor", [1, 2])):
        with pytest.raises(InvalidBundle, match="leaves of shape"):
            TreeliteForest.load(tmp_path / f"{name}.tl", classes=classes)
    (tmp_path / "classifier.tl").write_bytes(b"not a checkpoint")
    with pytest.raises(InvalidBundle, match="cannot read it"):
        TreeliteForest.load(tmp_path / "classifier.tl", classes=[1, 2, 3, 4])


def test_a_checkpoint_without_importances_says_so(data):
    (X, labels), _ = data
    bare = RandomForest(import_model(sklearn_twin(RandomForestClassifier).fit(X, labels)), classes=[0, 1, 2, 3])
    with pytest.raises(InvalidBundle, match="no importances"):
        bare.importances()


def test_a_question_for_the_other_kind_of_forest_is_refused(data, classifier, regressor):
    _, unseen = data
    with pytest.raises(TypeError, match="a classifier has"):
        classifier.values(unseen)
    with pytest.raises(TypeError, match="classifier"):
        classifier.quantiles(unseen, (0.5,))
    with pytest.raises(TypeError, match="a regressor has"):
        regressor.votes(unseen)


@given(patterns=st.integers(1, 300), seed=st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_every_tree_votes_once_for_any_number_of_patterns(classifier, patterns, seed):
    X, _ = blobs(patterns, 4, seed=seed)
    votes = classifier.votes(X)
    assert votes.dtype == np.int32
    assert_array_equal(votes.sum(axis=1), np.full(patterns, SETTINGS.trees))
