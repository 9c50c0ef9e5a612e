"""Trained models on disk: a folder with a manifest and one treelite checkpoint a forest. No pickle anywhere.

A bundle is complete or absent: it is written beside its place, synchronised and renamed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gpuediff
from gpuediff.durable import publish, sha256_of_file, synchronise
from gpuediff.errors import GpuediffError, InvalidBundle
from gpuediff.hierarchy.manifest import (
    FORESTS,
    MANIFEST,
    Manifest,
    Model,
    check_contents,
    check_folder,
    checkpoint_name,
    is_of_another_version,
    parse_manifest,
    read_manifest,
)

if TYPE_CHECKING:
    from gpuediff.forests.forest import Forest
    from gpuediff.hierarchy.hierarchy import Hierarchy

_SOFTWARE = ("numpy", "scikit-learn", "lightgbm", "treelite")


def save_bundle(
    hierarchy: Hierarchy,
    path: str | Path,
    *,
    library: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a fitted hierarchy to a folder.

    Parameters
    ----------
    path : path
        The folder to be.
    library : dict, optional
        Configuration and checksum of the pattern library it was trained on, as JSON values.
    metrics : dict, optional
        How good it is, as JSON values.
    overwrite : bool
        Replace a bundle that is already there, of whatever version. What is not a bundle is never replaced.

    Raises
    ------
    InvalidBundle
        If there is something at `path` that may not be replaced, or `library` or `metrics` hold what JSON cannot.
    GpuediffError
        If the hierarchy is not fitted.
    """
    if not hierarchy.forests_:
        raise GpuediffError("the hierarchy has no models yet: call fit before saving it")
    target = check_target(path, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        _write(hierarchy, beside, library, metrics)
        _replace(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # there only if something failed


def load_bundle(path: str | Path) -> Hierarchy:
    """Read a hierarchy from a folder.

    The checksums tell damage, not intent: load bundles from places you trust.

    Raises
    ------
    InvalidBundle
        If the folder is no bundle, of another schema, incomplete or damaged; names the file and what to do.
    """
    from gpuediff.features.blocks import block_from_description
    from gpuediff.forests.treelite_forest import TreeliteForest
    from gpuediff.hierarchy.hierarchy import Hierarchy

    folder = Path(path)
    manifest = read_manifest(folder)
    check_folder(folder, manifest)
    check_contents(folder, manifest)
    try:
        block = block_from_description(dict(manifest.features))
    except InvalidBundle as error:
        raise InvalidBundle(f"{folder}/: {MANIFEST}: {error}") from error
    hierarchy = Hierarchy(block, manifest.training, manifest.trained_on)
    hierarchy.calibration_, hierarchy.flag_calibration_ = manifest.calibration, manifest.flags
    for name, model in manifest.models.items():
        try:
            forest = TreeliteForest.load(
                folder / model.file, classes=model.classes, hyper_parameters=model.hyper_parameters
            )
        except InvalidBundle as error:
            raise InvalidBundle(f"{folder}/: {model.file}: {error}") from error
        for what, found, stated in (
            ("features", forest.features, block.width),
            ("trees", forest.trees, model.trees),
        ):
            if found != stated:
                raise InvalidBundle(
                    f"{folder}/: {model.file} has {found} {what}, {MANIFEST} says {stated}: the bundle is damaged"
                )
        hierarchy.forests_[name] = forest
    return hierarchy


def bundle_info(path: str | Path) -> dict[str, Any]:
    """Tell what a bundle says of itself, without reading its checkpoints.

    Returns
    -------
    dict
        The manifest as JSON values, and `size`, the bytes of all checkpoints.

    Raises
    ------
    InvalidBundle
        If the folder is no bundle, of another schema, or a file is missing or of another size.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    check_folder(folder, manifest)
    size = sum(model.size for model in manifest.models.values())
    return manifest.model_dump(mode="json") | {"size": size}


def record_metrics(path: str | Path, metrics: dict[str, Any]) -> None:
    """Write into a bundle's manifest what an evaluation found; the forests stay as they are.

    Parameters
    ----------
    path : path
        The bundle's folder.
    metrics : dict
        JSON values; they replace those that are there.

    Raises
    ------
    InvalidBundle
        If the folder is no whole bundle, or the metrics are no JSON values.
    """
    folder = Path(path).resolve()
    manifest = read_manifest(folder)
    check_folder(folder, manifest)
    # Beside the folder: a file too many inside it would spoil the bundle, should we be killed here.
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.json")
    try:
        _write_manifest(manifest.model_copy(update={"metrics": metrics}), temporary)
        publish(temporary, folder / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(path: str | Path, *, overwrite: bool) -> Path:
    """Return where a bundle will be written, if it may be; to be asked before a long training.

    Raises
    ------
    InvalidBundle
        If there is a bundle already and `overwrite` is not set, or anything that is not a whole bundle.
    """
    path = Path(path)
    target = path.resolve()
    if not os.path.lexists(target):
        return target
    try:
        check_folder(target, read_manifest(target))
    except InvalidBundle as error:
        if overwrite and is_of_another_version(target):
            return target
        raise InvalidBundle(
            f"{path}: exists and is not a whole model bundle ({error}): choose another name, or remove it first"
        ) from error
    if not overwrite:
        raise InvalidBundle(
            f"{path}: there is a model bundle already: choose another name, or ask to overwrite it (--overwrite)"
        )
    return target


def _write(hierarchy: Hierarchy, folder: Path, library: dict[str, Any] | None, metrics: dict[str, Any] | None) -> None:
    (folder / FORESTS).mkdir(parents=True)
    models = {}
    for name, forest in hierarchy.forests_.items():
        file = folder / checkpoint_name(name)
        forest.save(file)
        synchronise(file)
        models[name] = Model(
            file=checkpoint_name(name),
            sha256=sha256_of_file(file),
            size=file.stat().st_size,
            kind=forest.kind,
            classes=_json_classes(forest),
            trees=forest.trees,
            hyper_parameters=forest.hyper_parameters,
        )
    try:
        manifest = Manifest(
            features=hierarchy.block.description(),
            training=hierarchy.settings,
            trained_on=hierarchy.trained_on,
            calibration=hierarchy.calibration_,
            flags=hierarchy.flag_calibration_,
            models=models,
            library=library,
            metrics=metrics,
            software={"gpuediff": gpuediff.__version__} | {name: version(name) for name in _SOFTWARE},
        )
    except ValueError as error:
        raise InvalidBundle(f"library and metrics must be JSON values in a dictionary: {error}") from error
    _write_manifest(manifest, folder / MANIFEST)
    synchronise(folder / FORESTS)


def _write_manifest(manifest: Manifest, path: Path) -> None:
    try:
        text = json.dumps(manifest.model_dump(), indent=1, allow_nan=False, ensure_ascii=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidBundle(f"library and metrics must be JSON values, null in place of NaN: {error}") from error
    parse_manifest(text, path.parent)  # what cannot be read is not written
    path.write_text(text, encoding="utf-8")
    synchronise(path)


def _replace(beside: Path, target: Path) -> None:
    """Give the finished bundle its name; an old one steps aside for the moment of the renaming."""
    if not target.exists():
        publish(beside, target)
        return
    old = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    os.rename(target, old)
    try:
        publish(beside, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)


def _json_classes(forest: Forest) -> tuple[Any, ...] | None:
    return None if forest.classes_ is None else tuple(forest.classes_.tolist())


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and arrays, and paths, into what JSON knows."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is of type {type(value).__name__}")
