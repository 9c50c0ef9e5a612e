"""A simulated 4D-STEM scan with known truth: twinned gold nanoparticles on a thin amorphous film.

Every particle has two or three grains, each a {111} twin of the first: turned by 180° about the normal of the plane
that they share. The planes are drawn where they cut the particle at half its height, as if they stood upright, so that
every probe position belongs to one grain.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from gpuediff.crystals.crystal import Crystal
from gpuediff.diffraction import detector
from gpuediff.diffraction.simulate import simulate
from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch
from gpuediff.progress import Track, silent
from gpuediff.scans.scan import Scan
from gpuediff.settings import Simulation

GOLD_LATTICE = 4.078  # Å, at room temperature
FIELD_OF_VIEW = 640.0  # Å, shorter side of the scan if the step size is left to us
RADIUS = (64.0, 108.8)  # Å, smallest and largest particle
THICKNESSES = tuple(20.0 * step for step in range(1, 12))  # Å, up to the diameter of the largest particle
PLANES_111 = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / np.sqrt(3)


@dataclass(frozen=True)
class Detector:
    """What the measurement does to the patterns, in the order of `gpuediff.diffraction.detector`.

    Parameters
    ----------
    dose : float
        Electrons in one pattern.
    centre_error : float
        Standard deviation of the direct beam's position from pattern to pattern, Å⁻¹.
    peak_error : float
        Standard deviation of a peak's position, Å⁻¹.
    lost : float
        Share of the peaks that the detection misses.
    spurious : float
        Mean number of peaks in a pattern that are not the crystal's.
    dynamic_range : float
        Brightest over weakest peak of a pattern.
    """

    dose: float = 1e6
    centre_error: float = 0.002
    peak_error: float = 0.002
    lost: float = 0.02
    spurious: float = 1.0
    dynamic_range: float = 2e3

    def record(self, peaks: PeakBatch, rng: np.random.Generator) -> PeakBatch:
        """Record patterns; intensities become numbers of electrons."""
        peaks = detector.count_electrons(peaks, self.dose, rng)
        peaks = detector.shift_centre(peaks, self.centre_error, rng)
        peaks = detector.jitter(peaks, self.peak_error, rng)
        peaks = detector.lose_peaks(peaks, self.lost, rng)
        faint = (self.dose / self.dynamic_range, 10 * self.dose / self.dynamic_range)
        peaks = detector.add_spurious_peaks(peaks, self.spurious, rng, intensity=faint)
        return detector.limit_dynamic_range(peaks, self.dynamic_range)


@dataclass(frozen=True)
class Truth:
    """What a simulated scan is made of.

    Parameters
    ----------
    grain : array, shape (ny, nx), int32
        Grain of every probe position, 0 .. g - 1; -1 where there is only the film.
    particle : array, shape (ny, nx), int32
        Particle of every probe position, 0 .. p - 1; -1 elsewhere.
    thickness : array, shape (ny, nx), float64
        Of the crystal, one of the simulated thicknesses, Å; 0 elsewhere.
    orientation : array, shape (g, 3, 3), float64
        Of every grain: rows are the laboratory's axes in the crystal's Cartesian frame.
    crystal : Crystal
        The one crystal of all grains.
    """

    grain: np.ndarray
    particle: np.ndarray
    thickness: np.ndarray
    orientation: np.ndarray
    crystal: Crystal

    @property
    def crystal_system(self) -> np.ndarray:
        """Crystal system of every probe position, shape (ny, nx), str; empty where there is no crystal."""
        return np.where(self.grain >= 0, self.crystal.crystal_system, "")

    @property
    def lattice(self) -> np.ndarray:
        """Conventional cell of every probe position, shape (ny, nx, 6), Å and degrees; NaN without a crystal."""
        return np.where((self.grain >= 0)[..., None], self.crystal.conventional, np.nan)


def gold() -> Crystal:
    """Make face-centred cubic gold with its experimental lattice parameter."""
    return Crystal(
        material_id="gold",
        formula="Au",
        lattice=GOLD_LATTICE / 2 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]),
        atomic_numbers=np.array([79]),
        positions=np.zeros((1, 3)),
        occupancies=np.ones(1),
        space_group_number=225,
        conventional=np.array([GOLD_LATTICE] * 3 + [90.0] * 3),
        source="simulated scan",
        checksum=hashlib.sha256(f"Au Fm-3m {GOLD_LATTICE}".encode()).hexdigest(),
    )


def twin(orientation: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Orient the twin of a grain: the crystal turned by 180° about the normal of the twin plane.

    Parameters
    ----------
    orientation : array, shape (3, 3)
        Of the grain.
    plane : array, shape (3,)
        Unit normal of the plane, in the crystal's Cartesian frame.
    """
    return orientation @ (2 * np.outer(plane, plane) - np.eye(3))


