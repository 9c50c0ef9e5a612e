"""Tables of peaks are read whole or refused with row and column."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuediff.errors import GpuediffError, InvalidPeaks
from gpuediff.hierarchy.flags import Flags
from gpuediff.peaks import PeakBatch
from gpuediff.tables import (
    check_table_path,
    doubts,
    prediction_records,
    read_peak_table,
    write_predictions,
    write_table,
)


def table(**columns):
    rows = {"pattern": ["a", "b", "a"], "qx": [0.0, 0.1, 0.2], "qy": [0.0, 0.0, 0.1], "intensity": [1, 2, 3]}
    return pd.DataFrame(rows | columns)


@pytest.mark.parametrize("name", ["peaks.csv", "peaks.csv.gz", "peaks.parquet"])
def test_patterns_keep_their_names_and_peaks(tmp_path, name):
    file = tmp_path / name
    table().to_parquet(file) if name.endswith("parquet") else table().to_csv(file, index=False)
    names, peaks = read_peak_table(file)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(peaks.counts, [2, 1])
    np.testing.assert_allclose(peaks.pattern(0), [[0, 0.2], [0, 0.1], [1, 3]], rtol=1e-6)


def test_a_pattern_name_that_looks_like_a_number_stays_as_written(tmp_path):
    file = tmp_path / "peaks.csv"
    file.write_text("pattern,qx,qy,intensity\n007,0,0,1\n")
    assert read_peak_table(file)[0] == ["007"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qx": ["x", 0, 0]}, r"row 1: qx = x: expected a finite number"),
        ({"qy": [0, np.inf, 0]}, r"row 2: qy = inf"),
        ({"intensity": [1, 2, -3]}, r"pattern 0, peak 1: .* intensity = -3"),
        ({"pattern": ["a", None, "a"]}, r"row 2: no pattern name"),
    ],
)
def test_an_impossible_value_is_refused_with_its_place(tmp_path, change, message):
    file = tmp_path / "peaks.csv"
    table(**change).to_csv(file, index=False)
    with pytest.raises(InvalidPeaks, match=message):
        read_peak_table(file)


def test_a_missing_column_is_named_beside_those_found(tmp_path):
    file = tmp_path / "peaks.csv"
    table().drop(columns="intensity").to_csv(file, index=False)
    with pytest.raises(InvalidPeaks, match=r"no column intensity \(found: pattern, qx, qy\)"):
        read_peak_table(file)


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "empty.csv", "binary.csv", "binary.parquet"])
def test_a_file_that_is_no_table_is_refused(tmp_path, name):
    file = tmp_path / name
    if name.startswith("empty"):
        file.write_text("")
    elif name.startswith("binary"):
        file.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(InvalidPeaks, match=name):
        read_peak_table(file)


@pytest.mark.parametrize("unit", [10, 60])
def test_positions_in_another_unit_are_refused(tmp_path, unit):
    file = tmp_path / "peaks.csv"
    table(qx=[0, 0.4 * unit, 0]).to_csv(file, index=False)
    with pytest.raises(InvalidPeaks, match="must be in Å⁻¹"):
        read_peak_table(file)


def test_a_table_without_rows_is_refused(tmp_path):
    file = tmp_path / "peaks.csv"
    table().iloc[:0].to_csv(file, index=False)
    with pytest.raises(InvalidPeaks, match="no peaks"):
        read_peak_table(file)


def test_patterns_with_few_peaks_or_no_direct_beam_are_doubted():
    good = np.array([[0, 0, 9], [0.2, 0, 1], [-0.2, 0, 1], [0, 0.2, 1], [0, -0.2, 1]])
    off = good + np.array([0.4, 0, 0])
    assert doubts(PeakBatch.from_lists([good])) == []
    few, off_centre = doubts(PeakBatch.from_lists([good, good[:2], off]))
    assert "1 of 3 patterns have fewer than 5 peaks" in few
    assert "1 of 3 patterns have no direct beam" in off_centre


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(-2, 2, width=32), st.floats(0, 1, width=32)),
        min_size=1,
        max_size=40,
    )
)
def test_every_peak_is_kept(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("fuzz") / "peaks.csv"
    frame = pd.DataFrame(rows, columns=["pattern", "qx", "intensity"]).assign(qy=0.5)
    frame.to_csv(file, index=False)
    names, peaks = read_peak_table(file)
    assert len(peaks.qx) == len(rows)
    for name, (qx, _, intensity) in zip(names, peaks, strict=True):
        own = frame[frame["pattern"] == name]
        np.testing.assert_allclose(qx, own["qx"], rtol=1e-6)
        np.testing.assert_allclose(intensity, own["intensity"], rtol=1e-6)


@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_a_compressed_table_that_is_damaged_is_refused(tmp_path, damage):
    file = tmp_path / "peaks.csv.gz"
    pd.concat([table()] * 1000).assign(qx=np.random.default_rng(0).random(3000)).to_csv(file, index=False)
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[:half] + (b"" if damage == "cut short" else bytes(64) + content[half + 64 :]))
    with pytest.raises(InvalidPeaks, match=r"peaks\.csv\.gz: cannot be read as a table"):
        read_peak_table(file)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_table_comes_back_as_it_was_written_and_alone(tmp_path, name):
    file = tmp_path / name
    file.write_text("an older one")
    write_table(table(), file)
    back = pd.read_parquet(file) if name.endswith("parquet") else pd.read_csv(file)
    pd.testing.assert_frame_equal(back, table())
    assert list(tmp_path.iterdir()) == [file]


def test_answers_without_lattice_or_probability_are_empty_cells_and_null(tmp_path):
    from tests.evaluation.cases import cells, prediction

    lattice = cells(2)
    lattice[0] = np.nan
    answers = prediction(("cubic", "tetragonal"), ["cubic", "tetragonal"], lattice=lattice)
    records = prediction_records(["p", "q"], answers)
    assert [record["a"] for record in records] == [None, 4.0]
    assert [record["a_low"] for record in records] == [None, 4.0]
    assert "novelty" not in records[0]
    flags = Flags(np.array([0.25, 0.5], np.float32), np.array([0.75, np.nan], np.float32))
    records = prediction_records(["p", "q"], answers, flags=flags)
    assert [record["several_grains"] for record in records] == [0.25, 0.5]
    assert [record["novelty"] for record in records] == [0.75, None]
    assert [record["probability"] for record in records] == [None, None]
    json.dumps(records, allow_nan=False)
    for name, read in (("out.csv", pd.read_csv), ("out.parquet", pd.read_parquet)):
        for decided in (None, np.array([False, False]), np.array([False, True])):
            write_predictions(tmp_path / name, ["p", "q"], answers, decided)
            table = read(tmp_path / name)
            assert table["a"].dtype == table["probability"].dtype == np.float64
            assert np.isnan(table["a"][0])
            assert ("status" in table) == (decided is not None)


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path):
    file = tmp_path / "out.parquet"
    write_table(table(), file)
    with pytest.raises(ValueError, match="Duplicate column names"):
        write_table(pd.concat([table(), table()], axis=1), file)
    pd.testing.assert_frame_equal(pd.read_parquet(file), table())
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("answers.xls", r"answers\.xls: unknown kind of table: name it \.csv or \.parquet"),
        ("answers", r"name it \.csv or \.parquet"),
        ("absent/answers.csv", r"there is no folder .*absent"),
    ],
)
def test_a_place_where_no_table_can_be_written_is_refused_before_the_work(tmp_path, name, message):
    with pytest.raises(GpuediffError, match=message):
        check_table_path(tmp_path / name)
    with pytest.raises(GpuediffError, match=message):
        write_table(table(), tmp_path / name)
    with pytest.raises(GpuediffError, match=message):
        write_predictions(tmp_path / name, [], None)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_parquet_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    file = tmp_path / "peaks.parquet"
    for refused in (check_table_path, read_peak_table, lambda path: write_table(table(), path)):
        with pytest.raises(GpuediffError, match=r"peaks\.parquet: Parquet needs PyArrow.*pip install 'pyarrow<25'"):
            refused(file)
    write_table(table(), tmp_path / "peaks.csv")
