import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pydantic import ValidationError

from gpuediff.errors import InvalidConfig
from gpuediff.forests import lightgbm_forest, sklearn_forest, training
from gpuediff.forests.treelite_forest import BoostedForest, RandomForest
from gpuediff.settings import Boosting, Classifier, Forest, Settings
from tests.forests.test_forest import blobs

BOOSTING = Boosting(rounds=3, leaves=4, min_samples_leaf=5)
FOREST = Forest(trees=5, depth=4)


class Table(Settings):
    """A part of a configuration that names a classifier."""

    classifier: Classifier
    another: Classifier = FOREST


def read(**classifier):
    return Table.model_validate_json(json.dumps({"classifier": classifier}))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(lightgbm_forest, "_threads", lambda: 1)


def test_the_settings_choose_the_backend():
    X, labels = blobs(120, 3)
    weight = 1.0 + labels
    for settings, kind, backend in ((FOREST, RandomForest, sklearn_forest), (BOOSTING, BoostedForest, lightgbm_forest)):
        options = {"seed": 4, "classes": [2, 0, 1], "weight": weight}
        forest = training.fit_classifier(X, labels, settings, **options)
        assert type(forest) is kind
        expected = backend.fit_classifier(X, labels, settings, **options)
        assert_array_equal(forest.probability(X), expected.probability(X))
        assert forest.hyper_parameters == expected.hyper_parameters
        assert json.loads(json.dumps(forest.hyper_parameters)) == forest.hyper_parameters


def test_a_regressor_is_a_random_forest():
    X, _ = blobs(50, 3)
    forest = training.fit_regressor(X, X[:, 0], FOREST, seed=1)
    assert_array_equal(forest.values(X), sklearn_forest.fit_regressor(X, X[:, 0], FOREST, seed=1).values(X))
    with pytest.raises(InvalidConfig, match=r"method = 'gradient-boosting'.*use method = 'random-forest'"):
        training.fit_regressor(X, X[:, 0], BOOSTING, seed=1)


def test_weights_of_a_random_forest_count_by_their_ratios():
    X, labels = blobs(300, 4)
    plain = sklearn_forest.fit_classifier(X, labels, FOREST, seed=1).probability(X)
    weight = np.where(labels == 2, 8.0, 1.0)
    favoured = sklearn_forest.fit_classifier(X, labels, FOREST, seed=1, weight=weight).probability(X)
    assert favoured[:, 2].mean() > plain[:, 2].mean() + 0.1
    for same, expected in ((weight * 4, favoured), (np.full(300, 3.0), plain)):
        again = sklearn_forest.fit_classifier(X, labels, FOREST, seed=1, weight=same)
        assert_array_equal(again.probability(X), expected)


def test_a_table_is_what_its_method_says_and_a_random_forest_where_it_says_nothing():
    assert read(trees=5, depth=4).classifier == FOREST
    assert read(method="random-forest", trees=5, depth=4).classifier == FOREST
    assert read(method="gradient-boosting", rounds=3, leaves=4, min_samples_leaf=5).classifier == BOOSTING
    table = read(method="gradient-boosting")
    assert table.classifier == Boosting()
    assert table.another == FOREST
    assert Table.model_validate(table.model_dump()) == table
    assert Table.model_validate_json(table.model_dump_json()) == table
    assert Table(classifier=BOOSTING).classifier is BOOSTING


@pytest.mark.parametrize(
    ("classifier", "location", "message"),
    [
        ({"method": "gradient-boosting", "learning_rate": 0.0}, ("classifier", "learning_rate"), "0 < value <= 1"),
        ({"method": "gradient-boosting", "trees": 5}, ("classifier", "trees"), "Extra"),
        ({"method": "gradient-boosting", "rounds": "5"}, ("classifier", "rounds"), "integer"),
        ({"trees": 5, "depth": 4, "l2": 1.0}, ("classifier", "l2"), "Extra"),
        ({"method": "boosting"}, ("classifier",), "'random-forest' or 'gradient-boosting'"),
    ],
)
def test_a_fault_is_placed_where_it_stands_in_the_file(classifier, location, message):
    with pytest.raises(ValidationError) as raised:
        read(**classifier)
    (fault,) = raised.value.errors()
    assert fault["loc"] == location
    assert message in fault["msg"]


def test_what_is_no_table_is_refused():
    with pytest.raises(ValidationError, match="expected a table"):
        Table.model_validate_json('{"classifier": 3}')
