"""What this machine can run of every kernel, under one name and one call signature, for tests to go through."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from gpuediff import arrays
from gpuediff.arrays import resolve_device
from gpuediff.errors import DeviceUnavailable
from gpuediff.features import radial_basis
from tests.host_shim import shim


@dataclass(frozen=True)
class RadialBasisImplementation:
    """NumPy peaks in, NumPy arrays out, wherever it ran; a call gives the coefficients."""

    coefficients: Callable
    magnitudes_and_arguments: Callable

    def __call__(self, peaks, basis, **options):
        return self.coefficients(peaks, basis, **options)


@contextmanager
def host_shim_as_gpu(dtype="float64", seed=0):
    """Send NumPy arrays down the GPU's way, to the CUDA kernels compiled for the host.

    So all of the GPU's way is tested but CuPy itself. `dtype` is that of the sums; `seed` draws the order in which
    threads run.
    """
    gpu = SimpleNamespace(
        **vars(np),
        cuda=SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (2**20, 2**30))),
        get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
    )

    def kernel(name, _, function):
        return shim.HostKernel(name, function, dtype, seed=seed)

    with mock.patch.multiple(arrays, namespace=mock.Mock(return_value=gpu), kernel=kernel, to_host=np.asarray):
        yield


def on_host_shim(**options):
    """Return the CUDA kernels compiled for the host; options as for `host_shim_as_gpu`."""

    def through_shim(function):
        def run(*arguments, **keywords):
            with host_shim_as_gpu(**options):
                return function(*arguments, **keywords)

        return run

    return RadialBasisImplementation(
        through_shim(radial_basis.coefficients), through_shim(radial_basis.magnitudes_and_arguments)
    )


def _on_gpu():
    def there_and_back(function):
        def run(peaks, basis, **options):
            return function(peaks.to(resolve_device("gpu")), basis, **options).get()

        return run

    return RadialBasisImplementation(
        there_and_back(radial_basis.coefficients), there_and_back(radial_basis.magnitudes_and_arguments)
    )


def _missing_gpu():
    try:
        resolve_device("gpu")
    except DeviceUnavailable as missing:
        return str(missing)
    return None


def available(family):
    """Return parameters for `pytest.mark.parametrize`; what cannot run here is skipped with the reason."""
    assert family == "radial_basis"
    numba = RadialBasisImplementation(radial_basis.coefficients, radial_basis.magnitudes_and_arguments)
    no_compiler = pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")
    missing_gpu = _missing_gpu()
    no_gpu = pytest.mark.skipif(missing_gpu is not None, reason=f"no GPU: {missing_gpu}")
    return [
        pytest.param(numba, id="numba"),
        pytest.param(on_host_shim(), id="host shim", marks=no_compiler),
        pytest.param(_on_gpu(), id="cuda", marks=[pytest.mark.gpu, no_gpu]),
    ]
