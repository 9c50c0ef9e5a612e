"""What a person is told about a pattern library."""

import io

import pytest
from rich.console import Console

from gpuediff.cli.library import library_data, library_table, not_default, reasons_counted
from gpuediff.crystals.sources import Skipped
from gpuediff.library import writer
from gpuediff.library.reader import Library
from gpuediff.settings import Orientations, Simulation
from tests.library import fakes

LONG = (
    "its primitive cell has 13 sites where its centring wants 12, which no crystal of this space group can have at all"
)


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "simulate_crystal", fakes.fake_patterns)
    skipped = [Skipped(f"out-{index}", f"left out: conventional cell of {1100 + index} Å³") for index in range(12)]
    skipped.append(Skipped("odd", LONG))
    path = tmp_path / "library.h5"
    writer.build_library(path, fakes.a_run(precision="float64"), fakes.crystals(12), skipped)
    with Library(path) as opened:
        yield opened


def shown(library, width=80):
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(library_table(library))
    return text.getvalue()


def test_counts_agree_with_the_library(library):
    text = shown(library)
    assert f"at most {library.peak_counts.max()}" in text
    assert "not the default     precision = float64" in text
    assert "skipped structures  14" in text  # one crystal of twelve fails in the simulation
    (cubic,) = (line for line in text.splitlines() if "│ cubic" in line)
    assert [cell.strip() for cell in cubic.split("│")[1:5]] == ["cubic", "2", "1", "10"]
    assert library_data(library)["peaks_of_pattern"]["max"] == library.peak_counts.max()


def test_a_narrow_terminal_gets_whole_reasons_and_no_long_line(library):
    text = shown(library)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()[1:]) <= 80  # the first line is the path
    assert LONG in " ".join(text.split())
    assert "12 × left out: conventional cell of 1100 .. 1111 Å³" in text


def test_reasons_that_differ_in_numbers_are_one_with_the_range():
    reasons = [
        "cell of 3000 Å³, above 1000 Å³",
        "cell of 1200.5 Å³, above 1000 Å³",
        "element Xx2 # 5",
        "element Xx2 # 6",
        "no atoms",
    ]
    assert reasons_counted(reasons) == {
        "cell of 1200.5 .. 3000 Å³, above 1000 Å³": 2,
        "element Xx2 # 5": 1,
        "element Xx2 # 6": 1,
        "no atoms": 1,
    }


def test_settings_that_are_not_the_default_are_named():
    assert not_default(Simulation(thicknesses=(20.0,), g_max=1.5, orientations=Orientations(count=3))) == {}
    assert not_default(Simulation(scattering="py4dstem", displacement=0.1)) == {
        "displacement": 0.1,
        "scattering": "py4dstem",
    }
