"""Intensities against py4DSTEM 0.14.18, beam by beam, in its own scattering mode."""

import numpy as np
import pytest

from gpuediff.diffraction.simulate import simulate
from tests.oracle import py4dstem

CASES = [(name, "wk-cp") for name in py4dstem.NAMES] + [(name, "lobato") for name in py4dstem.LOBATO_NAMES]
TOLERANCE = {"float32": 2e-6, "float64": 1e-11}


@pytest.mark.parametrize(("name", "form_factors"), CASES)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_intensities_are_those_of_py4dstem_at_all_thicknesses(name, form_factors, precision):
    reference = py4dstem.load(name, form_factors)
    orientations = np.array([pattern.orientation for pattern in reference.patterns])
    settings = reference.settings.model_copy(update={"precision": precision})
    ours = simulate(reference.crystal, orientations, settings)

    for index, theirs in enumerate(reference.patterns):
        peaks = slice(ours.offsets[index], ours.offsets[index + 1])
        place = {tuple(hkl): position for position, hkl in enumerate(theirs.hkl.tolist())}
        assert {tuple(hkl) for hkl in ours.hkl[peaks].tolist()} <= place.keys()
        intensity = np.zeros_like(theirs.intensity)  # beams that cannot be reached are not ours
        intensity[:, [place[tuple(hkl)] for hkl in ours.hkl[peaks].tolist()]] = ours.intensity[:, peaks]
        np.testing.assert_allclose(intensity, theirs.intensity, rtol=0, atol=TOLERANCE[precision])
