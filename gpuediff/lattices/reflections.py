"""Reflections near the Ewald sphere of a pattern whose lattice is known, each with its peak, if it has one.

Compiled, for one pattern at a time. What compares reflections (`gpuediff.lattices.extinctions`,
`gpuediff.lattices.merging`) starts from here.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuediff.lattices import refinement
from gpuediff.lattices.basis import invert
from gpuediff.peaks import DIRECT_BEAM_RADIUS

Q_MAX = 1.2  # Å⁻¹, of the reflections that are looked for
S_ROUND = 2e-3  # Å⁻¹, how well excitation errors are known
REACH = 4.0  # standard deviations of a position, within which a peak is that of a reflection
HEIGHT_MAX = 0.1  # Å⁻¹, along the beam
_ROOM = 4096  # reflections of a pattern


@njit(cache=True, nogil=True, error_model="numpy")
def oriented(root, rows):
    """Turn a basis of the right metric into the orientation of another one that is near."""
    inverse = np.empty((3, 3))
    invert(root, inverse)
    u, _, v = np.linalg.svd(inverse @ rows)
    return root @ (u @ v)


@njit(cache=True, nogil=True, error_model="numpy")
def brightness(square, s):
    """What an intensity is multiplied by to free it of the mean effect of |q|², `square`, and excitation error."""
    spread = (s * s + S_ROUND * S_ROUND) ** (0.5 / refinement.INTENSITY_POWER)
    steep = max(math.sqrt(square), refinement.Q_LOW) ** (refinement.Q_POWER / refinement.INTENSITY_POWER)
    return spread, steep


@njit(cache=True, nogil=True, error_model="numpy")
def reflections_of_pattern(places, rows, wavelength, reach, s_max):
    """List the reflections with an excitation error of at most `s_max`.

    Returns their indices (n, 3), squares of their distances from the direct beam (n,), excitation errors (n,), and
    the nearest peak within `reach` of each (n,), -1 where there is none.
    """
    direct = np.empty((3, 3))
    invert(rows, direct)
    limit = np.empty(3, np.int64)
    for i in range(3):
        limit[i] = int(Q_MAX * math.sqrt((direct[:, i] ** 2).sum()))
    hkl, distance, error = np.empty((_ROOM, 3)), np.empty(_ROOM), np.empty(_ROOM)
    peak = np.empty(_ROOM, np.int64)
    order = np.argsort(places[:, 0])
    x = places[order, 0]
    ax, ay, az = rows[0]
    bx, by, bz = rows[1]
    cx, cy, cz = rows[2]
    square_c = cx * cx + cy * cy
    # g_z = s (1 - λ g_z) + λ (q² + g_z²) / 2
    bound = min(HEIGHT_MAX, 1.01 * s_max + 0.505 * wavelength * (Q_MAX**2 + HEIGHT_MAX**2))
    n = 0
    for h in range(-limit[0], limit[0] + 1):
        for k in range(-limit[1], limit[1] + 1):
            x0, y0, z0 = h * ax + k * bx, h * ay + k * by, h * az + k * bz
            low, high = -float(limit[2]), float(limit[2])
            if cz != 0:
                first, last = (-bound - z0) / cz, (bound - z0) / cz
                low, high = max(low, min(first, last)), min(high, max(first, last))
            if square_c > 0:
                along = x0 * cx + y0 * cy
                # Rounding must not lose a reflection at the rim; each is judged by itself.
                half = math.sqrt(max(along * along - square_c * (x0 * x0 + y0 * y0 - Q_MAX * Q_MAX), 0.0))
                low, high = max(low, (-along - half) / square_c), min(high, (-along + half) / square_c)
            for l in range(math.floor(low), math.ceil(high) + 1):
                gz = z0 + l * cz
                if abs(gz) > HEIGHT_MAX:
                    continue
                gx = x0 + l * cx
                gy = y0 + l * cy
                square = gx * gx + gy * gy
                if square > Q_MAX * Q_MAX or square < DIRECT_BEAM_RADIUS**2 or n == _ROOM:
                    continue
                s = (2 * gz - wavelength * (square + gz * gz)) / (2 - 2 * wavelength * gz)
                if abs(s) > s_max:
                    continue
                nearest, found = reach * reach, -1
                for j in range(np.searchsorted(x, gx - reach), len(x)):
                    if x[j] > gx + reach:
                        break
                    off = (x[j] - gx) ** 2 + (places[order[j], 1] - gy) ** 2
                    if off < nearest:
                        nearest, found = off, order[j]
                hkl[n, 0], hkl[n, 1], hkl[n, 2] = h, k, l
                distance[n], error[n], peak[n] = square, s, found
                n += 1
    return hkl[:n], distance[:n], error[:n], peak[:n]
