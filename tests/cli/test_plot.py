"""One material on a picture, without a library."""

import numpy as np
import pytest

from gpuediff.cli.plot import CURVE_STEP, curve_thicknesses
from gpuediff.settings import Simulation
from tests.cli.test_app import call

CONFIG = """
[structures]
source = "prototypes"
sample = 2

[simulation]
g_max = 1.0

[simulation.orientations]
count = 3
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def test_a_material_that_is_not_in_the_sample_becomes_a_picture_and_no_library(config, tmp_path, capsys):
    assert call("simulate", config, "-f", tmp_path, "--plot", "AB_cF8_225_a_b-NaCl", "--orientation", 2) == 0
    picture = tmp_path / "plots" / "AB_cF8_225_a_b-NaCl-orientation-2.png"
    assert f"wrote {picture}" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"run.toml", "plots"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "AB_cF8_225_a_b-NaCI"], "the closest ids are AB_cF8_225_a_b-NaCl"),
        (["--plot", "NaCl", "--orientation", "3"], "--orientation 3: the run has 3, from 0 to 2"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(config, tmp_path, capsys, options, message):
    assert call("simulate", config, "-f", tmp_path, *options) == 1
    told = capsys.readouterr().err
    assert message in told
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize("own", [(200.0,), (33.0, 77.7, 2100.0), tuple(np.arange(20.0, 2001.0, 20.0)), (1.0,)])
def test_the_curves_are_fine_enough_for_the_fastest_beam_and_hold_the_thickness_of_the_pattern(own):
    settings = Simulation(thicknesses=own)
    thicknesses, index = curve_thicknesses(settings)
    assert thicknesses[index] == own[len(own) // 2]
    assert thicknesses[-1] == max(2000.0, own[-1])
    assert np.diff([0.0, *thicknesses]).max() <= CURVE_STEP <= 1 / (2 * settings.excitation_error_max)
    assert (np.diff(thicknesses) > 0).all()
