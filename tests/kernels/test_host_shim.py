import numpy as np
import pytest

from tests.host_shim import shim

pytestmark = pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")
VALUES = np.arange(8.0) + 1


def run(function, *, seed=0, shared_mem=64, arguments=None):
    out = np.zeros(1)
    kernel = shim.HostKernel("faulty", function, "float64", seed=seed)
    kernel((1,), (8,), (VALUES, out) if arguments is None else arguments, shared_mem=shared_mem)
    return out[0]


def test_a_barrier_lets_one_thread_read_what_the_others_wrote():
    assert {run("sum_with_barrier", seed=seed) for seed in range(10)} == {36.0}


def test_a_missing_barrier_shows_as_a_read_of_shared_memory_before_its_write():
    assert any(np.isnan(run("sum_without_barrier", seed=seed)) for seed in range(10))


def test_a_thread_that_returns_while_others_wait_is_found():
    with pytest.raises(RuntimeError, match="returned while others wait"):
        run("returns_before_barrier")


def test_threads_at_two_barriers_are_found():
    with pytest.raises(RuntimeError, match="different __syncthreads"):
        run("waits_at_two_barriers")


def test_a_write_past_the_shared_memory_that_was_asked_for_is_found():
    with pytest.raises(RuntimeError, match=r"written at byte 64 of 64"):
        run("writes_past_shared")


def test_more_shared_memory_than_any_device_grants_unasked_is_refused():
    with pytest.raises(RuntimeError, match="48 KiB"):
        run("sum_with_barrier", shared_mem=48 * 1024 + 8)


def test_shared_memory_that_was_asked_for_is_granted_up_to_99_kib():
    kernel, out = shim.HostKernel("faulty", "sum_with_barrier", "float64"), np.zeros(1)
    kernel.max_dynamic_shared_size_bytes = 200 * 1024
    kernel((1,), (8,), (VALUES, out), shared_mem=99 * 1024)
    assert out[0] == 36
    with pytest.raises(RuntimeError, match="99 KiB"):
        kernel((1,), (8,), (VALUES, out), shared_mem=99 * 1024 + 8)


@pytest.mark.parametrize(
    "arguments",
    [(VALUES,), (VALUES.astype(np.float32), np.zeros(1)), (np.float64(1), np.zeros(1)), (VALUES[::2], np.zeros(1))],
)
def test_arguments_that_do_not_fit_the_kernel_are_refused(arguments):
    with pytest.raises(TypeError, match="the kernel takes"):
        run("sum_with_barrier", arguments=arguments)
