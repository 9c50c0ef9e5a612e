"""A mapped scan as one interactive HTML page that needs nothing but a browser: maps beside the patterns.

The page is `assets/page.html` with the style, the scripts and the numbers put in (`data`). What can be
looked at, in which colours and over which range, is decided here; the scripts only draw.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

import gpuediff
from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, independent_parameters, short_symbol
from gpuediff.durable import complete_or_absent
from gpuediff.errors import InvalidScan
from gpuediff.peaks import DIRECT_BEAM_RADIUS
from gpuediff.scans.figures.drawing import COLOURS, DIMMEST, NO_VALUE, NOT_PREDICTED, full_brightness
from gpuediff.scans.figures.maps import GROUP_COLOURS, OTHER_GROUPS
from gpuediff.scans.maps import ScanMaps, Status
from gpuediff.scans.page import data as page_data
from gpuediff.scans.page.data import Codes, PeaksToPack, rounded, whole
from gpuediff.scans.particles import ParticlePredictions, Particles, innermost
from gpuediff.scans.scan import Scan

PAGE_SIZE_MAX = 30_000_000  # bytes; what browsers still open at once, and mail servers still take
POSITIONS_MAX = 1024 * 1024  # probe positions; of larger scans every second, third, ... row and column is shown
EMPTY = 200  # bytes that say that there are no patterns
SCRIPTS = ("data", "viewport", "map", "pattern", "pixel", "page")
NUMBERED = 40  # particles with their number on the map

# What is said of a probe position, and its colour on the map of what became of the patterns.
STATUS = {
    Status.PREDICTED: ("predicted", "#56B4E9"),
    Status.TOO_FEW_PEAKS: ("too few peaks", "#222222"),
    Status.INVALID_PEAKS: (
        "impossible peaks: a value is not finite, an intensity negative, or all zero",
        "#D55E00",
    ),
    Status.BELOW_CONFIDENCE: ("the neighbouring patterns do not agree on a crystal system", "#999999"),
    Status.UNDECIDED: ("undecided: the pattern does not bear the map out as surely as was asked for", "#F0E442"),
}

TRUST, LATTICE, SIGNAL = "Trust", "Lattice", "Signal"
TREES = "share of the trees"
# Array: group and name in the list of maps, unit, colours, lower end of the colours (None: of the values).
NUMBERS: dict[str, tuple[str, str, str, str, float | None]] = {
    "probability": (TRUST, "Probability", "probability", "cividis", 0.0),
    "confidence": (TRUST, "Confidence", TREES, "cividis", 0.0),
    "difference_confidence": (TRUST, "Difference confidence", TREES, "cividis", 0.0),
    "filtered_difference_confidence": (TRUST, "Difference confidence, filtered", TREES, "cividis", 0.0),
    "space_group_confidence": (TRUST, "Confidence of the space group", TREES, "cividis", 0.0),
    "several_grains": (TRUST, "Several grains in one pattern", "probability", "magma", 0.0),
    "novelty": (TRUST, "Unlike the library", "share of unseen materials’ patterns", "magma", 0.0),
    "a": (LATTICE, "a", "Å", "viridis", None),
    "b": (LATTICE, "b", "Å", "viridis", None),
    "c": (LATTICE, "c", "Å", "viridis", None),
    "alpha": (LATTICE, "α", "°", "viridis", None),
    "beta": (LATTICE, "β", "°", "viridis", None),
    "gamma": (LATTICE, "γ", "°", "viridis", None),
    "volume": (LATTICE, "Volume of the conventional cell", "Å³", "viridis", None),
    "interval": (LATTICE, "Interval of the worst known length, ±", "%", "cividis", 0.0),
    "bright_field": (SIGNAL, "Bright field: direct beam", "", "gray", None),
    "dark_field": (SIGNAL, "Dark field: all other peaks", "", "gray", None),
    "n_peaks": (SIGNAL, "Number of peaks", "peaks", "cividis", 0.0),
}
THRESHOLDS = ("probability", "confidence", "difference_confidence", "filtered_difference_confidence")
FLAGS = {"several_grains": ("several grains", 0.5), "novelty": ("unlike the library", 0.95)}
RANGE = (2, 98)  # percentiles between which a map is coloured


def write_page(
    path: str | Path,
    scan: Scan,
    maps: ScanMaps,
    particles: Particles | None = None,
    *,
    details: Mapping[str, str] | None = None,
    size_max: int = PAGE_SIZE_MAX,
) -> None:
    """Write a mapped scan as one HTML page with the maps, the pattern of every probe position, and what was predicted.

    The page needs no network, no server and no other file. Numbers are rounded: shares to 1/65,534 (votes to 1/254),
    other values to 1/65,534 of their range, peak positions to 0.0002 Å⁻¹, intensities to 1/254 of their range in
    logarithm. Maps that have no value anywhere are not offered.

    Parameters
    ----------
    path : str or Path
        A file of that name is replaced, complete or not at all.
    scan : Scan
        The scan that was mapped.
    maps : ScanMaps
        Its maps.
    particles : Particles, optional
        Its particles.
    details : mapping of str to str, optional
        More lines for the head of the page, such as which model was used; taken literally.
    size_max : int
        Of the page, bytes. If not all peaks fit, the brightest of every pattern are kept, or no patterns at all, and
        the page says so.

    Raises
    ------
    InvalidScan
        If the maps or the particles are not of this scan's shape, or not even the maps fit into the page.

    Notes
    -----
    Of a scan with more than 1024 x 1024 probe positions, or whose maps alone do not fit into the page, every second
    (third, ...) row and column is shown, and the page says so.
    """
    labelled = maps.shape if particles is None else particles.labels.shape
    for name, shape in (("maps", maps.shape), ("particles", labelled)):
        if shape != scan.shape:
            raise InvalidScan(f"{scan.source}: {scan.shape} probe positions, but the {name} have {shape}")
    stride = _stride(scan.shape)
    numbers = _numbers(maps)
    longest = _notes(scan, 99, {"most": 9_999, "complete": False})  # what the notes are is known last
    shell = len(_render(scan, maps, details, longest).encode())
    while True:
        header = _header(scan, maps, numbers, particles, stride)
        packed = page_data.text_of(page_data.encode(header, _arrays(maps, numbers, particles, stride)))
        room = size_max - shell - len(packed)
        if room >= EMPTY:
            break
        if stride >= max(scan.shape) or size_max < shell:
            raise InvalidScan(f"size_max = {size_max:,} bytes: too small for any page: allow {PAGE_SIZE_MAX:,}")
        stride += 1
    shown = np.arange(maps.status.size).reshape(maps.shape)[::stride, ::stride].reshape(-1)
    patterns, kept = page_data.pack_peaks(PeaksToPack(scan.peaks, shown), room)
    text = _render(scan, maps, details, _notes(scan, stride, kept), packed, patterns)
    complete_or_absent(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


@cache
def symbol(space_group_number: int) -> str:
    """Write the Hermann-Mauguin symbol of a space group: 225 as Fm3̅m, 14 as P2₁/c."""
    short = re.sub(r"_(\d)", lambda found: "₀₁₂₃₄₅₆"[int(found[1])], short_symbol(space_group_number))
    return re.sub(r"-(\d)", "\\1\N{COMBINING OVERLINE}", short)


def _stride(shape: tuple[int, int]) -> int:
    stride = 1
    while -(-shape[0] // stride) * -(-shape[1] // stride) > POSITIONS_MAX:
        stride += 1
    return stride


def _arrays(
    maps: ScanMaps, numbers: Mapping[str, np.ndarray], particles: Particles | None, stride: int
) -> dict[str, Codes]:
    """Round all maps to whole numbers."""
    arrays = {
        name: whole(getattr(maps, name)[::stride, ::stride])
        for name in ("status", "n_peaks", "raw_system", "filtered_system", "space_group_number")
    }
    for name, values in numbers.items():
        shares = name in NUMBERS and NUMBERS[name][0] == TRUST
        if name not in arrays:
            low, high = (0.0, 1.0) if shares else (None, None)
            arrays[name] = rounded(values[::stride, ::stride], low=low, high=high)
    arrays["votes"] = rounded(np.moveaxis(maps.votes[::stride, ::stride], -1, 0), low=0.0, high=1.0, bits=8)
    if particles is not None:
        arrays["particle"] = whole(particles.labels[::stride, ::stride])
    return arrays


def _numbers(maps: ScanMaps) -> dict[str, np.ndarray]:
    """Gather the maps of numbers, (ny, nx) each, and the ends of the lattice's intervals; those without any not."""
    lattice = dict(zip(LATTICE_PARAMETERS, np.moveaxis(maps.lattice, -1, 0), strict=True))
    low = dict(zip(LATTICE_PARAMETERS, np.moveaxis(maps.lattice_low, -1, 0), strict=True))
    high = dict(zip(LATTICE_PARAMETERS, np.moveaxis(maps.lattice_high, -1, 0), strict=True))
    widths = [(high[name] - low[name]) / lattice[name] * 50 for name in ("a", "b", "c")]  # ± percent
    numbers = {name: getattr(maps, name) for name, (group, *_) in NUMBERS.items() if group != LATTICE}
    numbers |= lattice | {"volume": _volume(maps.lattice), "interval": np.max(widths, axis=0)}
    numbers |= {f"{name}_low": values for name, values in low.items()}
    numbers |= {f"{name}_high": values for name, values in high.items()}
    return {name: values for name, values in numbers.items() if np.isfinite(values).any()}


