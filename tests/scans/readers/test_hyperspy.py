import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuediff.errors import InvalidScan
from gpuediff.scans.readers import read_scan

ORACLE = Path(__file__).resolve().parents[2] / "oracle/hyperspy"
EXPERIMENT = "Experiments/__unnamed__"
VECTORS = f"{EXPERIMENT}/metadata/VectorMetadata"


@pytest.fixture
def edited(tmp_path):
    """Copy an oracle file, and hand out its experiment for editing."""

    def edit(change, name="vectors.hspy"):
        path = shutil.copyfile(ORACLE / name, tmp_path / name)
        with h5py.File(path, "a") as file:
            change(file)
        return path

    return edit


def named(columns, units):
    """Make a change of a file: other names and units of the columns."""

    def change(file):
        for name, values in (("column_names", columns), ("units", units)):
            del file[VECTORS][f"_list_{name}"]
            file[VECTORS].create_dataset(
                f"_list_{name}", data=np.array(values, dtype=object), dtype=h5py.string_dtype()
            )

    return change


def check_against_pyxem(scan, per_unit):
    expected = np.load(ORACLE / "vectors.npz")
    assert scan.shape == (3, 4)
    np.testing.assert_array_equal(scan.peaks.counts, expected["counts"])
    np.testing.assert_allclose(scan.peaks.qx, expected["kx"] * per_unit, rtol=1e-6)
    np.testing.assert_allclose(scan.peaks.qy, expected["ky"] * per_unit, rtol=1e-6)
    np.testing.assert_array_equal(scan.peaks.intensity, expected["intensity"].astype(np.float32))


class TestAgainstPyxem:
    def test_vectors_in_inverse_nanometres_become_inverse_angstrom(self):
        scan = read_scan(ORACLE / "vectors.hspy")
        check_against_pyxem(scan, 0.1)
        assert scan.calibration == {"pixel_size": "0.1 Å⁻¹ (unit of the file: k_nm^-1)"}
        assert scan.step_size == pytest.approx(25.0)

    def test_a_position_where_the_peak_finder_found_nothing_is_empty(self):
        assert read_scan(ORACLE / "vectors.hspy").peaks.counts[2 * 4 + 1] == 0

    def test_a_zarr_archive_and_a_zarr_folder_hold_the_same(self, tmp_path):
        pytest.importorskip("zarr")
        check_against_pyxem(read_scan(ORACLE / "vectors.zspy"), 0.1)
        folder = tmp_path / "vectors.zspy"
        with zipfile.ZipFile(ORACLE / "vectors.zspy") as archive:
            archive.extractall(folder)
        check_against_pyxem(read_scan(folder), 0.1)

    def test_blocks_of_one_row_give_the_same(self, monkeypatch):
        monkeypatch.setattr("gpuediff.scans.readers.reading.POSITIONS_PER_BLOCK", 1)
        check_against_pyxem(read_scan(ORACLE / "vectors.hspy"), 0.1)

    def test_vectors_in_pixels_need_a_pixel_size(self):
        with pytest.raises(InvalidScan, match=r"positions in 'px' and 'px'.*pass --pixel-size"):
            read_scan(ORACLE / "pixels.hspy")
        check_against_pyxem(read_scan(ORACLE / "pixels.hspy", pixel_size=0.05), 0.1)  # 0.5 nm⁻¹ a pixel

    @pytest.mark.parametrize(
        ("unit", "per_unit"),
        [
            ("k_A^-1", 1),
            ("$A^{-1}$", 1),
            (r"$\AA^{-1}$", 1),
            ("1 / Å", 1),
            ("1/nm", 0.1),
            ("nm$^{-1}$", 0.1),
            ("q_A^-1", 1 / (2 * np.pi)),
            ("q_nm^-1", 0.1 / (2 * np.pi)),
        ],
    )
    def test_units_that_pyxem_and_hyperspy_write(self, edited, unit, per_unit):
        path = edited(named(["ky", "kx", "intensity"], [unit, unit, "a.u."]))
        with h5py.File(path, "a") as file:  # so small that they could be in any of the units
            data = file[f"{EXPERIMENT}/data"]
            for position in np.ndindex(data.shape):
                vectors = data[position].reshape(-1, 3)
                vectors[:, :2] /= 10
                data[position] = vectors.reshape(-1)
        check_against_pyxem(read_scan(path), per_unit / 10)

    def test_columns_are_found_by_name(self, edited):
        swapped = read_scan(edited(named(["qx", "qy", "intensity"], ["nm^-1", "nm^-1", "a.u."])))
        expected = np.load(ORACLE / "vectors.npz")
        np.testing.assert_allclose(swapped.peaks.qx, expected["ky"] / 10, rtol=1e-6)

    def test_columns_without_names_are_in_the_order_of_pyxem_and_the_scan_says_so(self, edited):
        scan = read_scan(edited(named(["<undefined>", "<undefined>", "intensity"], ["nm^-1", "nm^-1", "a.u."])))
        check_against_pyxem(scan, 0.1)
        assert "taken as rows and columns of the detector" in scan.note

    def test_a_line_scan_is_a_scan_of_one_row(self, edited):
        def keep_one_row(file):
            group = file[EXPERIMENT]
            for name in ("data", "_ragged_shapes_data"):
                rows = group[name][0]
                element = h5py.check_vlen_dtype(group[name].dtype)
                del group[name]
                made = group.create_dataset(name, rows.shape, h5py.vlen_dtype(element))
                for index, values in enumerate(rows):
                    made[index] = values

        scan = read_scan(edited(keep_one_row))
        assert scan.shape == (1, 4)
        assert scan.peaks.counts.tolist() == [1, 1, 3, 4]


