import gzip
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidScan
from gpuediff.scans.readers import read_scan
from tests.strategies import peak_batches

HEAD = "row,column,qx,qy,intensity\n"
PEAKS = "0,0,0.0,0.0,9\n0,0,0.5,0.4,1\n0,0,-0.5,-0.4,1\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="scan.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def as_table(peaks, columns):
    position = peaks.pattern_of_peak
    return pd.DataFrame(
        {
            "row": position // columns,
            "column": position % columns,
            "qx": peaks.qx,
            "qy": peaks.qy,
            "intensity": peaks.intensity,
        }
    )


class TestRoundTrips:
    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        peaks=peak_batches(include_empty=True).filter(lambda peaks: len(peaks.qx) > 0),
        columns=st.integers(1, 3),
        parquet=st.booleans(),
        seed=st.integers(0, 2**32 - 1),
        per_batch=st.sampled_from([1, 7, 1000]),
    )
    def test_rows_in_any_order_come_back_as_the_patterns_they_are_of(
        self, tmp_path, monkeypatch, peaks, columns, parquet, seed, per_batch
    ):
        monkeypatch.setattr("gpuediff.scans.readers.tables.ROWS_PER_BATCH", per_batch)
        monkeypatch.setattr("gpuediff.scans.readers.tables._BYTES_PER_BATCH", 60 + per_batch)
        table = as_table(peaks, columns)
        # Positions are mixed; peaks of one position keep their order
        rng = np.random.default_rng(seed)
        position = rng.permutation(np.repeat(np.arange(len(peaks)), peaks.counts))
        rank = np.argsort(np.argsort(position, kind="stable"), kind="stable")
        table = table.iloc[rank]
        if parquet:
            path = tmp_path / "scan.parquet"
            table.to_parquet(path, index=False, row_group_size=max(1, per_batch))
        else:
            path = tmp_path / "scan.csv"
            table.to_csv(path, index=False)
        scan = read_scan(path, pixel_size=1.0, centre=(0.0, 0.0))
        rows, width = scan.shape
        there = np.zeros(len(peaks) + columns, np.int64)
        there[: len(peaks)] = peaks.counts
        for row, column in np.ndindex(rows, width):
            assert scan.peaks.counts[row * width + column] == (there[row * columns + column] if column < columns else 0)
        for name in ("qx", "qy", "intensity"):
            np.testing.assert_array_equal(getattr(scan.peaks, name), getattr(peaks, name))

    def test_a_gzipped_table_is_a_table(self, write):
        scan = read_scan(write(HEAD + PEAKS, "scan.csv.gz"))
        np.testing.assert_allclose(scan.peaks.qx, [0, 0.5, -0.5])

    def test_the_suffix_does_not_matter(self, write):
        assert read_scan(write(HEAD + PEAKS, "peaks.txt")).shape == (1, 1)


