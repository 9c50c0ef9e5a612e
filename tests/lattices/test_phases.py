import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpuediff.lattices.phases import explain, primitive
from gpuediff.peaks import PeakBatch
from tests.lattices.cuts import WAVELENGTH, cut

SPINEL, LAYERED = primitive([8.245] * 3 + [90] * 3, "F"), primitive([2.816, 2.816, 14.05, 90, 90, 120], "R")
NOISE = 0.004  # Å⁻¹


@pytest.fixture(scope="module")
def few_peaks():
    """The eight strongest peaks of noisy patterns, the first twelve of a spinel, the others of a layered oxide."""
    rng = np.random.default_rng(2)
    lists = []
    for lattice in (SPINEL, LAYERED):
        for _ in range(12):
            peaks, _ = cut(lattice, Rotation.random(random_state=rng).as_matrix(), rng)
            peaks = peaks[np.argsort(-peaks[:, 2])[:8]]
            peaks[:, :2] += NOISE * rng.normal(size=(len(peaks), 2))
            lists.append(peaks)
    return PeakBatch.from_lists(lists)


def test_known_lattices_are_told_apart_by_few_scattered_peaks(few_peaks):
    result = explain(few_peaks, np.array([SPINEL, LAYERED]), wavelength=WAVELENGTH, noise=NOISE)
    assert (result.score.argmax(axis=0) == np.repeat([0, 1], 12)).mean() >= 0.9
    right, wrong = (np.concatenate([result.score[k, :12], result.score[1 - k, 12:]]) for k in (0, 1))
    assert np.mean(right > 0) >= 0.75
    assert np.mean(wrong > 0) <= 0.1
    assert np.concatenate([result.on[0, :12], result.on[1, 12:]]).mean() > 0.9


def test_the_orientation_is_one_of_the_lattice(few_peaks):
    result = explain(few_peaks, SPINEL[None], wavelength=WAVELENGTH, noise=NOISE)
    direct = np.linalg.inv(result.rows[0, :12]).swapaxes(-1, -2)
    metric = direct @ direct.swapaxes(-1, -2)
    np.testing.assert_allclose(np.linalg.det(metric), np.linalg.det(SPINEL) ** 2, rtol=1e-9)
    np.testing.assert_allclose(metric[:, 0, 0], 8.245**2 / 2, rtol=1e-9)


def test_random_peaks_are_of_no_lattice():
    rng = np.random.default_rng(3)
    peaks = PeakBatch.from_lists([np.column_stack([rng.uniform(-1, 1, (12, 2)), rng.random(12)]) for _ in range(20)])
    result = explain(peaks, np.array([SPINEL, LAYERED]), wavelength=WAVELENGTH, noise=0.002)
    assert np.mean(result.score > 0) < 0.1


def test_too_few_peaks_have_no_score_and_wrong_arguments_are_refused(few_peaks):
    result = explain(
        PeakBatch.from_lists([(), np.array([[0.3, 0.1, 1.0]])]), SPINEL[None], wavelength=WAVELENGTH, noise=NOISE
    )
    assert (result.score == -np.inf).all()
    assert np.isnan(result.rows).all()
    with pytest.raises(ValueError, match="noise = 0"):
        explain(few_peaks, SPINEL[None], wavelength=WAVELENGTH, noise=0)
    with pytest.raises(ValueError, match=r"lattices\[1\]: spans no lattice"):
        explain(few_peaks, np.array([SPINEL, np.ones((3, 3))]), wavelength=WAVELENGTH, noise=NOISE)
    with pytest.raises(ValueError, match="centring = 'X'"):
        primitive([4, 4, 4, 90, 90, 90], "X")
