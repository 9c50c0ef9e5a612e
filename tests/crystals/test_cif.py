from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure

from gpuediff.crystals.cif import read_cif, structure_blocks
from gpuediff.crystals.labels import from_structure
from gpuediff.errors import InvalidStructure

pytestmark = pytest.mark.filterwarnings("ignore")

CIF = """data_wurtzite
_cell_length_a 3.82
_cell_length_b 3.82
_cell_length_c 6.26
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_symmetry_space_group_name_H-M 'P 63 m c'
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-y, x-y, z'
'-x+y, -x, z'
'-x, -y, z+1/2'
'y, -x+y, z+1/2'
'x-y, x, z+1/2'
'-y, -x, z'
'-x+y, y, z'
'x, x-y, z'
'y, x, z+1/2'
'x-y, -y, z+1/2'
'-x, -x+y, z+1/2'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Zn1 Zn2+ 0.3333 0.6667 0.0 1
S1 S2- 0.3333 0.6667 0.374(2) 1
"""


def counted(structure: Structure) -> dict[str, float]:
    return dict(Counter({kind.symbol: amount for kind, amount in structure.composition.items()}))


def reason(text: str) -> str:
    with pytest.raises(InvalidStructure) as caught:
        from_structure(read_cif(text), material_id="x")
    return str(caught.value)


def test_a_cif_with_operations_uncertainties_and_charges_is_read():
    crystal = from_structure(read_cif(CIF), material_id="ZnS")
    assert crystal.space_group_number == 186
    assert crystal.formula == "ZnS"
    np.testing.assert_allclose(crystal.conventional, [3.82, 3.82, 6.26, 90, 90, 120])
    assert len(crystal.positions) == 4


def test_sites_that_coincide_are_one_mixed_site():
    text = CIF.replace("6667 0.0 1", "6667 0.0 0.7").replace("S1 ", "Cd1 Cd2+ 0.3333 0.6667 0.0 0.3\nS1 ")
    crystal = from_structure(read_cif(text), material_id="x")
    assert sorted(crystal.atomic_numbers) == [16, 16, 30, 30, 48, 48]
    assert crystal.occupancies[crystal.atomic_numbers == 48] == pytest.approx(0.3)
    assert crystal.space_group_number == 186


def test_a_space_group_name_alone_gives_the_operations():
    start, stop = CIF.index("loop_\n_symmetry"), CIF.index("loop_\n_atom")
    assert counted(read_cif(CIF[:start] + CIF[stop:])) == {"Zn": 2, "S": 2}


def test_a_space_group_that_nobody_knows_is_not_taken_for_p1():
    start, stop = CIF.index("loop_\n_symmetry"), CIF.index("loop_\n_atom")
    assert "'P 99 m c' is unknown" in reason(CIF[:start].replace("P 63 m c", "P 99 m c") + CIF[stop:])


def test_a_listed_identity_is_p1_whatever_the_name():
    start, stop = CIF.index("'-y, x-y"), CIF.index("loop_\n_atom")
    assert counted(read_cif(CIF[:start] + CIF[stop:])) == {"Zn": 1, "S": 1}


def test_broken_cifs_are_refused_with_a_reason_that_says_what_is_broken():
    assert "no block with atoms" in reason("")
    assert "no block with atoms" in reason("this is not a CIF")
    assert "no _cell_length_b" in reason(CIF.replace("_cell_length_b 3.82\n", ""))
    assert "no _atom_site_fract_z" in reason(CIF.replace("_atom_site_fract_z", "_atom_site_fract_w"))
    assert "damaged or truncated" in reason(CIF[:-8])
    assert "cannot be read" in reason(CIF.replace("0.374(2)", "?"))
    assert "'Xx' is not an element" in reason(CIF.replace("Zn2+", "Xx"))
    assert "atom site 1 of the CIF: '?' names no element" in reason(CIF.replace("Zn2+", "?"))
    assert "add up to 1.5" in reason(CIF.replace("6667 0.0 1", "6667 0.0 1.5"))
    assert "2 data blocks" in reason(CIF + CIF.replace("wurtzite", "second"))


def test_blocks_with_atoms_are_found_and_named():
    header = "data_global\n_journal_name 'Acta'\n"
    second = CIF.replace("wurtzite", "second")
    assert list(structure_blocks(header + CIF)) == ["wurtzite"]
    assert list(structure_blocks(CIF + second + CIF)) == ["wurtzite", "second", "wurtzite-2"]
    assert structure_blocks(header) == {}
    assert counted(read_cif(structure_blocks(CIF + second)["second"])) == {"Zn": 2, "S": 2}


CHARACTERS = st.sampled_from(list("0123456789.-()'\";#_ \n\té?eE+xyz,/\0"))
TOKENS = st.sampled_from(
    ["nan", "inf", "-1", "1e9", "1e-9", "1e308", "?", ".", "D", "loop_", "data_q", "Fe3+", "'", ""]
)
POSITION = st.floats(0, 1, exclude_max=True)


@st.composite
def damaged_cifs(draw: st.DrawFn) -> str:
    text = CIF
    for _ in range(draw(st.integers(1, 3))):
        place = int(draw(POSITION) * len(text))
        match draw(st.sampled_from(["cut", "drop", "replace", "token", "line"])):
            case "cut":
                text = text[:place]
            case "drop":
                text = text[:place] + text[place + draw(st.integers(1, 30)) :]
            case "replace":
                text = text[:place] + draw(CHARACTERS) + text[place + 1 :]
            case "token":
                tokens = text.split(" ")
                tokens[int(draw(POSITION) * len(tokens))] = draw(TOKENS)
                text = " ".join(tokens)
            case "line":
                lines = text.split("\n")
                lines.insert(int(draw(POSITION) * len(lines)), lines[int(draw(POSITION) * len(lines))])
                text = "\n".join(lines)
    return text


@settings(max_examples=80, deadline=None, derandomize=True)
@given(damaged_cifs())
def test_damaged_cif_text_gives_a_crystal_or_a_reason_and_nothing_else(text):
    try:
        crystal = from_structure(read_cif(text), material_id="x")
    except InvalidStructure:
        return
    assert np.isfinite(crystal.positions).all()
    assert np.isfinite(crystal.conventional).all()
    assert crystal.volume > 0
    assert ((crystal.occupancies > 0) & (crystal.occupancies <= 1)).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.text(max_size=300))
def test_any_text_at_all_gives_a_reason(text):
    with pytest.raises(InvalidStructure):
        read_cif(text)
