"""A stand-in for CuPy: NumPy underneath, and as strict where a device is.

Its arrays refuse to meet NumPy's in a calculation, as CuPy's do, and its namespace has no more than what CuPy 14
documents. So a test finds most of what would fail on a GPU; that a kernel gives the right numbers there it cannot say.
"""

from contextlib import contextmanager
from unittest import mock

import numpy as np

from gpuediff import arrays
from gpuediff.peaks import PeakBatch


class DeviceArray(np.ndarray):
    """An array that stays among its own."""

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        _refuse_strangers(inputs)
        plain = [_plain(value) for value in inputs]
        if "out" in keywords:
            keywords["out"] = tuple(_plain(value) for value in keywords["out"])
        return _wrapped(getattr(ufunc, method)(*plain, **keywords))

    def __array_function__(self, function, types, arguments, keywords):
        raise TypeError(f"numpy.{function.__name__} was called with an array of the device: use its namespace")

    def get(self):
        """Copy to the host."""
        return np.array(self.view(np.ndarray))


def on_device(array):
    """Copy to the device."""
    return np.array(array).view(DeviceArray)


@contextmanager
def strict_device():
    """Let `gpuediff.arrays` take `DeviceArray` for the arrays of a GPU."""

    def namespace(array):
        if isinstance(array, DeviceArray):
            return _Namespace()
        if isinstance(array, np.ndarray):
            return np
        raise TypeError(type(array).__name__)

    def to_host(array):
        return array.get() if isinstance(array, DeviceArray) else array

    modules = ("gpuediff.arrays", "gpuediff.peaks", "gpuediff.diffraction.detector")
    with mock.patch.multiple(arrays, namespace=namespace, to_host=to_host):
        patches = [mock.patch(f"{module}.namespace", namespace) for module in modules]
        patches += [mock.patch("gpuediff.diffraction.detector.to_host", to_host)]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


def batch_on_device(peaks):
    """Copy peak lists to the device."""
    return PeakBatch(*map(on_device, (peaks.qx, peaks.qy, peaks.intensity, peaks.offsets)))


class _Namespace:
    """The functions of CuPy that are used here, with the arguments that CuPy has."""

    def asarray(self, array):
        return on_device(_plain(array))

    def zeros(self, shape, dtype=float):
        return np.zeros(shape, dtype).view(DeviceArray)

    def arange(self, *arguments):
        return np.arange(*arguments).view(DeviceArray)

    def concatenate(self, pieces):
        _refuse_strangers(pieces)
        return _wrapped(np.concatenate([_plain(piece) for piece in pieces]))

    def argsort(self, array, kind=None):
        assert kind in (None, "stable")
        return _wrapped(np.argsort(_plain(array), kind="stable"))

    def cumsum(self, array):
        return _wrapped(np.cumsum(_plain(array)))

    def bincount(self, array, minlength=0):
        return _wrapped(np.bincount(_plain(array), minlength=minlength))

    def flatnonzero(self, array):
        return _wrapped(np.flatnonzero(_plain(array)))

    def __getattr__(self, name):
        if name in ("hypot", "isfinite", "maximum"):
            return getattr(np, name)  # a ufunc: arrays of the device look after themselves
        raise AttributeError(f"not used of CuPy so far, or not there: {name}")


def _refuse_strangers(values):
    if any(type(value) is np.ndarray and value.ndim > 0 for value in values):
        raise TypeError("an array of the host meets one of the device")


def _plain(value):
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def _wrapped(value):
    return value.view(DeviceArray) if isinstance(value, np.ndarray) else value
