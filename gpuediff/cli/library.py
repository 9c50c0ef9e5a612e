"""What a pattern library holds, for a person and for a script."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuediff.cli.show import key_values
from gpuediff.settings import CRYSTAL_SYSTEMS, Simulation

if TYPE_CHECKING:
    from gpuediff.library.reader import Library

REASONS_SHOWN = 8
# What the summary tells in its own words; other settings are told where they are not the default.
TOLD = ("beam_energy", "g_max", "excitation_error_max", "form_factors", "thicknesses")
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)")  # one that stands alone: not in a formula or a name


def library_data(library: Library) -> dict[str, Any]:
    """Describe a library in JSON types: `Library.info`, and how many peaks its patterns have."""
    counts = library.peak_counts
    of_pattern = {"median": float(np.median(counts)), "max": int(counts.max())} if len(counts) else None
    return {**library.info(), "peaks_of_pattern": of_pattern}


def library_table(library: Library) -> Group:
    """Lay out what a library holds, within 80 columns."""
    simulation = library.run.simulation
    counts, thicknesses = library.peak_counts, library.thicknesses
    span = f"{thicknesses[0]:g}" if len(thicknesses) == 1 else f"{thicknesses[0]:g} .. {thicknesses[-1]:g}"
    orientations = simulation.orientations
    peaks = f"{counts.sum():,}"
    if len(counts):
        peaks += f", {np.median(counts):,.0f} a pattern (median), at most {counts.max():,}"
    pairs: dict[str, Any] = {
        "materials": len(library.materials),
        "patterns": len(library),
        "peaks": peaks,
        "thicknesses": f"{len(thicknesses)}: {span} Å" if len(thicknesses) > 1 else f"{span} Å",
        "orientations": f"{orientations.count} a material, protocol “{orientations.protocol}”",
        "simulation": (
            f"{simulation.beam_energy / 1e3:g} keV, |g| ≤ {simulation.g_max:g} Å⁻¹, "
            f"|s| ≤ {simulation.excitation_error_max:g} Å⁻¹, {simulation.form_factors}"
        ),
    }
    if others := not_default(simulation):
        pairs["not the default"] = ", ".join(f"{name} = {value}" for name, value in others.items())
    pairs["size on disk"] = f"{library.path.stat().st_size / 1e6:,.1f} MB"
    pairs["skipped structures"] = len(library.skipped)
    parts: list[RenderableType] = [key_values(str(library.path), pairs)]
    if library.skipped:
        parts.append(_skipped([entry.reason for entry in library.skipped]))
    return Group(*parts, Text(), _systems(library))


def not_default(simulation: Simulation) -> dict[str, Any]:
    """List the settings that are not the default and that the summary does not tell anyway, by their dotted names."""
    given, default = (_flat(settings.model_dump(mode="json")) for settings in (simulation, Simulation()))
    return {
        name: value
        for name, value in given.items()
        if value != default.get(name) and name not in TOLD and not name.startswith("orientations.")
    }


def reasons_counted(reasons: Sequence[str]) -> dict[str, int]:
    """Count reasons, most common first; those that differ in their numbers alone are one, with the range of each.

    "cell of 1200 Å³, above 1000 Å³" and "cell of 3000 Å³, above 1000 Å³" make
    "cell of 1200 .. 3000 Å³, above 1000 Å³".
    """
    kinds = [NUMBER.sub("#", reason) for reason in reasons]
    numbers: dict[str, list[list[str]]] = {}
    for kind, reason in zip(kinds, reasons, strict=True):
        numbers.setdefault(kind, []).append(NUMBER.findall(reason))
    counted: dict[str, int] = {}
    for kind, count in Counter(kinds).most_common():
        if kind.count("#") != len(numbers[kind][0]):  # a reason that has the sign itself
            counted |= Counter(reason for reason, its in zip(reasons, kinds, strict=True) if its == kind)
            continue
        ranges = [_range(values) for values in zip(*numbers[kind], strict=True)]
        texts = kind.split("#")
        counted["".join(text + span for text, span in zip(texts, [*ranges, ""], strict=True))] = count
    return counted


def _range(values: Sequence[str]) -> str:
    low, high = min(values, key=float), max(values, key=float)
    return low if low == high else f"{low} .. {high}"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _skipped(reasons: Sequence[str]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    counted = reasons_counted(reasons)
    for reason, count in list(counted.items())[:REASONS_SHOWN]:
        table.add_row(f"  {count:,} ×", reason)
    if len(counted) > REASONS_SHOWN:
        rest = sum(list(counted.values())[REASONS_SHOWN:])
        table.add_row(f"  {rest:,} ×", f"{len(counted) - REASONS_SHOWN} other reasons: --skipped lists all")
    return table


def _systems(library: Library) -> Table:
    table = Table()
    for heading in ("crystal system", "materials", "space groups", "patterns", "peaks a pattern"):
        table.add_column(heading, justify="left" if heading == "crystal system" else "right", no_wrap=True)
    system, number = library.materials.crystal_system, library.materials.space_group_number
    system_of_pattern = system[library.material_of_pattern]
    for name in CRYSTAL_SYSTEMS:
        of_system, patterns = system == name, system_of_pattern == name
        if of_system.any():
            table.add_row(
                name,
                f"{of_system.sum():,}",
                f"{len(np.unique(number[of_system])):,}",
                f"{patterns.sum():,}",
                f"{np.median(library.peak_counts[patterns]):,.0f}" if patterns.any() else "–",
            )
    return table
