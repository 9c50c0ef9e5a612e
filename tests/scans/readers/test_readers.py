import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidScan
from gpuediff.scans.readers import READABLE, read_scan
from tests.scans.test_watching import write_scan

ORACLE = Path(__file__).resolve().parents[2] / "oracle"


def refusal(path, **options):
    with pytest.raises(InvalidScan) as caught:
        read_scan(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


class TestTheFormatIsThatOfTheContent:
    @pytest.mark.parametrize(
        ("name", "shape"), [("emd/flipped.h5", (4, 5)), ("hyperspy/vectors.hspy", (3, 4))], ids=["py4DSTEM", "pyxem"]
    )
    @pytest.mark.parametrize("suffix", [".h5", ".csv", ".npz", ""])
    def test_whatever_the_name(self, tmp_path, name, shape, suffix):
        path = shutil.copyfile(ORACLE / name, tmp_path / f"renamed{suffix}")
        assert read_scan(path).shape == shape

    @pytest.mark.parametrize(
        "content", [b"\x89PNG\r\n\x1a\n\0\0", b"\0\1\2\3", b"II*\0", b"just words\n", b"1 2 3\n4 5 6\n"]
    )
    def test_what_is_not_known_is_refused_with_what_is(self, tmp_path, content):
        path = tmp_path / "scan.h5"
        path.write_bytes(content)
        message = refusal(path)
        assert "not a known format" in message
        assert READABLE in message

    def test_an_empty_file(self, tmp_path):
        path = tmp_path / "scan.h5"
        path.touch()
        assert "the file is empty" in refusal(path)

    def test_a_folder_that_is_no_zarr(self, tmp_path):
        assert "a folder: expected a file, or a .zspy folder" in refusal(tmp_path)

    def test_no_such_file(self, tmp_path):
        assert "no such file" in refusal(tmp_path / "absent.h5")

    @pytest.mark.parametrize(
        "head",
        [b"\x89HDF\r\n\x1a\n", b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"#", b",", b"aperpixel 1\n", b"0.1 0.2 0.3 \n"],
    )
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rest=st.binary(max_size=200))
    def test_nothing_that_begins_as_a_format_does_more_harm_than_to_be_refused(self, tmp_path, head, rest):
        path = tmp_path / "scan"
        path.write_bytes(head + rest)
        refusal(path)


class TestArguments:
    @pytest.mark.parametrize("pixel_size", [0.0, -0.02, np.nan, np.inf])
    def test_an_impossible_pixel_size(self, pixel_size):
        assert "must be > 0 Å⁻¹ per pixel" in refusal(ORACLE / "emd/flipped.h5", pixel_size=pixel_size)

    @pytest.mark.parametrize("centre", [(64.0, np.nan), (64.0,), (1.0, 2.0, 3.0)])
    def test_an_impossible_centre(self, centre):
        assert "expected two finite numbers" in refusal(ORACLE / "emd/flipped.h5", centre=centre)

    def test_progress_is_shown_over_the_blocks(self, tmp_path):
        seen = []

        def track(items, description, total=None):
            seen.append(description)
            return items

        read_scan(ORACLE / "emd/flipped.h5", track=track)
        assert seen == ["reading peaks"]


OPEN = """
import sys

import h5py

with h5py.File(sys.argv[1], "a"):
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_a_file_that_a_program_holds_open_can_be_read(tmp_path):
    write_scan(tmp_path / "a.h5", 2)
    with subprocess.Popen(
        [sys.executable, "-c", OPEN, tmp_path / "a.h5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "open\n"
        assert read_scan(tmp_path / "a.h5", pixel_size=1.0, centre=(0, 0)).shape == (2, 3)
        writer.communicate("\n")


def test_reading_keeps_no_program_from_opening_the_file(tmp_path):
    write_scan(tmp_path / "a.h5", 2)

    def reopened(items, description, total=None):
        result = subprocess.run(
            [sys.executable, "-c", OPEN, tmp_path / "a.h5"], input="\n", capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return items

    read_scan(tmp_path / "a.h5", pixel_size=1.0, centre=(0, 0), track=reopened)
