"""The radial-angular basis as its equation reads: slow, obvious, float64."""

import numpy as np


def radial_basis(peaks, basis, *, rotation=None, scale=None):
    """R[n, m] = Σ_j I_j max(0, 1 - |q_j - k_n| / Δk) exp(i m φ_j); shape (n, rings, orders), complex128."""
    result = np.zeros((len(peaks), basis.rings, basis.orders), np.complex128)
    rings, orders = basis.ring_spacing * np.arange(basis.rings), np.arange(basis.orders)
    for p, (qx, qy, intensity) in enumerate(peaks):
        for x, y, i in zip(qx.tolist(), qy.tolist(), intensity.tolist(), strict=True):
            q = np.hypot(x, y)
            phi = np.arctan2(y, x) if q > 0 else 0.0
            if rotation is not None:
                phi += float(rotation[p])
            if scale is not None:
                i *= float(scale[p])
            weight = np.maximum(0, 1 - np.abs(q - rings) / basis.ring_spacing)
            result[p] += np.outer(i * weight, np.exp(1j * orders * phi))
    return result


def magnitudes_and_arguments(peaks, basis, *, rounding_level, **options):
    """|R| and arg R; what is not above `rounding_level` R[n, 0] counts as zero, all of R or its imaginary part."""
    r = radial_basis(peaks, basis, **options)
    level = rounding_level * np.abs(r[:, :, :1])
    r = np.where(np.abs(r.imag) <= level, r.real + 0j, r)
    r = np.where(np.abs(r) <= level, 0, r)
    return np.stack([np.abs(r), np.arctan2(r.imag, r.real)], axis=-1)