class TestWhatStandsBesideTheRows:
    def test_shape_and_step_size_stand_before_the_head_of_a_csv(self, write):
        scan = read_scan(write(f"# shape: 4, 7\n# step_size: 25\n# anything else\n{HEAD}{PEAKS}"))
        assert scan.shape == (4, 7)
        assert scan.step_size == 25.0
        assert scan.note == ""
        np.testing.assert_array_equal(scan.peaks.counts, [3] + [0] * 27)

    def test_shape_and_step_size_stand_in_the_metadata_of_parquet(self, tmp_path):
        columns = zip(HEAD.strip().split(","), [[0, 0], [0, 1], [0.0, 0.1], [0.0, 0.1], [1.0, 2.0]], strict=True)
        table = pa.table(dict(columns)).replace_schema_metadata({"shape": "2, 3", "step_size": "8.5"})
        pa.parquet.write_table(table, tmp_path / "scan.parquet")
        scan = read_scan(tmp_path / "scan.parquet")
        assert scan.shape == (2, 3)
        assert scan.step_size == 8.5

    def test_without_a_shape_it_ends_at_the_largest_row_and_column_and_the_scan_says_so(self, write):
        scan = read_scan(write(HEAD + PEAKS + "2,1,0,0,1\n1,4,0,0,1\n"))
        assert scan.shape == (3, 5)
        assert scan.note == "the table states no shape: 3 x 5 taken from its largest row and column"

    @pytest.mark.parametrize("names", [("Rx", "Ry"), ("scan_y", "scan_x")])
    def test_rows_and_columns_have_the_names_of_py4dstem_and_of_scans_too(self, write, names):
        scan = read_scan(write(HEAD.replace("row,column", ",".join(names)) + "2,1,0,0,1\n"))
        assert scan.shape == (3, 2)

    def test_further_columns_are_no_obstacle(self, write):
        scan = read_scan(write("name,row,column,qx,qy,intensity\nA,0,0,0,0,1\nB,0,0,0.5,0.1,2\n"))
        np.testing.assert_array_equal(scan.peaks.intensity, [1, 2])

    def test_pixels_are_calibrated_by_what_the_user_says(self, write):
        path = write(HEAD + "0,0,64,63,9\n0,1,89,88,1\n")
        with pytest.raises(InvalidScan, match=r"peaks as far out as 125\.2 cannot be Å⁻¹: pass --pixel-size"):
            read_scan(path)
        scan = read_scan(path, pixel_size=0.02, centre=(64, 63))
        np.testing.assert_allclose(scan.peaks.qy, [0, 0.5])
        assert scan.calibration["origin"].endswith("(given by the user)")

    def test_values_that_are_not_finite_are_kept_for_the_map_to_report(self, write):
        scan = read_scan(write(HEAD + PEAKS + "0,1,nan,0,1\n0,1,inf,0,1\n0,1,0,0,NaN\n"))
        assert np.isnan(scan.peaks.qx[3])
        assert np.isinf(scan.peaks.qx[4])
        assert np.isnan(scan.peaks.intensity[5])


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("row,column,qx,qy\n0,0,0,0\n", r"no column intensity \(found: row, column, qx, qy\)"),
            (
                "pattern,qx,qy,intensity\nA,0,0,1\n",
                r"no column row, column .*a table of patterns that are not of a scan is read by `gpuediff predict`",
            ),
            ("row,Rx,column,qx,qy,intensity\n0,0,0,0,0,1\n", "columns row and Rx both say row"),
            (HEAD, "no peaks: the table has a head and no rows"),
            (HEAD + "0,0,0,0,1\n-1,0,0,0,1\n", r"row 2: row = -1: expected 0 \.\."),
            ("# shape: 2, 3\n" + HEAD + PEAKS + "1,3,0,0,1\n", r"row 4: column = 3: expected 0 \.\. 2"),
            (HEAD + "0,5000000000,0,0,1\n", r"row 1: column = 5000000000: expected 0 \.\. 999999"),
            (HEAD + "900000,900000,0,0,1\n", "rows up to 900000 and columns up to 900000: a scan has 20,000,000"),
            (HEAD + "0,0.5,0,0,1\n", r"cannot be read as a table: .*'0\.5'"),
            (HEAD + "0,0,0,zero,1\n", r"cannot be read as a table: .*'zero'"),
            (HEAD + PEAKS + "0,0,,0,1\n", "row 4: qx is empty: expected a number"),
            (HEAD + PEAKS + ",0,0,0,1\n", "row 4: row is empty: expected a number"),
            (HEAD + "0,0,0,0\n", "cannot be read as a table: .*Expected 5 columns, got 4"),
            ("# shape: 2\n" + HEAD + PEAKS, "shape = '2': expected two integers, ny and nx"),
            ("# shape: 0, 4\n" + HEAD + PEAKS, "shape = 0, 4: expected ny and nx > 0"),
            ("# step_size: fine\n" + HEAD + PEAKS, "step_size = 'fine': expected a number > 0, Å"),
            ("# step_size: -3\n" + HEAD + PEAKS, "step_size = '-3'"),
            ("# shape: 1, 1\n", "no head: expected the columns row, column, qx, qy, intensity"),
            (HEAD + "0,0,0.5,0.5,1\n0,0,0.9,0.5,1\n", "the peaks do not lie around zero"),
        ],
    )
    def test_tables_that_are_no_scan(self, write, text, message):
        path = write(text)
        with pytest.raises(InvalidScan, match=message) as caught:
            read_scan(path)
        assert str(caught.value).startswith(f"{path}: ")

    def test_a_dataset_cannot_be_chosen(self, write):
        with pytest.raises(InvalidScan, match="holds one set of peaks: leave out --dataset peaks"):
            read_scan(write(HEAD + PEAKS), dataset="peaks")

    def test_columns_of_parquet_that_are_no_numbers(self, tmp_path):
        path = tmp_path / "scan.parquet"
        frame = pd.DataFrame({"row": [0.0], "column": [0], "qx": [0.0], "qy": [0.0], "intensity": [1.0]})
        frame.to_parquet(path)
        with pytest.raises(InvalidScan, match="column row is double: expected integers"):
            read_scan(path)
        frame.assign(row=0, qx="a").to_parquet(path)
        with pytest.raises(InvalidScan, match=r"column qx is (large_)?string: expected real numbers"):
            read_scan(path)

    @pytest.mark.parametrize("fraction", [0.2, 0.6, 0.98])
    def test_files_cut_off_while_copying(self, tmp_path, fraction):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({name: rng.integers(0, 9, 5000) for name in ("row", "column")})
        frame[["qx", "qy", "intensity"]] = rng.uniform(-1, 1, (5000, 3))
        for name in ("scan.parquet", "scan.csv.gz"):
            path = tmp_path / name
            frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
            whole = path.read_bytes()
            path.write_bytes(whole[: int(len(whole) * fraction)])
            with pytest.raises(InvalidScan, match="cannot be read"):
                read_scan(path)

    def test_without_pyarrow_it_says_how_to_get_it(self, write, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
        with pytest.raises(InvalidScan, match="tables need PyArrow"):
            read_scan(write(HEAD + PEAKS))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), garbage=st.binary(min_size=1, max_size=20), parquet=st.booleans())
def test_damage_is_read_or_refused_and_never_anything_else(tmp_path, place, garbage, parquet):
    path = tmp_path / "scan"
    frame = pd.DataFrame({"row": [0, 0, 1], "column": [0, 1, 0], "qx": 0.0, "qy": 0.0, "intensity": 1.0})
    frame.to_parquet(path) if parquet else frame.to_csv(path, index=False)
    whole = bytearray(path.read_bytes())
    start = int(place * (len(whole) - 1))
    whole[start : start + len(garbage)] = garbage
    path.write_bytes(whole)
    try:
        scan = read_scan(path)
    except InvalidScan:
        return
    assert len(scan.peaks) == scan.shape[0] * scan.shape[1]
