"""Intensities against py4DSTEM 0.14.18, beam by beam, in its own scattering mode, by every way of propagation."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest

from gpuediff.diffraction.beams import Beams, Reflections, select_beams
from gpuediff.diffraction.potential import structure_potential
from gpuediff.diffraction.propagation import propagate
from gpuediff.diffraction.simulate import simulate
from tests.kernels.implementations import available
from tests.oracle import py4dstem

ABSORBING = [(name, "wk-cp") for name in py4dstem.NAMES]
ELASTIC = [(name, "lobato") for name in py4dstem.LOBATO_NAMES]
TOLERANCE = {"float32": 2e-6, "float64": 1e-11}
# A thousand products in float32 change the sum of the intensities, which no absorption hides, by up to 2.3e-6.
TOLERANCE_OF_LONG_EXPANSIONS = {"float32": 3e-6, "float64": 1e-11}


class Case(NamedTuple):
    reference: py4dstem.Reference
    orientations: np.ndarray
    reflections: Reflections
    beams: Beams

    @property
    def passage(self):
        """Wavelength and thicknesses."""
        return self.reference.wavelength, np.array(self.reference.settings.thicknesses)


@lru_cache(maxsize=len(ABSORBING) + len(ELASTIC))
def case_of(name, form_factors):
    reference = py4dstem.load(name, form_factors)
    potential = structure_potential(reference.crystal, reference.settings)
    reflections = Reflections.of_potential(potential, reference.settings.g_max)
    orientations = np.array([pattern.orientation for pattern in reference.patterns])
    return Case(reference, orientations, reflections, select_beams(reflections, orientations[:, 2], reference.settings))


def assert_parity(case, hkl, intensity, offsets, tolerance):
    for index, theirs in enumerate(case.reference.patterns):
        peaks = slice(offsets[index], offsets[index + 1])
        place = {tuple(miller): position for position, miller in enumerate(theirs.hkl.tolist())}
        assert {tuple(miller) for miller in hkl[peaks].tolist()} <= place.keys()
        ours = np.zeros_like(theirs.intensity)  # beams that cannot be reached are not ours
        ours[:, [place[tuple(miller)] for miller in hkl[peaks].tolist()]] = intensity[:, peaks]
        message = f"{case.reference.name}, pattern {index}"
        np.testing.assert_allclose(ours, theirs.intensity, rtol=0, atol=tolerance, err_msg=message)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("name", "form_factors"), ABSORBING + ELASTIC)
def test_intensities_are_those_of_py4dstem_at_all_thicknesses(name, form_factors, precision):
    case = case_of(name, form_factors)
    settings = case.reference.settings.model_copy(update={"precision": precision})
    ours = simulate(case.reference.crystal, case.orientations, settings)
    assert_parity(case, ours.hkl, ours.intensity, ours.offsets, TOLERANCE[precision])


# The largest patterns take seconds. What computes in float64 whatever the result has is compared once.
ALL_BUT_THE_LARGEST = [case for case in ABSORBING + ELASTIC if case[0] != "hexagonal"]
METHODS = [
    *((*case, "chebyshev", precision) for case in ALL_BUT_THE_LARGEST for precision in TOLERANCE),
    *((*case, "steps", "float64") for case in ALL_BUT_THE_LARGEST),
    *((*case, "bloch-waves", "float64") for case in ELASTIC),
]


@pytest.mark.parametrize(("name", "form_factors", "method", "precision"), METHODS)
def test_every_method_of_propagation_gives_the_intensities_of_py4dstem(name, form_factors, method, precision):
    case = case_of(name, form_factors)
    intensity = propagate(case.reflections, case.beams, *case.passage, np.dtype(precision), method=method)
    tolerance = TOLERANCE_OF_LONG_EXPANSIONS[precision] if method == "chebyshev" else TOLERANCE[precision]
    assert_parity(case, case.reflections.hkl[case.beams.reflection], intensity, case.beams.offsets, tolerance)


# On the host the kernels are slow: they do the crystals with the smallest patterns, the GPU does all.
KERNELS = [
    pytest.param(way.values[0], 1500 if way.id.startswith("host") else np.inf, id=way.id, marks=way.marks)
    for way in available("bloch_chebyshev")
    if way.id in ("host shim, gathered", "cuda, gathered", "cuda, dense")
]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("kernel", "elements_max"), KERNELS)
def test_the_kernels_give_all_crystals_at_once_the_intensities_of_py4dstem(kernel, elements_max, precision):
    cases = [case_of(*key) for key in ABSORBING + ELASTIC]
    cases = [case for case in cases if np.diff(case.beams.offsets).max() ** 2 <= elements_max]
    crystals = [(case.reflections, case.beams) for case in cases]
    results = kernel(crystals, *cases[0].passage, np.dtype(precision))
    for case, intensity in zip(cases, results, strict=True):
        hkl = case.reflections.hkl[case.beams.reflection]
        assert_parity(case, hkl, intensity, case.beams.offsets, TOLERANCE_OF_LONG_EXPANSIONS[precision])
