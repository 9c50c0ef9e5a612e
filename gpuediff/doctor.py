"""What this machine offers gpuediff: hardware, packages, and the path that it will take."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from gpuediff import __version__
from gpuediff.arrays import choose_device, resolve_device

CPU_PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "scikit-learn",
    "treelite",
    "h5py",
    "pymatgen",
    "spglib",
    "pandas",
    "pyarrow",
    "matplotlib",
)
GPU_PACKAGES = (
    "cupy-cuda13x",
    "cupy-cuda12x",
    *(f"{name}-cu{cuda}" for cuda in (13, 12) for name in ("cuml", "cudf", "nvforest")),
)
OTHER_PACKAGES = ("py4DSTEM", "mp-api")


def examine() -> dict[str, Any]:
    """Collect what matters for running here.

    Returns
    -------
    dict
        gpuediff, python, platform (str); cores (int); memory_gib (float); packages (name to version, None where
        absent); gpu (its name, or None); path (str), what `--device auto` takes, and why.
    """
    device = resolve_device("auto")
    return {
        "gpuediff": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "packages": {name: _version(name) for name in CPU_PACKAGES + GPU_PACKAGES + OTHER_PACKAGES},
        "gpu": device.name if device.kind == "gpu" else None,
        "path": str(choose_device("auto", has_gpu_path=True)),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told by this operating system
        return 0
