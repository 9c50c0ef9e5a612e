"""Where the features hold the lattice themselves, it is read and not learned, and the bundle needs no forest for it."""

import numpy as np
import pytest

from gpuediff.features.lattice import UNKNOWN, LatticeBlock
from gpuediff.hierarchy.bundle import load_bundle, save_bundle
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.hierarchy.labels import model_names
from gpuediff.settings import Boosting, Forest, Training
from tests.hierarchy.conftest import assert_same

BLOCK = LatticeBlock(300e3)
SETTINGS = Training(
    crystal_system=Boosting(rounds=10, min_samples_leaf=3),
    space_group=Forest(trees=7, depth=6),
    lattice=Forest(trees=5, depth=5),
)


@pytest.fixture(scope="module")
def patterns():
    """Cubic and hexagonal patterns; the features hold each one's cells, and of every fifth none."""
    rng = np.random.default_rng(8)
    number = rng.permutation(np.resize([225, 221, 194], 150))
    features = rng.normal(size=(150, BLOCK.width)).astype(np.float32)
    features[:, BLOCK.columns.index("cF_likelihood")] = np.where(number == 225, 5, -5)
    features[:, BLOCK.columns.index("cP_likelihood")] = np.where(number == 221, 5, -5)
    lattice = np.tile([4.0, 4, 4, 90, 90, 90], (150, 1))
    lattice[number == 194] = [3, 3, 5, 90, 90, 120]
    for system, cell in (("cubic", (4.1, 4.1, 4.1, 90, 90, 90)), ("hexagonal", (3.1, 3.1, 5.1, 90, 90, 120))):
        first = BLOCK.columns.index(f"{system}_a")
        features[:, first : first + 6] = cell
        features[::5, first : first + 6] = UNKNOWN
    return features, number, lattice


@pytest.fixture(scope="module")
def fitted(patterns):
    return Hierarchy(BLOCK, SETTINGS).fit(*patterns)


def test_no_forest_learns_the_lattice(fitted):
    assert set(fitted.forests_) == set(model_names(fitted.systems, lattice=False))


def test_the_lattice_is_that_of_the_features_in_the_answered_system(fitted, patterns):
    features, number, _ = patterns
    answer = fitted.predict(features)
    assert np.mean(answer.crystal_system == np.where(number == 194, "hexagonal", "cubic")) > 0.85
    known = np.arange(150) % 5 != 0
    wanted = np.where((answer.crystal_system == "cubic")[:, None], [4.1, 4.1, 4.1], [3.1, 3.1, 5.1])
    np.testing.assert_allclose(answer.lattice[known, :3], wanted[known], rtol=1e-6)
    assert np.isnan(answer.lattice[~known, :3]).all()
    width = answer.lattice_high - answer.lattice_low
    errors = features[:, [BLOCK.columns.index(f"reduced_{edge}_error") for edge in "abc"]]
    expected = 2 * np.sqrt((errors**2).mean(axis=1)) * answer.lattice[:, 0]
    np.testing.assert_allclose(width[known, 0], expected[known], rtol=1e-4)
    given = fitted.predict(features, crystal_system="hexagonal")
    np.testing.assert_allclose(given.lattice[known, 2], 5.1, rtol=1e-6)


def test_probabilities_are_there_for_patterns_and_not_for_votes_of_several(fitted, patterns):
    features, _, _ = patterns
    np.testing.assert_allclose(fitted.predict(features).probability.sum(axis=1), 1, rtol=1e-5)
    assert np.isnan(fitted.aggregate(features, np.zeros(150, int)).probability).all()


def test_a_bundle_gives_the_same_answers(fitted, patterns, tmp_path):
    save_bundle(fitted, tmp_path / "model")
    loaded = load_bundle(tmp_path / "model")
    assert loaded.block == BLOCK
    assert loaded.settings == SETTINGS
    assert_same(loaded.predict(patterns[0]), fitted.predict(patterns[0]))


def test_importances_have_the_names_of_the_features(fitted):
    shares = fitted.importances()
    assert set(shares) == set(BLOCK.columns)
    assert sum(shares.values()) == pytest.approx(1)
