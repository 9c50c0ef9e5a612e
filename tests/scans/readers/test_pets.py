import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidScan
from gpuediff.scans.readers import read_scan

WAVE_LENGTH, OMEGA, PIXEL_SIZE, CENTRE = 0.0251, 230.0, 0.00534, (234.87, 233.17)
TILTS = (-11.0, -10.6442, -10.2884, -9.9326)


def project(tilts=TILTS, **changes):
    """Text of a .pts file; None leaves a line out."""
    lines = {
        "lambda": f"lambda {WAVE_LENGTH}",
        "aperpixel": f"aperpixel    {PIXEL_SIZE}",
        "center": f"center    {CENTRE[0]}    {CENTRE[1]}",
        "imagelist": "#List of images\nimagelist",
        "end": "endimagelist      ",
    } | changes
    frames = [rf"tiff\{index:05d}.tiff  {tilt:9.4f}   0.0 0.0 1.0 0 0 0   1" for index, tilt in enumerate(tilts, 1)]
    head = [line for name, line in lines.items() if name != "end" and line]
    return "\n".join([*head, *frames, *([lines["end"]] if lines["end"] else [])]) + "\n"


def peak_lines(counts, seed=0, centre=CENTRE):
    """Lines of a .rpl file; x, y, z are made from the pixels as PETS does it: turned by omega and by the tilt."""
    rng = np.random.default_rng(seed)
    omega = np.radians(OMEGA)
    lines = []
    for frame, (count, tilt) in enumerate(zip(counts, TILTS, strict=False), 1):
        for column, row in rng.uniform(5, 500, (count, 2)):
            qx, qy = PIXEL_SIZE * (column - centre[0]), -PIXEL_SIZE * (row - centre[1])
            z = WAVE_LENGTH * (qx**2 + qy**2) / 2
            x, y = np.cos(omega) * qx + np.sin(omega) * qy, -np.sin(omega) * qx + np.cos(omega) * qy
            cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
            x, y, z = x, y * cos + z * sin, -y * sin + z * cos
            intensity = rng.exponential(20)
            lines.append(
                f"{x:10.4f}{y:10.4f}{z:10.4f}{intensity:10.2f}{1:10.2f}{column:10.0f}{row:5.0f}"
                f"{column:9.3f}{row:9.3f}{tilt:9.3f}{10 * intensity:10.2f}{frame:5d}"
            )
    return lines


@pytest.fixture
def write(tmp_path):
    def write(counts=(3, 0, 2, 1), *, lines=None, name="series", **changes):
        (tmp_path / f"{name}.pts").write_text(project(**changes))
        lines = peak_lines(counts) if lines is None else lines
        (tmp_path / f"{name}.rpl").write_text("\n".join(lines) + "\n")
        return tmp_path / f"{name}.rpl"

    return write


def with_column(index, value, line=0, counts=(3, 0, 2, 1)):
    """Lines of a peak list, one value of which is another."""
    lines = peak_lines(counts)
    words = lines[line].split()
    words[index] = value
    lines[line] = "  ".join(words)
    return lines


class TestReading:
    def test_a_series_is_a_scan_of_one_row_of_frames(self, write):
        scan = read_scan(write())
        assert scan.shape == (1, 4)
        np.testing.assert_array_equal(scan.peaks.counts, [3, 0, 2, 1])
        assert scan.calibration["pixel_size"] == "0.00534 Å⁻¹"
        assert "(series.pts)" in scan.calibration["origin"]
        assert "the direct beam is not among the peaks" in scan.note

    def test_positions_are_around_the_centre_with_qy_upwards(self, write):
        path = write()
        stored = np.loadtxt(path)
        scan = read_scan(path)
        np.testing.assert_allclose(scan.peaks.qx, PIXEL_SIZE * (stored[:, 7] - CENTRE[0]), atol=1e-6)
        np.testing.assert_allclose(scan.peaks.qy, -PIXEL_SIZE * (stored[:, 8] - CENTRE[1]), atol=1e-6)
        np.testing.assert_allclose(scan.peaks.intensity, stored[:, 3])

    def test_turning_positions_by_omega_gives_the_x_of_the_list_so_the_pattern_is_not_mirrored(self, write):
        path = write((30, 30, 30, 30))
        scan = read_scan(path)
        omega = np.radians(OMEGA)
        x = np.cos(omega) * scan.peaks.qx + np.sin(omega) * scan.peaks.qy
        np.testing.assert_allclose(x, np.loadtxt(path)[:, 0], atol=1e-4)

    def test_project_and_list_give_the_same(self, write):
        path = write()
        by_list, by_project = read_scan(path), read_scan(path.with_suffix(".pts"))
        np.testing.assert_array_equal(by_list.peaks.qx, by_project.peaks.qx)
        assert by_list.source == by_project.source

    def test_the_list_may_lie_in_the_folder_that_pets_makes(self, write, tmp_path):
        path = write()
        folder = tmp_path / "series_petsdata"
        folder.mkdir()
        moved = path.rename(folder / path.name)
        assert read_scan(tmp_path / "series.pts").shape == (1, 4)
        assert read_scan(moved).shape == (1, 4)

    def test_every_frame_has_its_own_centre_where_pets_has_found_it(self, write, tmp_path):
        path = write()
        moved = np.array(CENTRE) + np.arange(4)[:, None] * [0.5, -0.25]
        np.savetxt(tmp_path / "series.cenloc", np.column_stack([moved, np.full(4, 32)]), fmt="%9.3f")
        scan = read_scan(path)
        stored = np.loadtxt(path)
        expected = PIXEL_SIZE * (stored[:, 7] - moved[stored[:, -1].astype(int) - 1, 0])
        np.testing.assert_allclose(scan.peaks.qx, expected, atol=1e-5)
        assert "(series.cenloc)" in scan.calibration["origin"]

    def test_what_the_user_says_replaces_what_the_files_say(self, write):
        path = write(center="center AUTO")
        with pytest.raises(InvalidScan, match=r"no center in numbers, and no series\.cenloc: pass --centre"):
            read_scan(path)
        scan = read_scan(path, centre=CENTRE, pixel_size=2 * PIXEL_SIZE)
        np.testing.assert_allclose(scan.peaks.qx, 2 * PIXEL_SIZE * (np.loadtxt(path)[:, 7] - CENTRE[0]), atol=1e-6)
        assert all(step.endswith("(given by the user)") for step in scan.calibration.values())

    def test_a_list_without_peaks_is_a_series_of_empty_frames(self, write):
        path = write(lines=[])
        assert len(read_scan(path.with_suffix(".pts")).peaks.qx) == 0

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(counts=st.lists(st.integers(0, 6), min_size=4, max_size=4), per_block=st.integers(1, 9))
    def test_reading_by_blocks_keeps_every_peak_in_its_frame(self, write, monkeypatch, counts, per_block):
        monkeypatch.setattr("gpuediff.scans.readers.pets.LINES_PER_BLOCK", per_block)
        path = write(counts)
        scan = read_scan(path.with_suffix(".pts"))
        np.testing.assert_array_equal(scan.peaks.counts, counts)
        stored = [float(line.split()[3]) for line in path.read_text().splitlines() if line]
        np.testing.assert_array_equal(scan.peaks.intensity, np.float32(stored))


