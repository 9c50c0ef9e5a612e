import lightgbm
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from gpuediff.errors import InvalidBundle, InvalidFeatures
from gpuediff.forests import lightgbm_forest, treelite_forest
from gpuediff.forests.lightgbm_forest import fit_classifier, hyper_parameters
from gpuediff.forests.softmax import divide_votes
from gpuediff.forests.treelite_forest import VOTES_OF_A_PATTERN, BoostedForest, RandomForest, TreeliteForest
from gpuediff.settings import Boosting
from tests.forests.test_forest import FEATURES, blobs

SETTINGS = Boosting(rounds=12, leaves=7, learning_rate=0.2, min_samples_leaf=5, feature_fraction=0.6)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Threads that wait for each other's turn on a busy core cost more than such small forests."""
    monkeypatch.setattr(lightgbm_forest, "_threads", lambda: 1)


@pytest.fixture(scope="module")
def data():
    return blobs(300, 4), blobs(500, 4, seed=1)[0]


@pytest.fixture(scope="module")
def forest(data):
    (X, labels), _ = data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightgbm_forest, "_threads", lambda: 1)
        return fit_classifier(X, labels, SETTINGS, seed=5)


def lightgbm_twin(X, columns, told=SETTINGS, weight=None, seed=5):
    parameters = hyper_parameters(told, classes=int(columns.max()) + 1, seed=seed)
    rounds = parameters.pop("num_iterations")
    parameters |= {"verbosity": -1, "num_threads": 1}
    return lightgbm.train(parameters, lightgbm.Dataset(X, columns, weight=weight), rounds)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_probabilities_are_those_of_lightgbm(classes):
    X, labels = blobs(300, classes)
    unseen, _ = blobs(200, classes, seed=1)
    forest = fit_classifier(X, labels, SETTINGS, seed=5)
    twin = lightgbm_twin(X, labels)
    assert forest.trees == twin.num_trees() == SETTINGS.rounds * classes
    assert_allclose(forest.probability(unseen), twin.predict(unseen), rtol=0, atol=1e-12)
    assert np.mean(forest.votes(X).argmax(axis=1) == labels) > 0.8  # it has learned something


EDGES = [0.0, -0.0, 1.0, float(np.float32(0.1)), 1e-36, -1e-40, 1e-35, 3e38, -3e38]  # LightGBM takes 1e-35 for zero


@given(data=st.data(), patterns=st.integers(2, 60), classes=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_small_and_odd_data_are_answered_as_by_lightgbm(data, patterns, classes, seed):
    X = data.draw(hnp.arrays(np.float32, (patterns, 2), elements=st.sampled_from(np.float32(EDGES).tolist())))
    labels = np.arange(patterns) % classes if patterns >= classes else np.arange(patterns)
    told = Boosting(rounds=3, leaves=4, learning_rate=0.5, min_samples_leaf=1, feature_fraction=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightgbm_forest, "_threads", lambda: 1)
        forest = fit_classifier(X, labels, told, seed=seed)
    twin = lightgbm_twin(X, labels, told, seed=seed)
    assert_allclose(forest.probability(X), twin.predict(X), rtol=0, atol=1e-12)
    assert_array_equal(forest.votes(X).sum(axis=1), VOTES_OF_A_PATTERN)
    assert forest.importances().sum() == pytest.approx(1) or not forest.importances().any()


def test_the_loaded_forest_is_the_trained_one(tmp_path, data, forest):
    _, unseen = data
    forest.save(tmp_path / "forest.tl")
    loaded = TreeliteForest.load(
        tmp_path / "forest.tl", classes=forest.classes_, hyper_parameters=forest.hyper_parameters
    )
    assert isinstance(loaded, BoostedForest)
    assert (loaded.kind, loaded.features, loaded.trees) == ("classifier", FEATURES, SETTINGS.rounds * 4)
    assert loaded.hyper_parameters == forest.hyper_parameters
    assert_array_equal(loaded.importances(), forest.importances())
    assert_array_equal(loaded.votes(unseen), forest.votes(unseen))
    assert_array_equal(loaded.probability(unseen), forest.probability(unseen))


def test_votes_are_the_probabilities_in_whole_units(data, forest):
    _, unseen = data
    votes, probability = forest.votes(unseen), forest.probability(unseen)
    assert votes.dtype == np.int32
    assert_array_equal(votes.sum(axis=1), np.full(len(unseen), VOTES_OF_A_PATTERN))
    assert np.abs(votes - VOTES_OF_A_PATTERN * probability).max() < 1
    assert_allclose(probability.sum(axis=1), 1, rtol=1e-14)


@given(
    weights=hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 70)), elements=st.floats(1e-6, 1)),
    votes=st.sampled_from([1, 7, VOTES_OF_A_PATTERN]),
)
@settings(max_examples=100, deadline=None)
def test_votes_are_divided_without_rest_and_in_the_order_of_the_probabilities(weights, votes):
    probability = weights / weights.sum(axis=1, keepdims=True)
    divided = divide_votes(probability, votes)
    assert_array_equal(divided.sum(axis=1), votes)
    assert np.abs(divided - votes * probability).max() < 1 + 1e-9
    rising = np.argsort(probability, axis=1, kind="stable")
    gaps = np.diff(np.take_along_axis(divided, rising, axis=1), axis=1)
    clear = np.diff(np.take_along_axis(probability, rising, axis=1), axis=1) > 1e-12
    assert (gaps[clear] >= 0).all()


