"""The main job refuses what it cannot do, in words that help."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuediff import workflow
from gpuediff.errors import InvalidBundle, InvalidLibrary
from gpuediff.features.examples import KINDS, Examples
from gpuediff.features.labelled import LabelledFeatures
from gpuediff.hierarchy.trained_on import TrainedOn
from gpuediff.library.split import split_materials
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Boosting, Flags, Forest, Run, Split, Training
from tests.hierarchy.conftest import small_block

Materials = SimpleNamespace(material_id=np.array(["only one"]), crystal_system=np.array(["cubic"]))


def test_a_library_too_small_for_training_is_refused():
    library = SimpleNamespace(materials=Materials, differences=lambda run: [])
    with pytest.raises(InvalidLibrary, match="falls on the training side: simulate more materials"):
        workflow.train(Run(split=Split(train_fraction=0.05, validation_fraction=0)), library)


def test_a_library_of_another_configuration_is_refused():
    library = SimpleNamespace(path="library.h5", differences=lambda run: ["simulation.g_max = 2.0 there, 1.5 here"])
    with pytest.raises(InvalidLibrary, match=r"library\.h5: made by another .*g_max = 2.0 there, 1.5 here"):
        workflow.train(Run(), library)


def test_a_model_is_never_tested_on_its_own_materials():
    """Whatever the configuration says by now, the split is the one that the model was trained with."""
    trained_on = TrainedOn(split=Split(train_fraction=0.95), crystals_checksum="ab", intensity_sum=0.8)
    hierarchy = SimpleNamespace(trained_on=trained_on, settings=Training())
    with pytest.raises(InvalidLibrary, match="falls on the test side: simulate more materials"):
        workflow.evaluate(SimpleNamespace(materials=Materials, crystals_checksum="ab", run=Run()), hierarchy)


def test_a_model_without_validation_materials_says_how_to_have_some():
    trained_on = TrainedOn(split=Split(validation_fraction=0), crystals_checksum="ab", intensity_sum=0.8)
    hierarchy = SimpleNamespace(trained_on=trained_on, settings=Training())
    library = SimpleNamespace(materials=Materials, crystals_checksum="ab", run=Run())
    with pytest.raises(InvalidLibrary, match=r"falls on the validation side: train .* split\.validation_fraction > 0"):
        workflow.evaluate(library, hierarchy, side="validation")


def test_a_model_is_not_tested_on_structures_of_which_it_may_have_seen_any():
    trained_on = TrainedOn(split=Split(), crystals_checksum="ab", intensity_sum=0.8)
    library = SimpleNamespace(path="library.h5", crystals_checksum="cd")
    with pytest.raises(InvalidLibrary, match="holds other structures"):
        workflow.evaluate(library, SimpleNamespace(trained_on=trained_on, settings=Training()))


def test_a_model_of_unknown_origin_is_not_evaluated():
    with pytest.raises(InvalidBundle, match="which materials it was trained on"):
        workflow.evaluate(None, SimpleNamespace(trained_on=None))


class Materials200:
    """A library of 200 materials of two systems, two patterns each, and what is asked of it."""

    path = "library.h5"
    crystals_checksum = "ab"
    run = Run(
        split=Split(train_fraction=0.8, validation_fraction=0.2),
        training=Training(
            crystal_system=Forest(trees=5, depth=5),
            space_group=Forest(trees=5, depth=5),
            lattice=Forest(trees=5, depth=5),
            flags=Flags(patterns=0),
        ),
    )

    def __init__(self, monkeypatch):
        number = np.where(np.arange(200) % 2, 225, 62)
        self.materials = SimpleNamespace(
            material_id=np.array([f"m-{index}" for index in range(200)]),
            crystal_system=np.where(number == 225, "cubic", "orthorhombic"),
            space_group_number=number,
        )
        self.material_of_pattern = np.repeat(np.arange(200), 2)
        self.asked, self.asked_examples = [], []
        monkeypatch.setattr(workflow, "block_of_run", lambda run: small_block())
        monkeypatch.setattr(workflow, "labelled_features", self.features)
        monkeypatch.setattr(workflow, "examples", self.examples)

    def differences(self, run):
        return []

    def side(self, name):
        return np.flatnonzero(split_materials(self.materials.material_id, self.run.split) == name).tolist()

    def features(self, library, block, thickness, materials, **options):
        self.asked.append(np.flatnonzero(materials).tolist())
        material = np.repeat(self.asked[-1], 2)
        number = self.materials.space_group_number[material]
        features = np.random.default_rng(0).normal(size=(len(material), block.width)) + number[:, None] / 50
        lattice = np.where(number[:, None] == 225, [4, 4, 4, 90, 90, 90], [3, 4, 5, 90, 90, 90]).astype(float)
        ones = np.ones(len(material))
        return LabelledFeatures(features.astype(np.float32), ones.astype(int), material, number, lattice, ones)

    def examples(self, library, block, thickness, materials, *, protocol, count, kinds, seed, track):
        material = np.flatnonzero(materials)
        self.asked_examples.append((material.tolist(), protocol, count, tuple(kinds)))
        kind = {name: np.full((len(material), block.width), place) for place, name in enumerate(KINDS)}
        return Examples(**kind, material=material)


def test_forests_learn_from_training_materials_and_calibration_from_validation_materials(monkeypatch):
    library = Materials200(monkeypatch)
    model = workflow.train(library.run, library)
    assert library.asked == [library.side("train"), library.side("validation")]
    assert model.calibration_.single.materials == len(library.side("validation"))
    assert model.calibration_.groups is None
    for side in ("test", "validation"):
        evaluation, answers = workflow.evaluate(library, model, side=side)
        assert evaluation.side == side
        assert library.asked[-1] == library.side(side)
        assert evaluation.train_materials == len(library.side("train"))
        assert sum(evaluation.train_space_groups.values()) == evaluation.train_materials
        assert set(answers["single"].material) == set(library.side(side))


def test_flags_are_learned_from_training_materials_and_told_how_far_to_trust_by_validation_materials(monkeypatch):
    library = Materials200(monkeypatch)
    flags = Flags(patterns=501, forest=Boosting(rounds=5))
    settings = library.run.training.model_copy(update={"protocols": ("any", "measured"), "flags": flags})
    model = workflow.train(library.run.model_copy(update={"training": settings}), library)
    assert library.asked_examples == [
        (library.side(side), protocol, 251, kinds)
        for side, kinds in (("train", KINDS), ("validation", KINDS[:2]))
        for protocol in ("any", "measured")
    ]
    assert model.flag_calibration_.materials == len(library.side("validation"))
    features = np.repeat(np.arange(3, dtype=np.float32), small_block().width).reshape(3, -1)
    said = model.flags(features)
    assert said.several_grains[0] < 0.5 < said.several_grains[1]
    assert said.novelty[0] == 0.5  # as all validation patterns


def test_no_flags_are_learned_where_none_are_asked_for_or_nothing_can_say_how_far_to_trust_them(monkeypatch):
    library = Materials200(monkeypatch)
    asked_for = library.run.training.model_copy(update={"flags": Flags(patterns=100)})
    nobody_to_ask = {"training": asked_for, "split": Split(train_fraction=0.8, validation_fraction=0)}
    for change in ({}, nobody_to_ask):
        model = workflow.train(library.run.model_copy(update=change), library)
        assert library.asked_examples == []
        assert np.isnan(model.flags(np.zeros((2, small_block().width), np.float32)).novelty).all()


def test_a_part_of_the_training_materials_is_calibrated_on_the_same_part_of_the_others(monkeypatch):
    library = Materials200(monkeypatch)
    training, validation = library.side("train"), library.side("validation")
    model = workflow.train(library.run, library, materials=len(training) // 2)
    drawn, held = library.asked
    assert (len(drawn), len(held)) == (len(training) // 2, -(-len(validation) // 2))
    assert set(drawn) < set(training)
    assert set(held) < set(validation)
    # A library is sorted by name, and names tell something: the first half of them would be no random half.
    assert 60 < np.mean(drawn) < 140
    assert set(drawn) != set(training[: len(training) // 2])
    evaluation, _ = workflow.evaluate(library, model, materials=10)
    assert evaluation.train_materials == len(training) // 2
    assert set(library.asked[-1]) < set(library.side("test"))
    assert len(library.asked[-1]) == 10
    workflow.train(library.run, library, materials=len(training) // 4)
    assert set(library.asked[-2]) < set(drawn)


def test_without_validation_materials_there_is_no_calibration(monkeypatch):
    library = Materials200(monkeypatch)
    run = library.run.model_copy(update={"split": Split(train_fraction=0.8, validation_fraction=0)})
    model = workflow.train(run, library)
    assert len(library.asked) == 1
    assert model.calibration_ is None
    evaluation, _ = workflow.evaluate(library, model)
    assert evaluation.single.calibrated_on is None
    assert evaluation.single.abstention == []


def test_a_group_is_calibrated_as_a_group():
    """The hierarchy is told how many patterns each of its feature vectors describes."""
    told = {}
    block = SimpleNamespace(pools=True, compute=lambda peaks, groups=None: np.zeros((len(groups or peaks), 1)))
    hierarchy = SimpleNamespace(
        trained_on=TrainedOn(split=Split(), crystals_checksum="ab", intensity_sum=0.8),
        block=block,
        predict=lambda features, **options: told.update(options),
    )
    peaks = PeakBatch.from_lists([([0, 0.3], [0, 0.1], [6, 2])] * 4)
    workflow.predict(hierarchy, peaks, groups=np.array([7, 3, 7, 7]))
    assert told["patterns"].tolist() == [1, 3]
    told.clear()
    workflow.predict(hierarchy, peaks)
    assert told == {}


@pytest.mark.parametrize("unit", [1.0, 3e4])
def test_answers_do_not_depend_on_the_unit_of_the_intensities(unit):
    seen = []
    block = SimpleNamespace(compute=lambda peaks: seen.append(peaks.intensity))
    hierarchy = SimpleNamespace(
        trained_on=TrainedOn(split=Split(), crystals_checksum="ab", intensity_sum=0.8),
        block=block,
        predict=lambda features: features,
    )
    intensity = np.array([6.0, 2.0], np.float32) * np.float32(unit)
    peaks = PeakBatch.from_lists([([0, 0.3], [0, 0.1], intensity)])
    workflow.predict(hierarchy, peaks)
    workflow.describe(hierarchy, peaks)
    np.testing.assert_allclose(seen, [[0.6, 0.2]] * 2, rtol=1e-6)


def test_no_usable_structure_is_an_error_with_the_reasons(tmp_path):
    from gpuediff.settings import Structures

    (tmp_path / "broken.cif").write_text("data_broken")
    run = Run(structures=Structures(source="cif", path=tmp_path))
    with pytest.raises(InvalidLibrary, match=r"no structure of source 'cif' can be simulated: 1 x "):
        workflow.simulate(run, tmp_path / "library.h5")
