import dataclasses
import logging

import numpy as np
import pytest

from gpuediff.diffraction import gpu_propagation
from gpuediff.diffraction.orientations import orientation_matrix
from gpuediff.diffraction.simulate import simulate
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Precession, Simulation
from tests.diffraction.test_simulate import GOLD, QUARTZ, RANDOM
from tests.kernels.implementations import available

SMALL = Simulation(g_max=0.8, thicknesses=(50.0, 200.0), intensity_min=1e-6)
VARIANTS = {
    "dynamical": SMALL,
    "kinematic": SMALL.model_copy(update={"theory": "kinematic"}),
    "precession": SMALL.model_copy(update={"precession": Precession(angle=1.0, azimuths=3)}),
}
everywhere = pytest.mark.parametrize("implementation", available("simulation"))


def assert_equal_but_for_rounding(computed, expected):
    """The same peaks; those at the limit of being kept may be there or not."""
    for index in range(len(expected)):
        values = []
        for patterns in (computed, expected):
            own = slice(patterns.offsets[index], patterns.offsets[index + 1])
            columns = zip(patterns.qx[own], patterns.qy[own], patterns.intensity[:, own].T, strict=True)
            hkl = map(tuple, patterns.hkl[own].tolist())
            values.append(dict(zip(hkl, columns, strict=True)))
        for hkl in values[0].keys() | values[1].keys():
            absent = (None, None, np.zeros(len(expected.thicknesses)))
            ours, theirs = (value.get(hkl, absent) for value in values)
            np.testing.assert_allclose(ours[2], theirs[2], rtol=0, atol=5e-6)
            if hkl in values[0] and hkl in values[1]:
                np.testing.assert_allclose(ours[:2], theirs[:2], atol=1e-7)
    np.testing.assert_array_equal(computed.orientation, expected.orientation)


@everywhere
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_crystals_simulated_together_have_the_patterns_of_the_cpu(implementation, settings):
    batch = [(GOLD, orientation_matrix(RANDOM[:2])), (QUARTZ, orientation_matrix(RANDOM[2:3]))]
    results = implementation(batch, settings)
    for (crystal, orientations), computed in zip(batch, results, strict=True):
        assert_equal_but_for_rounding(computed, simulate(crystal, orientations, settings))


@everywhere
def test_a_crystal_that_cannot_be_simulated_does_not_take_the_others_along(implementation):
    broken = dataclasses.replace(GOLD, positions=np.array([[np.nan, 0, 0]]))
    unknown = dataclasses.replace(GOLD, atomic_numbers=np.array([105]))
    orientation = orientation_matrix(RANDOM[:1])
    outcomes = implementation([(broken, orientation), (GOLD, orientation), (unknown, orientation)], SMALL)
    assert isinstance(outcomes[0], InvalidStructure)
    assert "not finite" in str(outcomes[0])
    assert len(outcomes[1]) == 1
    assert "105" in str(outcomes[2])


@everywhere
def test_patterns_too_large_for_the_kernels_are_simulated_on_the_cpu_and_the_log_says_so(
    implementation, caplog, monkeypatch
):
    monkeypatch.setattr(gpu_propagation, "beams_max", lambda _: 1)
    orientation = orientation_matrix(RANDOM[:1])
    with caplog.at_level(logging.WARNING):
        (computed,) = implementation([(GOLD, orientation)], SMALL)
    np.testing.assert_allclose(computed.intensity, simulate(GOLD, orientation, SMALL).intensity, atol=5e-6)
    assert "simulated on the CPU: a pattern has" in caplog.text


@everywhere
def test_no_crystals_give_nothing(implementation):
    assert implementation([], SMALL) == []