def _volume(lattice: np.ndarray) -> np.ndarray:
    """Volume of cells, (..., 6) in Å and degrees; Å³."""
    cosines = np.cos(np.deg2rad(lattice[..., 3:].astype(np.float64)))
    root = 1 + 2 * cosines.prod(axis=-1) - (cosines**2).sum(axis=-1)
    return lattice[..., :3].astype(np.float64).prod(axis=-1) * np.sqrt(np.clip(root, 0, None))


def _header(
    scan: Scan, maps: ScanMaps, numbers: Mapping[str, np.ndarray], particles: Particles | None, stride: int
) -> dict[str, Any]:
    """Tell the scripts what the arrays do not: names, colours, ranges, particles."""
    shown = maps.status[::stride, ::stride].shape
    return {
        "shape": list(shown),
        "stride": stride,
        "step_size": None if maps.step_size is None else maps.step_size * stride,
        "intensity_unit": scan.intensity_unit,
        "systems": [{"name": name, "colour": COLOURS[name]} for name in maps.systems],
        "statuses": [
            {
                "code": int(status),
                "name": status.name.lower(),
                "words": STATUS[status][0],
                "colour": STATUS[status][1],
                "count": int((maps.status[::stride, ::stride] == status).sum()),
            }
            for status in Status
        ],
        "options": maps.options,
        "free": {name: list(independent_parameters(name)) for name in maps.systems},
        "colours": _colour_maps()
        | {"none": NOT_PREDICTED, "empty": NO_VALUE, "dimmest": DIMMEST, "other": OTHER_GROUPS},
        "views": _views(maps, numbers),
        "thresholds": [{"key": key, "name": NUMBERS[key][1]} for key in THRESHOLDS if key in numbers],
        "flags": [{"key": key, "name": name, "limit": limit} for key, (name, limit) in FLAGS.items() if key in numbers],
        "space_groups": _space_groups(maps, particles),
        "direct_beam_radius": DIRECT_BEAM_RADIUS,
        "particles": None if particles is None else _particles(particles, stride),
    }


