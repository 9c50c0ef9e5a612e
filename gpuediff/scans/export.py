"""Maps and particles for other programs: one HDF5 file, and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

import gpuediff
from gpuediff.crystals.symmetry import LATTICE_PARAMETERS
from gpuediff.durable import complete_or_absent
from gpuediff.errors import InvalidScan
from gpuediff.scans.maps import ScanMaps, Status
from gpuediff.scans.particles import ParticlePredictions, Particles

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "gpuediff scan maps"
SCHEMA_VERSION = 2

# name of the dataset, and of the field of ScanMaps: unit, meaning
MAPS = {
    "status": ("", "what became of the probe position, see status_codes"),
    "n_peaks": ("", "peaks in the pattern, the direct beam included"),
    "raw_system": ("", "index into systems before filtering, -1: none"),
    "filtered_system": ("", "index into systems after filtering, -1: none"),
    "confidence": ("", "share of the trees that vote for raw_system"),
    "difference_confidence": ("", "share of raw_system less that of the next system"),
    "filtered_difference_confidence": ("", "largest of the systems' median-filtered images of difference_confidence"),
    "probability": ("", "of raw_system, calibrated if the model is"),
    "votes": ("", "share of the trees for each of systems (last axis)"),
    "space_group_number": ("", "0: none"),
    "space_group_confidence": ("", "share of the trees"),
    "space_group_difference_confidence": ("", "share of the trees less that of the next space group"),
    "lattice": ("Å, Å, Å, degrees, degrees, degrees", "a, b, c, alpha, beta, gamma of the conventional cell"),
    "lattice_low": ("Å, Å, Å, degrees, degrees, degrees", "lower end of the interval of lattice, about 68 %"),
    "lattice_high": ("Å, Å, Å, degrees, degrees, degrees", "upper end of the interval of lattice"),
    "several_grains": ("", "probability that the pattern is of more than one grain, if every second one is"),
    "novelty": ("", "share of validation patterns that look more like training patterns than this one"),
    "bright_field": ("as the scan's intensities", "direct beam"),
    "dark_field": ("as the scan's intensities", "all other peaks"),
}


def write_maps(maps: ScanMaps, path: str | Path, *, particles: Particles | None = None) -> None:
    """Write maps to one HDF5 file, complete or not at all.

    Every map is a dataset of the scan's shape with attributes `units` and `description`; the root's attributes hold
    the class list, status codes, options, calibration, source and version.

    Parameters
    ----------
    maps : ScanMaps
    path : str or Path
        A file of that name is replaced.
    particles : Particles, optional
        Goes into the group `particles`: `labels` of the scan's shape, and one array for each column of
        `particle_table`.
    """

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs.update(
                format=FORMAT,
                schema_version=SCHEMA_VERSION,
                gpuediff_version=gpuediff.__version__,
                systems=list(maps.systems),
                status_codes=json.dumps({status.name.lower(): int(status) for status in Status}),
                options=json.dumps(maps.options),
                source=maps.source,
                calibration=json.dumps(maps.calibration, ensure_ascii=False),
                note=maps.note,
            )
            if maps.step_size is not None:
                file.attrs["step_size"] = maps.step_size
                file.attrs["step_size_units"] = "Å"
            for name, (units, description) in MAPS.items():
                data = file.create_dataset(name, data=getattr(maps, name), compression="gzip", shuffle=True)
                data.attrs.update(units=units, description=description)
            if particles is not None:
                group = file.create_group("particles")
                group.create_dataset("labels", data=particles.labels, compression="gzip", shuffle=True)
                for name, column in _particle_columns(particles).items():
                    group[name] = column.astype(h5py.string_dtype()) if column.dtype.kind == "U" else column

    complete_or_absent(Path(path), write)


def read_maps(path: str | Path) -> ScanMaps:
    """Read what `write_maps` wrote.

    Raises
    ------
    InvalidScan
        If the file is missing, damaged, of another program or of another schema.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise InvalidScan(f"{path}: not a file of scan maps: write one with gpuediff scan")
            if file.attrs["schema_version"] != SCHEMA_VERSION:
                raise InvalidScan(
                    f"{path}: schema version {file.attrs['schema_version']}, but this gpuediff reads {SCHEMA_VERSION}: "
                    f"use gpuediff {file.attrs['gpuediff_version']}"
                )
            step_size = file.attrs.get("step_size")
            return ScanMaps(
                systems=tuple(str(name) for name in file.attrs["systems"]),
                **{name: file[name][()] for name in MAPS},
                options=json.loads(file.attrs["options"]),
                source=str(file.attrs["source"]),
                calibration=json.loads(file.attrs["calibration"]),
                note=str(file.attrs["note"]),
                step_size=None if step_size is None else float(step_size),
            )
    except (OSError, KeyError) as error:
        raise InvalidScan(f"{path}: cannot be read as scan maps: {error}") from error


