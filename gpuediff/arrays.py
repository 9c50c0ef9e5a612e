"""Which array library and device; how much at a time; where the CUDA kernels are.

Importing this module, and asking for the CPU, starts no CUDA context and does not import CuPy.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from gpuediff.errors import DeviceUnavailable
from gpuediff.shipped import shipped_file

HOST_BUDGET = 2**30  # bytes that a batch may take on the CPU, where caches gain nothing from more
_C_TYPES = {"float32": "float", "float64": "double"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """Where arrays live; `reason` is one line that tells the user why this device was taken."""

    kind: Literal["gpu", "cpu"]
    name: str
    reason: str

    def __str__(self) -> str:
        return f"computing on the {self.name}: {self.reason}"


def resolve_device(request: Literal["auto", "gpu", "cpu"]) -> Device:
    """Decide once, at a public boundary, where to compute.

    Parameters
    ----------
    request : "auto", "gpu" or "cpu"
        "auto" takes the GPU where CuPy finds one, and the CPU otherwise.

    Raises
    ------
    DeviceUnavailable
        If the GPU is asked for and is not there; says what is missing and how to get it.
    """
    if request not in ("auto", "gpu", "cpu"):
        raise DeviceUnavailable(f"device = {request!r}: expected 'auto', 'gpu' or 'cpu'")
    if request == "cpu":
        return CPU
    try:
        name = _gpu_name()
    except DeviceUnavailable as missing:
        if request == "gpu":
            raise
        return Device("cpu", "CPU", f"no GPU: {missing}")
    return Device("gpu", name, "the GPU was asked for" if request == "gpu" else f"CuPy found {name}")


CPU = Device("cpu", "CPU", "the CPU was asked for")


def choose_device(request: Literal["auto", "gpu", "cpu"], *, has_gpu_path: bool = False) -> Device:
    """Decide where a step of the main job is computed.

    Parameters
    ----------
    request : "auto", "gpu" or "cpu"
        "auto" takes the CPU while the GPU's way is not measured.
    has_gpu_path : bool
        Whether the step can be computed on a GPU.

    Raises
    ------
    DeviceUnavailable
        If the GPU is asked for and is not there, or the step has no way to use it.
    """
    if request == "gpu" and not has_gpu_path:
        raise DeviceUnavailable("--device gpu: this step is computed on the CPU only: use --device cpu")
    if request == "gpu":
        return resolve_device("gpu")
    found = resolve_device(request)
    if found.kind == "cpu":
        return found
    way = "--device gpu takes it, not yet measured" if has_gpu_path else "this step has no use for it"
    return Device("cpu", "CPU", f"there is a GPU ({found.name}): {way}")


def _gpu_name() -> str:
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise _broken_cupy(error) from error
        raise DeviceUnavailable("CuPy is not installed: run pip install cupy-cuda13x") from error
    except ImportError as error:
        raise _broken_cupy(error) from error
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise DeviceUnavailable(f"CUDA finds no device ({error}): check the driver with nvidia-smi") from error
    if count == 0:
        raise DeviceUnavailable("CUDA finds no device: check nvidia-smi and the variable CUDA_VISIBLE_DEVICES")
    return runtime.getDeviceProperties(0)["name"].decode()


def _broken_cupy(error: ImportError) -> DeviceUnavailable:
    return DeviceUnavailable(f"CuPy cannot be imported ({error}): run pip install --upgrade cupy-cuda13x")


def namespace(array: Any) -> Any:
    """Return the module, numpy or cupy, whose functions take this array.

    Raises
    ------
    TypeError
        If it is neither a NumPy nor a CuPy array.
    """
    cupy = sys.modules.get("cupy")  # an array of CuPy cannot exist before its module
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy
    if isinstance(array, np.ndarray):
        return np
    raise TypeError(f"expected a NumPy or a CuPy array, got {type(array).__name__}")


def to_device(array: Any, device: Device) -> Any:
    """Return the array on `device`, itself if it is there already."""
    if device.kind == "cpu":
        return to_host(array)
    return importlib.import_module("cupy").asarray(array)


def to_host(array: Any) -> np.ndarray:
    """Return the array as a NumPy array, itself if it is one already."""
    return array if namespace(array) is np else array.get()


def kernel_source(name: str) -> Path:
    """Return the path of `kernels/<name>.cu`: in the installed package, or beside it in the repository.

    Raises
    ------
    FileNotFoundError
        If the kernel is in neither place.
    """
    return shipped_file("kernels", f"{name}.cu")


@functools.cache
def kernel(name: str, dtype: str, function: str | None = None) -> Callable[..., None]:
    """Compile one instance of a kernel template from `kernels/<name>.cu`, once per process.

    Parameters
    ----------
    name : str
        Kernel family: the file's name without `.cu`.
    dtype : "float32" or "float64"
        Type that the template is instantiated with.
    function : str, optional
        The template, where the file holds more than the one of its own name.

    Returns
    -------
    callable
        CuPy's kernel: `kernel(grid, block, arguments, shared_mem=bytes)`.
    """
    cupy = importlib.import_module("cupy")
    instance = f"{function or name}<{_C_TYPES[dtype]}>"
    source = kernel_source(name).read_text(encoding="utf-8")
    module = cupy.RawModule(code=source, options=("--std=c++17",), name_expressions=(instance,))
    return module.get_function(instance)


def memory_budget(xp: ModuleType | Any) -> int:
    """Return the bytes that batches of this array library may plan with."""
    if xp is np:
        return HOST_BUDGET
    free, _ = xp.cuda.runtime.memGetInfo()
    return int(free) + int(xp.get_default_memory_pool().free_bytes())


def plan_batches(items: int, bytes_per_item: Any, free_bytes: int, *, share: float = 0.5) -> list[slice]:
    """Cut `items` into consecutive batches, each as long as memory allows.

    Parameters
    ----------
    items : int
        How many items there are.
    bytes_per_item : float or array, shape (items,)
        What an item takes; an array where items differ.
    free_bytes : int
        Memory to plan with.
    share : float
        Part of `free_bytes` that a batch may take; the rest is for what the plan does not know of.

    Returns
    -------
    list of slice
        They cover 0 .. items in order. An item that is larger than the memory stands alone, because it cannot
        be cut; none is empty.
    """
    capacity = share * free_bytes
    ends = np.cumsum(np.broadcast_to(np.asarray(bytes_per_item, dtype=np.float64), (items,)))
    batches = []
    start, used = 0, 0.0
    while start < items:
        stop = max(start + 1, int(np.searchsorted(ends, used + capacity, side="right")))
        batches.append(slice(start, stop))
        start, used = stop, float(ends[stop - 1])
    return batches


def run_batches(compute: Callable[[slice], None], batches: Iterable[slice]) -> None:
    """Call `compute` on every batch; where memory runs out, halve that batch and all that follow.

    Raises
    ------
    MemoryError
        If a single item does not fit (CuPy's OutOfMemoryError is a MemoryError).
    """
    waiting = list(batches)[::-1]
    longest: int | None = None
    while waiting:
        batch = waiting.pop()
        size = batch.stop - batch.start
        if longest is not None and size > longest:
            waiting += [slice(batch.start + longest, batch.stop), slice(batch.start, batch.start + longest)]
            continue
        try:
            compute(batch)
        except MemoryError:
            if size == 1:
                raise
            if longest is None:
                _log.warning("out of memory with %d items in a batch: going on with smaller batches", size)
            longest = size // 2
            waiting.append(batch)
