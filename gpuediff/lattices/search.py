"""Three vectors in the detector plane that explain the peaks of a pattern as h a + k b + l c.

Off a zone axis the peaks are no two-dimensional lattice: they are the projection of a slab of a three-dimensional
one. Seen from two vectors a, b of it, which span a plane of the lattice, the peaks fall into layers l = 0, ±1, ±2, ...;
modulo a and b each layer is one point, and these points are multiples of the first, c. For every promising pair the
candidates for c are the points where most peaks meet. What counts is the logarithm of how much more probable the
places of the peaks are than if they were spread by chance: a dense lattice, which fits everything, gains little.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LAYER_MAX = 6  # |l| that is looked for
#: Weight of a layer before anything is known, falling outwards; the sum over l = -LAYER_MAX .. LAYER_MAX is about one.
_LAYER_SHARE, _LAYER_DECAY = 0.3, 0.6
OUTLIERS = 0.08  # share of peaks that belong to no lattice, before anything is known
TORSION_MAX = 6  # c is no new direction if its multiple up to this one lies in the plane of a and b
RADII = 3.0  # a peak is on the lattice if it is within this many standard deviations

_CLASSES = 4  # points modulo (a, b) that are tried as c
_SINE_MIN = 0.1  # of the angle between a and b


@njit(cache=True, nogil=True, error_model="numpy")
def candidates(places, vectors, pairs, noise, wanted, triples, scores):
    """Fill `triples`, (wanted, 3, 2), and `scores`, (wanted,), best first; return how many, and the
    two-dimensional cell (2, 2) that explains most without a third vector.

    `places` (peaks, 2) hold the direct beam at the origin, not among them; `vectors` come from
    `differences.clusters`, of which the first `pairs` are combined as a and b.
    """
    n = len(places)
    radius2 = (RADII * noise) ** 2
    fractional = np.empty((n, 2))
    weight = np.empty(LAYER_MAX + 1)
    plane_best = -np.inf
    plane = np.zeros((2, 2))
    found = 0
    scores[:] = -np.inf
    m = min(pairs, len(vectors))
    class_size, class_place = np.empty(n), np.empty((n, 2))
    for rank in range(1, 2 * m):
        for j in range(max(0, rank - m + 1), (rank + 1) // 2):
            i = rank - j
            if i >= m or i == j:
                continue
            a0, a1, b0, b1 = vectors[j, 0], vectors[j, 1], vectors[i, 0], vectors[i, 1]
            # The shortest pair of the same plane lattice: rounding modulo (a, b) then finds the nearest point.
            for _ in range(30):
                if a0 * a0 + a1 * a1 > b0 * b0 + b1 * b1:
                    a0, a1, b0, b1 = b0, b1, a0, a1
                k = np.rint((a0 * b0 + a1 * b1) / (a0 * a0 + a1 * a1))
                if k == 0:
                    break
                b0, b1 = b0 - k * a0, b1 - k * a1
            det = a0 * b1 - a1 * b0
            aa, bb = a0 * a0 + a1 * a1, b0 * b0 + b1 * b1
            if aa < 16 * radius2 or abs(det) < _SINE_MIN * math.sqrt(aa * bb):
                continue
            u0, u1, v0, v1 = b1 / det, -b0 / det, -a1 / det, a0 / det
            gain = abs(det) / (math.pi * radius2)
            for l in range(LAYER_MAX + 1):
                share = _LAYER_SHARE * _LAYER_DECAY**l
                weight[l] = math.log(OUTLIERS + (1 - OUTLIERS) * share * gain)
            off = 0
            on = 0.0
            for p in range(n):
                h = u0 * places[p, 0] + u1 * places[p, 1]
                k = v0 * places[p, 0] + v1 * places[p, 1]
                h -= np.rint(h)
                k -= np.rint(k)
                x, y = h * a0 + k * b0, h * a1 + k * b1
                if x * x + y * y < radius2:
                    on += 1
                else:
                    fractional[off, 0], fractional[off, 1] = h, k
                    off += 1
            score = on * math.log(OUTLIERS + (1 - OUTLIERS) * gain) + off * math.log(OUTLIERS)
            if score > plane_best:
                plane_best = score
                plane[0, 0], plane[0, 1], plane[1, 0], plane[1, 1] = a0, a1, b0, b1
            if on * weight[0] + off * weight[1] <= scores[wanted - 1] or off < 2:
                continue  # even if all the others were in the first layers
            classes = 0
            for p in range(off):
                class_size[p] = 0.0
            for p in range(off):
                if class_size[p] < 0:
                    continue
                h, k, size = fractional[p, 0], fractional[p, 1], 1
                sh, sk = h, k
                for q in range(p + 1, off):
                    if class_size[q] < 0:
                        continue
                    for sign in (1.0, -1.0):
                        dh, dk = sign * fractional[q, 0] - h, sign * fractional[q, 1] - k
                        dh -= np.rint(dh)
                        dk -= np.rint(dk)
                        x, y = dh * a0 + dk * b0, dh * a1 + dk * b1
                        if x * x + y * y < 2 * radius2:
                            class_size[q] = -1.0
                            sh += h + dh
                            sk += k + dk
                            size += 1
                            break
                class_size[p] = size
                class_place[p, 0], class_place[p, 1] = sh / size, sk / size
            while classes < _CLASSES:
                largest = -1
                for p in range(off):
                    if class_size[p] > 0 and (largest < 0 or class_size[p] > class_size[largest]):
                        largest = p
                if largest < 0:
                    break
                class_size[largest] = 0.0
                classes += 1
                ch, ck = class_place[largest]
                torsion = False
                for times in range(2, TORSION_MAX + 1):
                    h, k = times * ch, times * ck
                    h -= np.rint(h)
                    k -= np.rint(k)
                    x, y = h * a0 + k * b0, h * a1 + k * b1
                    torsion |= x * x + y * y < 2 * radius2
                if torsion:
                    continue
                score = on * weight[0]
                for p in range(off):
                    if score + (off - p) * weight[1] <= scores[wanted - 1]:
                        score = -np.inf
                        break
                    best = math.log(OUTLIERS)
                    for l in range(1, LAYER_MAX + 1):
                        for sign in (1.0, -1.0):
                            h, k = fractional[p, 0] - sign * l * ch, fractional[p, 1] - sign * l * ck
                            h -= np.rint(h)
                            k -= np.rint(k)
                            x, y = h * a0 + k * b0, h * a1 + k * b1
                            if x * x + y * y < radius2:
                                best = weight[l]
                                break
                        if best > math.log(OUTLIERS):
                            break
                    score += best
                if score <= scores[wanted - 1]:
                    continue
                known = False  # another c of the same classes has the same score
                for t in range(found):
                    known |= abs(scores[t] - score) < 1e-6 * abs(score)
                if known:
                    continue
                place = min(found, wanted - 1)
                while place > 0 and scores[place - 1] < score:
                    scores[place] = scores[place - 1]
                    triples[place] = triples[place - 1]
                    place -= 1
                scores[place] = score
                triples[place, 0, 0], triples[place, 0, 1] = a0, a1
                triples[place, 1, 0], triples[place, 1, 1] = b0, b1
                triples[place, 2, 0], triples[place, 2, 1] = ch * a0 + ck * b0, ch * a1 + ck * b1
                found = min(found + 1, wanted)
    return found, plane
