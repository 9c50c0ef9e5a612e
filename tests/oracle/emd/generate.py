"""Write small scans with py4DSTEM, and what py4DSTEM itself makes of them. See README.md."""

import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import py4DSTEM
from emdfile import PointListArray
from py4DSTEM.braggvectors import BraggVectors
from py4DSTEM.io.legacy import legacy13

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


def bragg_vectors(name: str, seed: int) -> BraggVectors:
    vectors = BraggVectors(SHAPE, Q_SHAPE, name=name)
    for position, peaks in peak_lists(seed).items():
        vectors._v_uncal[position].add(peaks)
    return vectors


def origin_of_positions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 63.0 + rng.normal(0, 1.5, SHAPE), 64.5 + rng.normal(0, 1.5, SHAPE)


def calibrated(name: str, seed: int, *, flip: bool, per_position: bool) -> BraggVectors:
    vectors = bragg_vectors(name, seed)
    calibration = vectors.calibration
    calibration.set_origin(origin_of_positions(seed) if per_position else (63.25, 64.75))
    if per_position:
        rng = np.random.default_rng(seed + 100)
        angle = rng.uniform(0, np.pi, SHAPE)
        calibration.set_ellipse((rng.uniform(1.01, 1.05, SHAPE), np.ones(SHAPE), angle))
    else:
        calibration.set_ellipse((1.04, 0.99, 0.4))
    calibration.set_Q_pixel_size(0.0213)
    calibration.set_Q_pixel_units("A^-1")
    calibration.set_R_pixel_size(2.5)
    calibration.set_R_pixel_units("nm")
    calibration.set_QR_rotation_degrees(-23.0)
    calibration.set_QR_flip(flip)
    return vectors


def write_version_13(path: Path, seed: int) -> None:
    """Write what py4DSTEM 0.13 wrote, through the classes that 0.14.18 keeps for reading it."""
    vectors = legacy13.BraggVectors(SHAPE, Q_SHAPE, name="braggpeaks")
    for position, peaks in peak_lists(seed).items():
        vectors._v_uncal[position].add(peaks)
    calibration = legacy13.Calibration("calibration")
    qx0, qy0 = origin_of_positions(seed)
    for key, value in {
        "qx0": qx0,
        "qy0": qy0,
        "a": 1.03,
        "b": 1.0,
        "theta": 1.1,
        "Q_pixel_size": 0.0187,
        "Q_pixel_units": "A^-1",
    }.items():
        calibration._params[key] = value
    with h5py.File(path, "w") as file:
        root = file.create_group("4DSTEM")
        root.attrs.update(emd_group_type="root", version_major="0", version_minor="13", version_release="17")
        vectors.to_h5(root)
        calibration.to_h5(root)


def write_two_datasets(path: Path) -> None:
    """Write one file with two sets of peaks below one root, and so with one calibration."""
    first = calibrated("first", 5, flip=False, per_position=False)
    second = bragg_vectors("second", 6)
    first.attach(second)
    py4DSTEM.save(str(path), first.root, mode="o", tree=True)


def write_two_roots(path: Path) -> None:
    """Write one file with two roots, each with peaks of the same name and a calibration of its own."""
    for mode, name, flip in (("o", "first_root", False), ("a", "second_root", True)):
        vectors = calibrated("braggvectors", 7, flip=flip, per_position=False)
        vectors.root.name = name
        py4DSTEM.save(str(path), vectors.root, mode=mode, tree=True)


def write_pointlistarray(path: Path) -> None:
    """Write a bare PointListArray of centred peaks in Å⁻¹, in EMD 1.0."""
    peaks = PointListArray(dtype=FIELDS, shape=SHAPE, name="peaks")
    for position, listed in peak_lists(8).items():
        listed["qx"] = (listed["qx"] - 64) * 0.0213
        listed["qy"] = (listed["qy"] - 64) * 0.0213
        peaks[position].add(listed)
    py4DSTEM.save(str(path), peaks, mode="o")


def by_py4dstem(path: Path, dataset: str | None = None) -> dict[str, np.ndarray]:
    """Read a file back and take the vectors as py4DSTEM calibrates them by itself."""
    vectors = py4DSTEM.read(str(path), datapath=dataset)
    vectors.setcal()
    vectors._set_cal_vector_getter()  # else a converted 0.13 object hands out the empty lists it was made with
    lists = [vectors.cal[position].data for position in np.ndindex(*SHAPE)]
    flat = np.concatenate(lists)
    state = vectors.calstate
    return {
        "qx": flat["qx"],
        "qy": flat["qy"],
        "intensity": flat["intensity"],
        "counts": np.array([len(peaks) for peaks in lists]),
        "applied": np.array([state[step] for step in ("center", "ellipse", "pixel", "rotate")]),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    files = {
        "flipped": calibrated("braggvectors", 1, flip=True, per_position=False),
        "per_position": calibrated("braggvectors", 2, flip=False, per_position=True),
        "uncalibrated": bragg_vectors("braggvectors", 3),
    }
    for name, vectors in files.items():
        py4DSTEM.save(str(folder / f"{name}.h5"), vectors, mode="o")
    write_version_13(folder / "version_13.h5", 4)
    write_two_datasets(folder / "two_datasets.h5")
    write_two_roots(folder / "two_roots.h5")
    write_pointlistarray(folder / "pointlistarray.h5")
    peaks = py4DSTEM.read(str(folder / "pointlistarray.h5"))
    flat = np.concatenate([peaks[position].data for position in np.ndindex(*SHAPE)])
    np.savez_compressed(folder / "pointlistarray.npz", **{name: flat[name] for name, _ in FIELDS})
    for name, dataset in {
        "flipped": None,
        "per_position": None,
        "uncalibrated": None,
        "version_13": "4DSTEM/braggpeaks",
        "two_roots": "second_root/braggvectors",
    }.items():
        np.savez_compressed(folder / f"{name}.npz", **by_py4dstem(folder / f"{name}.h5", dataset))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
