import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuediff import arrays, shipped
from gpuediff.arrays import Device, namespace, plan_batches, resolve_device, run_batches, to_device, to_host
from gpuediff.errors import DeviceUnavailable


class CudaError(RuntimeError):
    pass


def cupy_with(devices):
    """The part of CuPy that finds devices; `devices` is their number, or the error that counting them raises."""

    def count():
        if isinstance(devices, Exception):
            raise devices
        return devices

    runtime = SimpleNamespace(
        getDeviceCount=count,
        CUDARuntimeError=CudaError,
        getDeviceProperties=lambda index: {"name": b"Test GPU"},
        memGetInfo=lambda: (1000, 5000),
    )
    pool = SimpleNamespace(free_bytes=lambda: 24)
    return SimpleNamespace(
        cuda=SimpleNamespace(runtime=runtime), ndarray=type("ndarray", (), {}), get_default_memory_pool=lambda: pool
    )


@pytest.fixture
def cupy(monkeypatch):
    def install(module):
        monkeypatch.setitem(sys.modules, "cupy", module)
        return module

    return install


def test_importing_arrays_does_not_import_cupy():
    code = "import sys; from gpuediff import arrays; arrays.resolve_device('cpu'); sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_cpu_is_there_for_who_asks_for_it():
    assert resolve_device("cpu") == Device("cpu", "CPU", "the CPU was asked for")


def test_auto_takes_the_gpu_that_cupy_finds_and_says_so(cupy):
    cupy(cupy_with(devices=1))
    assert resolve_device("auto") == Device("gpu", "Test GPU", "CuPy found Test GPU")
    assert resolve_device("gpu") == Device("gpu", "Test GPU", "the GPU was asked for")


def test_without_cupy_the_command_that_installs_it_is_named(cupy):
    cupy(None)  # what Python keeps for a module that must not be imported
    with pytest.raises(DeviceUnavailable, match="pip install cupy-cuda13x"):
        resolve_device("gpu")
    device = resolve_device("auto")
    assert device.kind == "cpu"
    assert "CuPy is not installed" in device.reason


@pytest.mark.parametrize("devices", [0, CudaError("cudaErrorNoDevice: no CUDA-capable device is detected")])
def test_without_a_device_the_user_is_sent_to_nvidia_smi(cupy, devices):
    cupy(cupy_with(devices))
    with pytest.raises(DeviceUnavailable, match=r"no device.*nvidia-smi"):
        resolve_device("gpu")
    assert resolve_device("auto").kind == "cpu"
    assert "nvidia-smi" in resolve_device("auto").reason


def test_an_unknown_device_is_refused():
    with pytest.raises(DeviceUnavailable, match="'cuda': expected 'auto', 'gpu' or 'cpu'"):
        resolve_device("cuda")


def test_the_namespace_of_an_array_is_the_library_that_made_it(cupy):
    assert namespace(np.zeros(2)) is np
    module = cupy(cupy_with(devices=1))
    assert namespace(np.zeros(2)) is np
    assert namespace(module.ndarray()) is module
    with pytest.raises(TypeError, match="got list"):
        namespace([1.0])


def test_an_array_that_is_there_already_is_not_copied():
    array = np.arange(3)
    assert to_host(array) is array
    assert to_device(array, resolve_device("cpu")) is array


def test_the_kernel_source_of_an_editable_install_is_found_and_a_missing_one_is_named():
    assert "radial_basis_coefficients" in arrays.kernel_source("radial_basis").read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"no kernels/lens\.cu"):
        arrays.kernel_source("lens")


def test_the_kernels_of_an_installed_package_come_before_those_of_a_repository(tmp_path, monkeypatch):
    package = tmp_path / "gpuediff"
    for folder in (tmp_path / "kernels", package / "kernels"):
        folder.mkdir(parents=True)
        (folder / "lens.cu").touch()
    monkeypatch.setattr(shipped, "__file__", str(package / "shipped.py"))
    assert arrays.kernel_source("lens") == package / "kernels" / "lens.cu"


def test_a_kernel_is_compiled_once_for_each_instance(cupy):
    compiled = []

    class RawModule:
        def __init__(self, code, options, name_expressions):
            compiled.append(name_expressions)
            assert "template" in code
            assert options == ("--std=c++17",)

        def get_function(self, name):
            return f"compiled {name}"

    cupy(SimpleNamespace(RawModule=RawModule))
    arrays.kernel.cache_clear()
    try:
        for _ in range(2):
            got = arrays.kernel("radial_basis", "float64", "radial_basis_polar")
            assert got == "compiled radial_basis_polar<double>"
        assert arrays.kernel("radial_basis", "float32") == "compiled radial_basis<float>"
    finally:
        arrays.kernel.cache_clear()
    assert compiled == [("radial_basis_polar<double>",), ("radial_basis<float>",)]


def test_the_budget_of_a_gpu_is_its_free_memory_and_what_the_pool_holds():
    assert arrays.memory_budget(cupy_with(devices=1)) == 1024
    assert arrays.memory_budget(np) == arrays.HOST_BUDGET


@given(
    costs=st.lists(st.integers(0, 100), max_size=40),
    free=st.integers(1, 400),
    share=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_batches_cover_everything_in_order_and_fit_unless_one_item_alone_does_not(costs, free, share):
    batches = plan_batches(len(costs), costs, free, share=share)
    assert [index for batch in batches for index in range(batch.start, batch.stop)] == list(range(len(costs)))
    for batch in batches:
        assert batch.stop > batch.start
        assert sum(costs[batch]) <= share * free or batch.stop - batch.start == 1
    for batch in batches[:-1]:  # none could have been longer
        assert sum(costs[batch.start : batch.stop + 1]) > share * free


def test_items_of_one_size_make_batches_of_one_length():
    assert plan_batches(7, 10, 60) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert plan_batches(0, 10, 60) == []


def test_out_of_memory_halves_the_batches_says_so_once_and_goes_on(caplog):
    done = []

    def compute(batch):
        if batch.stop - batch.start > 3:
            raise MemoryError
        done.append(batch)

    with caplog.at_level(logging.WARNING):
        run_batches(compute, [slice(0, 8), slice(8, 16), slice(16, 18)])
    assert [index for batch in done for index in range(batch.start, batch.stop)] == list(range(18))
    assert [record.message for record in caplog.records] == [
        "out of memory with 8 items in a batch: going on with smaller batches"
    ]


def test_an_item_that_does_not_fit_alone_is_an_error():
    def compute(batch):
        raise MemoryError

    with pytest.raises(MemoryError):
        run_batches(compute, [slice(0, 4)])


def test_a_gpu_is_taken_only_by_steps_that_can_use_it_and_only_when_asked_for(monkeypatch):
    there = Device("gpu", "H200", "CuPy found H200")
    monkeypatch.setattr(arrays, "resolve_device", lambda request: arrays.CPU if request == "cpu" else there)
    assert str(arrays.choose_device("auto")).startswith("computing on the CPU: there is a GPU (H200): this step has no")
    assert "--device gpu takes it, not yet measured" in str(arrays.choose_device("auto", has_gpu_path=True))
    assert arrays.choose_device("gpu", has_gpu_path=True) is there
    assert arrays.choose_device("cpu", has_gpu_path=True) is arrays.CPU
    with pytest.raises(DeviceUnavailable, match="on the CPU only: use --device cpu"):
        arrays.choose_device("gpu")