def _colour_maps() -> dict[str, Any]:
    places = np.linspace(0, 1, 33)
    names = {colours for *_, colours, _ in NUMBERS.values()}
    return {name: [to_hex(colour) for colour in colormaps[name](places)] for name in sorted(names)}


def _views(maps: ScanMaps, numbers: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """List what the map can show."""
    views: list[dict[str, Any]] = []
    for key, kind, name, strength in (
        ("filtered_system", "system", "Crystal system", "filtered_difference_confidence"),
        ("raw_system", "system", "Crystal system, before filtering", "difference_confidence"),
        ("space_group_number", "group", "Space group", "space_group_confidence"),
    ):
        there = getattr(maps, key) > 0 if kind == "group" else getattr(maps, key) >= 0
        if kind == "group" and not there.any():
            continue
        high = full_brightness(getattr(maps, strength)[there])
        views.append({"key": key, "kind": kind, "group": "Crystal", "name": name, "strength": strength, "high": high})
    for key, (group, name, unit, colours, low) in NUMBERS.items():
        if key not in numbers:
            continue
        values = numbers[key]
        ends = [float(end) for end in np.percentile(values[np.isfinite(values)], RANGE)]
        views.append(
            {
                "key": key,
                "kind": "number",
                "group": group,
                "name": name,
                "unit": unit,
                "colours": colours,
                "low": ends[0] if low is None else low,
                "high": ends[1],
            }
        )
    views.append({"key": "status", "kind": "status", "group": SIGNAL, "name": "What became of the pattern"})
    return views


def _space_groups(maps: ScanMaps, particles: Particles | None) -> list[dict[str, Any]]:
    """List the space groups that occur, the most frequent first; those of particles alone last."""
    numbers, counts = np.unique(maps.space_group_number[maps.space_group_number > 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    found = {int(numbers[place]): int(counts[place]) for place in order}
    if particles is not None:
        for prediction in (particles.by_aggregation, particles.by_brightest, particles.by_pooling):
            if prediction is None:
                continue
            found = {int(number): 0 for number in prediction.space_group_number if number > 0} | found
        found = dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))
    colours = [*GROUP_COLOURS, *[OTHER_GROUPS] * len(found)]
    return [
        {"number": number, "symbol": symbol(number), "count": count, "colour": colour}
        for (number, count), colour in zip(found.items(), colours, strict=False)
    ]


def _particles(particles: Particles, stride: int) -> dict[str, Any]:
    """Tell what is known of every particle, and where on the map the largest get their number."""
    return {
        "places": [[row / stride, column / stride] for row, column in innermost(particles.labels, NUMBERED)],
        "size": particles.size.tolist(),
        "system": [str(name) for name in particles.crystal_system],
        "brightest": particles.brightest.tolist(),
        "by_aggregation": _answers(particles.by_aggregation),
        "by_brightest": _answers(particles.by_brightest),
        "by_pooling": None if particles.by_pooling is None else _answers(particles.by_pooling),
    }


def _answers(predictions: ParticlePredictions) -> dict[str, list[Any]]:
    return {
        "system": [str(name) for name in predictions.crystal_system],
        "confidence": _finite(predictions.confidence),
        "space_group": predictions.space_group_number.tolist(),
        "lattice": [_finite(lattice) for lattice in predictions.lattice],
    }


def _finite(values: Iterable[float]) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _notes(scan: Scan, stride: int, kept: Mapping[str, Any]) -> list[str]:
    """Say what the page leaves out, and what the reader of the scan had to assume."""
    notes = [scan.note[:1].upper() + scan.note[1:]] if scan.note else []
    if stride > 1:
        notes.append(f"The scan is large: one of every {stride} rows and of every {stride} columns is shown.")
    if not kept["complete"]:
        left = f"only the {kept['most']} brightest peaks of every pattern are" if kept["most"] else "no patterns are"
        notes.append(f"To keep this page small, {left} in it; all predictions were made with all peaks.")
    return notes


def _render(
    scan: Scan,
    maps: ScanMaps,
    details: Mapping[str, str] | None,
    notes: Iterable[str],
    packed: str = "",
    patterns: str = "",
) -> str:
    style, script = _asset("page.css"), "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}}})();\n'
    file, _, dataset = scan.source.partition(": ")
    about = "".join(f"<dt>{escape(name)}</dt><dd>{escape(told)}</dd>" for name, told in _about(scan, maps, details))
    values = {
        "title": escape(Path(file).name),
        "dataset": escape(dataset),
        "extent": escape(_extent(scan)),
        "about": about,
        "notes": "".join(f"<li>{escape(note)}</li>" for note in notes),
        "version": escape(gpuediff.__version__),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "maps": packed,
        "patterns": patterns,
    }
    # In one pass: a file's name that looks like a place to be filled stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _asset("page.html"))


def _about(scan: Scan, maps: ScanMaps, details: Mapping[str, str] | None) -> list[tuple[str, str]]:
    steps = "; ".join(f"{name}: {told}" for name, told in scan.calibration.items())
    options = ", ".join(f"{name} = {_told(value)}" for name, value in maps.options.items())
    return [
        ("source", scan.source),
        ("probe positions", _extent(scan)),
        ("calibration", steps or "none applied: positions as they are stored"),
        ("intensities", scan.intensity_unit),
        *(details or {}).items(),
        ("options", options or "none"),
        ("gpuediff", gpuediff.__version__),
    ]


def _told(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _extent(scan: Scan) -> str:
    ny, nx = scan.shape
    step = "step size not known" if scan.step_size is None else f"{scan.step_size:.3g} Å apart"
    return f"{ny} × {nx} probe positions, {step}"


def _asset(name: str) -> str:
    return resources.files("gpuediff.scans.page").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Name a style or script for the page's content security policy: nothing else may run in it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