class TestRefusals:
    def refusal(self, path, **options):
        with pytest.raises(InvalidScan) as caught:
            read_scan(path, **options)
        assert str(caught.value).startswith(f"{path}: ")
        return str(caught.value)

    def test_vectors_without_intensities(self):
        message = self.refusal(ORACLE / "no_intensity.hspy")
        assert "no intensities (columns: ky, kx): save vectors with intensities" in message
        assert "get_diffraction_vectors" in message

    def test_vectors_of_pyxem_before_its_columns_had_names(self, edited):
        def forget(file):
            del file[VECTORS]["_list_column_names"]

        assert "no intensities (it names no columns)" in self.refusal(edited(forget))

    def test_one_list_without_probe_positions(self):
        assert "one list of vectors, without probe positions" in self.refusal(ORACLE / "flat.hspy")

    def test_a_signal_that_is_no_vectors(self, edited):
        def as_images(file):
            file[f"{EXPERIMENT}/metadata/Signal"].attrs["signal_type"] = "electron_diffraction"

        message = self.refusal(edited(as_images))
        assert "no diffraction vectors; it holds: __unnamed__ (electron_diffraction): make them with" in message

    def test_several_signals_are_listed_and_one_is_chosen(self, edited):
        path = edited(lambda file: file.copy(EXPERIMENT, "Experiments/second"))
        assert "pass --dataset with one of: __unnamed__, second" in self.refusal(path)
        assert "no dataset 'third'; the file holds: __unnamed__, second" in self.refusal(path, dataset="third")
        check_against_pyxem(read_scan(path, dataset="second"), 0.1)

    def test_a_unit_that_is_no_reciprocal_length(self, edited):
        path = edited(named(["ky", "kx", "intensity"], ["mrad", "mrad", "a.u."]))
        assert "positions in 'mrad' and 'mrad', not in a reciprocal length" in self.refusal(path)

    def test_axes_in_two_units(self, edited):
        path = edited(named(["ky", "kx", "intensity"], ["nm^-1", "A^-1", "a.u."]))
        assert "positions in 'A^-1' and 'nm^-1'" in self.refusal(path)

    def test_a_unit_that_cannot_be_true(self, edited):
        path = edited(named(["ky", "kx", "intensity"], ["A^-1", "A^-1", "a.u."]))
        assert "the unit is 'A^-1', but peaks as far out as 7.433 cannot be Å⁻¹" in self.refusal(path)

    def test_columns_that_say_nothing(self, edited):
        path = edited(named(["kx", "width", "intensity"], ["nm^-1", "nm^-1", "a.u."]))
        assert "columns kx, width, intensity: expected one of x, kx, qx, one of y, ky, qy" in self.refusal(path)

    def test_more_units_than_columns(self, edited):
        path = edited(named(["ky", "kx", "intensity"], ["nm^-1", "nm^-1", "a.u.", "nm"]))
        assert "3 column_names and 4 units" in self.refusal(path)

    def test_vectors_that_do_not_fit_their_shape(self, edited):
        def cut(file):
            file[f"{EXPERIMENT}/data"][1, 0] = np.ones(5)

        assert "probe position 4: 5 values of float64 as vectors of shape (5, 3)" in self.refusal(edited(cut))

    def test_vectors_of_fewer_columns_than_named(self, edited):
        def cut(file):
            file[f"{EXPERIMENT}/data"][1, 0] = np.ones(4)
            file[f"{EXPERIMENT}/_ragged_shapes_data"][1, 0] = np.array([2, 2])

        assert "probe position 4: vectors of 2 columns" in self.refusal(edited(cut))

    def test_a_scan_of_three_dimensions(self, edited):
        def deepen(file):
            group = file[EXPERIMENT]
            for name in ("data", "_ragged_shapes_data"):
                element = h5py.check_vlen_dtype(group[name].dtype)
                del group[name]
                group.create_dataset(name, (2, 3, 4), h5py.vlen_dtype(element))

        assert "vectors of shape (2, 3, 4)" in self.refusal(edited(deepen))

    def test_a_file_cut_off_while_copying(self, tmp_path):
        path = tmp_path / "cut.hspy"
        path.write_bytes((ORACLE / "vectors.hspy").read_bytes()[:20_000])
        assert "cut off" in self.refusal(path)

    def test_zspy_without_zarr_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "zarr", None)
        assert ".zspy files need zarr 2: pip install 'zarr<3', or save as .hspy" in self.refusal(
            ORACLE / "vectors.zspy"
        )

    def test_zspy_with_a_zarr_that_cannot_read_it(self, monkeypatch):
        class Zarr3:
            __version__ = "3.1.0"

        monkeypatch.setitem(sys.modules, "zarr", Zarr3)
        assert "zarr 3.1.0 cannot read the ragged arrays" in self.refusal(ORACLE / "vectors.zspy")

    def test_a_zarr_folder_copied_in_part(self, tmp_path):
        pytest.importorskip("zarr")
        folder = tmp_path / "vectors.zspy"
        with zipfile.ZipFile(ORACLE / "vectors.zspy") as archive:
            archive.extractall(folder)
        (chunk,) = (part for part in (folder / EXPERIMENT / "data").iterdir() if part.name != ".zarray")
        chunk.unlink()
        assert "no vectors stored for probe position 0: the folder was copied in part" in self.refusal(folder)
        shutil.rmtree(folder / EXPERIMENT / "data")
        assert "cannot be read" in self.refusal(folder)
