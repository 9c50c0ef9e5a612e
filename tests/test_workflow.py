"""The main job refuses what it cannot do, in words that help."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuediff import workflow
from gpuediff.arrays import Device
from gpuediff.errors import DeviceUnavailable, InvalidLibrary
from gpuediff.settings import Features, Run, Split


def test_a_gpu_is_never_claimed_to_be_used(monkeypatch):
    monkeypatch.setattr(workflow, "resolve_device", lambda request: Device("gpu", "H200", "CuPy found H200"))
    assert "computing on the CPU" in workflow.choose_device("auto")
    with pytest.raises(DeviceUnavailable, match="CPU only, although there is a GPU \\(H200\\): use --device cpu"):
        workflow.choose_device("gpu")


def test_the_reason_for_the_cpu_is_told(monkeypatch):
    monkeypatch.setattr(workflow, "resolve_device", lambda request: Device("cpu", "CPU", "no GPU: no driver"))
    assert workflow.choose_device("auto") == "computing on the CPU: no GPU: no driver"


def test_the_features_are_those_of_the_run():
    block = workflow.feature_block(Run(features=Features(rings=7, orders=3, direct_beam="brightest")))
    assert block.width == 2 * 7 * 3
    assert block.description()["direct_beam"] == "brightest"


@pytest.mark.parametrize(("fraction", "call", "side"), [(0.05, "train", "training"), (0.95, "evaluate", "test")])
def test_a_library_too_small_for_both_sides_is_refused(fraction, call, side):
    library = SimpleNamespace(materials=SimpleNamespace(material_id=np.array(["only one"])))
    run = Run(split=Split(train_fraction=fraction))
    arguments = (run, library) if call == "train" else (run, library, None)
    with pytest.raises(InvalidLibrary, match=f"falls on the {side} side: simulate more materials"):
        getattr(workflow, call)(*arguments)


def test_no_usable_structure_is_an_error_with_the_reasons(tmp_path):
    from gpuediff.settings import Structures

    (tmp_path / "broken.cif").write_text("data_broken")
    run = Run(structures=Structures(source="cif", path=tmp_path))
    with pytest.raises(InvalidLibrary, match=r"no structure of source 'cif' can be simulated: 1 x "):
        workflow.simulate(run, tmp_path / "library.h5")
