import dataclasses

import numpy as np
import pytest

from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch
from gpuediff.scans.figures.patterns import pattern_figure
from gpuediff.scans.scan import Scan
from tests.scans.examples import example_maps

SYSTEM = np.array([[2, 2, 1, -1], [2, 0, 1, 1]])
PEAKS = (np.array([0.01, 0.5, -0.3, 0.0]), np.array([0.0, 0.1, 0.2, -0.8]), np.array([9.0, 4.0, 1.0, 0.25]))


@pytest.fixture
def maps():
    return example_maps(SYSTEM)


@pytest.fixture
def scan():
    patterns = [tuple(column * (1 + 0.01 * place) for column in PEAKS) for place in range(8)]
    patterns[3] = ([], [], [])
    return Scan(PeakBatch.from_lists(patterns), (2, 4), "made for a test")


def patterns_of(figure):
    return [axes for axes in figure.axes if "q_y" in axes.get_xlabel() or "q_x" in axes.get_ylabel()]


def test_peaks_lie_where_they_were_measured_with_qx_downwards(scan, maps):
    (axes,) = patterns_of(pattern_figure(scan, maps, [(0, 2)]))
    diffracted, direct = axes.collections
    qx, qy, _ = scan.peaks.pattern(2)
    np.testing.assert_allclose(diffracted.get_offsets(), np.stack([qy, qx], axis=1)[1:], atol=1e-7)
    np.testing.assert_allclose(direct.get_offsets(), [[qy[0], qx[0]]], atol=1e-7)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert axes.get_aspect() == 1


def test_the_area_of_a_disc_goes_with_the_root_of_the_intensity(scan, maps):
    (axes,) = patterns_of(pattern_figure(scan, maps, [(0, 0)]))
    diameters = axes.collections[0].get_widths()
    np.testing.assert_allclose((diameters / diameters[0]) ** 2, np.sqrt([1, 1 / 4, 1 / 16]), rtol=1e-5)
    # discs, in the unit of the axes: Å⁻¹
    np.testing.assert_allclose(axes.collections[0].get_heights(), diameters)


def test_titles_tell_place_and_answer(scan, maps):
    maps = dataclasses.replace(maps, probability=np.full(SYSTEM.shape, np.nan, np.float32))
    places = [(0, 0), (1, 1), (0, 3)]
    cubic, monoclinic, vacuum = (axes.get_title(loc="left") for axes in pattern_figure(scan, maps, places).axes[1:])
    assert cubic.startswith("1: row 0, column 0\ncubic, confidence ")
    assert f"confidence {maps.confidence[0, 0]:.2f}" in cubic
    assert f"({maps.space_group_number[0, 0]})" in cubic
    assert f"$a$ = {maps.lattice[0, 0, 0]:.2f} Å" in cubic
    assert f"$\\beta$ = {maps.lattice[1, 1, 4]:.0f}°" in monoclinic
    assert vacuum.startswith("3: row 0, column 3\nno answer: too few peaks")


def test_a_calibrated_probability_is_told_instead_of_the_share_of_the_trees(scan, maps):
    axes = pattern_figure(scan, maps, [(1, 0)]).axes[1]
    assert f"probability {maps.probability[1, 0]:.2f}" in axes.get_title(loc="left")


def test_an_answer_that_filtering_changed_is_not_given_the_confidence_of_another(scan, maps):
    raw = maps.raw_system.copy()
    raw[0, 0] = 1
    title = pattern_figure(scan, dataclasses.replace(maps, raw_system=raw), [(0, 0)]).axes[1].get_title(loc="left")
    assert "cubic, by itself hexagonal" in title
    assert "probability" not in title


def test_the_map_marks_every_position_with_its_number(scan, maps):
    axes = pattern_figure(scan, maps, [(0, 0), (1, 3)]).axes[0]
    assert [tuple(text.xy) for text in axes.texts] == [(0, 0), (3, 1)]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    np.testing.assert_array_equal([line.get_xydata()[0] for line in axes.lines], [(0, 0), (3, 1)])


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("shape", [(2, 4), (1, 8), (8, 1)])
def test_patterns_of_any_scan_can_be_drawn_with_or_without_peaks(scan, shape):
    maps = example_maps(SYSTEM.reshape(shape))
    places = [tuple(np.unravel_index(place, shape)) for place in (0, 3, 4, 7)]
    figure = pattern_figure(dataclasses.replace(scan, shape=shape), maps, places)
    figure.draw_without_rendering()
    assert len([axes for axes in figure.axes if axes.collections]) == 4


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ([], "0 given: choose 1 to 12"),
        ([(0, 0)] * 13, "13 given"),
        ([(0, 0), (2, 0)], r"\(2, 0\) is outside the scan of 2 x 4"),
        ([(-1, 0)], r"\(-1, 0\) is outside"),
    ],
)
def test_positions_that_cannot_be_drawn_are_refused(scan, maps, positions, words):
    with pytest.raises(InvalidScan, match=words):
        pattern_figure(scan, maps, positions)


def test_maps_of_another_scan_are_refused(scan):
    with pytest.raises(InvalidScan, match=r"maps of \(1, 3\) positions"):
        pattern_figure(scan, example_maps([[0, 1, 2]]), [(0, 0)])
