import dataclasses

import numpy as np
import pytest

from gpuediff.scans.export import read_maps
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.maps import Status
from gpuediff.scans.particles import find_particles
from gpuediff.scans.report import write_scan_report
from tests.scans.fakes import FakeHierarchy, uniform_scan

PICTURES = {
    *("systems", "space_groups", "confidence", "trust", "lattice", "lattice_intervals", "lattice_histograms"),
    *("fractions", "virtual_images", "particles", "patterns"),
}


@pytest.fixture(scope="module")
def mapped():
    system = np.array([[2, 2, 2, -1], [2, 2, 1, 1], [2, 1, 1, 1]])
    scan, hierarchy = uniform_scan(system, 0.4, step_size=10.0), FakeHierarchy()
    maps = map_scan(scan, hierarchy, filter_size=1)
    return scan, maps, find_particles(scan, maps, hierarchy, size_min=2)


def test_everything_that_is_named_is_there(mapped, tmp_path):
    scan, maps, particles = mapped
    written = write_scan_report(tmp_path, scan, maps, particles, details={"model": "runs/a-model"})
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{name}.png" for name in PICTURES}
    assert "runs/a-model" in (tmp_path / "scan.html").read_text(encoding="utf-8")
    np.testing.assert_array_equal(read_maps(tmp_path / "maps.h5").filtered_system, maps.filtered_system)


def test_an_older_report_leaves_nothing_behind_that_is_not_of_the_new_one(mapped, tmp_path):
    scan, maps, particles = mapped
    write_scan_report(tmp_path, scan, maps, particles, pdf=True)
    assert (tmp_path / "figures" / "trust.pdf").exists()
    unknown = np.full(maps.shape, np.nan, dtype=np.float32)
    nothing = dataclasses.replace(
        maps,
        probability=unknown,
        several_grains=unknown,
        filtered_system=np.full(maps.shape, -1, dtype=np.int16),
        status=np.full_like(maps.status, Status.BELOW_CONFIDENCE),
    )
    written = write_scan_report(tmp_path, scan, nothing, find_particles(scan, nothing, FakeHierarchy()))
    assert not (tmp_path / "maps.ang").exists()
    assert "maps.ang" not in {path.name for path in written}
    left = {path.name for path in (tmp_path / "figures").iterdir()}
    assert left == {f"{name}.png" for name in PICTURES - {"trust", "patterns"}}
