"""A pattern library of made-up crystals: true lattices on the Ewald sphere, intensities by a simple rule."""

from types import SimpleNamespace

import numpy as np
from scipy.spatial.transform import Rotation

from gpuediff.peaks import PeakBatch

WAVELENGTH = 0.0197  # Å, 300 keV
G_MAX = 1.6  # Å⁻¹
ROCKING = 0.012  # Å⁻¹, excitation error at which a reflection has lost 1 - 1/e of its intensity


class RandomLattices:
    """Orthorhombic crystals of 3 to 9 Å, each seen from random directions.

    |F|² is drawn for every reflection of a crystal and falls with |g|; the direct beam keeps half of all intensity.
    """

    path = "library.h5"
    run = SimpleNamespace(simulation=SimpleNamespace(orientations=SimpleNamespace(protocol="any")))

    def __init__(self, materials, each, seed=0):
        rng = np.random.default_rng(seed)
        self.material_of_pattern = np.repeat(np.arange(materials), each)
        cells = np.sort(rng.uniform(3, 9, size=(materials, 3)), axis=1)
        self.materials = SimpleNamespace(
            space_group_number=np.full(materials, 47), conventional=np.hstack([cells, np.full((materials, 3), 90.0)])
        )
        self._patterns = []
        for cell in cells:
            hkl = np.indices(2 * np.ceil(G_MAX * cell).astype(int) + 1).reshape(3, -1).T - np.ceil(G_MAX * cell)
            g = hkl / cell
            length = np.linalg.norm(g, axis=1)
            g, length = g[(length > 0) & (length < G_MAX)], length[(length > 0) & (length < G_MAX)]
            strength = rng.exponential(size=len(g)) * np.exp(-2.5 * length**2)
            for rotation in Rotation.random(each, random_state=rng):
                turned = rotation.apply(g)
                error = (2 * turned[:, 2] - WAVELENGTH * length**2) / (2 - 2 * WAVELENGTH * turned[:, 2])
                intensity = strength * np.exp(-((error / ROCKING) ** 2))
                seen = intensity > 1e-4 * intensity.max()
                peaks = np.column_stack([turned[seen, :2], 0.5 * intensity[seen] / intensity[seen].sum()])
                self._patterns.append(np.vstack([[0, 0, 0.5], peaks]))

    def peaks(self, thickness, patterns):
        return PeakBatch.from_lists([self._patterns[pattern] for pattern in patterns])
