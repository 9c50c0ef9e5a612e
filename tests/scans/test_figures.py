import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from gpuediff.scans import figures
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.particles import find_particles
from gpuediff.settings import CRYSTAL_SYSTEMS
from tests.scans.fakes import FakeHierarchy, uniform_scan

SYSTEM = np.array([[-1, 2, 2, 2, 1, 1], [-1, 2, 2, 2, 1, 1], [-1, -1, 2, 2, 1, 1]])
LEAD = np.where(SYSTEM == 2, 0.6, 0.2)
DRAW = [figures.system_map, figures.confidence_map, figures.lattice_maps, figures.summary]


@pytest.fixture(scope="module")
def maps():
    return map_scan(uniform_scan(SYSTEM, LEAD), FakeHierarchy(), filter_size=1)


def texts(figure):
    figure.canvas.draw()
    return " ".join(text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text")))


def test_colour_says_the_system_and_brightness_the_confidence(maps):
    image = np.asarray(figures.system_map(maps).axes[0].images[0].get_array())
    np.testing.assert_array_equal(image[0, 0], 0)  # vacuum is black
    np.testing.assert_allclose(image[0, 1], to_rgb(figures.COLOURS["cubic"]))  # the most confident at full brightness
    ratio = image[0, 4] / np.array(to_rgb(figures.COLOURS["hexagonal"]))
    assert figures.DIMMEST < ratio[0] < 0.9
    np.testing.assert_allclose(ratio, ratio[0])  # dimmed, the hue unchanged


def test_every_crystal_system_has_a_colour_of_its_own():
    assert set(figures.COLOURS) == set(CRYSTAL_SYSTEMS)
    assert len(set(figures.COLOURS.values())) == len(CRYSTAL_SYSTEMS)


def test_the_legend_names_the_systems_that_are_there(maps):
    shown = texts(figures.system_map(maps))
    assert "cubic" in shown
    assert "hexagonal" in shown
    assert "monoclinic" not in shown


def test_the_bars_are_as_long_as_the_fractions(maps):
    (fractions,) = (axes for axes in figures.summary(maps).axes if axes.get_title() == "fractions")
    bars = [bar.get_width() for bar in fractions.patches]
    systems = np.argsort(-maps.raw_fractions(), kind="stable")
    expected = [maps.raw_fractions(), maps.weighted_fractions(), maps.filtered_fractions()]
    np.testing.assert_allclose(bars, np.concatenate([shares[systems] for shares in expected]))


@pytest.mark.parametrize("draw", [figures.system_map, figures.lattice_maps, figures.summary])
def test_there_is_a_scale_bar_where_the_step_is_known_and_axes_elsewhere(maps, draw):
    without, with_step = texts(draw(maps)), texts(draw(dataclasses.replace(maps, step_size=20.0)))
    assert "probe position, column" in without
    assert "nm" not in without
    assert "2 nm" in with_step  # a third of 6 x 20 Å allows 4 nm
    assert "probe position, column" not in with_step


@pytest.mark.parametrize("draw", DRAW)
def test_a_map_where_nothing_passed_the_filter_can_be_drawn(draw):
    empty = map_scan(uniform_scan(SYSTEM, LEAD), FakeHierarchy(), difference_confidence_min=1.0)
    assert texts(draw(empty))


@pytest.mark.parametrize("draw", DRAW)
def test_a_line_scan_can_be_drawn(draw):
    assert texts(draw(map_scan(uniform_scan(SYSTEM[:1], LEAD[:1]), FakeHierarchy(), filter_size=1)))


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_figures_are_written_as_their_suffix_says(maps, tmp_path, suffix, magic):
    path = tmp_path / f"systems{suffix}"
    figures.save_figure(figures.system_map(maps), path, dpi=60)
    assert path.read_bytes().startswith(magic)


def test_particles_are_numbered_inside_themselves():
    hierarchy = FakeHierarchy()
    ring = np.full((7, 7), 2)
    ring[2:5, 2:5] = -1  # its centroid lies in the hole
    scan = uniform_scan(ring, 0.4)
    maps = map_scan(scan, hierarchy, filter_size=1)
    particles = find_particles(scan, maps, hierarchy)
    (number,) = figures.particle_map(maps, particles).axes[0].texts
    column, row = number.xy
    assert number.get_text() == "1"
    assert particles.labels[row, column] == 1


@given(st.floats(1.0, 1e8))
def test_a_scale_bar_is_round_and_fits(width):
    length, text = figures.scale_bar(width)
    value, unit = text.split()
    assert length == pytest.approx(float(value) * {"Å": 1, "nm": 10, "µm": 1e4}[unit])
    assert f"{float(value):.0e}"[0] in "125"
    assert width / 8 < length <= width / 3 * 1.001
