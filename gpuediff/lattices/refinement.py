"""A lattice fitted to a pattern, once three vectors are known to begin with.

In the detector plane the places of the peaks fix the lattice as well as they were measured. Along the beam the Ewald
sphere does: a reflection is seen only if its excitation error is small, and a strong one only if it is very small, so

    g_z = λ g² / 2 + s,    |s| about c I^-0.68 q^-1.66

where c is a property of the pattern and is found with the lattice. Such errors have long tails, so s is taken to
follow Student's t distribution with 5 degrees of freedom, and the fit weighs every peak again and again.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gpuediff.lattices.search import OUTLIERS, RADII

# Fitted to the excitation errors of dynamical patterns at 200 Å (300 experimentally known crystals, 3 orientations of
# each); intensities are shares of all that is diffracted. The ceiling is half the error up to which beams were taken.
INTENSITY_POWER, Q_POWER = 0.68, 1.66
S_FLOOR, S_CEILING = 0.0014, 0.03  # Å⁻¹
SCALE, SCALE_SPREAD = 1.94e-4, 0.84  # Å⁻¹ at an intensity and a |q| of one; and of its natural logarithm
Q_LOW = 0.1  # Å⁻¹; nearer to the direct beam the law is not followed
DEGREES = 5.0  # of freedom
_T_NORM = 0.3796066898  # of Student's density at 5 degrees of freedom, times the scale
LAYER_MAX = 8
HEIGHT_MAX = 0.5  # Å⁻¹. The sphere curves back at 2 / λ, where no reflection of a pattern is


@njit(cache=True, nogil=True, error_model="numpy")
def unit_errors(places, intensity):
    """What `expected_errors` multiplies by the scale of the pattern, (peaks,); dimensionless."""
    out = np.empty(len(places))
    for p in range(len(places)):
        q = math.hypot(places[p, 0], places[p, 1])
        out[p] = intensity[p] ** -INTENSITY_POWER * max(q, Q_LOW) ** -Q_POWER
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def expected_errors(unit, scale, out):
    """Expected size of the excitation error of every peak, Å⁻¹."""
    for p in range(len(unit)):
        size = scale * unit[p]
        out[p] = 1 / math.sqrt(1 / (S_FLOOR**2 + size * size) + 1 / S_CEILING**2)


@njit(cache=True, nogil=True, error_model="numpy")
def assign(places, plane, z, wavelength, noise, expected, use_z, hkl, chance, on):
    """Give every peak its indices; return how many are on the lattice, and the sum of the log-probability ratios.

    plane (3, 2), z (3,). `hkl` (peaks, 3), `chance` (peaks,) and `on` (peaks,) are filled.
    """
    a0, a1, b0, b1, c0, c1 = plane[0, 0], plane[0, 1], plane[1, 0], plane[1, 1], plane[2, 0], plane[2, 1]
    det = a0 * b1 - a1 * b0
    u0, u1, v0, v1 = b1 / det, -b0 / det, -a1 / det, a0 / det
    radius2 = (RADII * noise) ** 2
    volume = det * z[2] + (a1 * c0 - a0 * c1) * z[1] + (b0 * c1 - b1 * c0) * z[0]
    density = 1 / max(abs(volume), 1e-9)
    number, total = 0, 0.0
    for p in range(len(places)):
        best = np.inf
        on[p] = False
        x0, y0 = places[p, 0], places[p, 1]
        square = x0 * x0 + y0 * y0
        for t in range(2 * LAYER_MAX + 1):
            l = (t + 1) // 2 if t % 2 else -(t // 2)
            x, y = x0 - l * c0, y0 - l * c1
            h, k = np.rint(u0 * x + u1 * y), np.rint(v0 * x + v1 * y)
            x, y = x - h * a0 - k * b0, y - h * a1 - k * b1
            r2 = x * x + y * y
            if r2 < radius2:
                cost = 0.5 * r2 / (noise * noise)
                if use_z:
                    gz = h * z[0] + k * z[1] + l * z[2]
                    s = (gz - 0.5 * wavelength * (square + gz * gz)) / expected[p]
                    cost += 0.5 * (DEGREES + 1) * math.log(1 + s * s / DEGREES)
                else:
                    cost += 0.5 * abs(l)
                if cost < best:
                    best = cost
                    hkl[p, 0], hkl[p, 1], hkl[p, 2] = h, k, l
                    on[p] = True
        ratio = 0.0
        if on[p]:
            number += 1
            ratio = math.exp(-best) * _T_NORM / expected[p] / (density * 2 * math.pi * noise * noise)
        chance[p] = math.log(OUTLIERS + (1 - OUTLIERS) * ratio)
        total += chance[p]
    return number, total


@njit(cache=True, nogil=True, error_model="numpy")
def solve3(m, r, x, inverse):
    """Solve m x = r for a symmetric (3, 3); fill `inverse`; return whether m is positive."""
    c00 = m[1, 1] * m[2, 2] - m[1, 2] * m[1, 2]
    c01 = m[0, 2] * m[1, 2] - m[0, 1] * m[2, 2]
    c02 = m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1]
    det = m[0, 0] * c00 + m[0, 1] * c01 + m[0, 2] * c02
    if not det > 1e-10 * abs(m[0, 0] * m[1, 1] * m[2, 2]) or not det > 0:
        return False
    inverse[0, 0], inverse[0, 1], inverse[0, 2] = c00 / det, c01 / det, c02 / det
    inverse[1, 1] = (m[0, 0] * m[2, 2] - m[0, 2] * m[0, 2]) / det
    inverse[1, 2] = (m[0, 1] * m[0, 2] - m[0, 0] * m[1, 2]) / det
    inverse[2, 2] = (m[0, 0] * m[1, 1] - m[0, 1] * m[0, 1]) / det
    inverse[1, 0], inverse[2, 0], inverse[2, 1] = inverse[0, 1], inverse[0, 2], inverse[1, 2]
    for i in range(3):
        x[i] = inverse[i, 0] * r[0] + inverse[i, 1] * r[1] + inverse[i, 2] * r[2]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def fit_plane(places, hkl, on, noise, shift_noise, plane, shift, covariance):
    """Least squares of the places; fill `plane` (3, 2), `shift` (2,), `covariance` (3, 3) in units of noise².

    The shift of the centre is one more parameter, known beforehand to be 0 within `shift_noise`.
    Returns the sum of squared residuals, negative if the peaks do not fix the plane.
    """
    m = np.zeros((3, 3))
    s = np.zeros(3)
    r = np.zeros((3, 2))
    t = np.zeros(2)
    n = (noise / shift_noise) ** 2
    for p in range(len(places)):
        if on[p]:
            n += 1
            for i in range(3):
                s[i] += hkl[p, i]
                for j in range(3):
                    m[i, j] += hkl[p, i] * hkl[p, j]
                for d in range(2):
                    r[i, d] += hkl[p, i] * places[p, d]
            for d in range(2):
                t[d] += places[p, d]
    for i in range(3):
        for j in range(3):
            m[i, j] -= s[i] * s[j] / n
        for d in range(2):
            r[i, d] -= s[i] * t[d] / n
    x = np.empty(3)
    for d in range(2):
        if not solve3(m, r[:, d], x, covariance):
            return -1.0
        shift[d] = t[d] / n
        for i in range(3):
            plane[i, d] = x[i]
            shift[d] -= s[i] * x[i] / n
    total = 0.0
    for p in range(len(places)):
        if on[p]:
            for d in range(2):
                e = (
                    places[p, d]
                    - shift[d]
                    - hkl[p, 0] * plane[0, d]
                    - hkl[p, 1] * plane[1, d]
                    - hkl[p, 2] * plane[2, d]
                )
                total += e * e
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def fit_heights(places, unit, hkl, on, plane, wavelength, rounds, side, scale, z, covariance, expected):
    """Components along the beam, by weighing the peaks again and again.

    Maximises the sum over the peaks of log(density of s · volume of the reciprocal cell). Without the volume, layers
    would be pressed together: the flatter the lattice, the smaller the excitation errors of all its points. `side`
    is the sign of the determinant of the basis, 0 if z is already near.

    Fills z (3,), `covariance` (3, 3) in Å⁻², and `expected`. Returns the scale of the excitation errors and the
    maximum, -inf if the peaks do not fix z.
    """
    m = np.empty((3, 3))
    r = np.empty(3)
    u = np.empty(3)
    x = np.empty(3)
    a0, a1, b0, b1, c0, c1 = plane[0, 0], plane[0, 1], plane[1, 0], plane[1, 1], plane[2, 0], plane[2, 1]
    u[0], u[1], u[2] = b0 * c1 - b1 * c0, a1 * c0 - a0 * c1, a0 * b1 - a1 * b0
    n = len(places)
    merit = -np.inf
    prior = np.empty(n)
    expected_errors(unit, SCALE, prior)
    for turn in range(rounds):
        expected_errors(unit, scale, expected)
        m[:] = 0.0
        r[:] = 0.0
        number = 0.0
        for p in range(n):
            if not on[p]:
                continue
            trust = 1 - prior[p] / S_CEILING
            number += trust
            gz = hkl[p, 0] * z[0] + hkl[p, 1] * z[1] + hkl[p, 2] * z[2]
            target = 0.5 * wavelength * (places[p, 0] ** 2 + places[p, 1] ** 2 + gz * gz)
            w = trust / expected[p] ** 2
            if turn > 0 or side == 0:
                w *= (DEGREES + 1) / (DEGREES + ((gz - target) / expected[p]) ** 2)
            for i in range(3):
                for j in range(i, 3):
                    m[i, j] += w * hkl[p, i] * hkl[p, j]
                r[i] += w * hkl[p, i] * target
        m[1, 0], m[2, 0], m[2, 1] = m[0, 1], m[0, 2], m[1, 2]
        if not solve3(m, r, x, covariance):
            return scale, -np.inf
        flat = x[0] * u[0] + x[1] * u[1] + x[2] * u[2]
        kappa = 0.0
        for i in range(3):
            for j in range(3):
                kappa += u[i] * covariance[i, j] * u[j]
        sign = side if side != 0 else (1.0 if flat >= 0 else -1.0)
        high = 0.5 * (flat + sign * math.sqrt(flat * flat + 4 * number * kappa))
        if high == 0:
            return scale, -np.inf
        for i in range(3):
            z[i] = x[i]
            for j in range(3):
                z[i] += number / high * covariance[i, j] * u[j]
        gradient, curvature = -math.log(scale / SCALE) / SCALE_SPREAD**2, 1 / SCALE_SPREAD**2
        merit = number * math.log(abs(high)) - 0.5 * (math.log(scale / SCALE) / SCALE_SPREAD) ** 2
        for p in range(n):
            if on[p]:
                gz = hkl[p, 0] * z[0] + hkl[p, 1] * z[1] + hkl[p, 2] * z[2]
                target = 0.5 * wavelength * (places[p, 0] ** 2 + places[p, 1] ** 2 + gz * gz)
                square = ((gz - target) / expected[p]) ** 2
                inner = 1 / (1 / expected[p] ** 2 - 1 / S_CEILING**2)
                felt = expected[p] ** 2 / inner * (1 - S_FLOOR**2 / inner)
                gradient += (1 - prior[p] / S_CEILING) * felt * ((DEGREES + 1) * square / (DEGREES + square) - 1)
                curvature += (1 - prior[p] / S_CEILING) * 2 * felt * felt * DEGREES / (DEGREES + 3)
                if turn == rounds - 1:
                    merit -= (1 - prior[p] / S_CEILING) * (
                        math.log(expected[p]) + 0.5 * (DEGREES + 1) * math.log(1 + square / DEGREES)
                    )
        scale *= math.exp(max(-1.0, min(1.0, gradient / curvature)))
        if turn == rounds - 1:
            for i in range(3):
                for j in range(3):
                    m[i, j] += number * u[i] * u[j] / (high * high)
            if not solve3(m, r, x, covariance):
                return scale, -np.inf
    return scale, merit
