"""A person or a script at the command line gets answers, files and exit codes to trust."""

import json
import shutil
import sys

import h5py
import numpy as np
import pandas as pd
import pytest

from gpuediff.cli import main

CONFIG = """
[structures]
source = "prototypes"
sample = 24

[simulation]
g_max = 1.0
thicknesses = [100, 200]

[simulation.orientations]
count = 4

[split]
train_fraction = 0.6

[training]
crystal_system = { trees = 8, depth = 8 }
space_group = { trees = 8, depth = 8 }
lattice = { trees = 8, depth = 8 }
"""


def call(*arguments):
    """Run the command line in this process; returns the exit code."""
    before = sys.argv
    sys.argv = ["gpuediff", *map(str, arguments)]
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder after simulate, train and evaluate."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.toml").write_text(CONFIG)
    for command in ("simulate", "train", "evaluate"):
        options = ["--aggregate", 2] if command == "evaluate" else []
        assert call(command, folder / "run.toml", "--folder", folder, "--quiet", *options) == 0
    return folder


@pytest.fixture(scope="module")
def peak_table(folder):
    """The first patterns of the library as a CSV file."""
    from gpuediff.library.reader import Library

    with Library(folder / "library.h5") as library:
        peaks = library.peaks(200.0, slice(0, 6))
    table = pd.DataFrame(
        {"pattern": peaks.pattern_of_peak, "qx": peaks.qx, "qy": peaks.qy, "intensity": peaks.intensity}
    )
    path = folder / "peaks.csv"
    table.to_csv(path, index=False)
    return path


def test_a_run_leaves_library_model_metrics_and_pictures(folder):
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert metrics["protocol"] == "grid"
    assert 0 <= metrics["single"]["accuracy"] <= 1
    for name in ("confusion.png", "lattice.png"):
        assert (folder / "evaluation" / name).read_bytes().startswith(b"\x89PNG")
    assert (folder / "model" / "manifest.json").exists()


def test_simulating_again_keeps_the_library(folder):
    before = (folder / "library.h5").read_bytes()
    assert call("simulate", folder / "run.toml", "--folder", folder) == 0
    assert (folder / "library.h5").read_bytes() == before


def test_an_interrupted_simulation_says_what_is_kept_and_goes_on(folder, tmp_path, capsys, monkeypatch):
    from gpuediff.library import shards, writer

    monkeypatch.setattr(shards, "SHARD_CRYSTALS", 4)
    real, simulated = writer.simulate_crystal, []

    def pressed_at_the_tenth(*arguments, **memory):
        simulated.append(arguments)
        if len(simulated) == 10:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(writer, "simulate_crystal", pressed_at_the_tenth)
    command = ("simulate", folder / "run.toml", "--folder", tmp_path)
    assert call(*command) == 130
    told = " ".join(capsys.readouterr().err.split())
    assert "interrupted: 2 finished shards are kept in" in told
    assert told.endswith("run the same command again to go on")
    assert call(*command) == 0
    assert "went on where an interrupted simulation stopped" in capsys.readouterr().err
    assert len(simulated) == 10 + 24 - 8


def test_an_interrupt_before_the_first_shard_says_that_nothing_is_kept(folder, tmp_path, capsys, monkeypatch):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpuediff.workflow.simulate", pressed)
    assert call("simulate", folder / "run.toml", "--folder", tmp_path, "--quiet") == 130
    assert "no shard was finished yet, nothing is kept" in capsys.readouterr().err


def test_training_on_a_library_of_another_configuration_is_refused(folder, tmp_path, capsys):
    (tmp_path / "other.toml").write_text(CONFIG.replace("g_max = 1.0", "g_max = 1.1"))
    library = ["--library", folder / "library.h5"]
    assert call("train", tmp_path / "other.toml", *library, "--out", tmp_path / "model") == 1
    assert "simulation.g_max = 1.0 there, 1.1 here" in capsys.readouterr().err


def test_a_name_in_brackets_is_shown_as_it_is(folder, peak_table, tmp_path, capsys):
    table = pd.read_csv(peak_table).assign(pattern="[/grain]")
    table.to_csv(tmp_path / "peaks.csv", index=False)
    assert call("predict", folder / "model", tmp_path / "peaks.csv") == 0
    assert "[/grain]" in capsys.readouterr().out


def test_an_existing_model_is_not_replaced_unasked(folder, capsys):
    assert call("train", folder / "run.toml", "--folder", folder) == 1
    assert "there is a model bundle already" in capsys.readouterr().err


