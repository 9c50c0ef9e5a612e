"""The main job refuses what it cannot do, in words that help."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuediff import workflow
from gpuediff.errors import InvalidBundle, InvalidLibrary
from gpuediff.hierarchy.trained_on import TrainedOn
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Run, Split, Training

Materials = SimpleNamespace(material_id=np.array(["only one"]), crystal_system=np.array(["cubic"]))


def test_a_library_too_small_for_training_is_refused():
    library = SimpleNamespace(materials=Materials, differences=lambda run: [])
    with pytest.raises(InvalidLibrary, match="falls on the training side: simulate more materials"):
        workflow.train(Run(split=Split(train_fraction=0.05)), library)


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


def test_a_model_is_not_tested_on_structures_of_which_it_may_have_seen_any():
    trained_on = TrainedOn(split=Split(), crystals_checksum="ab", intensity_sum=0.8)
    library = SimpleNamespace(path="library.h5", crystals_checksum="cd")
    with pytest.raises(InvalidLibrary, match="holds other structures"):
        workflow.evaluate(library, SimpleNamespace(trained_on=trained_on, settings=Training()))


def test_a_model_of_unknown_origin_is_not_evaluated():
    with pytest.raises(InvalidBundle, match="which materials it was trained on"):
        workflow.evaluate(None, SimpleNamespace(trained_on=None))


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
    workflow.predict(hierarchy, PeakBatch.from_lists([([0, 0.3], [0, 0.1], intensity)]))
    np.testing.assert_allclose(seen[0], [0.6, 0.2], rtol=1e-6)


def test_no_usable_structure_is_an_error_with_the_reasons(tmp_path):
    from gpuediff.settings import Structures

    (tmp_path / "broken.cif").write_text("data_broken")
    run = Run(structures=Structures(source="cif", path=tmp_path))
    with pytest.raises(InvalidLibrary, match=r"no structure of source 'cif' can be simulated: 1 x "):
        workflow.simulate(run, tmp_path / "library.h5")
