"""A mapped scan on disk: one HDF5 of maps, tables, files for other programs, pictures, and a page to explore it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gpuediff.scans.comparison import Components
from gpuediff.scans.export import particle_table, scan_table, write_maps
from gpuediff.scans.figures import distributions, patterns
from gpuediff.scans.figures import maps as map_figures
from gpuediff.scans.figures.components import component_figure
from gpuediff.scans.figures.maps import save_figure
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.orix_export import write_ang
from gpuediff.scans.page.page import write_page
from gpuediff.scans.particles import Particles
from gpuediff.scans.scan import Scan
from gpuediff.tables import write_table

PATTERNS_SHOWN = 6


def write_scan_report(
    folder: str | Path,
    scan: Scan,
    maps: ScanMaps,
    particles: Particles,
    *,
    positions: Sequence[tuple[int, int]] = (),
    comparison: tuple[Components, np.ndarray, np.ndarray] | None = None,
    details: dict[str, str] | None = None,
    pdf: bool = False,
) -> list[Path]:
    """Write everything known about a scan to a folder, replacing an older report.

    Parameters
    ----------
    folder : path
    scan, maps, particles
        A scan, its maps, and its particles.
    positions : sequence of (row, column)
        Patterns that are drawn; the brightest of the largest particles if there are none.
    comparison : tuple, optional
        From `gpuediff.scans.comparison.compare_with_library`, to be drawn.
    details : dict of str, optional
        What else the page tells about the scan, such as the model.
    pdf : bool
        Write every picture as PDF, too.

    Returns
    -------
    list of Path
        scan.html, summary.png, maps.h5, probe_positions.parquet, particles.csv, maps.ang (where there are labels, and
        each has the lattice of its own system), and the folder of all pictures, `figures`.
    """
    folder = Path(folder)
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in ("scan.html", "summary.png", "maps.h5", "probe_positions.parquet")]
    write_page(written[0], scan, maps, particles, details=details)
    save_figure(map_figures.summary(maps), written[1])
    write_maps(maps, written[2], particles=particles)
    write_table(scan_table(maps), written[3])
    written.append(folder / "particles.csv")
    write_table(particle_table(particles), written[-1])
    ang = folder / "maps.ang"
    if (maps.filtered_system >= 0).any() and maps.options["lattice_system"] is None:
        write_ang(maps, ang)
        written.append(ang)
    else:
        ang.unlink(missing_ok=True)
    for name, figure in _figures(scan, maps, particles, positions, comparison):
        for suffix in ("png", "pdf"):
            file = pictures / f"{name}.{suffix}"
            if figure is not None and (pdf or suffix == "png"):
                save_figure(figure, file)
            else:
                file.unlink(missing_ok=True)  # of an older report, not to be taken for one of this
    return [*written, pictures]


def _figures(
    scan: Scan,
    maps: ScanMaps,
    particles: Particles,
    positions: Sequence[tuple[int, int]],
    comparison: tuple[Components, np.ndarray, np.ndarray] | None,
) -> Iterator[tuple[str, Figure | None]]:
    """Draw all pictures but the summary; None where there is nothing to show."""
    yield "systems", map_figures.system_map(maps)
    yield "space_groups", map_figures.space_group_map(maps)
    yield "confidence", map_figures.confidence_map(maps)
    told = any(np.isfinite(values).any() for values in (maps.probability, maps.several_grains, maps.novelty))
    yield "trust", map_figures.trust_maps(maps) if told else None
    yield "lattice", map_figures.lattice_maps(maps)
    yield "lattice_intervals", map_figures.lattice_interval_maps(maps)
    yield "lattice_histograms", distributions.lattice_histograms(maps)
    yield "fractions", distributions.fraction_figure(maps)
    yield "virtual_images", map_figures.virtual_image_figure(maps)
    yield "particles", map_figures.particle_map(maps, particles)
    shown = list(positions) or [(int(row), int(column)) for row, column in particles.brightest[:PATTERNS_SHOWN]]
    yield "patterns", patterns.pattern_figure(scan, maps, shown) if shown else None
    yield "components", component_figure(*comparison) if comparison is not None else None