def scan_table(maps: ScanMaps) -> pd.DataFrame:
    """Tabulate maps, one row for each probe position, row by row.

    Returns
    -------
    DataFrame
        Columns row, column, status, n_peaks, raw_system, crystal_system, the confidences, votes_<system>, space group,
        and a, b, c (Å), alpha, beta, gamma (degrees). Crystal systems are names, empty where there is none.
    """
    import pandas as pd

    row, column = np.indices(maps.shape)
    names = np.array([*maps.systems, ""])
    status_names = np.array([status.name.lower() for status in Status])
    columns: dict[str, Any] = {
        "row": row,
        "column": column,
        "status": status_names[maps.status],
        "n_peaks": maps.n_peaks,
        "raw_system": names[maps.raw_system],
        "crystal_system": maps.crystal_system,
        "confidence": maps.confidence,
        "difference_confidence": maps.difference_confidence,
        "filtered_difference_confidence": maps.filtered_difference_confidence,
        "probability": maps.probability,
        "several_grains": maps.several_grains,
        "novelty": maps.novelty,
        "bright_field": maps.bright_field,
        "dark_field": maps.dark_field,
    }
    columns |= {f"votes_{name}": maps.votes[..., index] for index, name in enumerate(maps.systems)}
    columns |= {
        "space_group_number": maps.space_group_number,
        "space_group_confidence": maps.space_group_confidence,
        "space_group_difference_confidence": maps.space_group_difference_confidence,
    }
    for suffix, values in (("", maps.lattice), ("_low", maps.lattice_low), ("_high", maps.lattice_high)):
        columns |= {f"{name}{suffix}": values[..., index] for index, name in enumerate(LATTICE_PARAMETERS)}
    return pd.DataFrame({name: np.asarray(values).reshape(-1) for name, values in columns.items()})


def particle_table(particles: Particles) -> pd.DataFrame:
    """Tabulate particles, largest first.

    Returns
    -------
    DataFrame
        Columns particle, crystal_system, probe_positions (their number), area (Å², where the step size is known),
        centroid_row, centroid_column, brightest_row, brightest_column; then the predictions with the prefixes
        `brightest_`, `aggregate_` and, where patterns were described together, `pooled_`.
    """
    import pandas as pd

    return pd.DataFrame(_particle_columns(particles))


def _particle_columns(particles: Particles) -> dict[str, np.ndarray]:
    columns = {
        "particle": np.arange(1, len(particles) + 1),
        "crystal_system": particles.crystal_system,
        "probe_positions": particles.size,
    }
    if particles.step_size is not None:
        columns["area"] = particles.size * particles.step_size**2
    for name, places in (("centroid", particles.centroid), ("brightest", particles.brightest)):
        columns[f"{name}_row"], columns[f"{name}_column"] = places.T
    columns |= _columns("brightest", particles.by_brightest) | _columns("aggregate", particles.by_aggregation)
    return columns if particles.by_pooling is None else columns | _columns("pooled", particles.by_pooling)


def _columns(prefix: str, predictions: ParticlePredictions) -> dict[str, np.ndarray]:
    columns = {
        "crystal_system": predictions.crystal_system,
        "confidence": predictions.confidence,
        "difference_confidence": predictions.difference_confidence,
        "space_group_number": predictions.space_group_number,
        "space_group_confidence": predictions.space_group_confidence,
    }
    columns |= dict(zip(LATTICE_PARAMETERS, predictions.lattice.T, strict=True))
    return {f"{prefix}_{name}": values for name, values in columns.items()}