def test_a_vote_that_is_left_goes_to_who_lost_most_and_of_equals_to_the_first():
    assert_array_equal(divide_votes(np.array([[0.26, 0.37, 0.37], [0.24, 0.38, 0.38]]), 10), [[2, 4, 4], [2, 4, 4]])
    assert_array_equal(divide_votes(np.array([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.0, 0.5]]), 10), [[4, 3, 3], [5, 0, 5]])


@given(seed=st.integers(0, 2**20))
@settings(max_examples=10, deadline=None)
def test_permuting_the_patterns_permutes_the_answers(data, forest, seed):
    _, unseen = data
    order = np.random.default_rng(seed).permutation(len(unseen))
    assert_array_equal(forest.votes(unseen[order]), forest.votes(unseen)[order])
    assert_array_equal(forest.probability(unseen[order]), forest.probability(unseen)[order])


def test_the_answer_does_not_depend_on_how_many_patterns_are_asked_for(data, forest, monkeypatch):
    _, unseen = data
    votes, probability = forest.votes(unseen), forest.probability(unseen)
    monkeypatch.setattr(treelite_forest, "CHUNK_BYTES", (4 * FEATURES + 8 * 4) * 7)  # 7 patterns at a time
    assert_array_equal(forest.votes(unseen), votes)
    assert_array_equal(forest.probability(unseen), probability)
    assert forest.votes(unseen[:0]).shape == forest.probability(unseen[:0]).shape == (0, 4)


def test_the_answer_does_not_depend_on_the_threads(data, forest):
    _, unseen = data
    threads = numba.get_num_threads()
    probability = forest.probability(unseen)
    try:
        numba.set_num_threads(1)
        assert_array_equal(forest.probability(unseen), probability)
    finally:
        numba.set_num_threads(threads)


def test_the_same_seed_gives_the_same_forest_on_any_number_of_threads(tmp_path, monkeypatch):
    X, labels = blobs(5000, 3)  # several of LightGBM's blocks
    told = SETTINGS.model_copy(update={"rounds": 4, "learning_rate": 0.5})
    checkpoints = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(lightgbm_forest, "_threads", lambda threads=threads: threads)
        fit_classifier(X, labels, told, seed=5).save(tmp_path / "forest.tl")
        checkpoints.append((tmp_path / "forest.tl").read_bytes())
    assert checkpoints[0] == checkpoints[1] == checkpoints[2]


def test_another_seed_gives_another_forest(data, forest):
    (X, labels), unseen = data
    for seed in (6, 2**32 - 1):
        other = fit_classifier(X, labels, SETTINGS, seed=seed)
        assert (other.probability(unseen) != forest.probability(unseen)).any()


