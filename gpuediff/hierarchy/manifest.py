"""What a model bundle says of itself, and whether the folder is what it says.

Nothing here reads a checkpoint: a folder is checked down to every sha256 before a byte of it is parsed.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from gpuediff.crystals.symmetry import crystal_system
from gpuediff.durable import sha256_of_file
from gpuediff.errors import InvalidBundle
from gpuediff.hierarchy.calibration import Calibration
from gpuediff.hierarchy.flags import FlagCalibration
from gpuediff.hierarchy.labels import CRYSTAL_SYSTEM, FLAG_CLASSES, SPACE_GROUPS, model_names, space_group_model
from gpuediff.hierarchy.trained_on import TrainedOn
from gpuediff.settings import CRYSTAL_SYSTEMS, Settings, Training

MANIFEST = "manifest.json"
FORESTS = "forests"
FORMAT: Final = "gpuediff model bundle"
SCHEMA_VERSION: Final = 3
MANIFEST_BYTES_MAX = 2**24  # a manifest is some 20 kB; what is larger by far is none


class Model(Settings):
    """One forest: its checkpoint, and what that means."""

    file: str  # relative to the bundle, with forward slashes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=1)]  # bytes
    kind: Literal["classifier", "regressor"]
    classes: tuple[int, ...] | tuple[str, ...] | None  # label of each column; None for a regressor
    trees: Annotated[int, Field(ge=1)]
    hyper_parameters: dict[str, Any]


class Manifest(Settings):
    """The content of `manifest.json`."""

    format: Literal["gpuediff model bundle"] = FORMAT
    schema_version: Literal[3] = SCHEMA_VERSION
    features: dict[str, bool | int | float | str]  # description of the feature block
    training: Training
    trained_on: TrainedOn | None
    calibration: (
        Calibration | None
    )  # None: there was no validation material; probabilities are as the forests give them
    flags: FlagCalibration | None  # None: there are no forests for flags
    models: dict[str, Model]
    library: dict[str, Any] | None  # configuration and checksum of the pattern library
    metrics: dict[str, Any] | None
    software: dict[str, str]  # versions


def checkpoint_name(model: str) -> str:
    """Return where a model's checkpoint lies in a bundle."""
    return f"{FORESTS}/{model}.tl"


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest.

    Raises
    ------
    InvalidBundle
        If it cannot be read, is of another schema, or contradicts itself; names the field.
    """
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > MANIFEST_BYTES_MAX:
            raise InvalidBundle(f"{folder}/: {MANIFEST} is not a manifest's file: is this a model bundle?")
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.exists():
            raise InvalidBundle(f"{folder}/: there is no such folder: make it with gpuediff train") from error
        raise InvalidBundle(f"{folder}/: no {MANIFEST}: is this a model bundle?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidBundle(f"{folder}/: {MANIFEST} cannot be read: {error}") from error
    return parse_manifest(text, folder)


def is_of_another_version(folder: Path) -> bool:
    """Tell whether a folder is a bundle of another schema, which cannot be read and can be replaced."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return False
    return content.get("schema_version") != SCHEMA_VERSION


def parse_manifest(text: str, folder: Path) -> Manifest:
    """Check the text of a manifest; `folder` is for messages.

    Raises
    ------
    InvalidBundle
        As for `read_manifest`.
    """
    where = f"{folder}/: {MANIFEST}"
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidBundle(f"{where} is not valid JSON: {error}: the file is damaged") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InvalidBundle(f"{where} is not that of a {FORMAT}")
    version = content.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise InvalidBundle(
            f"{where}: schema_version = {version!r}: this gpuediff reads version {SCHEMA_VERSION}: install the "
            f"release that wrote the bundle, or train it again"
        )
    try:
        # From the text, because only there strict validation takes an array for a tuple.
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise InvalidBundle(f"{where}: {key}: {fault['msg']}: the file is damaged") from error
    for problem in _contradictions(manifest):
        raise InvalidBundle(f"{where}: {problem}: the file is damaged")
    return manifest


