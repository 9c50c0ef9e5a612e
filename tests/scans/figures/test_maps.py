import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from gpuediff.scans.figures import drawing
from gpuediff.scans.figures import maps as figures
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.particles import find_particles
from tests.scans.examples import example_maps
from tests.scans.fakes import FakeHierarchy, uniform_scan

SYSTEM = np.array([[-1, 2, 2, 2, 1, 1], [-1, 2, 2, 2, 1, 1], [-1, -1, 2, 2, 1, 1]])
LEAD = np.where(SYSTEM == 2, 0.6, 0.2).astype(np.float32)
MAPS = [
    figures.system_map,
    figures.space_group_map,
    figures.confidence_map,
    figures.trust_maps,
    figures.lattice_maps,
    figures.lattice_interval_maps,
    figures.virtual_image_figure,
    figures.summary,
]
DIFFERENT = [figures.system_map, figures.space_group_map, figures.trust_maps, figures.summary]  # the others are alike
VALUES = {
    figures.confidence_map: ["confidence", "difference_confidence", "filtered_difference_confidence"],
    figures.trust_maps: ["probability", "several_grains", "novelty"],
    figures.virtual_image_figure: ["bright_field", "dark_field"],
}


@pytest.fixture
def maps():
    return example_maps(SYSTEM, filtered_difference_confidence=np.where(SYSTEM < 0, np.nan, LEAD).astype(np.float32))


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text")) if text.get_text()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def image(axes):
    return np.ma.filled(axes.images[0].get_array().astype(float), np.nan)


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def nothing(shape):
    maps = example_maps(np.full(shape, -1))
    empty = np.full(shape, np.nan, np.float32)
    return dataclasses.replace(maps, bright_field=empty, dark_field=empty)


def test_colour_says_the_system_and_brightness_the_confidence(maps):
    picture = image(figures.system_map(maps).axes[0])
    np.testing.assert_array_equal(picture[0, 0], 0)  # vacuum is black
    np.testing.assert_allclose(picture[0, 1], to_rgb(drawing.COLOURS["cubic"]))  # the most confident is the brightest
    ratio = picture[0, 4] / np.array(to_rgb(drawing.COLOURS["hexagonal"]))
    np.testing.assert_allclose(ratio, drawing.brightness(np.array(0.2 / 0.6)), rtol=1e-6)  # dimmed, the hue unchanged


def test_the_legend_names_the_systems_that_are_there(maps):
    assert legend(figures.system_map(maps)) == ["cubic", "hexagonal", "no answer"]
    assert legend(figures.system_map(example_maps(np.full((3, 4), 2)))) == ["cubic"]


def test_the_legend_says_which_confidence_is_brightest(maps):
    assert figures.system_map(maps).legends[0].get_title().get_text().endswith("0 to 0.6")


def test_the_space_group_map_paints_the_most_frequent_groups_and_greys_the_rest():
    """Nine groups: the seven most frequent have a colour, the two others share one grey."""
    group = np.repeat(np.arange(221, 230), np.arange(20, 2, -2))[None]  # 20 positions of 221, 18 of 222, ... 4 of 229
    group = np.vstack([group, group])
    maps = example_maps(
        np.full(group.shape, 2), space_group_number=group, space_group_confidence=np.ones(group.shape, np.float32)
    )
    figure = figures.space_group_map(maps)
    names = legend(figure)
    assert names[0] == "$Pm\\bar{3}m$ (221), 19%"
    assert names[-1] == "2 other, 9%"
    assert len(names) == len(figures.GROUP_COLOURS) + 1
    picture = image(figure.axes[0])
    np.testing.assert_allclose(picture[group == 221], [to_rgb(figures.GROUP_COLOURS[0])] * 40)
    np.testing.assert_allclose(picture[group == 227], [to_rgb(figures.GROUP_COLOURS[6])] * 16)
    np.testing.assert_allclose(picture[group >= 228], [to_rgb(figures.OTHER_GROUPS)] * 20)


def test_a_space_group_is_as_bright_as_its_trees_agree(maps):
    picture = image(figures.space_group_map(maps).axes[0])
    there = SYSTEM >= 0
    np.testing.assert_array_equal(picture[~there], 0)
    confidence = maps.space_group_confidence / drawing.full_brightness(maps.space_group_confidence)
    numbers, counts = np.unique(maps.space_group_number[there], return_counts=True)
    colours = {number: figures.GROUP_COLOURS[i] for i, number in enumerate(numbers[np.argsort(-counts, kind="stable")])}
    for place in zip(*np.nonzero(there), strict=True):
        colour = np.array(to_rgb(colours[maps.space_group_number[place]]))
        np.testing.assert_allclose(picture[place], drawing.brightness(confidence[place]) * colour, rtol=1e-5)


@pytest.mark.parametrize("draw", VALUES)
def test_value_maps_show_the_arrays(maps, draw):
    drawn = panels(draw(maps))
    assert len(drawn) == len(VALUES[draw])
    for axes, name in zip(drawn, VALUES[draw], strict=True):
        np.testing.assert_allclose(image(axes), getattr(maps, name))


def test_lattice_maps_show_lengths_and_the_width_of_their_intervals(maps):
    for number, (lengths, widths) in enumerate(
        zip(panels(figures.lattice_maps(maps)), panels(figures.lattice_interval_maps(maps)), strict=True)
    ):
        np.testing.assert_allclose(image(lengths), maps.lattice[..., number])
        np.testing.assert_allclose(image(widths), (maps.lattice_high - maps.lattice_low)[..., number])


