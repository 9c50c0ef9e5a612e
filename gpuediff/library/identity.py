"""What a library is made from, and whether two libraries are made from the same.

The patterns depend on the structures, on how they were chosen and on the simulation, not on the sections `features`,
`split` and `training` of a run: one library serves many models, and changing a forest simulates nothing anew.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gpuediff
from gpuediff.arrays import Device
from gpuediff.library.schema import SCHEMA_VERSION
from gpuediff.settings import Run

if TYPE_CHECKING:
    from gpuediff.crystals.crystal import Crystal
    from gpuediff.crystals.sources import Skipped


def crystals_checksum(crystals: Sequence[Crystal], skipped: Sequence[Skipped]) -> str:
    """Return the sha256, in hex, of all structures that a library is made from, in their order."""
    content = {
        "crystals": [[crystal.material_id, crystal.source, crystal.checksum] for crystal in crystals],
        "skipped": [[entry.material_id, entry.reason] for entry in skipped],
    }
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def identity(run: Run, checksum: str) -> dict[str, Any]:
    """Return what decides about the patterns of a library, as JSON types.

    `structures.path` is left out: the structures themselves are in the checksum, wherever they lie.
    """
    configuration = run.model_dump(mode="json", include={"structures", "simulation"})
    del configuration["structures"]["path"]
    return {**configuration, "checksum of all crystals": checksum, "schema version": SCHEMA_VERSION}


def software_versions(device: Device) -> dict[str, str]:
    """Return the versions of the software that decides about the bytes of a library, and the GPU if one does."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba", "h5py")}
    gpu = {"device": device.name} if device.kind == "gpu" else {}
    return {"gpuediff": gpuediff.__version__, **versions, **gpu}


def differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Name every value that two nested dictionaries do not share, as "simulation.g_max = 2.0 there, 1.5 here"."""
    found = []
    for key in sorted(there.keys() | here.keys()):
        before, now = there.get(key), here.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key} = {_brief(before)} there, {_brief(now)} here")
    return found


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-12:]}"
