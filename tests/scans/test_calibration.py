import numpy as np
import pytest

from gpuediff.scans.calibration import inverse_angstrom


@pytest.mark.parametrize(
    "unit",
    [
        "A^-1", "Å^-1", "Å⁻¹", "1/A", "1/Å", "1 / Å", "1/angstrom", "angstrom^-1", "$A^{-1}$", r"$\AA^{-1}$",
        r"\AA^{-1}", "k_A^-1", "A-1", "A**-1",
    ],
)  # fmt: skip
def test_spellings_of_inverse_angstrom(unit):
    assert inverse_angstrom(unit) == 1.0


@pytest.mark.parametrize("unit", ["nm^-1", "1/nm", "1 / nm", "nm$^{-1}$", "k_nm^-1", "nm⁻¹", "nanometers^-1", "nm-1"])
def test_spellings_of_inverse_nanometres(unit):
    assert inverse_angstrom(unit) == 0.1


def test_a_q_has_a_factor_of_two_pi():
    assert inverse_angstrom("q_A^-1") == pytest.approx(1 / (2 * np.pi))
    assert inverse_angstrom("q_nm^-1") == pytest.approx(0.1 / (2 * np.pi))


@pytest.mark.parametrize("unit", ["", "px", "pixels", "mrad", "2th_deg", "nm", "A", "pm^-1", "1/m", "<undefined>"])
def test_what_is_no_reciprocal_length(unit):
    assert inverse_angstrom(unit) is None