def test_probabilities_are_drawn_on_one_scale_from_nothing_to_certainty(maps):
    assert {axes.images[0].get_clim() for axes in panels(figures.trust_maps(maps))} == {(0.0, 1.0)}


def test_a_colour_bar_says_where_values_lie_beyond_it(maps):
    values = np.linspace(0, 1, 18, dtype=np.float32).reshape(3, 6)
    values[0, 0] = 50.0
    figure = figures.virtual_image_figure(dataclasses.replace(maps, bright_field=values, dark_field=0 * values))
    assert [axes.images[0].colorbar.extend for axes in panels(figure)] == ["both", "neither"]


@pytest.mark.parametrize("draw", MAPS)
def test_there_is_a_scale_bar_where_the_step_is_known_and_axes_elsewhere(maps, draw):
    without, with_step = texts(draw(maps)), texts(draw(dataclasses.replace(maps, step_size=20.0)))
    assert "column" in without
    assert "2 nm" not in without
    assert with_step.count("2 nm") == 1  # a third of 6 x 20 Å allows 4 nm; once, for all panels have one scale
    assert "column" not in with_step


@pytest.mark.parametrize("draw", DIFFERENT)
@pytest.mark.filterwarnings("error::UserWarning")
def test_maps_without_any_answer_can_be_drawn(draw):
    draw(nothing((3, 4))).draw_without_rendering()


@pytest.mark.parametrize("draw", DIFFERENT)
@pytest.mark.filterwarnings("error::UserWarning")
def test_one_position_and_one_system_can_be_drawn(draw):
    draw(example_maps([[2]])).draw_without_rendering()


@pytest.mark.parametrize("draw", DIFFERENT)
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_line_scan_can_be_drawn_lying_or_upright(draw):
    assert "probe position" in texts(draw(example_maps(SYSTEM[:1].T)))
    lying = draw(example_maps(SYSTEM[:1], step_size=20.0))
    assert "distance (nm)" in texts(lying)
    lying.draw_without_rendering()


def test_an_upright_line_scan_is_the_lying_one_turned():
    lying, upright = example_maps(SYSTEM[:1]), example_maps(SYSTEM[:1].T)
    upright = dataclasses.replace(upright, filtered_difference_confidence=lying.filtered_difference_confidence.T)
    pictures = [image(figures.system_map(maps).axes[0]) for maps in (lying, upright)]
    assert pictures[0].shape == (1, 6, 3)
    np.testing.assert_array_equal(*pictures)


def test_a_map_without_values_says_so():
    assert texts(figures.trust_maps(nothing((3, 4)))).count("no values") == 3


def test_the_curve_of_a_line_scan_goes_through_the_values():
    maps = example_maps(SYSTEM[:1].T, step_size=20.0)
    (line,) = figures.trust_maps(maps).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), 2.0 * np.arange(6))  # nm
    np.testing.assert_allclose(line.get_ydata(), maps.probability[:, 0])


@pytest.mark.parametrize("shape", [(80, 58), (20, 300), (300, 20)])
def test_figures_have_the_width_of_one_or_two_columns(shape):
    maps = example_maps(np.arange(np.prod(shape)).reshape(shape) % 3)
    for draw in (figures.system_map, figures.trust_maps, figures.summary):
        width, height = draw(maps).get_size_inches()
        assert width in (3.4, 7.0)
        assert height < 11


def test_the_bars_of_the_summary_are_as_long_as_the_fractions(maps):
    (bars,) = (axes for axes in figures.summary(maps).axes if "share" in axes.get_title())
    systems = np.argsort(-maps.raw_fractions(), kind="stable")[:2]
    expected = [maps.raw_fractions(), maps.weighted_fractions(), maps.filtered_fractions()]
    widths = [bar.get_width() for bar in bars.patches]
    np.testing.assert_allclose(widths, np.concatenate([shares[systems] for shares in expected]))


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_a_figure_is_written_as_its_suffix_says(maps, tmp_path, suffix, magic):
    path = tmp_path / f"systems{suffix}"
    assert figures.save_figure(figures.system_map(maps), path, dpi=60) == [path]
    assert path.read_bytes().startswith(magic)


def test_without_a_suffix_png_and_pdf_are_written(maps, tmp_path):
    written = figures.save_figure(figures.system_map(maps), tmp_path / "step_0.5", dpi=60)
    assert [path.name for path in written] == ["step_0.5.png", "step_0.5.pdf"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert b"/Type3" not in written[1].read_bytes()  # journals refuse it


def test_particles_are_numbered_inside_themselves_and_their_systems_named():
    hierarchy = FakeHierarchy()
    ring = np.full((7, 7), 2)
    ring[2:5, 2:5] = -1  # its centroid lies in the hole
    scan = uniform_scan(ring, 0.4)
    maps = map_scan(scan, hierarchy, filter_size=1)
    particles = find_particles(scan, maps, hierarchy)
    figure = figures.particle_map(maps, particles)
    (number,) = figure.axes[0].texts
    column, row = number.xy
    assert number.get_text() == "1"
    assert particles.labels[row, column] == 1
    assert legend(figure) == ["cubic", "no answer"]
    np.testing.assert_allclose(image(figure.axes[0])[0, 0], to_rgb(drawing.COLOURS["cubic"]))
    assert figure.axes[0].get_title() == "1 particle"
