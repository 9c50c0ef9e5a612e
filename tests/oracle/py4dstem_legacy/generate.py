"""Write small scans as py4DSTEM 0.12 and 0.6 wrote them, and what py4DSTEM 0.14.18 reads from them. See README.md."""

import sys
import warnings
from pathlib import Path

import h5py
import numpy as np

SHAPE = (4, 5)
Q_SHAPE = (128, 128)
EMPTY = (2, 3)  # a probe position without any peak
FIELDS = [("qx", float), ("qy", float), ("intensity", float)]


def peak_lists(seed: int) -> dict[tuple[int, int], np.ndarray]:
    rng = np.random.default_rng(seed)
    lists = {}
    for position in np.ndindex(*SHAPE):
        peaks = np.zeros(0 if position == EMPTY else rng.integers(3, 14), dtype=FIELDS)
        peaks["qx"] = rng.uniform(2, 126, len(peaks))
        peaks["qy"] = rng.uniform(2, 126, len(peaks))
        peaks["intensity"] = rng.exponential(5.0, len(peaks))
        lists[position] = peaks
    return lists


def write_version_12(path: Path, seed: int) -> None:
    """Write raw peaks, the coordinates, and the peaks that 0.12 itself makes of both; with py4DSTEM 0.12.24."""
    from py4DSTEM.io import Coordinates, PointListArray, save
    from py4DSTEM.process.calibration import (
        calibrate_Bragg_peaks_pixel_size,
        calibrate_Bragg_peaks_rotation,
        center_braggpeaks,
        correct_braggpeak_elliptical_distortions,
    )

    rng = np.random.default_rng(seed)
    raw = PointListArray(coordinates=FIELDS, shape=SHAPE, name="braggpeaks_raw")
    for (row, column), peaks in peak_lists(seed).items():
        raw.get_pointlist(row, column).add_dataarray(peaks)
    coordinates = Coordinates(*SHAPE, *Q_SHAPE, name="coordinates")
    coordinates.set_origin(63.0 + rng.normal(0, 1.5, SHAPE), 64.5 + rng.normal(0, 1.5, SHAPE))
    coordinates.set_ellipse(1.04, 0.99, 0.4)
    coordinates.set_Q_pixel_size(0.0213)
    coordinates.set_Q_pixel_units("A^-1")
    coordinates.set_R_pixel_size(2.5)
    coordinates.set_R_pixel_units("nm")
    coordinates.set_QR_rotation(float(np.radians(-23)))
    coordinates.set_QR_flip(True)

    peaks = center_braggpeaks(raw, coords=coordinates)
    peaks = correct_braggpeak_elliptical_distortions(peaks, (0, 0, *coordinates.get_ellipse()))
    peaks = calibrate_Bragg_peaks_pixel_size(peaks, coords=coordinates)
    peaks = calibrate_Bragg_peaks_rotation(peaks, coords=coordinates, name="braggpeaks_calibrated")
    save(str(path), [raw, peaks, coordinates], overwrite=True)


def write_version_6(path: Path, seed: int) -> None:
    """Write one group a probe position and one dataset a field, as 0.6 did; with h5py, for 0.6 cannot be had."""
    with h5py.File(path, "w") as file:
        top = file.create_group("4DSTEM_experiment")
        top.attrs.update(emd_group_type=2, version_major=0, version_minor=6, version_release=0)
        for kind in ("datacubes", "counted_datacubes", "diffractionslices", "realslices", "pointlists"):
            top.create_group(f"data/{kind}")
        group = top.create_group("data/pointlistarrays/braggpeaks")
        for (row, column), peaks in peak_lists(seed).items():
            for name in peaks.dtype.names:
                group.create_dataset(f"{row}_{column}/{name}/data", data=peaks[name])


def by_py4dstem(path: Path, name: str, rows: range) -> dict[str, np.ndarray]:
    """Read peaks back with the legacy reader of 0.14.18."""
    from py4DSTEM.io.legacy import read_legacy12

    peaks = read_legacy12(str(path), data_id=name)
    lists = [peaks[row, column].data for row in rows for column in range(SHAPE[1])]
    flat = np.concatenate(lists)
    return {
        **{key: np.asarray(flat[key], float) for key in ("qx", "qy", "intensity")},
        "counts": np.array([len(item) for item in lists]),
    }


def main(step: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    if step == "write":
        write_version_12(folder / "version_12.h5", 11)
        write_version_6(folder / "version_6.h5", 12)
        return
    everything = range(SHAPE[0])
    for name in ("raw", "calibrated"):
        values = by_py4dstem(folder / "version_12.h5", f"braggpeaks_{name}", everything)
        np.savez_compressed(folder / f"version_12_{name}.npz", **values)
    # The reader of 0.6 files puts every row's lists into row 2, so the last row is what stays.
    np.savez_compressed(
        folder / "version_6_row_3.npz", **by_py4dstem(folder / "version_6.h5", "braggpeaks", range(2, 3))
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
