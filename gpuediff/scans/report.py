"""A mapped scan on disk: one HDF5 of maps, tables, and pictures."""

from __future__ import annotations

from pathlib import Path

from gpuediff.scans import figures
from gpuediff.scans.export import particle_table, scan_table, write_maps
from gpuediff.scans.maps import ScanMaps
from gpuediff.scans.particles import Particles
from gpuediff.tables import write_table


def write_scan_report(folder: str | Path, maps: ScanMaps, particles: Particles) -> list[Path]:
    """Write everything known about a scan to a folder, replacing an older report.

    Returns
    -------
    list of Path
        maps.h5, probe_positions.parquet, particles.csv, and the pictures summary.png, systems.png,
        confidence.png, lattice.png, particles.png.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "maps.h5", folder / "probe_positions.parquet", folder / "particles.csv"]
    write_maps(maps, written[0], particles=particles)
    write_table(scan_table(maps), written[1])
    write_table(particle_table(particles), written[2])
    pictures = {
        "summary.png": figures.summary(maps),
        "systems.png": figures.system_map(maps),
        "confidence.png": figures.confidence_map(maps),
        "lattice.png": figures.lattice_maps(maps),
        "particles.png": figures.particle_map(maps, particles),
    }
    for name, figure in pictures.items():
        figures.save_figure(figure, folder / name)
        written.append(folder / name)
    return written
