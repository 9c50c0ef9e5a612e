import importlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpuediff.errors import InvalidScan
from gpuediff.scans.detection.cubes import Cube, Scale, open_cube

ORACLE = Path(__file__).resolve().parents[2] / "oracle/detection"
SHAPE = (3, 5, 12, 16)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 250, SHAPE).astype(np.uint8)


@pytest.fixture
def plain(tmp_path, frames):
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as file:
        file["some/where"] = frames
    return path


def signal(frames):
    """What RosettaSciIO writes: the frames, with axes in nm and 1/nm."""
    names = (("y", "nm", 2.0), ("x", "nm", 2.0), ("dy", "1/nm", 0.2), ("dx", "1/nm", 0.2))
    axes = [
        {"name": name, "units": unit, "scale": scale, "offset": 0.0, "size": size, "navigate": number < 2}
        | {"index_in_array": number, "_type": "UniformDataAxis", "is_binned": False}
        for number, ((name, unit, scale), size) in enumerate(zip(names, frames.shape, strict=True))
    ]
    return {
        "data": frames,
        "axes": axes,
        "metadata": {"General": {"title": "scan"}, "Signal": {"signal_type": ""}},
        "original_metadata": {},
        "attributes": {"_lazy": False, "ragged": False},
        "learning_results": {},
        "models": {},
        "tmp_parameters": {},
        "package_info": "",
        "package": "",
        "package_version": "",
    }


class TestReading:
    @pytest.mark.parametrize(("first", "last"), [(0, 15), (0, 1), (14, 15), (3, 4), (2, 9), (5, 10), (4, 15), (1, 14)])
    def test_any_run_of_frames_is_read_row_by_row(self, plain, frames, first, last):
        with open_cube(plain) as cube:
            assert (len(cube), cube.scan_shape, cube.frame_shape) == (15, (3, 5), (12, 16))
            np.testing.assert_array_equal(cube.frames(first, last), frames.reshape(15, 12, 16)[first:last])

    def test_a_stack_of_frames_is_one_row_unless_said_otherwise(self, tmp_path, frames):
        np.save(tmp_path / "stack.npy", frames.reshape(15, 12, 16))
        with open_cube(tmp_path / "stack.npy") as cube:
            assert cube.scan_shape == (1, 15)
        with open_cube(tmp_path / "stack.npy", scan_shape=(5, 3)) as cube:
            assert cube.scan_shape == (5, 3)
            np.testing.assert_array_equal(cube.frames(4, 8), frames.reshape(15, 12, 16)[4:8])

    def test_npy_is_read_lazily_and_what_comes_back_is_no_memory_map(self, tmp_path, frames):
        np.save(tmp_path / "cube.npy", frames.astype(">u2"))
        with open_cube(tmp_path / "cube.npy") as cube:
            part = cube.frames(0, 7)
            assert isinstance(cube._data, np.memmap)
            assert cube.dtype == np.uint16
        assert not isinstance(part, np.memmap)
        assert part.dtype.isnative
        np.testing.assert_array_equal(part, frames.reshape(15, 12, 16)[:7])

    def test_py4dstem_files_tell_pixel_and_step_size(self):
        with open_cube(ORACLE / "cube.h5") as cube:
            assert cube.scan_shape == (8, 8)
            assert cube.frame_shape == (128, 128)
            assert cube.pixel.in_inverse_angstrom() == pytest.approx(0.0287)
            assert cube.step.in_angstrom() == pytest.approx(15.0)
            assert cube.source.endswith("cube.h5: datacube_root/datacube/data")

    def test_files_of_py4dstem_0_12_and_0_13_are_read_by_their_dimensions(self, tmp_path, frames):
        for version, group in (("12", "4DSTEM_experiment/data/datacubes/datacube_0"), ("13", "4DSTEM/datacube")):
            with h5py.File(tmp_path / f"{version}.h5", "w") as file:
                holder = file.create_group(group)
                holder["data"] = frames
                first = 1 if version == "12" else 0
                for number, (step, unit) in enumerate(((3.0, "nm"), (3.0, "nm"), (0.02, "A^-1"), (0.02, "A^-1"))):
                    if version == "12":
                        holder[f"dim{number + first}"] = step * np.arange(2)
                        holder[f"dim{number + first}"].attrs["units"] = f"[{unit}]"
                if version == "13":
                    calibration = file["4DSTEM"].create_group("calibration")
                    calibration.attrs["py4dstem_class"] = "Calibration"
                    calibration["Q_pixel_size"], calibration["Q_pixel_units"] = 0.02, "A^-1"
                    calibration["R_pixel_size"], calibration["R_pixel_units"] = 3.0, "nm"
            with open_cube(tmp_path / f"{version}.h5") as cube:
                assert cube.pixel.in_inverse_angstrom() == pytest.approx(0.02)
                assert cube.step.in_angstrom() == pytest.approx(30.0)
                np.testing.assert_array_equal(cube.frames(3, 9), frames.reshape(15, 12, 16)[3:9])

    def test_the_file_is_closed_at_the_end(self, plain):
        with open_cube(plain) as cube:
            pass
        with pytest.raises(InvalidScan, match="cannot be read"):
            cube.frames(0, 1)


