"""From which directions a crystal is seen.

Directions related by the symmetry of the crystal give the same pattern, and so do u and -u (Friedel), so a grid of zone
axes lives on the sphere divided by the Laue group. It is spread there by farthest-point selection: begin with the axis
of highest symmetry, then take again and again the direction farthest from all that were taken and from their
equivalents. The largest gap that is left is at most twice the smallest possible for the same number of axes
(T. F. Gonzalez, Theor. Comput. Sci. 38, 293, 1985). A symmetry axis, being a corner of the fundamental zone, is taken
as soon as it is nearly the farthest: [001], [111], [011] are the first three in cubic crystals, py4DSTEM's corners too.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from functools import lru_cache

import numpy as np
from scipy.spatial import KDTree

from gpuediff.crystals.crystal import Crystal
from gpuediff.crystals.symmetry import laue_rotations
from gpuediff.settings import Orientations

_CANDIDATES_PER_AXIS = 40  # the gap can be off by the spacing of the candidates, about 1/sqrt(40) of that of the axes
_CANDIDATES_MIN = 2000
_NEARLY_FARTHEST = 0.9  # of the largest distance, at which a symmetry axis is preferred
_SAME_DIRECTION = 1e-7  # chord between two unit vectors that are one direction, up to rounding
# The fundamental zone lies around this direction: 0 <= x <= y <= z in m-3m. No symmetry element passes through it.
_ZONE_CENTRE = np.array([0.23, 0.49, 0.84])


def zone_axes(laue_class: str, count: int) -> np.ndarray:
    """Spread zone axes evenly over the fundamental zone of a Laue class.

    Parameters
    ----------
    laue_class : str
        One of `gpuediff.crystals.symmetry.LAUE_CLASSES`.
    count : int
        Number of axes, at least 1.

    Returns
    -------
    array, shape (count, 3), float64, read-only
        Unit vectors in the crystals' Cartesian frame, no two of them equivalent under the Laue group. The symmetry
        axes come first, and any number of first ones is spread evenly too.

    Raises
    ------
    InvalidStructure
        If there is no such Laue class.
    ValueError
        If `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count = {count}: at least one zone axis is needed")
    return _farthest_points(laue_class, int(count))


def orientation_matrix(zone_axis: np.ndarray) -> np.ndarray:
    """Complete zone axes to orientations, with the in-plane axes as py4DSTEM has them.

    The x axis is the part of -z of the crystal frame that is normal to the zone axis; looking along ±z, where there is
    no such part, it is ±x of the crystal frame.

    Parameters
    ----------
    zone_axis : array, shape (..., 3)
        Directions in the crystal's Cartesian frame, of any length; the beam travels along their negative.

    Returns
    -------
    array, shape (..., 3, 3), float64
        Rows e_x, e_y, e_z (the zone axis), right-handed: q = R @ g are the coordinates of g in the laboratory.

    Raises
    ------
    ValueError
        If a zone axis is zero or not finite.
    """
    axis = np.asarray(zone_axis, dtype=np.float64)
    length = np.linalg.norm(axis, axis=-1, keepdims=True)
    if not (np.all(np.isfinite(length)) and np.all(length > 0)):
        raise ValueError("zone_axis must be finite and not zero")
    e_z = axis / length
    along_z = np.abs(e_z[..., 2:]) > 1 - 1e-6  # the limit is py4DSTEM's
    towards_x = np.where(along_z, np.cross([0.0, 1.0, 0.0], e_z), np.array([0.0, 0.0, -1.0]))
    e_y = np.cross(e_z, towards_x)
    e_y /= np.linalg.norm(e_y, axis=-1, keepdims=True)
    return np.stack([np.cross(e_y, e_z), e_y, e_z], axis=-2)


def orientations_for(crystal: Crystal, settings: Orientations) -> np.ndarray:
    """Choose the orientations in which a crystal is simulated.

    Parameters
    ----------
    crystal : Crystal
        Its Laue class fixes the grid, its material id the random numbers.
    settings : Orientations
        "grid": the zone axes of the Laue class, the same for all its crystals. "any": rotations drawn uniformly;
        they depend on the seed and the material id alone, whatever else is simulated and in which order.

    Returns
    -------
    array, shape (settings.count, 3, 3), float64
        Orientation matrices as of `orientation_matrix`.
    """
    if settings.protocol == "grid":
        return orientation_matrix(zone_axes(crystal.laue_class, settings.count))
    identity = hashlib.sha256(crystal.material_id.encode()).digest()
    rng = np.random.default_rng([settings.seed, *np.frombuffer(identity, dtype="<u4").tolist()])
    return _random_rotations(rng, settings.count)


def _random_rotations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw rotations uniformly: a normal 4-vector, normalised, is a uniform unit quaternion."""
    quaternion = rng.normal(size=(count, 4))
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


@lru_cache(maxsize=64)
def _farthest_points(laue_class: str, count: int) -> np.ndarray:
    rotations = laue_rotations(laue_class)
    equivalents = np.concatenate([rotations, -rotations])
    symmetry_axes = _symmetry_axes(rotations)
    lattice = _lattice_in_zone(rotations, max(_CANDIDATES_MIN, _CANDIDATES_PER_AXIS * count))
    candidates = np.concatenate([symmetry_axes, lattice])
    tree = KDTree(candidates)
    distance = np.full(len(candidates), np.inf)
    # Distances only shrink, so an entry of the heap is an upper bound: an outdated one is put back with its new value.
    heap = [(-math.inf, index) for index in range(len(candidates))]
    pending = list(range(len(symmetry_axes)))
    taken: list[int] = []
    while len(taken) < count:
        bound, index = heapq.heappop(heap)
        if -bound > distance[index]:
            heapq.heappush(heap, (-distance[index], index))
            continue
        preferred = next((axis for axis in pending if distance[axis] >= _NEARLY_FARTHEST * -bound), index)
        if preferred in pending:
            pending.remove(preferred)
        if preferred != index:
            heapq.heappush(heap, (bound, index))
            index = preferred
        taken.append(index)
        # No candidate is farther than -bound from what was taken, so only those nearer to the new axis can change.
        images = equivalents @ candidates[index]
        neighbours = tree.query_ball_point(images, min(-bound, 2.0) + _SAME_DIRECTION)
        for image, near in zip(images, neighbours, strict=True):
            distance[near] = np.minimum(distance[near], np.linalg.norm(candidates[near] - image, axis=1))
    axes = candidates[taken]
    axes.flags.writeable = False  # shared by every caller
    return axes


def _lattice_in_zone(rotations: np.ndarray, count: int) -> np.ndarray:
    """Fill the fundamental zone evenly with about `count` points of a Fibonacci lattice on the sphere."""
    total = 2 * len(rotations) * count
    index = np.arange(total)
    z = 1 - (2 * index + 1) / total
    azimuth = index * (math.pi * (3 - math.sqrt(5)))
    radius = np.sqrt(1 - z * z)
    sphere = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)
    return sphere[_in_zone(sphere, rotations, margin=0.0)]


def _in_zone(directions: np.ndarray, rotations: np.ndarray, *, margin: float) -> np.ndarray:
    """Index the directions that are as near to the zone's centre as any of their equivalents."""
    own = directions @ _ZONE_CENTRE
    inside = np.flatnonzero(own >= -margin)
    for rotation in rotations[1:]:
        others = np.abs(directions[inside] @ (rotation.T @ _ZONE_CENTRE))
        inside = inside[own[inside] >= others - margin]
    return inside


def _symmetry_axes(rotations: np.ndarray) -> np.ndarray:
    """List one axis of each kind, those of highest order first; z where there is no rotation."""
    order: dict[tuple[float, ...], int] = {}
    for rotation in rotations[1:]:
        axis = np.linalg.svd(rotation - np.eye(3))[2][-1]  # the null space of R - 1
        images = np.concatenate([rotations, -rotations]) @ axis
        # Equivalent axes meet in one; of several on the border of the zone, the one with the largest (z, y, x).
        inside = np.round(images[_in_zone(images, rotations, margin=1e-9)], 9) + 0.0
        key = max((tuple(image) for image in inside.tolist()), key=lambda image: image[::-1])
        order[key] = int(np.isclose(rotations @ axis, axis, atol=1e-9).all(axis=1).sum())
    if not order:
        return np.array([[0.0, 0.0, 1.0]])
    axes = np.array(sorted(order, key=lambda axis: (order[axis], axis[::-1]), reverse=True))
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)
