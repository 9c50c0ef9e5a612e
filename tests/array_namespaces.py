"""A stand-in for CuPy: NumPy underneath, and as strict where a device is.

Its arrays refuse to meet NumPy's, in a calculation as in an index, and its namespace has only functions that were
looked up in CuPy's documentation and source, with the arguments, the types and the empty arrays that they take there.
So a test finds most of what would fail on a GPU; that a kernel gives the right numbers there it cannot say.
"""

from contextlib import contextmanager
from unittest import mock

import numpy as np

from gpuediff import arrays
from gpuediff.peaks import PeakBatch

#: Functions of one element that are the same in CuPy.
_UFUNCS = ("isfinite", "maximum", "minimum", "square")
_METHODS = {"at": ("add", "maximum", "minimum", "subtract")}
_ATOMIC = ("int32", "uint32", "uint64", "float32", "float64")  # types of an array that `at` changes


class DeviceArray(np.ndarray):
    """An array that stays among its own."""

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        _refuse_strangers(inputs)
        if method != "__call__" and ufunc.__name__ not in _METHODS.get(method, ()):
            raise NotImplementedError(f"{ufunc.__name__}.{method} is not there in CuPy, or not used so far")
        if method == "at" and inputs[0].dtype.name not in _ATOMIC:
            raise TypeError(f"{ufunc.__name__}.at takes no {inputs[0].dtype} in CuPy")
        plain = [_plain(value) for value in inputs]
        if "out" in keywords:
            keywords["out"] = tuple(_plain(value) for value in keywords["out"])
        return _wrapped(getattr(ufunc, method)(*plain, **keywords))

    def __array_function__(self, function, types, arguments, keywords):
        raise TypeError(f"numpy.{function.__name__} was called with an array of the device: use its namespace")

    def __getitem__(self, index):
        _refuse_strangers(index if isinstance(index, tuple) else (index,))
        return super().__getitem__(index)

    def __setitem__(self, index, value):
        _refuse_strangers((*(index if isinstance(index, tuple) else (index,)), value))
        super().__setitem__(index, value)

    def any(self):
        return _wrapped(np.asarray(_plain(self).any()))

    def all(self):
        return _wrapped(np.asarray(_plain(self).all()))

    def get(self):
        """Copy to the host."""
        return np.array(self.view(np.ndarray))


def on_device(array):
    """Copy to the device."""
    return np.array(array).view(DeviceArray)


@contextmanager
def strict_device():
    """Let `gpuediff.arrays` take `DeviceArray` for the arrays of a GPU; give the namespace."""
    stand_in = _Namespace()

    def namespace(array):
        if isinstance(array, DeviceArray):
            return stand_in
        if isinstance(array, np.ndarray):
            return np
        raise TypeError(type(array).__name__)

    def to_host(array):
        return array.get() if namespace(array) is stand_in else array

    modules = ("gpuediff.arrays", "gpuediff.peaks", "gpuediff.diffraction.detector")
    with mock.patch.multiple(arrays, namespace=namespace, to_host=to_host):
        patches = [mock.patch(f"{module}.namespace", namespace) for module in modules]
        patches += [mock.patch("gpuediff.diffraction.detector.to_host", to_host)]
        for patch in patches:
            patch.start()
        try:
            yield stand_in
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

    def arange(self, start, stop=None, step=1, dtype=None):
        start, stop = (0, start) if stop is None else (start, stop)
        return np.arange(start, stop, step, dtype).view(DeviceArray)

    def concatenate(self, pieces):
        _refuse_strangers(pieces)
        return _wrapped(np.concatenate([_plain(piece) for piece in pieces]))

    def argsort(self, array, kind=None):
        _only_own(array)
        assert kind in (None, "stable")
        return _wrapped(np.argsort(_plain(array), kind="stable"))

    def searchsorted(self, array, values, side="left"):
        _only_own(array, values)
        return _wrapped(np.searchsorted(_plain(array), _plain(values), side))

    def cumsum(self, array):
        _only_own(array)
        return _wrapped(np.cumsum(_plain(array)))

    def bincount(self, array, minlength=0):
        _only_own(array)
        if not array.size:
            raise ValueError("zero-size array to reduction operation: CuPy's bincount takes no empty array")
        return _wrapped(np.bincount(_plain(array), minlength=minlength))

    def flatnonzero(self, array):
        _only_own(array)
        return _wrapped(np.flatnonzero(_plain(array)))

    def where(self, condition, chosen, otherwise):
        _only_own(condition)
        _refuse_strangers((chosen, otherwise))
        return _wrapped(np.where(_plain(condition), _plain(chosen), _plain(otherwise)))

    def __getattr__(self, name):
        if name in _UFUNCS:
            return getattr(np, name)  # a ufunc: arrays of the device look after themselves
        raise AttributeError(f"not used of CuPy so far, or not there: {name}")


def _only_own(*values):
    for value in values:
        if not isinstance(value, DeviceArray):
            raise TypeError(f"expected an array of the device, got {type(value).__name__}")


def _refuse_strangers(values):
    if any(type(value) is np.ndarray for value in values):
        raise TypeError("an array of the host meets one of the device")


def _plain(value):
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def _wrapped(value):
    return value.view(DeviceArray) if isinstance(value, np.ndarray) else value