def test_library_info_is_a_table_or_json(folder, capsys):
    assert call("library", "info", folder / "library.h5") == 0
    assert "library.h5" in capsys.readouterr().out
    assert call("library", "info", folder / "library.h5", "--json") == 0
    info = json.loads(capsys.readouterr().out)
    assert info["patterns"] == info["materials"] * 4


def test_library_info_lists_what_was_left_out(tmp_path, capsys):
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / "broken.cif").write_text("data_broken")
    rock_salt = "\n".join(
        [
            "data_NaCl",
            *(f"_cell_length_{axis} 5.64" for axis in "abc"),
            *(f"_cell_angle_{angle} 90" for angle in ("alpha", "beta", "gamma")),
            "_symmetry_space_group_name_H-M 'F m -3 m'",
            "_symmetry_Int_Tables_number 225",
            "loop_",
            *(f"_atom_site_{name}" for name in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")),
            "Na1 Na 0 0 0 1",
            "Cl1 Cl 0.5 0.5 0.5 1",
        ]
    )
    (tmp_path / "cifs" / "salt.cif").write_text(rock_salt)
    (tmp_path / "run.toml").write_text(
        "[structures]\nsource = 'cif'\npath = 'cifs'\n[simulation]\ng_max = 0.8\n[simulation.orientations]\ncount = 1"
    )
    assert call("simulate", tmp_path / "run.toml", "--folder", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["materials"] == 1
    assert call("library", "info", tmp_path / "library.h5", "--skipped", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)) == ["broken"]
    assert call("library", "info", tmp_path / "library.h5", "--skipped") == 0
    assert "broken" in capsys.readouterr().out


def test_model_info_is_json_on_request(folder, capsys):
    assert call("model", "info", folder / "model", "--json") == 0
    assert json.loads(capsys.readouterr().out)


def test_predictions_go_to_the_screen_to_json_and_to_a_table(folder, peak_table, tmp_path, capsys):
    out = tmp_path / "answers.parquet"
    assert call("predict", folder / "model", peak_table, "--out", out) == 0
    assert "crystal system" in capsys.readouterr().out
    assert call("predict", folder / "model", peak_table, "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 6
    table = pd.read_parquet(out)
    assert list(table["crystal_system"]) == [record["crystal_system"] for record in records]
    np.testing.assert_allclose(table["a"], [record["a"] for record in records], rtol=1e-6)


@pytest.fixture
def promising(folder, tmp_path):
    """A copy of the model that keeps to an error rate of 10 % from a probability on that some of the patterns have."""
    model = shutil.copytree(folder / "model", tmp_path / "model")
    manifest = json.loads((model / "manifest.json").read_text())
    learned = manifest["calibration"]["single"]
    assert learned["materials"] > 0
    learned["thresholds"] = [
        {"error_rate": 0.05, "probability": None, "coverage": 0.0},
        {"error_rate": 0.1, "probability": 0.5, "coverage": 0.5},
    ]
    (model / "manifest.json").write_text(json.dumps(manifest))
    return model


def test_what_is_too_doubtful_is_said_to_be_undecided_everywhere(promising, peak_table, tmp_path, capsys):
    command = ("predict", promising, peak_table, "--error-rate", 0.1, "--out")
    tables = {}
    for name in ("answers.csv", "answers.parquet"):
        assert call(*command, tmp_path / name, "--json") == 0
        tables[name] = (pd.read_csv if name.endswith("csv") else pd.read_parquet)(tmp_path / name)
    heard = capsys.readouterr()
    records = json.loads(heard.out.split("\n]\n")[0] + "]")
    undecided = [record["probability"] < 0.5 for record in records]
    assert f"{sum(undecided)} of 6 undecided: their probability is below 0.500" in heard.err
    assert 0 < sum(undecided) < 6
    assert [record["status"] == "undecided" for record in records] == undecided
    for record in records:
        given = record["status"] == "answered"
        for key in ("crystal_system", "space_group_number", "space_group_confidence", "a", "gamma"):
            assert (record[key] is not None) == given
    for table in tables.values():
        assert (table["status"] == "undecided").tolist() == undecided
        assert table["crystal_system"].isna().tolist() == undecided
        assert table["a"].isna().tolist() == undecided
        numbers = [record["space_group_number"] for record in records if record["status"] == "answered"]
        assert table["space_group_number"].dropna().tolist() == numbers
    assert call(*command[:-1]) == 0
    assert capsys.readouterr().out.count("undecided") == sum(undecided)


def test_without_an_error_rate_every_pattern_is_answered_and_there_is_no_status(promising, peak_table, capsys):
    assert call("predict", promising, peak_table, "--json") == 0
    for record in json.loads(capsys.readouterr().out):
        assert "status" not in record
        assert record["crystal_system"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--error-rate", 0.05], "error rate 0.05: no probability promises it"),
        (["--error-rate", 0.07], "error rate 0.07: the model knows 0.05, 0.1"),
        (["--error-rate", 0.1, "--together"], "votes of several have no probability"),
    ],
)
def test_an_error_rate_that_cannot_be_promised_is_an_error(promising, peak_table, options, message, capsys):
    assert call("predict", promising, peak_table, *options) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert message in told


def test_the_validation_side_is_scored_apart_and_said_everywhere(folder, tmp_path, capsys):
    (tmp_path / "library.h5").symlink_to(folder / "library.h5")
    for name in ("model", "evaluation"):
        shutil.copytree(folder / name, tmp_path / name)
    options = ["--folder", tmp_path, "--aggregate", 2, "--side", "validation"]
    assert call("evaluate", folder / "run.toml", *options, "--json") == 0
    validation = json.loads(capsys.readouterr().out)["grid"]
    assert validation["side"] == "validation"
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["side"] == "test"
    page = (tmp_path / "evaluation-validation" / "report.html").read_text(encoding="utf-8")
    assert "These are the validation materials" in page
    assert call("model", "info", tmp_path / "model") == 0
    told = capsys.readouterr().out
    assert "on unseen materials" in told
    assert "on validation materials" in told
    with_classes = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert "classes.png" in with_classes


def test_patterns_of_one_material_give_one_answer_together(folder, peak_table, capsys):
    assert call("predict", folder / "model", peak_table, "--together", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_a_scan_becomes_maps(folder, tmp_path, capsys):
    from gpuediff.library.reader import Library

    file = tmp_path / "scan.h5"
    kind = np.dtype([("qx", "f8"), ("qy", "f8"), ("intensity", "f8")])
    with Library(folder / "library.h5") as library, h5py.File(file, "w") as h5:
        data = h5.create_dataset("4DSTEM/braggpeaks/data", (2, 3), dtype=h5py.vlen_dtype(kind))
        for index, (qx, qy, intensity) in enumerate(library.peaks(200.0, slice(0, 6))):
            pattern = np.zeros(len(qx), kind)
            pattern["qx"], pattern["qy"], pattern["intensity"] = qx, qy, intensity
            data[divmod(index, 3)] = pattern
    wanted = ("--out", tmp_path / "maps", "--library", folder / "library.h5", "--pattern", "1,2", "--pdf")
    assert call("scan", folder / "model", file, *wanted) == 0
    assert {path.suffix for path in (tmp_path / "maps").iterdir()} >= {".h5", ".html", ".png", ".parquet"}
    for name in ("components", "patterns"):
        assert (tmp_path / "maps" / "figures" / f"{name}.pdf").exists()
    capsys.readouterr()
    assert call("scan", folder / "model", file, "--out", tmp_path / "other", "--pattern", "2,0") == 1
    assert "--pattern 2,0: outside the scan of 2 x 3 positions" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_version_is_told(capsys):
    from gpuediff import __version__

    assert call("--version") == 0
    assert capsys.readouterr().out == f"gpuediff {__version__}\n"


def test_doctor_tells_the_path_taken(capsys):
    assert call("doctor", "--json") == 0
    assert "CPU" in json.loads(capsys.readouterr().out)["path"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["simulate", "absent.toml"], 1, "absent.toml: cannot be read"),
        (["library", "info", "absent.h5"], 1, "absent.h5"),
        (["model", "info", "absent"], 1, "absent"),
        (["predict", "absent", "absent.csv"], 1, "absent"),
        (["scan", "absent", "absent.h5"], 1, "absent"),
        (["nonsense"], 2, "nonsense"),
        (["evaluate", "run.toml", "--aggregate", "1"], 2, "aggregate"),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_importing_the_package_stays_cheap():
    import subprocess

    code = "import sys, gpuediff; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(heavy in loaded for heavy in ("'numba'", "'sklearn'", "'pymatgen'", "'matplotlib'", "'cupy'"))
