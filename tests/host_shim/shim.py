"""Compiles kernel sources with g++ against cuda_shim.hpp, and calls them as CuPy's kernels are called."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("g++")


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """Compile tests/host_shim/<name>.cpp, once per process."""
    assert COMPILER is not None, "g++ is not installed"
    folder = tempfile.TemporaryDirectory(prefix="gpuediff-shim-")
    path = Path(folder.name) / f"{name}.so"
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    subprocess.run([COMPILER, *options, str(HERE / f"{name}.cpp"), "-o", str(path)], check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.folder = folder  # lives as long as the library
    return loaded


class HostKernel:
    """One instance of a kernel template, with the call signature of a CuPy kernel.

    Arguments are checked against the kernel's parameters as nothing checks them on a GPU: their number, the dtype of
    every array and scalar, and that arrays are contiguous.
    """

    def __init__(self, source: str, function: str, dtype: str, *, seed: int = 0):
        instance = f"{function}_{ {'float32': 'float', 'float64': 'double'}[dtype] }"
        loaded = library(source)
        self._launch = getattr(loaded, f"{instance}_launch")
        text = ctypes.create_string_buffer(1000)
        getattr(loaded, f"{instance}_signature")(text, len(text))
        self.parameters = text.value.decode().split()
        self.seed = seed
        self.max_dynamic_shared_size_bytes = 48 * 1024  # as CuPy's kernels have it

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        given = [f"{argument.dtype}{'*' if isinstance(argument, np.ndarray) else ''}" for argument in arguments]
        if given != self.parameters:
            raise TypeError(f"the kernel takes {self.parameters}, got {given}")
        if not all(argument.flags.c_contiguous for argument in arguments):
            raise TypeError("the kernel takes contiguous arrays")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise RuntimeError("more than 48 KiB of shared memory, or than was asked for")
        values = [
            ctypes.c_void_p(argument.ctypes.data)
            if isinstance(argument, np.ndarray)
            else ctypes.create_string_buffer(argument.tobytes(), argument.itemsize)
            for argument in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        fault = ctypes.create_string_buffer(200)
        grid_x, grid_y = (*grid, 1)[:2]
        self._launch(grid_x, grid_y, block[0], shared_mem, self.seed, pointers, fault)
        if fault.value:
            raise RuntimeError(fault.value.decode())
