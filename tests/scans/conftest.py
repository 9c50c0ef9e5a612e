"""Small py4DSTEM-like files, made with h5py."""

from pathlib import Path

import h5py
import numpy as np
import pytest

PEAK = np.dtype([("qx", float), ("qy", float), ("intensity", float)])


def peak_list(*peaks):
    return np.array(list(peaks), dtype=PEAK)


def object_array(lists, shape):
    flat = np.empty(len(lists), dtype=object)
    flat[:] = lists
    return flat.reshape(shape)


@pytest.fixture
def write_peaks(tmp_path):
    """Write one or more bare PointListArrays: name to (lists, shape)."""

    def write(datasets, *, name="scan.h5", dtype=PEAK) -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for group, (lists, shape) in datasets.items():
                data = file.create_group(f"4DSTEM/{group}").create_dataset(
                    "data", shape, dtype=h5py.vlen_dtype(np.dtype(dtype))
                )
                for index, peaks in zip(np.ndindex(*shape), lists, strict=True):
                    data[index] = peaks
        return path

    return write
