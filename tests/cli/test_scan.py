"""What a person and a script are told about a mapped scan."""

import json

import numpy as np
import pytest

from gpuediff.cli.scan import map_and_show
from gpuediff.cli.screen import Screen
from tests.scans.fakes import SYSTEMS, FakeHierarchy, uniform_scan

SCAN = uniform_scan(np.array([[-1, 2, 2], [1, 1, 2]]), 0.4)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """What is written has its own tests."""
    monkeypatch.setattr("gpuediff.cli.scan.write_scan_report", lambda folder, *_, **__: [folder / "scan.html"])


def shown_and_data(folder, capsys, **options):
    """Return the table for a person and the JSON for a script."""
    map_and_show(SCAN, FakeHierarchy(), folder, Screen(), **options)
    table = capsys.readouterr().out
    map_and_show(SCAN, FakeHierarchy(), folder, Screen(as_json=True), **options)
    return table, json.loads(capsys.readouterr().out, parse_constant=lambda name: f"{name} is no JSON")


def test_shares_add_up(tmp_path, capsys):
    table, data = shown_and_data(tmp_path, capsys, filter_size=1)
    assert data["filtered_fractions"] == {"monoclinic": 0.0, "hexagonal": 0.4, "cubic": 0.6}
    assert "60.0%" in table
    assert data["files"] == [str(tmp_path / "scan.html")]


def test_where_nothing_is_labelled_there_are_no_shares(tmp_path, capsys):
    table, data = shown_and_data(tmp_path, capsys, difference_confidence_min=1.0)
    assert data["filtered_fractions"] == dict.fromkeys(SYSTEMS)
    assert data["particles"] == 0
    assert "nan" not in table
    for system in SYSTEMS:
        (line,) = (line for line in table.splitlines() if system in line)
        assert "–" in line
