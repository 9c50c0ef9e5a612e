import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from gpuediff.scans.figures import distributions as figures
from gpuediff.scans.figures.drawing import COLOURS
from tests.scans.examples import CELLS, SYSTEMS, example_maps

SYSTEM = np.repeat([2, 1, 0, -1], [40, 24, 12, 4]).reshape(8, 10)


@pytest.fixture
def maps():
    return example_maps(SYSTEM)


def texts(axes):
    return [text.get_text() for text in axes.findobj(lambda item: hasattr(item, "get_text")) if text.get_text()]


def histograms(figure):
    """Panels that hold a histogram, row by row."""
    return [axes for axes in figure.axes if axes.patches]


def test_the_bars_are_as_long_as_the_fractions_most_frequent_first(maps):
    (axes,) = figures.fraction_figure(maps).axes
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(3, 3)
    order = [2, 1, 0]  # cubic, hexagonal, monoclinic
    expected = [maps.raw_fractions(), maps.weighted_fractions(), maps.filtered_fractions()]
    np.testing.assert_allclose(widths, [shares[order] for shares in expected])
    assert [label.get_text() for label in axes.get_yticklabels()] == [SYSTEMS[index] for index in order]
    colours = [bar.get_facecolor()[:3] for bar in axes.patches[:3]]
    np.testing.assert_allclose(colours, [to_rgb(COLOURS[SYSTEMS[index]]) for index in order])


def test_systems_that_no_pattern_has_have_no_bars():
    (axes,) = figures.fraction_figure(example_maps(np.full((3, 3), 1))).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hexagonal"]


def test_a_scan_without_answers_says_so():
    maps = example_maps(np.full((3, 3), -1))
    assert "no pattern was predicted" in texts(figures.fraction_figure(maps).axes[0])
    (text,) = figures.lattice_histograms(maps).texts
    assert text.get_text() == "no probe position has a lattice"


def test_there_is_a_histogram_for_every_free_parameter_with_its_median_marked_and_written(maps):
    panels = histograms(figures.lattice_histograms(maps))
    expected = [("cubic", 0), ("hexagonal", 0), ("hexagonal", 2), *[("monoclinic", column) for column in (0, 1, 2, 4)]]
    assert len(panels) == len(expected)
    for axes, (system, column) in zip(panels, expected, strict=True):
        values = maps.lattice[maps.crystal_system == system, column]
        (histogram,) = axes.patches
        assert histogram.get_data().values.sum() == len(values)
        np.testing.assert_allclose(histogram.get_facecolor()[:3], to_rgb(COLOURS[system]))
        median = axes.lines[0].get_xdata()[0]
        assert median == pytest.approx(np.median(values))
        written = axes.get_title(loc="right")
        assert written == (f"median {median:.1f}°" if column == 4 else f"median {median:.2f} Å")
    assert CELLS["monoclinic"]["beta"] == pytest.approx(panels[-1].lines[0].get_xdata()[0], abs=0.05)


def test_what_a_system_fixes_is_written_instead(maps):
    figure = figures.lattice_histograms(maps)
    fixed = [texts(axes) for axes in figure.axes if not axes.patches]
    assert sorted(text for panel in fixed for text in panel) == sorted(["= $a$"] * 3 + ["90°"] * 2)


def test_rows_say_how_many_positions_have_a_lattice(maps):
    lattice = maps.lattice.copy()
    lattice[0, :5] = np.nan
    figure = figures.lattice_histograms(dataclasses.replace(maps, lattice=lattice))
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["cubic\nn = 35\nof 40", "hexagonal\nn = 24", "monoclinic\nn = 12"]


def test_with_one_system_asked_for_all_lattices_are_its():
    maps = example_maps(SYSTEM, options={"lattice_system": "cubic"})
    figure = figures.lattice_histograms(maps)
    assert [axes.get_ylabel() for axes in figure.axes] == ["cubic\nn = 76"]


def test_outliers_count_in_the_outermost_bins_and_do_not_stretch_the_axis():
    maps = example_maps(np.full((20, 20), 2))
    lattice = maps.lattice.copy()
    lattice[0, 0] = [400.0, 400.0, 400.0, 90.0, 90.0, 90.0]
    (panel,) = histograms(figures.lattice_histograms(dataclasses.replace(maps, lattice=lattice)))
    assert panel.get_xlim()[1] < 4.5
    assert panel.patches[0].get_data().values.sum() == 400


@pytest.mark.parametrize("system", [[[2]], [[0]], SYSTEM])
@pytest.mark.parametrize("draw", [figures.fraction_figure, figures.lattice_histograms])
@pytest.mark.filterwarnings("error::UserWarning")
def test_one_position_one_system_and_many_can_be_drawn(draw, system):
    draw(example_maps(system)).draw_without_rendering()
