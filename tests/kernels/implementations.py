"""What this machine can run of every kernel, under one name and one call signature, for tests to go through."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from gpuediff import arrays
from gpuediff.arrays import Device, resolve_device
from gpuediff.diffraction import gpu_beams, gpu_potential, gpu_propagation, gpu_simulation, propagation
from gpuediff.errors import DeviceUnavailable
from gpuediff.features import radial_basis
from gpuediff.lattices import gpu_indexing, indexing
from tests.host_shim import shim


@dataclass(frozen=True)
class RadialBasisImplementation:
    """NumPy peaks in, NumPy arrays out, wherever it ran; a call gives the coefficients."""

    coefficients: Callable
    magnitudes_and_arguments: Callable

    def __call__(self, peaks, basis, **options):
        return self.coefficients(peaks, basis, **options)


GUARD = 4096  # bytes
HOST_SHIM = Device("gpu", "host shim", "kernels compiled for the host")


@contextmanager
def host_shim_as_gpu(dtype=None, seed=0):
    """Send NumPy arrays down the GPU's way, to the CUDA kernels compiled for the host.

    So all of the GPU's way is tested but CuPy itself. `dtype` replaces that which the caller of a kernel asks for;
    `seed` draws the order in which threads run. A write next to an array that was made with `empty` is an error.
    """
    rooms = []

    def empty(shape, dtype=np.float64):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        rooms.append(np.full(size + 2 * GUARD, 0xFF, np.uint8))  # NaN as a float, -1 as an int
        return rooms[-1][GUARD : GUARD + size].view(dtype).reshape(shape)

    gpu = SimpleNamespace(
        **(vars(np) | {"empty": empty}),
        cuda=SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (2**20, 2**30))),
        get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
    )

    def kernel(name, asked_for, function):
        return shim.HostKernel(name, function, dtype or asked_for, seed=seed)

    with mock.patch.multiple(
        arrays,
        namespace=mock.Mock(return_value=gpu),
        kernel=kernel,
        to_host=np.asarray,
        to_device=lambda array, _: np.array(array),
    ):
        yield
    for room in rooms:
        assert (room[:GUARD] == 0xFF).all(), "a kernel wrote before the start of an array"
        assert (room[-GUARD:] == 0xFF).all(), "a kernel wrote past the end of an array"


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


def _bloch_on_cpu(crystals, *arguments):
    return [propagation.propagate(*crystal, *arguments, method="chebyshev") for crystal in crystals]


def bloch_on_host_shim(matrix="gathered", **options):
    """Return `gpu_propagation.propagate` on the kernels compiled for the host; options as for `host_shim_as_gpu`."""

    def run(*arguments):
        with host_shim_as_gpu(**options):
            return gpu_propagation.propagate(*arguments, HOST_SHIM, matrix=matrix)

    return run


def _bloch_on_gpu(matrix):
    return lambda *arguments: gpu_propagation.propagate(*arguments, resolve_device("gpu"), matrix=matrix)


def _beams_on_host_shim(*arguments):
    with host_shim_as_gpu():
        return gpu_beams.select_beams(*arguments, HOST_SHIM)


def _beams_on_gpu(*arguments):
    return gpu_beams.select_beams(*arguments, resolve_device("gpu"))


def _potential_on_host_shim(*arguments):
    with host_shim_as_gpu():
        return gpu_potential.structure_potential(*arguments, HOST_SHIM)


def _potential_on_gpu(*arguments):
    return gpu_potential.structure_potential(*arguments, resolve_device("gpu"))


def _simulation_on_host_shim(*arguments):
    with host_shim_as_gpu():
        return gpu_simulation.simulate_crystals(*arguments, HOST_SHIM)


def _simulation_on_gpu(*arguments):
    return gpu_simulation.simulate_crystals(*arguments, resolve_device("gpu"))


def lattice_index_on_host_shim(lanes=4, **options):
    """Return `index_patterns_on_gpu` on the kernel compiled for the host; options as for `host_shim_as_gpu`.

    Few lanes, because what takes the time on the host is to change over from one to the next.
    """

    def run(peaks, settings=None, *, wavelength):
        with host_shim_as_gpu(**options), mock.patch.object(gpu_indexing, "THREADS", lanes):
            return gpu_indexing.index_patterns_on_gpu(peaks, settings, wavelength=wavelength)

    return run


def _lattice_index_on_gpu(peaks, settings=None, *, wavelength):
    return gpu_indexing.index_patterns_on_gpu(peaks.to(resolve_device("gpu")), settings, wavelength=wavelength)


def available(family):
    """Return parameters for `pytest.mark.parametrize`; what cannot run here is skipped with the reason."""
    no_compiler = pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")
    missing_gpu = _missing_gpu()
    on_gpu = [pytest.mark.gpu, pytest.mark.skipif(missing_gpu is not None, reason=f"no GPU: {missing_gpu}")]
    if family == "radial_basis":
        numba = RadialBasisImplementation(radial_basis.coefficients, radial_basis.magnitudes_and_arguments)
        return [
            pytest.param(numba, id="numba"),
            pytest.param(on_host_shim(), id="host shim", marks=no_compiler),
            pytest.param(_on_gpu(), id="cuda", marks=on_gpu),
        ]
    if family == "beams":
        return [
            pytest.param(_beams_on_host_shim, id="host shim", marks=no_compiler),
            pytest.param(_beams_on_gpu, id="cuda", marks=on_gpu),
        ]
    if family == "structure_factors":
        return [
            pytest.param(_potential_on_host_shim, id="host shim", marks=no_compiler),
            pytest.param(_potential_on_gpu, id="cuda", marks=on_gpu),
        ]
    if family == "simulation":
        return [
            pytest.param(_simulation_on_host_shim, id="host shim", marks=no_compiler),
            pytest.param(_simulation_on_gpu, id="cuda", marks=on_gpu),
        ]
    if family == "lattice_index":
        return [
            pytest.param(indexing.index_patterns, id="numba"),
            pytest.param(lattice_index_on_host_shim(), id="host shim", marks=no_compiler),
            pytest.param(_lattice_index_on_gpu, id="cuda", marks=on_gpu),
        ]
    assert family == "bloch_chebyshev"
    return [
        pytest.param(_bloch_on_cpu, id="numba"),
        *(
            pytest.param(bloch_on_host_shim(matrix), id=f"host shim, {matrix}", marks=no_compiler)
            for matrix in ("gathered", "dense")
        ),
        *(pytest.param(_bloch_on_gpu(matrix), id=f"cuda, {matrix}", marks=on_gpu) for matrix in ("gathered", "dense")),
    ]
