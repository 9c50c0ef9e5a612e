"""Answers fit the terminal that they are shown on."""

import io

import numpy as np
import pytest
from rich.console import Console

from gpuediff.cli import show
from gpuediff.cli.scan import _particles
from gpuediff.hierarchy.prediction import Prediction

SYSTEMS = ("orthorhombic", "monoclinic", "cubic", "triclinic")
LATTICE = [
    [10.12, 11.3, 23.4, 90, 90, 90],
    [10.12, 11.3, 13.4, 90, 101.5, 90],
    [4.08, 4.08, 4.08, 90, 90, 90],
    [15.2, 16.1, 17.3, 101.2, 102.3, 103.4],
]


class Particles:
    """As many as there are systems."""

    size = np.array([12345, 55, 3, 2])
    crystal_system = np.array(SYSTEMS)

    def __init__(self, prediction):
        self.by_aggregation = prediction
        self.by_pooling = None

    def __len__(self):
        return len(SYSTEMS)


@pytest.fixture
def prediction():
    ones = np.ones(4)
    return Prediction(
        systems=SYSTEMS,
        system_votes=np.eye(4),
        probability=np.eye(4),
        system_index=np.arange(4),
        confidence=np.array([1, 0.55, 0.07, 0.8]),
        difference_confidence=ones,
        space_group_number=np.array([62, 14, 225, 2]),
        space_group_confidence=np.array([0.5, 1, 0.06, 0.2]),
        space_group_difference_confidence=ones,
        lattice=np.array(LATTICE, dtype=float),
        lattice_low=np.array(LATTICE, dtype=float),
        lattice_high=np.array(LATTICE, dtype=float),
    )


def shown(table, width):
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_an_answer_takes_one_line_and_nothing_is_cut(prediction, width):
    lines = shown(show.predictions(["0", "1", "2", "3"], prediction, title="peaks.csv", width=width), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    (monoclinic,) = (line for line in lines if "monoclinic" in line)
    for part in ("55%", "14", "100%", "10.12", "11.30", "13.40", "101.5"):
        assert part in monoclinic
    (triclinic,) = (index for index, line in enumerate(lines) if "triclinic" in line)
    rest = " ".join(lines[triclinic : triclinic + 2])
    assert all(part in rest for part in ("15.20", "16.10", "17.30", "101.2", "102.3", "103.4"))


def test_a_narrow_terminal_shows_the_free_parameters_only(prediction):
    lines = shown(show.predictions(["0", "1", "2", "3"], prediction, title="peaks.csv", width=80), 80)
    assert any(line.endswith("a 4.08") for line in lines)


def test_what_is_undecided_names_no_system(prediction):
    decided = np.array([True, False, True, True])
    table = show.predictions(["0", "1", "2", "3"], prediction, title="peaks.csv", width=80, decided=decided)
    lines = shown(table, 80)
    (line,) = [line for line in lines if "undecided" in line]
    assert line.split() == ["1", "undecided"]
    assert not any("monoclinic" in line for line in lines)


def test_a_bundle_says_how_far_its_probabilities_can_be_trusted():
    threshold = [{"error_rate": rate, "probability": least} for rate, least in ((0.05, None), (0.1, 0.8), (0.2, 0.5))]
    learned = {"map": {"gamma": 1.5}, "materials": 40, "thresholds": threshold}
    info = {"calibration": {"single": learned, "groups": None}}
    assert show._calibration(info) == "on 40 validation materials; single patterns: gamma 1.50, error rates 0.1, 0.2"
    assert show._calibration({"calibration": None}) == "none (gamma 1): there were no validation materials"


def test_a_long_name_is_wrapped_and_not_cut(prediction):
    name = "a-particle-with-a-name-that-somebody-typed"
    lines = shown(show.predictions([name, "1", "2", "3"], prediction, title="peaks.csv", width=80), 80)
    assert name in "".join(line[:16].strip() for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_particles_fit_too(prediction, width):
    lines = shown(_particles(Particles(prediction), width), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert sum("orthorhombic 100%" in line and "23.40" in line for line in lines) == 1
