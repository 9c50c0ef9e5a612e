"""CIF text: its data blocks, and the structure in one of them."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from gpuediff.errors import InvalidStructure

if TYPE_CHECKING:
    from pymatgen.core import Structure

_BLOCK = re.compile(r"^[ \t]*(?=data_)", re.MULTILINE | re.IGNORECASE)
_UNNAMED_SITE = re.compile(r"OH|[^A-Za-z]")  # what pymatgen's parser passes over without a word
_SITE_KEYS = ("_atom_site_label", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
_CELL_KEYS = (
    "_cell_length_a",
    "_cell_length_b",
    "_cell_length_c",
    "_cell_angle_alpha",
    "_cell_angle_beta",
    "_cell_angle_gamma",
)
_SYSTEM_KEYS = ("_symmetry_cell_setting", "_space_group_crystal_system")  # let pymatgen fill in the rest of the cell
_SPACE_GROUP = re.compile(
    r"_(symmetry_)?(space_group_name_h[-_]m|space_group_it_number|int_tables_number)", re.IGNORECASE
)
_OPERATIONS = re.compile(r"_(symmetry_equiv_pos_as|space_group_symop_operation)_xyz", re.IGNORECASE)
_NO_SYMMETRY = ("P1", "1", "?", ".", "")


def structure_blocks(text: str) -> dict[str, str]:
    """Split CIF text into the data blocks that list atoms.

    Returns
    -------
    dict of str to str
        The text of each such block by its name, in the order of the file. A name that comes twice gets a number.
    """
    blocks: dict[str, str] = {}
    for block in _BLOCK.split(text)[1:]:
        if "_atom_site_" not in block:
            continue  # a journal's header, a powder pattern, a molecule's bonds
        name = base = block.split(maxsplit=1)[0][len("data_") :]
        count = 1
        while name in blocks:
            count += 1
            name = f"{base}-{count}"
        blocks[name] = block
    return blocks


def read_cif(text: str) -> Structure:
    """Read the one structure in CIF text.

    Sites that coincide are one mixed site; occupancies are taken as they are written.

    Raises
    ------
    InvalidStructure
        If the text is not valid CIF, names no atoms or more than one structure, or has a site that names no element.
    """
    from pymatgen.io.cif import CifParser

    contents = structure_blocks(text)
    if len(contents) != 1:
        found = f"{len(contents)} data blocks with atoms, where one is expected" if contents else "no block with atoms"
        raise InvalidStructure(f"the CIF holds {found}")
    # Damaged text makes pymatgen's parser fail in any way at all; and it warns of every repair it makes, while what
    # stays wrong is found below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parser = CifParser.from_str(*contents.values())
            (block,) = parser.as_dict().values()
        except Exception as error:
            raise InvalidStructure(
                f"the CIF is damaged or truncated; most often a loop lacks values (pymatgen: {error!r})"
            ) from error
        _check_block(block)
        try:
            (structure,) = parser.parse_structures(primitive=False, check_occu=False, on_error="raise")
        except Exception as error:
            reason = str(error).removeprefix("No structure parsed for section 1 in CIF.").strip()
            raise InvalidStructure(f"the CIF cannot be read: {reason or type(error).__name__}") from error
    if len(parser.symmetry_operations) == 1:
        _check_identity_alone(block)
    return structure


def _check_block(block: dict[str, Any]) -> None:
    """Refuse what pymatgen's parser would pass over or stumble upon."""
    needed = _SITE_KEYS if any(key in block for key in _SYSTEM_KEYS) else _CELL_KEYS + _SITE_KEYS
    if missing := [key for key in needed if key not in block]:
        raise InvalidStructure(f"the CIF is incomplete: it has no {', no '.join(missing)}")
    symbols = block.get("_atom_site_type_symbol") or block["_atom_site_label"]
    for site, symbol in enumerate(symbols, start=1):
        if not symbol or _UNNAMED_SITE.match(symbol):
            raise InvalidStructure(f"atom site {site} of the CIF: {symbol!r} names no element")


def _check_identity_alone(block: dict[str, Any]) -> None:
    """Refuse a CIF that names a space group whose operations the parser neither found nor could make."""
    listed: str | list[str] = next((value for key, value in block.items() if _OPERATIONS.match(key)), [])
    if isinstance(listed, str) or len(listed) == 1:
        return  # the identity is what the file says
    for key, value in block.items():
        if _SPACE_GROUP.match(key) and re.sub(r"[\s_]", "", str(value)) not in _NO_SYMMETRY:
            raise InvalidStructure(f"the CIF has no readable symmetry operations, and {key} {value!r} is unknown")
