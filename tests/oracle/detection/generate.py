"""Draw a small scan of gold with known disks, and find its peaks with py4DSTEM. See README.md."""

import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import py4DSTEM

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from gpuediff.diffraction.orientations import orientations_for
from gpuediff.diffraction.simulate import simulate
from gpuediff.peaks import PeakBatch
from gpuediff.scans.simulated import gold
from gpuediff.settings import Orientations, Simulation
from tests.oracle.detection.render import expected_counts

SHAPE, FRAME = (8, 8), (128, 128)
PIXEL_SIZE = 0.03  # Å⁻¹
RADIUS = 4.0  # pixels
DOSE, BACKGROUND = 3e5, 2e4  # counts of a frame
RATIO, ANGLE = 1.03, 0.5  # of the ellipse, and of its major axis, radians
THICKNESS = 100.0  # Å
PEAK = [("qx", float), ("qy", float), ("intensity", float)]


def true_peaks() -> tuple[PeakBatch, np.ndarray]:
    """Peaks in pixels and counts, and the direct beam of every frame, (64, 2)."""
    rng = np.random.default_rng(0)
    count = SHAPE[0] * SHAPE[1]
    settings = Simulation(orientations=Orientations(protocol="any", count=count, seed=0), thicknesses=(THICKNESS,))
    peaks = simulate(gold(), orientations_for(gold(), settings.orientations), settings).at(0)
    peaks = peaks.keep((np.hypot(peaks.qx, peaks.qy) < 1.75) & (peaks.intensity > 1e-4))
    turn = np.repeat(rng.uniform(0, 2 * np.pi, count), peaks.counts)
    qx = np.cos(turn) * peaks.qx - np.sin(turn) * peaks.qy
    qy = np.sin(turn) * peaks.qx + np.cos(turn) * peaks.qy
    along = (qx * np.cos(ANGLE) + qy * np.sin(ANGLE)) * (RATIO - 1)
    qx, qy = qx + along * np.cos(ANGLE), qy + along * np.sin(ANGLE)
    row, column = (axis.reshape(-1) - 3.5 for axis in np.indices(SHAPE))
    centre = np.stack([63.3 + 0.25 * row - 0.1 * column, 64.6 + 0.15 * row + 0.2 * column], axis=1)
    x0, y0 = np.repeat(centre, peaks.counts, axis=0).T
    values = qx / PIXEL_SIZE + x0, qy / PIXEL_SIZE + y0, peaks.intensity * DOSE
    return PeakBatch(*(value.astype(np.float32) for value in values), peaks.offsets), centre


def write_cube(path: Path, frames: np.ndarray) -> None:
    """Save as py4DSTEM does, then compress the frames."""
    cube = py4DSTEM.DataCube(frames.reshape(*SHAPE, *FRAME))
    cube.calibration.set_Q_pixel_size(0.0287)  # as a microscope says it, a few percent off
    cube.calibration.set_Q_pixel_units("A^-1")
    cube.calibration.set_R_pixel_size(1.5)
    cube.calibration.set_R_pixel_units("nm")
    py4DSTEM.save(str(path), cube, mode="o")
    whole = path.with_suffix(".whole")
    path.rename(whole)
    with h5py.File(whole) as source, h5py.File(path, "w") as target:
        target.attrs.update(source.attrs)
        for name in source:
            source.copy(name, target)
        data = target["datacube_root/datacube/data"]
        values, attributes = data[:], dict(data.attrs)
        del target["datacube_root/datacube/data"]
        data = target.create_dataset(
            "datacube_root/datacube/data",
            data=values,
            chunks=(1, 8, *FRAME),
            compression="gzip",
            compression_opts=9,
            shuffle=True,
        )
        data.attrs.update(attributes)
    whole.unlink()
    with h5py.File(path) as source, h5py.File(whole, "w") as target:  # the place of what was deleted stays otherwise
        target.attrs.update(source.attrs)
        for name in source:
            source.copy(name, target)
    whole.rename(path)


def by_py4dstem(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Find the peaks; of several kernels and smoothings that were tried, these place them best."""
    cube = py4DSTEM.DataCube(frames.reshape(*SHAPE, *FRAME).astype(np.float32))
    probe = py4DSTEM.Probe.generate_synthetic_probe(radius=RADIUS, width=1.2, Qshape=FRAME)
    probe.get_kernel(mode="sigmoid", radii=(1.25 * RADIUS, 2 * RADIUS))
    vectors = cube.find_Bragg_disks(
        template=probe.kernel,
        corrPower=1,
        sigma_cc=1,
        subpixel="multicorr",
        upsample_factor=16,
        minRelativeIntensity=0.0005,
        minPeakSpacing=6,
        edgeBoundary=7,
        maxNumPeaks=100,
    )
    lists = [vectors.raw[position].data for position in np.ndindex(*SHAPE)]
    flat = np.concatenate(lists)
    return {
        "qx": flat["qx"].astype(np.float32),
        "qy": flat["qy"].astype(np.float32),
        "intensity": flat["intensity"].astype(np.float32),
        "counts": np.array([len(peaks) for peaks in lists]),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    peaks, centre = true_peaks()
    means = expected_counts(peaks, FRAME, radius=RADIUS, background=BACKGROUND)
    frames = np.random.default_rng(1).poisson(means).astype(np.uint16)
    write_cube(folder / "cube.h5", frames)
    np.savez_compressed(
        folder / "truth.npz",
        qx=peaks.qx,
        qy=peaks.qy,
        intensity=peaks.intensity,
        counts=peaks.counts,
        centre=centre,
        pixel_size=PIXEL_SIZE,
        radius=RADIUS,
        ratio=RATIO,
        angle=ANGLE,
    )
    np.savez_compressed(folder / "py4dstem.npz", **by_py4dstem(frames))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