class TestByRosettaSciIO:
    def test_what_it_writes_as_hspy_is_read_natively(self, tmp_path, frames):
        hspy = pytest.importorskip("rsciio.hspy")
        hspy.file_writer(str(tmp_path / "scan.hspy"), signal(frames))
        with open_cube(tmp_path / "scan.hspy") as cube:
            np.testing.assert_array_equal(cube.frames(3, 9), frames.reshape(15, 12, 16)[3:9])
            assert cube.pixel == Scale(0.2, "1/nm")
            assert cube.pixel.in_inverse_angstrom() == pytest.approx(0.02)
            assert cube.step.in_angstrom() == pytest.approx(20.0)

    def test_what_it_writes_as_blo_is_read_by_it(self, tmp_path, frames):
        pytest.importorskip("skimage", reason="RosettaSciIO reads .blo with scikit-image")
        blockfile = pytest.importorskip("rsciio.blockfile")
        square = frames[..., :12, :12]
        with pytest.warns(UserWarning, match="BLO file expects cm"):
            blockfile.file_writer(str(tmp_path / "scan.blo"), signal(square))
        with open_cube(tmp_path / "scan.blo") as cube:
            np.testing.assert_array_equal(cube.frames(3, 9), square.reshape(15, 12, 12)[3:9])
            assert cube.step.in_angstrom() == pytest.approx(20.0)
            assert cube.pixel.in_inverse_angstrom() is None  # the format's own unit is the centimetre

    def test_frames_with_a_header_as_merlin_writes_them(self, tmp_path):
        pytest.importorskip("rsciio.quantumdetector")
        frames = np.random.default_rng(1).integers(0, 4000, (6, 256, 256)).astype(np.uint16)
        with (tmp_path / "scan.mib").open("wb") as file:
            for number, frame in enumerate(frames, start=1):
                head = f"MQ1,{number:06},00384,01,0256,0256,U16,   1x1,01,2024-01-01 00:00:00.000000,0.001,0,0,0,"
                head += "MQ1A,2024-01-01T00:00:00.000000000Z,1000000ns,12,"
                file.write(head.ljust(384, "\0").encode())
                file.write(frame[::-1].astype(">u2").tobytes())  # the lowest row first
        with open_cube(tmp_path / "scan.mib", scan_shape=(2, 3)) as cube:
            assert cube.frame_shape == (256, 256)
            np.testing.assert_array_equal(cube.frames(1, 5), frames[1:5])

    def test_without_it_the_message_says_how_to_install_it(self, tmp_path, monkeypatch):
        (tmp_path / "scan.mib").write_bytes(b"x")

        def missing(name):
            raise ModuleNotFoundError(name=name)

        monkeypatch.setattr(importlib, "import_module", missing)
        with pytest.raises(InvalidScan, match=r"pip install 'gpuediff\[cubes\]'"):
            open_cube(tmp_path / "scan.mib")

    def test_what_its_readers_say_is_passed_on(self, tmp_path):
        pytest.importorskip("rsciio")
        (tmp_path / "scan.dm4").write_bytes(b"not a dm4 at all")
        with pytest.raises(InvalidScan, match=r"scan\.dm4: cannot be read: DigitalMicrograph: "):
            open_cube(tmp_path / "scan.dm4")
        (tmp_path / "scan.xyz").write_bytes(b"x")
        with pytest.raises(InvalidScan, match=r"unknown format '\.xyz'"):
            open_cube(tmp_path / "scan.xyz")


