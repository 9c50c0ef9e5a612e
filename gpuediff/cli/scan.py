"""Mapping a scan for a person: maps and particles are computed, written and summed up in two tables."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gpuediff.cli import show
from gpuediff.library.reader import Library
from gpuediff.scans.comparison import compare_with_library
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.maps import ScanMaps, Status
from gpuediff.scans.particles import Particles, find_particles
from gpuediff.scans.report import write_scan_report
from gpuediff.scans.scoring import LATTICE_TOLERANCE, false_labels, score_particles, score_positions

if TYPE_CHECKING:
    from gpuediff.cli.screen import Screen
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.scans.scan import Scan
    from gpuediff.scans.simulated import Truth

PARTICLES_SHOWN = 10


def map_and_show(
    scan: Scan,
    hierarchy: Hierarchy,
    out: Path,
    screen: Screen,
    *,
    library: Path | None = None,
    report: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[ScanMaps, Particles, list[Path]]:
    """Map a scan, find its particles, write the report and show the tables; returns maps, particles and files.

    Patterns of a library are drawn beside those of the scan. `report` goes to `write_scan_report`, all other options
    to `map_scan`.
    """
    comparison = None
    with nullcontext() if library is None else Library(library) as opened:
        maps = map_scan(scan, hierarchy, track=screen.track, **options)
        particles = find_particles(scan, maps, hierarchy, track=screen.track)
        if opened is not None:
            comparison = compare_with_library(scan, maps, hierarchy, opened, track=screen.track)
    screen.remark("writing tables, pictures and the page")
    written = write_scan_report(out, scan, maps, particles, comparison=comparison, **(report or {}))
    data = {
        "source": maps.source,
        "shape": list(maps.shape),
        "status": {status.name.lower(): maps.count(status) for status in Status},
        "filtered_fractions": {
            system: None if math.isnan(share) else float(share)
            for system, share in zip(maps.systems, maps.filtered_fractions(), strict=True)
        },
        "particles": len(particles),
        "files": [str(path) for path in written],
    }
    screen.result(_positions(maps), _systems(maps), _particles(particles, screen.results.width), data=data)
    return maps, particles, written


def truth_table(maps: ScanMaps, particles: Particles, truth: Truth) -> Group:
    """Compare the maps of a simulated scan with what it was made of."""
    lattice = f"a = {truth.crystal.conventional[0]:.3f} Å"
    positions, regions = score_positions(maps, truth), score_particles(particles, truth)
    wrong, film = false_labels(maps, truth)
    return show.key_values(
        f"Against the truth: {truth.crystal.formula}, {truth.crystal.crystal_system}, {lattice}",
        {
            "probe positions with crystal": positions.there,
            "of these labelled": _share(positions.answered, positions.there),
            "of the labelled, right crystal system": _share(positions.right, positions.answered),
            f"of the right, a within {LATTICE_TOLERANCE:g} Å": _share(positions.near, positions.right),
            "probe positions without crystal that got a label": _share(wrong, film),
            "particles on the map, mostly of crystal": regions.there,
            "of these, right crystal system by all votes": _share(regions.right, regions.there),
        },
    )


def _positions(maps: ScanMaps) -> Group:
    ny, nx = maps.shape
    counts = {
        "labelled": maps.count(Status.PREDICTED),
        "too few peaks": maps.count(Status.TOO_FEW_PEAKS),
        "impossible peaks": maps.count(Status.INVALID_PEAKS),
        "dropped for low confidence": maps.count(Status.BELOW_CONFIDENCE),
    }
    return show.key_values(f"{maps.source}: {ny} x {nx} probe positions", counts)


def _systems(maps: ScanMaps) -> Table:
    table = Table(title="Share of patterns that were predicted, and of labels after filtering", title_justify="left")
    for heading in ("crystal system", "patterns", "weighted by confidence", "after filtering"):
        table.add_column(heading, justify="left" if heading == "crystal system" else "right")
    columns = maps.raw_fractions(), maps.weighted_fractions(), maps.filtered_fractions()
    for system, *shares in zip(maps.systems, *columns, strict=True):
        table.add_row(system, *("–" if math.isnan(share) else f"{share:.1%}" for share in shares))
    return table


def _particles(particles: Particles, width: int) -> Group:
    shown = min(len(particles), PARTICLES_SHOWN)
    of = "" if shown == len(particles) else f", the {shown} largest of {len(particles):,}"
    wide = width >= show.WIDE
    table = show.answer_table(width)
    table.add_column("no.", justify="right")
    table.add_column("probe\npositions", justify="right")
    pooled = particles.by_pooling
    if wide:
        table.add_column("crystal system\non the map")
    table.add_column("crystal system\nby all votes" if wide else "crystal system", no_wrap=True)
    if pooled is not None and wide:
        table.add_column("crystal system\ndescribed together", no_wrap=True)
    table.add_column("space\ngroup", justify="right")
    for heading in ("a, b, c (Å)", "α, β, γ (°)") if wide else ("lattice (Å, °)",):
        table.add_column(heading, no_wrap=True)
    voted = particles.by_aggregation
    for row in range(shown):
        lattice = voted.lattice[row]
        told = [] if pooled is None else [show.answer(str(pooled.crystal_system[row]), pooled.confidence[row], 12)]
        table.add_row(
            str(row + 1),
            f"{particles.size[row]:,}",
            *((str(particles.crystal_system[row]),) if wide else ()),
            show.answer(str(voted.crystal_system[row]), voted.confidence[row], 12),
            *(told if wide else ()),
            str(voted.space_group_number[row]),
            *(show.lattice_cells(lattice) if wide else (show.free_lattice(particles.crystal_system[row], lattice),)),
        )
    title = Text(f"Particles, predicted from all their patterns{of}", style="italic")
    return Group(title, table, Text("%: confidence; space group and lattice by the votes", style="dim"))


def _share(part: int, whole: int) -> str:
    return f"{int(part):,} ({part / whole:.0%})" if whole else "0"