def simulated_scan(
    shape: tuple[int, int] = (64, 64),
    *,
    particles: int = 7,
    crystal: Crystal | None = None,
    simulation: Simulation | None = None,
    measurement: Detector | None = None,
    step_size: float | None = None,
    seed: int = 0,
    track: Track = silent,
) -> tuple[Scan, Truth]:
    """Simulate a scan of twinned nanoparticles.

    Parameters
    ----------
    shape : tuple of int
        Probe positions (ny, nx), at least 16 x 16.
    particles : int
        Round or faceted, not overlapping, each with two or three grains.
    crystal : Crystal, optional
        Cubic; gold if absent.
    simulation : Simulation, optional
        Its thicknesses are replaced by 20 .. 220 Å in steps of 20 Å.
    measurement : Detector, optional
    step_size : float, optional
        Å between probe positions; if absent, the shorter side of the scan is 640 Å.
    seed : int
        The same seed gives the same scan; particles and measurement draw from it in turn.
    track : Track, optional

    Returns
    -------
    scan : Scan
        Intensities in electrons; where there is only film, the direct beam and spurious peaks.
    truth : Truth

    Raises
    ------
    InvalidScan
        If the scan is too small for its particles, `particles` < 1, or the crystal is not cubic.
    """
    if min(shape) < 16:
        raise InvalidScan(f"simulated scan: shape = {shape}: expected at least 16 x 16 probe positions")
    if particles < 1:
        raise InvalidScan(f"simulated scan: particles = {particles}: expected at least one")
    crystal = crystal or gold()
    if crystal.crystal_system != "cubic":
        raise InvalidScan(f"simulated scan: {crystal.formula} is {crystal.crystal_system}: expected a cubic crystal")
    rng = np.random.default_rng(seed)
    step_size = FIELD_OF_VIEW / min(shape) if step_size is None else step_size
    if not step_size * min(shape) >= 3 * RADIUS[1]:
        raise InvalidScan(
            f"simulated scan: step_size = {step_size}: {min(shape)} of them are too few Å for particles of a radius of "
            f"up to {RADIUS[1]:g} Å: expected at least {3 * RADIUS[1] / min(shape):.3g}"
        )
    truth = _draw_truth(shape, particles, step_size, crystal, rng)

    settings = (simulation or Simulation()).model_copy(update={"thicknesses": THICKNESSES})
    library = [PeakBatch.from_lists([([0.0], [0.0], [1.0])])]  # the film lets the direct beam through
    for orientation in track(truth.orientation, "simulating grains"):
        patterns = simulate(crystal, orientation[None], settings)
        library += [patterns.at(index) for index in range(len(THICKNESSES))]
    index = 1 + truth.grain * len(THICKNESSES) + np.searchsorted(THICKNESSES, truth.thickness)
    index[truth.grain < 0] = 0
    peaks = PeakBatch.concatenate(library)[index.reshape(-1)]
    peaks = (measurement or Detector()).record(peaks, rng)
    scan = Scan(
        peaks,
        shape,
        f"simulated {crystal.formula}, seed {seed}",
        step_size=step_size,
        intensity_unit="electrons",
    )
    return scan, truth


def _draw_truth(
    shape: tuple[int, int], particles: int, step_size: float, crystal: Crystal, rng: np.random.Generator
) -> Truth:
    grain = np.full(shape, -1, dtype=np.int32)
    particle = np.full(shape, -1, dtype=np.int32)
    thickness = np.zeros(shape)
    orientation: list[np.ndarray] = []
    place = step_size * (np.moveaxis(np.indices(shape), 0, -1) + 0.5)
    extent = step_size * np.array(shape)
    for number, (centre, radius) in enumerate(_place(extent, particles, rng)):
        position = place - centre
        depth = _draw_thickness(position, radius, rng)
        local, orientations = _draw_grains(position, radius, rng)
        simulated = np.rint(depth / THICKNESSES[0]).astype(int)
        inside = simulated > 0
        grain[inside] = len(orientation) + local[inside]
        particle[inside] = number
        thickness[inside] = np.array(THICKNESSES)[np.minimum(simulated[inside], len(THICKNESSES)) - 1]
        orientation += orientations
    return Truth(grain, particle, thickness, np.array(orientation), crystal)


def _place(extent: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Put discs where they overlap nothing; after many misses in a row, smaller ones."""
    placed: list[tuple[np.ndarray, float]] = []
    largest, misses = RADIUS[1], 0
    while len(placed) < count:
        radius = rng.uniform(RADIUS[0] * largest / RADIUS[1], largest)
        centre = rng.uniform(radius, extent - radius)
        if all(np.linalg.norm(centre - other) > 1.08 * (radius + size) for other, size in placed):
            placed.append((centre, radius))
        else:
            misses += 1
            if misses % 200 == 0:
                largest *= 0.9
    return placed


def _draw_thickness(position: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a sphere, or a hexagonal frustum whose side faces rise over the outer part; Å, 0 outside."""
    if rng.random() < 0.5:
        return 2 * np.sqrt(np.clip(radius**2 - (position**2).sum(axis=-1), 0, None))
    azimuth = np.arange(6) * np.pi / 3 + rng.uniform(0, np.pi)
    to_edge = 0.9 * radius - (position @ np.stack([np.cos(azimuth), np.sin(azimuth)])).max(axis=-1)
    return np.clip(4 * to_edge, 0, 1.6 * radius)


def _draw_grains(position: np.ndarray, radius: float, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Cut a particle of random orientation along one or two of its {111} planes, and twin what lies beyond.

    Scan and detector share their axes: the rows of the scan rise along qx, its columns along qy.
    """
    orientation = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    grain = np.zeros(position.shape[:-1], dtype=np.int32)
    orientations = [orientation]
    traces = PLANES_111 @ orientation.T[:, :2]  # in-plane part of the normals
    upright = np.argsort(-np.linalg.norm(traces, axis=1))  # the planes most nearly parallel to the beam first
    cut = np.zeros(2)
    for plane in upright[: rng.integers(1, 3)]:
        normal = traces[plane] / np.linalg.norm(traces[plane])
        if normal @ cut > 0:
            normal = -normal  # the second cut on the other side of the particle
        beyond = (position @ normal > rng.uniform(0.05, 0.35) * radius) & (grain == 0)
        grain[beyond] = len(orientations)
        orientations.append(twin(orientation, PLANES_111[plane]))
        cut = normal
    return grain, orientations
