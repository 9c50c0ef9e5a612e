"""The doctor tells what is there and what is not."""

from gpuediff import __version__, doctor


def test_the_report_names_versions_hardware_and_the_path_taken():
    report = doctor.examine()
    assert report["gpuediff"] == __version__
    assert report["cores"] >= 1
    assert report["memory_gib"] > 0
    assert report["packages"]["numpy"]
    assert "computing on the CPU" in report["path"]


def test_a_missing_package_is_reported_as_missing(monkeypatch):
    monkeypatch.setattr(doctor, "OTHER_PACKAGES", ("no-such-package",))
    assert doctor.examine()["packages"]["no-such-package"] is None