def check_folder(folder: Path, manifest: Manifest) -> None:
    """Check that the folder holds what the manifest lists, in the sizes it lists, and nothing else.

    Raises
    ------
    InvalidBundle
        If a file is missing, too many, of another size, or not a regular file of this folder; names it.
    """
    found = _entries(folder)
    sizes = {model.file: model.size for model in manifest.models.values()}
    for name in sorted(set(sizes) - set(found)):
        raise InvalidBundle(f"{folder}/: {name} is missing: copy the bundle again, whole, or train it again")
    for name in sorted(set(found) - set(sizes) - {MANIFEST}):
        raise InvalidBundle(f"{folder}/: {name} is not listed in {MANIFEST}: take it out of the bundle")
    for name, size in sizes.items():
        if found[name] != size:
            raise InvalidBundle(
                f"{folder}/: {name} has {found[name]:,} bytes, {MANIFEST} says {size:,}: the file is damaged or was "
                f"replaced"
            )


def check_contents(folder: Path, manifest: Manifest) -> None:
    """Check the sha256 of every file.

    Raises
    ------
    InvalidBundle
        Naming the first file that is not what it was.
    """
    for model in manifest.models.values():
        if sha256_of_file(folder / model.file) != model.sha256:
            raise InvalidBundle(
                f"{folder}/: {model.file} does not match its sha256 in {MANIFEST}: the file is damaged or was replaced"
            )


def _entries(folder: Path) -> dict[str, int]:
    """Give the size of every file in a bundle by its relative name; links and other kinds are refused."""
    sizes = {}
    for prefix in ("", f"{FORESTS}/"):
        try:
            entries = sorted(os.scandir(folder / prefix), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue  # its files are reported as missing
        for entry in entries:
            name = prefix + entry.name
            if name == FORESTS and entry.is_dir(follow_symlinks=False):
                continue
            if not entry.is_file(follow_symlinks=False):
                raise InvalidBundle(f"{folder}/: {name} is not a regular file: take it out of the bundle")
            sizes[name] = entry.stat(follow_symlinks=False).st_size
    return sizes


def _contradictions(manifest: Manifest) -> list[str]:
    """List what is well-formed and yet cannot be."""
    top = manifest.models.get(CRYSTAL_SYSTEM)
    systems = top.classes if top is not None else None
    if not systems or len(set(systems)) != len(systems) or not set(systems) <= set(CRYSTAL_SYSTEMS):
        return [f"models.{CRYSTAL_SYSTEM}.classes = {systems!r}: expected distinct crystal systems"]
    flags = set(FLAG_CLASSES) if manifest.flags is not None else set()
    needed, complete = (flags.union(model_names(map(str, systems), lattice=lattice)) for lattice in (False, True))
    if set(manifest.models) not in (needed, complete):
        wrong = ", ".join(sorted(set(manifest.models) ^ complete))
        return [f"models: not those that {', '.join(map(str, systems))} need: {wrong}"]
    problems = []
    for name, model in manifest.models.items():
        if model.file != checkpoint_name(name):
            problems.append(f"models.{name}.file = {model.file!r}: expected {checkpoint_name(name)!r}")
        if model.kind != ("regressor" if name.startswith("lattice-") else "classifier"):
            problems.append(f"models.{name}.kind = {model.kind!r}")
        if (model.classes is None) != (model.kind == "regressor"):
            problems.append(f"models.{name}.classes = {model.classes!r} for a {model.kind}")
    for name in sorted(flags):
        if manifest.models[name].classes != FLAG_CLASSES[name]:
            problems.append(f"models.{name}.classes = {manifest.models[name].classes!r}: expected {FLAG_CLASSES[name]}")
    for system in systems:
        name = space_group_model(str(system))
        numbers = manifest.models[name].classes or ()
        if not _are_space_groups_of(numbers, str(system)):
            problems.append(f"models.{name}.classes = {numbers!r}: expected distinct {system} space group numbers")
    return problems


def _are_space_groups_of(numbers: tuple[int, ...] | tuple[str, ...], system: str) -> bool:
    return (
        0 < len(numbers) == len(set(numbers))
        and all(isinstance(number, int) and 1 <= number <= SPACE_GROUPS for number in numbers)
        and all(crystal_system(int(number)) == system for number in numbers)
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
