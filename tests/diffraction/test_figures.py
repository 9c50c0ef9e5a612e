"""What a picture of a pattern claims is what was simulated."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex

from gpuediff.crystals.crystal import cell_vectors
from gpuediff.diffraction.figures import (
    OTHERS,
    STYLES,
    conventional_indices,
    pattern_figure,
    strongest_families,
    zone_axis_name,
)
from gpuediff.diffraction.orientations import orientation_matrix
from gpuediff.diffraction.simulate import simulate
from gpuediff.settings import Simulation
from tests.diffraction.test_simulate import GOLD, QUARTZ, crystal

SETTINGS = Simulation(g_max=1.2, thicknesses=tuple(np.arange(50.0, 1001.0, 50.0)))
ALONG_C = orientation_matrix(np.array([[0.0, 0.0, 1.0]]))
TILTED = orientation_matrix(np.array([[0.1, 0.2, 1.0]]))


@pytest.fixture(scope="module")
def gold():
    return simulate(GOLD, ALONG_C, SETTINGS)


def test_indices_of_the_conventional_cell_obey_the_rules_of_its_centring(gold):
    hkl = conventional_indices(GOLD, gold.hkl)
    assert len({tuple(index) for index in hkl.tolist()}) == len(hkl)
    odd = (hkl % 2).sum(axis=1)
    assert set(odd.tolist()) <= {0, 3}  # F: all even or all odd
    g = hkl @ np.linalg.inv(cell_vectors(GOLD.conventional)).T
    np.testing.assert_allclose(np.hypot(gold.qx, gold.qy), np.linalg.norm(g, axis=1), atol=1e-6)  # all in the zone


def test_a_primitive_cell_keeps_its_indices():
    patterns = simulate(QUARTZ, TILTED, SETTINGS)
    np.testing.assert_array_equal(conventional_indices(QUARTZ, patterns.hkl), patterns.hkl)


def test_reflections_that_the_fourfold_axis_makes_equal_are_one_family(gold):
    hkl = conventional_indices(GOLD, gold.hkl)
    direct = int(np.flatnonzero((hkl == 0).all(axis=1))[0])
    families = strongest_families(gold.intensity, direct, 3, 3)
    for family in families:
        assert len(family.peaks) in (4, 8)
        assert len({tuple(sorted(np.abs(hkl[peak]))) for peak in family.peaks}) == 1  # {hkl} in the zone
        assert np.abs(gold.intensity[:, family.peaks].T - family.intensity).max() < 1e-4
    at = [family.intensity[3] for family in families]
    assert at == sorted(at, reverse=True)
    others = np.setdiff1d(np.arange(len(hkl)), np.concatenate([[direct], *(family.peaks for family in families)]))
    assert gold.intensity[3, others].max() < at[-1]


def test_off_the_axis_nothing_is_equal():
    patterns = simulate(QUARTZ, TILTED, SETTINGS)
    direct = int(np.flatnonzero((patterns.hkl == 0).all(axis=1))[0])
    assert [len(family.peaks) for family in strongest_families(patterns.intensity, direct, 3, 6)] == [1] * 6


@pytest.mark.parametrize(
    ("axis", "name"),
    [
        ((0, 0, 2), "[$0\\,0\\,1$]"),
        ((1, 1, 0), "[$1\\,1\\,0$]"),
        ((1, -2, 3), "[$1\\,\\bar{2}\\,3$]"),
        ((11, 0, 1), "[$11\\;0\\;1$]"),
    ],
)
def test_a_zone_axis_of_whole_indices_is_named_by_them(axis, name):
    assert zone_axis_name(GOLD, np.array(axis, dtype=float)) == name


def test_the_indices_of_a_zone_axis_are_those_of_an_oblique_cell():
    cell = (5.0, 7.0, 9.0, 90.0, 110.0, 90.0)
    monoclinic = crystal(cell, [14], [[0, 0, 0]], 10)
    along = np.array([2, 1, -1]) @ cell_vectors(np.array(cell))
    assert zone_axis_name(monoclinic, along) == "[$2\\,1\\,\\bar{1}$]"


def test_a_direction_of_no_whole_indices_says_how_far_it_is_off():
    angle = np.radians(0.7)
    tilted = np.array([np.sin(angle), 0.0, np.cos(angle)])
    assert zone_axis_name(GOLD, tilted) == "near [$0\\,0\\,1$], 0.7° off"


def test_the_picture_shows_the_intensities_that_were_simulated(gold):
    figure = pattern_figure(GOLD, gold, SETTINGS, thickness_index=3)
    pattern, upper, lower = figure.axes
    hkl = conventional_indices(GOLD, gold.hkl)
    direct = int(np.flatnonzero((hkl == 0).all(axis=1))[0])
    np.testing.assert_array_equal(upper.lines[0].get_ydata(), gold.intensity[:, direct])
    np.testing.assert_allclose(upper.lines[1].get_ydata(), gold.intensity.sum(axis=1))
    assert (upper.lines[1].get_ydata() <= 1).all()
    for axes in (upper, lower):
        assert list(axes.lines[-1].get_xdata()) == [200.0, 200.0]  # the marker of the pattern's thickness
    spots = pattern.collections[0]
    assert len(spots.get_offsets()) == (gold.intensity[3] >= SETTINGS.intensity_min).sum() - 1
    drawn = {
        tuple(place): to_hex(colour).upper()
        for place, colour in zip(spots.get_offsets().data.tolist(), spots.get_facecolors(), strict=True)
    }
    families = strongest_families(gold.intensity, direct, 3, len(STYLES))
    for line, family, (colour, _) in zip(lower.lines, families, STYLES, strict=False):
        np.testing.assert_array_equal(line.get_ydata(), family.intensity)
        assert line.get_color() == colour
        for peak in family.peaks:
            assert drawn[(float(gold.qx[peak]), float(gold.qy[peak]))] == colour
    assert list(drawn.values()).count(OTHERS) == len(drawn) - sum(len(family.peaks) for family in families)


def test_an_area_grows_with_the_root_of_the_intensity(gold):
    figure = pattern_figure(GOLD, gold, SETTINGS, thickness_index=3)
    areas = np.sort(figure.axes[0].collections[0].get_sizes())[::-1]
    hkl = conventional_indices(GOLD, gold.hkl)
    intensity = np.sort(gold.intensity[3, (hkl != 0).any(axis=1)])[::-1]
    ratio = areas[:12] / np.sqrt(intensity[:12])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


@pytest.mark.parametrize("orientations", [ALONG_C, TILTED])
def test_a_picture_can_be_drawn_where_the_direct_beam_is_all(orientations):
    settings = SETTINGS.model_copy(update={"thicknesses": (10.0,), "intensity_min": 0.1, "g_max": 0.3})
    patterns = simulate(GOLD, orientations, settings)
    figure = pattern_figure(GOLD, patterns, settings)
    figure.savefig(io.BytesIO())
    assert "space group 225, cubic" in figure.get_suptitle()