class TestRefusals:
    def test_several_sets_of_frames_need_a_name(self, plain, frames):
        with h5py.File(plain, "a") as file:
            file["other/data"] = frames
        with pytest.raises(InvalidScan, match=r"several sets of frames: pass --dataset .*other/data \(3, 5, 12, 16\)"):
            open_cube(plain)
        for name in ("some/where", "where"):
            with open_cube(plain, dataset=name) as cube:
                assert cube.source.endswith("some/where")
        with open_cube(plain, dataset="other") as cube:
            assert cube.source.endswith("other/data")
        with pytest.raises(InvalidScan, match="no frames at 'nothing'"):
            open_cube(plain, dataset="nothing")

    def test_images_are_not_taken_for_frames_beside_a_cube(self, plain):
        with h5py.File(plain, "a") as file:
            file["virtual"] = np.zeros((4, 3, 5))
        with open_cube(plain) as cube:
            assert cube.frame_shape == (12, 16)

    def test_a_file_without_frames(self, tmp_path):
        with h5py.File(tmp_path / "peaks.h5", "w") as file:
            file["peaks"] = np.zeros(3)
        with pytest.raises(InvalidScan, match=r"no dataset of frames.*it holds: peaks"):
            open_cube(tmp_path / "peaks.h5")

    def test_a_damaged_file(self, plain, tmp_path):
        cut = tmp_path / "cut.h5"
        cut.write_bytes(plain.read_bytes()[:1500])
        with pytest.raises(InvalidScan, match=r"cut off|cannot be read"):
            open_cube(cut)
        (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01")
        with pytest.raises(InvalidScan, match=r"broken.npy: cannot be read as \.npy"):
            open_cube(tmp_path / "broken.npy")
        (tmp_path / "text.h5").write_text("no")
        with pytest.raises(InvalidScan, match="not an HDF5 file"):
            open_cube(tmp_path / "text.h5")

    def test_no_such_file(self, tmp_path):
        with pytest.raises(InvalidScan, match="no such file"):
            open_cube(tmp_path / "absent.h5")

    def test_a_scan_shape_that_the_frames_do_not_fill(self, plain):
        with pytest.raises(InvalidScan, match="15 frames do not fill 4 x 4 probe positions"):
            open_cube(plain, scan_shape=(4, 4))

    def test_frames_that_are_not_there(self, plain):
        with open_cube(plain) as cube, pytest.raises(InvalidScan, match=r"no frames 10 \.\. 19 among 15"):
            cube.frames(10, 20)

    def test_complex_numbers_and_other_axes_are_refused(self):
        for data in (np.zeros((2, 2, 4, 4), complex), np.zeros((4, 4)), np.zeros((2, 0, 4, 4))):
            with pytest.raises(InvalidScan, match="expected real numbers"):
                Cube(data, "here")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("1/nm", 0.05),
        ("nm^-1", 0.05),
        ("A^-1", 0.5),
        ("Å⁻¹", 0.5),
        ("1/Å", 0.5),
        ("$A^{-1}$", 0.5),
        ("mrad", None),
        ("", None),
    ],
)
def test_units_of_reciprocal_length(unit, expected):
    assert Scale(0.5, unit).in_inverse_angstrom() == (None if expected is None else pytest.approx(expected))
