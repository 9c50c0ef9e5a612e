import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from pymatgen.symmetry.groups import sg_symbol_from_int_number

from gpuediff.scans.figures import drawing
from gpuediff.settings import CRYSTAL_SYSTEMS


def test_every_crystal_system_has_a_colour_of_its_own():
    assert set(drawing.COLOURS) == set(CRYSTAL_SYSTEMS)
    assert len(set(drawing.COLOURS.values())) == len(CRYSTAL_SYSTEMS)


@given(st.floats(1.0, 1e8))
def test_a_scale_bar_is_round_and_fits(width):
    length, text = drawing.scale_bar(width)
    value, unit = text.split()
    assert length == pytest.approx(float(value) * {"Å": 1, "nm": 10, "µm": 1e4}[unit])
    assert f"{float(value):.0e}"[0] in "125"
    assert width / 8 < length <= width / 3 * 1.001


@pytest.mark.parametrize(
    ("number", "symbol"),
    [(2, r"$P\bar{1}$"), (14, "$P2_1/c$"), (62, "$Pnma$"), (194, "$P6_3/mmc$"), (225, r"$Fm\bar{3}m$")],
)
def test_space_groups_have_the_symbols_of_international_tables(number, symbol):
    assert drawing.space_group_symbol(number) == symbol


def test_every_space_group_has_a_symbol_of_its_own():
    symbols = [drawing.space_group_symbol(number) for number in range(1, 231)]
    assert len(set(symbols)) == 230
    parser = MathTextParser("path")
    for symbol in symbols[::15]:
        assert parser.parse(symbol).width > 0  # a mistake of the markup is an error here
    # but for the markup, and the places that monoclinic symbols leave out, pymatgen's table is the same
    plain = [symbol.strip("$").replace(r"\bar{", "-").replace("}", "") for symbol in symbols]
    known = [sg_symbol_from_int_number(number, hexagonal=False) for number in range(1, 231)]
    assert plain == [re.sub(r"^([A-Z])1(.+)1$", r"\1\2", symbol) for symbol in known]


def test_brightness_rises_with_confidence_and_never_reaches_the_black_of_no_answer():
    shades = drawing.brightness(np.array([-1.0, 0.0, 0.1, 0.5, 1.0, 7.0]))
    assert (np.diff(shades) >= 0).all()
    assert shades.min() == drawing.DIMMEST > 0
    assert shades.max() == 1


def test_the_callers_matplotlib_settings_are_as_before_and_change_nothing():
    @drawing.in_print
    def draw():
        return Figure(), rcParams["font.size"]

    before = rcParams["font.size"]
    _, during = draw()
    assert during == 8
    assert rcParams["font.size"] == before