def test_a_column_is_its_label_in_whatever_order_the_labels_are_listed(data):
    (X, labels), unseen = data
    names = np.array(["oak", "ash", "elm", "fir"])
    order = ["fir", "oak", "elm", "ash"]
    told = SETTINGS.model_copy(update={"feature_fraction": 1.0})  # or each column's trees draw other features
    by_number = fit_classifier(X, labels, told, seed=5)
    by_name = fit_classifier(X, names[labels], told, seed=5)
    by_order = fit_classifier(X, names[labels], told, seed=5, classes=order)
    assert by_number.classes_.tolist() == [0, 1, 2, 3]
    assert by_name.classes_.tolist() == sorted(names)
    assert by_order.classes_.tolist() == order
    expected = by_number.probability(unseen)
    for forest in (by_name, by_order):
        columns = [names.tolist().index(name) for name in forest.classes_]
        assert_allclose(forest.probability(unseen), expected[:, columns], atol=1e-6)


def test_a_single_class_gets_all_votes(tmp_path, data):
    (X, _), unseen = data
    forest = fit_classifier(X, np.full(len(X), 225), SETTINGS, seed=0)
    forest.save(tmp_path / "forest.tl")
    for same in (forest, TreeliteForest.load(tmp_path / "forest.tl", classes=[225])):
        assert isinstance(same, BoostedForest)
        assert (same.kind, same.trees, same.classes_.tolist()) == ("classifier", 1, [225])
        assert_array_equal(same.votes(unseen), np.full((len(unseen), 1), VOTES_OF_A_PATTERN))
        assert_array_equal(same.probability(unseen), np.ones((len(unseen), 1)))
        assert_array_equal(same.importances(), np.zeros(FEATURES))


def test_too_few_patterns_to_split_are_answered_by_how_often_each_class_was_seen(data):
    _, unseen = data
    X, labels, weight = unseen[:8], np.array([1, 1, 1, 1, 1, 2, 2, 3]), np.array([1, 1, 1, 1, 1, 2, 2, 7])
    told = SETTINGS.model_copy(update={"min_samples_leaf": 5})
    plain = fit_classifier(X, labels, told, seed=0)
    weighted = fit_classifier(X, labels, told, seed=0, weight=weight)
    assert_allclose(plain.probability(unseen), np.broadcast_to([5 / 8, 2 / 8, 1 / 8], (500, 3)), atol=1e-6)
    assert_allclose(weighted.probability(unseen), np.broadcast_to([5 / 16, 4 / 16, 7 / 16], (500, 3)), atol=1e-6)
    assert_array_equal(plain.importances(), np.zeros(FEATURES))


def test_only_the_ratios_of_the_weights_matter(data, forest):
    (X, labels), unseen = data
    weight = np.where(labels == 2, 8.0, 1.0)
    favoured = fit_classifier(X, labels, SETTINGS, seed=5, weight=weight).probability(unseen)
    assert_array_equal(fit_classifier(X, labels, SETTINGS, seed=5, weight=weight * 4).probability(unseen), favoured)
    assert favoured[:, 2].mean() > forest.probability(unseen)[:, 2].mean() + 0.1
    twin = lightgbm_twin(X, labels, weight=weight / weight.mean())
    assert_allclose(favoured, twin.predict(unseen), rtol=0, atol=1e-12)
    assert_array_equal(
        fit_classifier(X, labels, SETTINGS, seed=5, weight=np.full(300, 3.0)).votes(unseen), forest.votes(unseen)
    )


def test_importances_are_the_shares_of_the_gain(data, forest):
    (X, labels), _ = data
    gain = lightgbm_twin(X, labels).feature_importance("gain")
    assert_allclose(forest.importances(), gain / gain.sum(), rtol=1e-12)
    alone = np.zeros_like(X)
    alone[:, 3] = labels
    told = SETTINGS.model_copy(update={"feature_fraction": 1.0})
    assert_array_equal(fit_classifier(alone, labels, told, seed=0).importances(), np.eye(FEATURES)[3])