class TestRefusals:
    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (with_column(11, "9"), "frame 9, but series.pts has 4 frames: the columns are not those"),
            (with_column(11, "1.5"), "frame 1.5, but"),
            (with_column(9, "-10.9"), r"frame 1: tilt angle -10\.9°, but -11° in series\.pts"),
            (with_column(9, "nan"), "frame 1: tilt angle nan°"),
            (with_column(3, "much"), r"lines 1 and after: .*'much'.*: expected numbers"),
            ([line.rsplit(maxsplit=1)[0] for line in peak_lines((3, 1))], "line 1: 11 columns: expected 12"),
            ([*peak_lines((3, 1)), "  0.1 0.2"], "line 5: 2 columns: expected 12"),
            (peak_lines((0, 0, 2)) + peak_lines((3,)), "frame 1 after a later one: expected the peaks in the order"),
        ],
    )
    def test_lists_that_do_not_fit_their_project(self, write, lines, message):
        path = write(lines=lines)
        with pytest.raises(InvalidScan, match=message):
            read_scan(path)

    def test_pixels_in_another_column_do_not_fit_the_lengths(self, write):
        lines = []
        for line in peak_lines((5, 5, 5, 5)):
            words = line.split()
            words[7], words[8] = words[4], words[10]
            lines.append("  ".join(words))
        with pytest.raises(InvalidScan, match=r"\|q\| from the pixels differs from \|x, y, z\|"):
            read_scan(write(lines=lines))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"aperpixel": None}, "no aperpixel: pass --pixel-size"),
            ({"aperpixel": "aperpixel 0"}, r"line 2: aperpixel = 0\.0: expected > 0"),
            ({"aperpixel": "aperpixel fine"}, "line 2: aperpixel = fine: expected a number"),
            ({"aperpixel": "aperpixel 0.0107"}, "differs from"),
            ({"center": "center 234 left"}, "line 3: center = left: expected a number"),
            ({"end": None}, "the imagelist has no endimagelist: the file is cut off"),
            ({"tilts": ()}, "no imagelist"),
            ({"tilts": TILTS[:3]}, "frame 4, but series.pts has 3 frames"),
        ],
    )
    def test_projects_that_do_not_fit_their_list(self, write, changes, message):
        path = write(**changes)
        with pytest.raises(InvalidScan, match=message):
            read_scan(path)

    def test_one_of_the_two_is_missing(self, write, tmp_path):
        path = write()
        path.rename(tmp_path / "elsewhere.rpl")
        with pytest.raises(InvalidScan, match=r"no peak list \(\.rpl\) of this series: looked for .*series\.rpl"):
            read_scan(tmp_path / "series.pts")
        with pytest.raises(InvalidScan, match=r"no project \(\.pts\) of this series: looked for .*elsewhere\.pts"):
            read_scan(tmp_path / "elsewhere.rpl")

    @pytest.mark.parametrize("text", ["1 2\n3 4\n", "a b\nc d\ne f\ng h\n", "1 2\n1 2\n1 2\nnan 2\n"])
    def test_centres_that_do_not_fit_the_frames(self, write, tmp_path, text):
        path = write()
        (tmp_path / "series.cenloc").write_text(text)
        with pytest.raises(InvalidScan, match=r"series\.cenloc: .*pass --centre"):
            read_scan(path)

    def test_a_dataset_cannot_be_chosen(self, write):
        with pytest.raises(InvalidScan, match="leave out --dataset"):
            read_scan(write(), dataset="peaks")

    def test_the_other_kind_of_rpl_file_is_no_peak_list(self, tmp_path):
        path = tmp_path / "map.rpl"
        path.write_text("key\tvalue\nwidth\t100\nheight\t100\n")
        with pytest.raises(InvalidScan, match="not a known format"):
            read_scan(path)
