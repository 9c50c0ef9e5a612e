"""The built-in structures: the AFLOW library of crystallographic prototypes that comes with pymatgen.

Some 290 structure types of the elements and simple compounds (Mehl et al., Comput. Mater. Sci. 136, S1-S828, 2017).
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuediff.errors import InvalidStructureSource

if TYPE_CHECKING:
    from pymatgen.core import Structure


def prototype_texts() -> dict[str, str]:
    """Give the text of every prototype by its material id.

    The id is the AFLOW label and the reduced formula of the example, e.g. "AB_cF8_225_a_b-NaCl"; where two examples
    of one type have the same formula, the later ones are numbered. The text is the cell and its sites as JSON, from
    which `read_prototype` makes the structure.

    Raises
    ------
    InvalidStructureSource
        If pymatgen has no such library.
    """
    texts: dict[str, str] = {}
    for entry in _library():
        content = entry["snl"]
        text = {
            "lattice": content["lattice"]["matrix"],
            "sites": [{"species": site["species"], "position": site["abc"]} for site in content["sites"]],
        }
        name = base = f"{entry['tags']['aflow']}-{_formula(text['sites'])}"
        count = 1
        while name in texts:
            count += 1
            name = f"{base}-{count}"
        texts[name] = json.dumps(text, sort_keys=True)
    return texts


def read_prototype(text: str) -> Structure:
    """Make the structure of a prototype's text."""
    from pymatgen.core import Structure

    content = json.loads(text)
    species = [{kind["element"]: kind["occu"] for kind in site["species"]} for site in content["sites"]]
    return Structure(content["lattice"], species, [site["position"] for site in content["sites"]])


@cache
def _library() -> list[dict[str, Any]]:
    """Read pymatgen's file itself: its own loader takes seconds, and the file moved between versions."""
    package = importlib.util.find_spec("pymatgen.analysis")
    folders = list(package.submodule_search_locations or []) if package else []
    for folder in folders:
        for path in sorted(Path(folder).glob("**/aflow_prototypes.json*")):
            content = path.read_bytes()
            return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    raise InvalidStructureSource(
        "prototypes: the installed pymatgen has no aflow_prototypes.json: install pymatgen >= 2024.8.9"
    )


def _formula(sites: list[dict[str, Any]]) -> str:
    from pymatgen.core import Composition

    total: dict[str, float] = {}
    for site in sites:
        for kind in site["species"]:
            total[kind["element"]] = total.get(kind["element"], 0.0) + kind["occu"]
    return Composition(total).reduced_formula