def test_every_hyper_parameter_arrives_and_none_of_its_wrapper_is_left_to_default(data):
    (X, labels), _ = data
    text = lightgbm_twin(X, labels).model_to_string().split("\nparameters:")[1].split("end of parameters")[0]
    reported = dict(line[1:-1].split(": ", 1) for line in text.split("\n") if line.startswith("["))
    told = hyper_parameters(SETTINGS, classes=4, seed=5)
    assert set(told) <= set(reported)
    for name, value in told.items():
        expected = str(int(value)) if isinstance(value, bool) else value
        assert reported[name] == expected or float(reported[name]) == pytest.approx(float(expected)), name
    aliases = {"boosting_type": "boosting", "subsample_for_bin": "bin_construct_sample_cnt", "reg_alpha": "lambda_l1"}
    aliases |= {"colsample_bytree": "feature_fraction", "min_child_samples": "min_data_in_leaf"}
    aliases |= {"min_child_weight": "min_sum_hessian_in_leaf", "min_split_gain": "min_gain_to_split"}
    aliases |= {"n_estimators": "num_iterations", "reg_lambda": "lambda_l2", "random_state": "seed"}
    aliases |= {"subsample": "bagging_fraction", "subsample_freq": "bagging_freq"}
    outside = {"n_jobs", "importance_type", "class_weight"}  # of the wrapper alone, or without effect
    assert {aliases.get(name, name) for name in lightgbm.LGBMClassifier().get_params()} - outside <= set(told)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_value_that_is_not_finite_is_named(data, forest, value):
    unseen = data[1].astype(np.float64)
    unseen[20, 3] = value
    for ask in (forest.votes, forest.probability):
        with pytest.raises(InvalidFeatures, match="pattern 20, feature 3"):
            ask(unseen)
    with pytest.raises(InvalidFeatures, match="pattern 20, feature 3"):
        fit_classifier(unseen, np.arange(len(unseen)) % 2, SETTINGS, seed=0)


def test_what_does_not_fit_is_refused(data, forest):
    (X, labels), _ = data
    with pytest.raises(InvalidFeatures, match="labels of shape"):
        fit_classifier(X, labels[:-1], SETTINGS, seed=0)
    with pytest.raises(InvalidFeatures, match="neither of them 0"):
        fit_classifier(X[:0], labels[:0], SETTINGS, seed=0)
    with pytest.raises(InvalidFeatures, match="the labels are"):
        fit_classifier(X, labels, SETTINGS, seed=0, classes=[0, 1, 2])
    with pytest.raises(InvalidFeatures, match="expected"):
        forest.votes(X[:, 1:])
    with pytest.raises(TypeError, match="a classifier has"):
        forest.values(X)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_that_is_not_positive_is_named(data, wrong):
    (X, labels), _ = data
    weight = np.ones(len(X))
    weight[7] = wrong
    with pytest.raises(InvalidFeatures, match="pattern 7: weight"):
        fit_classifier(X, labels, SETTINGS, seed=0, weight=weight)
    with pytest.raises(InvalidFeatures, match="weight of shape"):
        fit_classifier(X, labels, SETTINGS, seed=0, weight=np.ones(3))


def test_a_checkpoint_of_another_meaning_is_refused(tmp_path, forest):
    forest.save(tmp_path / "forest.tl")
    for classes, message in ((None, "classifiers only"), ([1, 2, 3], "scores for")):
        with pytest.raises(InvalidBundle, match=message):
            TreeliteForest.load(tmp_path / "forest.tl", classes=classes)
    with pytest.raises(InvalidBundle, match="expected a random forest"):
        RandomForest(forest._model, classes=[0, 1, 2, 3])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("class_id", np.full(48, 4, dtype=np.int32), "one class"),
        ("class_id", np.full(48, -1, dtype=np.int32), "one class"),
        ("postprocessor", "identity_multiclass", "softmax"),
        ("base_scores", np.ones(4), "base scores"),
    ],
)
def test_a_damaged_header_is_refused_before_a_tree_is_walked(data, field, value, message):
    (X, labels), _ = data
    model = fit_classifier(X, labels, SETTINGS, seed=5)._model
    model.get_header_accessor().set_field(field, value)
    with pytest.raises(InvalidBundle, match=message):
        BoostedForest(model, classes=[0, 1, 2, 3])
