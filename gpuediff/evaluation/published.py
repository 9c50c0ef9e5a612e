"""What the paper reports, to stand beside our numbers; nothing here was measured with this package."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Gleason et al., Phys. Rev. Materials 8, 093802 (2024)"


@dataclass(frozen=True)
class Published:
    """One number as printed in `SOURCE`."""

    quantity: str
    value: str


# 200 Å thick specimens; the paper's way of choosing orientations is the protocol "grid".
PUBLISHED = (
    Published("crystal system right, 1 pattern", "67%"),
    Published("crystal system right, 10 patterns of one material", "79%"),
    Published("triclinic patterns recognised (recall), where that system is included", "14%"),
    Published("space group right; cubic, hexagonal, trigonal, tetragonal", "70–90%"),
    Published("median error of a lattice length; cubic, hexagonal, trigonal, tetragonal", "0.01–0.5 Å"),
)
SYSTEM_RIGHT = {"single": "67%", "aggregate": "79%"}
