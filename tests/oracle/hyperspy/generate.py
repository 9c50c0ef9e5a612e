"""Write diffraction vectors with pyxem and HyperSpy, and what pyxem says they are. See README.md."""

import logging
import sys
from pathlib import Path

import numpy as np
import pyxem as pxm
import zarr

SHAPE = (3, 4)
EMPTY = (2, 1)  # a probe position without any peak


def patterns(seed: int) -> np.ndarray:
    """Draw patterns of 32 x 32 pixels with a direct beam and up to four peaks."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 1, (*SHAPE, 32, 32))
    y, x = np.mgrid[:32, :32]
    for index, position in enumerate(np.ndindex(*SHAPE)):
        if position == EMPTY:
            continue
        for peak in range(1 + index % 5):
            centre = (16, 16) if peak == 0 else rng.uniform(4, 28, 2)
            images[position] += 50 / (peak + 1) * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 3)
    return images


def signal(unit: str | None, scale: float) -> pxm.signals.ElectronDiffraction2D:
    made = pxm.signals.ElectronDiffraction2D(patterns(1))
    made.calibration(scale=scale, center=(16, 16), units=unit)
    for axis, name in zip(made.axes_manager.navigation_axes, ("x", "y"), strict=True):
        axis.name, axis.scale, axis.units = name, 2.5, "nm"
    return made


def vectors(made: pxm.signals.ElectronDiffraction2D, **options: object) -> pxm.signals.DiffractionVectors:
    return made.get_diffraction_vectors(method="local_max", min_distance=3, threshold_abs=8, **options)


def main(folder: Path) -> None:
    logging.disable(logging.ERROR)  # HyperSpy cannot write one item of pyxem's metadata, and says so at length
    in_nm = vectors(signal("k_nm^-1", 0.5))
    in_nm.save(folder / "vectors.hspy", overwrite=True)
    with zarr.ZipStore(str(folder / "vectors.zspy"), mode="w") as store:
        in_nm.save(store)
    vectors(signal("px", 1.0)).save(folder / "pixels.hspy", overwrite=True)
    vectors(signal("k_A^-1", 0.05), get_intensity=False).save(folder / "no_intensity.hspy", overwrite=True)
    in_nm.flatten_diffraction_vectors().save(folder / "flat.hspy", overwrite=True)

    lists = [in_nm.data[position] for position in np.ndindex(*SHAPE)]
    lists = [np.empty((0, 3)) if np.isnan(found).all() else found for found in lists]
    flat = np.concatenate(lists)
    columns = {name: flat[:, in_nm.column_names.index(name)] for name in ("kx", "ky", "intensity")}
    np.savez_compressed(folder / "vectors.npz", **columns, counts=np.array([len(found) for found in lists]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
