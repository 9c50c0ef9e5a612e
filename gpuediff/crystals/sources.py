"""Reading the crystals of a run: built-in prototypes, CIF files, a table, or the Materials Project."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuediff.crystals.cif import read_cif, structure_blocks
from gpuediff.crystals.crystal import Crystal
from gpuediff.crystals.labels import from_structure
from gpuediff.crystals.materials_project import save_snapshot
from gpuediff.crystals.prototypes import prototype_texts, read_prototype
from gpuediff.crystals.tables import read_table
from gpuediff.errors import InvalidStructure, InvalidStructureSource
from gpuediff.progress import Track, silent
from gpuediff.settings import Structures

if TYPE_CHECKING:
    from pymatgen.core import Structure

_PARALLEL_FROM = 50  # structures; fewer take less time than the start of worker processes
_CHUNK = 16  # structures handed to a worker at once: about half a second
_CLOSEST = 5  # ids that the message on an unknown one names


@dataclass(frozen=True)
class Skipped:
    """A structure that was not taken, and why."""

    material_id: str
    reason: str


@dataclass(frozen=True)
class _Entry:
    """A structure that is not yet parsed; `fault` says why it cannot be, if that is known already."""

    material_id: str
    text: str
    fault: str = ""


@dataclass(frozen=True)
class _Source:
    name: str
    entries: dict[str, _Entry]
    parse: Callable[[str], Structure]  # a function of a module, so that it can travel to a worker process


def read_crystals(settings: Structures, *, track: Track = silent) -> tuple[list[Crystal], list[Skipped]]:
    """Read the crystals that the settings ask for.

    A structure that cannot be read, is impossible, or is left out by the settings is skipped with its reason; it never
    ends the run. With `settings.sample`, ids are drawn in an order that depends on `settings.seed` and the ids alone,
    not on the order of files or rows, until that many structures have been taken; the rest is not parsed. A
    larger sample contains every smaller one of the same seed.

    Parameters
    ----------
    settings : Structures
        Source, path, and what to take. The material ids are: of a prototype, its AFLOW label and formula; of a CIF
        file, its path below the folder without ".cif" (subfolders are read too), followed by ":" and the name of the
        data block where a file has several with atoms; of a table, see `gpuediff.crystals.tables`. For
        "materials-project" the path is that of the snapshot, which is made if it does not exist.
    track : Track, optional
        Reports progress, one step a structure.

    Returns
    -------
    crystals : list of Crystal
        In the order of their ids.
    skipped : list of Skipped
        Of the structures that were looked at, those not taken, in the order of their ids.

    Raises
    ------
    InvalidStructureSource
        If the source as a whole cannot be read; names the file and what to do.
    """
    source = _open(settings)
    ids = sorted(source.entries)
    wanted = len(ids)
    if settings.sample is not None:
        ids.sort(key=lambda material_id: _draw(settings.seed, material_id))
        wanted = min(settings.sample, wanted)
    crystals: list[Crystal] = []
    skipped: list[Skipped] = []
    results = _read_until(source, ids, wanted, settings)
    for result in track(results, "Reading structures", wanted):
        if isinstance(result, Crystal):
            crystals.append(result)
        else:
            skipped.append(result)
    crystals.sort(key=lambda crystal: crystal.material_id)
    skipped.sort(key=lambda entry: entry.material_id)
    return crystals, skipped


def read_crystal(settings: Structures, material_id: str) -> Crystal:
    """Read one crystal of a source; no other structure of it is parsed.

    Parameters
    ----------
    settings : Structures
        As of `read_crystals`; `settings.sample` makes no difference: any material of the source may be asked for.
    material_id : str

    Returns
    -------
    Crystal
        The same that `read_crystals` gives.

    Raises
    ------
    InvalidStructureSource
        If the source as a whole cannot be read, or has no such id; names the closest ids and how many there are.
    InvalidStructure
        If the structure cannot be taken; the message is that of `read_crystals` with the id before it.
    """
    source = _open(settings)
    if material_id not in source.entries:
        closest = _closest(material_id, source.entries)
        raise InvalidStructureSource(
            f"material {material_id!r}: not among the {len(source.entries):,} structures of {source.name}; "
            + (f"the closest ids are {', '.join(closest)}" if closest else f"its ids are like {min(source.entries)}")
        )
    result = _read(source.name, source.parse, source.entries[material_id], settings)
    if isinstance(result, Skipped):
        raise InvalidStructure(f"material {material_id!r} of {source.name}: {result.reason}")
    return result


def _closest(material_id: str, ids: Iterable[str]) -> list[str]:
    """List ids that hold the one asked for, e.g. a formula, and then those that are spelt alike."""
    known = sorted(ids)
    holding = sorted((name for name in known if material_id.lower() in name.lower()), key=len) if material_id else []
    alike = difflib.get_close_matches(material_id, known, n=_CLOSEST)
    return list(dict.fromkeys(holding + alike))[:_CLOSEST]


def _open(settings: Structures) -> _Source:
    """List what a source holds, without parsing it."""
    path = settings.path
    if settings.source == "prototypes":
        return _Source("prototypes", _unique(prototype_texts().items()), read_prototype)
    if path is None:
        raise InvalidStructureSource(
            f"structures.path is missing: source = {settings.source!r} needs one"
            + (": where the snapshot of the query is kept (.csv.gz)" if settings.source == "materials-project" else "")
        )
    if settings.source == "cif":
        return _Source(f"cif {path.name}", _cif_entries(path), read_cif)
    if settings.source == "materials-project" and not path.exists():
        save_snapshot(path)
    return _Source(f"{settings.source} {path.name}", _unique(read_table(path)), read_cif)


def _unique(texts: Iterable[tuple[str, str]]) -> dict[str, _Entry]:
    """Take each id once; the first stays, and the others are told apart by a number and skipped."""
    entries: dict[str, _Entry] = {}
    repeats: dict[str, int] = {}
    for material_id, text in texts:
        if material_id in entries:
            repeats[material_id] = repeats.get(material_id, 1) + 1
            fault = f"the id {material_id!r} appears more than once; the first is taken"
            material_id = f"{material_id} (repeat {repeats[material_id]})"
            entries[material_id] = _Entry(material_id, "", fault)
        else:
            entries[material_id] = _Entry(material_id, text)
    return entries


def _cif_entries(path: Path) -> dict[str, _Entry]:
    if path.is_file():
        files, folder = [path], path.parent
    elif path.is_dir():
        files, folder = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".cif"), path
    else:
        raise InvalidStructureSource(f"{path}: there is no such folder: check structures.path")
    if not files:
        raise InvalidStructureSource(f"{path}: no file ends in .cif: check structures.path")
    texts: list[tuple[str, str]] = []
    unreadable: dict[str, _Entry] = {}
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            unreadable[name] = _Entry(name, "", f"the file cannot be read: {error.strerror or error}")
            continue
        blocks = structure_blocks(text)
        if len(blocks) > 1:
            texts += [(f"{name}:{block}", content) for block, content in blocks.items()]
        else:
            texts.append((name, next(iter(blocks.values()), text)))
    return _unique(texts) | unreadable


def _draw(seed: int, material_id: str) -> bytes:
    """Place an id in the random order of a seed; other ids make no difference to it."""
    return hashlib.sha256(f"sample {seed} {material_id}".encode()).digest()


def _read_until(source: _Source, ids: list[str], wanted: int, settings: Structures) -> Iterator[Crystal | Skipped]:
    """Yield results in the order of `ids` until `wanted` crystals are among them.

    Each round reads as many structures as are still missing, so that none is parsed in vain.
    """
    start = taken = 0
    while taken < wanted and start < len(ids):
        stop = min(len(ids), start + wanted - taken)
        for result in _read_all(source, [source.entries[name] for name in ids[start:stop]], settings):
            taken += isinstance(result, Crystal)
            yield result
        start = stop


def _read_all(source: _Source, entries: list[_Entry], settings: Structures) -> Iterator[Crystal | Skipped]:
    """Read structures on all cores, in order."""
    import joblib

    processes = min(joblib.cpu_count(), -(-len(entries) // _CHUNK))
    if processes < 2 or len(entries) < _PARALLEL_FROM:
        for entry in entries:
            yield _read(source.name, source.parse, entry, settings)
        return
    chunks = [entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK)]
    # Loky workers are fresh processes: unlike forked ones they are safe beside threads and CUDA, and unlike spawned
    # ones they do not import the caller's script again.
    parallel = joblib.Parallel(n_jobs=processes, backend="loky", return_as="generator", batch_size=1)
    for results in parallel(
        joblib.delayed(_read_chunk)(source.name, source.parse, chunk, settings) for chunk in chunks
    ):
        yield from results


def _read_chunk(
    name: str, parse: Callable[[str], Structure], entries: list[_Entry], settings: Structures
) -> list[Crystal | Skipped]:
    return [_read(name, parse, entry, settings) for entry in entries]


def _read(name: str, parse: Callable[[str], Structure], entry: _Entry, settings: Structures) -> Crystal | Skipped:
    if entry.fault:
        return Skipped(entry.material_id, entry.fault)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen and spglib comment on almost every structure
            return from_structure(
                parse(entry.text),
                material_id=entry.material_id,
                settings=settings,
                source=name,
                checksum=hashlib.sha256(entry.text.encode()).hexdigest(),
            )
    except InvalidStructure as error:
        return Skipped(entry.material_id, str(error))
