import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidConfig, InvalidPeaks
from gpuediff.features import radial_basis
from gpuediff.features.radial_basis import RadialBasis, coefficients, magnitudes_and_arguments
from gpuediff.peaks import PeakBatch
from gpuediff.settings import Features
from tests.kernels.implementations import available
from tests.reference import radial_basis as reference
from tests.strategies import peak_batches

PAPER_BASIS = RadialBasis.from_settings(Features())
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", available("radial_basis"))

bases = st.builds(
    RadialBasis,
    rings=st.integers(1, 45),
    ring_spacing=st.sampled_from([0.05, 0.1, 0.037]),
    orders=st.integers(1, 20),
)


def assert_close(got, wanted, total=1.0):
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-7 * max(1.0, total))


def random_peaks(counts, seed=0, q_max=1.5):
    rng = np.random.default_rng(seed)
    patterns = []
    for count in counts:
        q, phi = q_max * np.sqrt(rng.random(count)), rng.uniform(-np.pi, np.pi, count)
        patterns.append((q * np.cos(phi), q * np.sin(phi), rng.random(count)))
    return PeakBatch.from_lists(patterns)


def ring_of(peaks, radius, intensity=0.01, phase=0.1):
    """One pattern of `peaks` equal peaks evenly around the origin."""
    phi = phase + 2 * np.pi * np.arange(peaks) / peaks
    return PeakBatch.from_lists([(radius * np.cos(phi), radius * np.sin(phi), np.full(peaks, intensity))])


@IMPLEMENTATIONS
@settings(deadline=None, max_examples=40)
@given(peaks=peak_batches())
def test_coefficients_match_the_reference(implementation, peaks):
    assert_close(implementation(peaks, PAPER_BASIS), reference.radial_basis(peaks, PAPER_BASIS))


@IMPLEMENTATIONS
@settings(deadline=None, max_examples=25)
@given(peaks=peak_batches(max_patterns=3, max_peaks=20), basis=bases)
def test_coefficients_match_the_reference_in_any_basis(implementation, peaks, basis):
    assert_close(implementation(peaks, basis), reference.radial_basis(peaks, basis))


@IMPLEMENTATIONS
@settings(deadline=None, max_examples=25)
@given(peaks=peak_batches(max_patterns=3, max_peaks=20), seed=st.integers(0, 1000))
def test_magnitudes_and_arguments_match_the_reference(implementation, peaks, seed):
    rotation = np.random.default_rng(seed).uniform(-np.pi, np.pi, len(peaks))
    got = implementation.magnitudes_and_arguments(peaks, PAPER_BASIS, rotation=rotation)
    wanted = reference.magnitudes_and_arguments(
        peaks, PAPER_BASIS, rounding_level=radial_basis.ROUNDING_LEVEL, rotation=rotation
    )
    # As complex numbers, because π and -π are one direction; what is just at rounding level may fall to either side.
    level = 2 * radial_basis.ROUNDING_LEVEL * wanted[:, :, :1, 0]
    difference = np.abs(got[..., 0] * np.exp(1j * got[..., 1]) - wanted[..., 0] * np.exp(1j * wanted[..., 1]))
    assert np.all(difference <= 2e-5 * wanted[..., 0] + 1e-7 + level)


@IMPLEMENTATIONS
def test_a_pattern_of_twenty_thousand_peaks_matches_the_sum_of_its_parts(implementation):
    peaks = random_peaks([20_000])
    q = np.hypot(peaks.qx.astype(float), peaks.qy)
    phi = np.arctan2(peaks.qy.astype(float), peaks.qx)
    weights = np.maximum(0, 1 - np.abs(q[:, None] / 0.05 - np.arange(41)))
    wanted = (weights * peaks.intensity[:, None]).T @ np.exp(1j * phi[:, None] * np.arange(13))
    assert_close(implementation(peaks, PAPER_BASIS)[0], wanted, total=peaks.intensity.sum())


@IMPLEMENTATIONS
def test_many_orders_on_many_rings_match_the_reference(implementation):
    """More than a block's shared memory holds, so that the GPU cuts the orders into chunks."""
    peaks, basis = random_peaks([30, 0, 7], q_max=0.6), RadialBasis(rings=120, ring_spacing=0.005, orders=40)
    assert_close(implementation(peaks, basis), reference.radial_basis(peaks, basis))


@IMPLEMENTATIONS
def test_every_tile_length_matches_the_reference(implementation):
    """Lengths around the peaks that either device takes side by side."""
    peaks = random_peaks([15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129])
    assert_close(implementation(peaks, PAPER_BASIS), reference.radial_basis(peaks, PAPER_BASIS))


@IMPLEMENTATIONS
@settings(deadline=None, max_examples=20)
@given(peaks=peak_batches(), seed=st.integers(0, 1000))
def test_the_order_of_peaks_does_not_matter(implementation, peaks, seed):
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(peaks.qx)), peaks.pattern_of_peak))
    shuffled = PeakBatch(peaks.qx[order], peaks.qy[order], peaks.intensity[order], peaks.offsets)
    assert_close(implementation(shuffled, PAPER_BASIS), implementation(peaks, PAPER_BASIS))


@IMPLEMENTATIONS
def test_a_pattern_has_the_same_bits_in_any_batch(implementation):
    peaks = random_peaks([0, 3, 120, 1, 0, 77, 250])
    angles = np.linspace(-3, 3, len(peaks))
    whole = implementation(peaks, PAPER_BASIS, rotation=angles)
    for index in range(len(peaks)):
        own = slice(index, index + 1)
        alone = implementation(peaks[own], PAPER_BASIS, rotation=angles[own])
        np.testing.assert_array_equal(alone, whole[own])


def test_the_bits_do_not_depend_on_the_number_of_threads():
    peaks = random_peaks(range(50))
    before = numba.get_num_threads()
    results = []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            results.append((coefficients(peaks, PAPER_BASIS), magnitudes_and_arguments(peaks, PAPER_BASIS)))
    finally:
        numba.set_num_threads(before)
    for result in results[1:]:
        for got, wanted in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(got, wanted)


@IMPLEMENTATIONS
@settings(deadline=None, max_examples=20)
@given(peaks=peak_batches(), angle=st.floats(-7, 7))
def test_rotating_a_pattern_multiplies_order_m_by_a_phase(implementation, peaks, angle):
    still = implementation(peaks, PAPER_BASIS)
    rotated = implementation(peaks, PAPER_BASIS, rotation=np.full(len(peaks), angle))
    assert_close(rotated, still * np.exp(1j * angle * np.arange(PAPER_BASIS.orders)))


@IMPLEMENTATIONS
def test_a_positive_rotation_turns_the_peaks_anticlockwise(implementation):
    """The quarter turn takes (0.5, 0.2) to (-0.2, 0.5)."""
    before = PeakBatch.from_lists([([0.5], [0.2], [0.3])])
    after = PeakBatch.from_lists([([-0.2], [0.5], [0.3])])
    turned = implementation(before, PAPER_BASIS, rotation=np.array([np.pi / 2]))
    assert_close(turned, implementation(after, PAPER_BASIS))


@IMPLEMENTATIONS
@settings(deadline=None, max_examples=20)
@given(peaks=peak_batches(), factor=st.floats(0.01, 100))
def test_scaling_intensities_scales_the_coefficients(implementation, peaks, factor):
    plain = implementation(peaks, PAPER_BASIS)
    scaled = implementation(peaks, PAPER_BASIS, scale=np.full(len(peaks), factor))
    np.testing.assert_allclose(np.abs(scaled), factor * np.abs(plain), rtol=2e-5, atol=1e-7 * factor)


@IMPLEMENTATIONS
@settings(deadline=None, max_examples=20)
@given(peaks=peak_batches(q_max=1.40625))  # |q| < 2.0 Å⁻¹, the last ring
def test_the_rings_share_out_the_whole_intensity_of_peaks_inside(implementation, peaks):
    sums = np.bincount(peaks.pattern_of_peak, weights=peaks.intensity, minlength=len(peaks))
    assert_close(implementation(peaks, PAPER_BASIS)[:, :, 0].sum(axis=1), sums)


@IMPLEMENTATIONS
def test_a_peak_on_a_ring_belongs_to_that_ring_alone(implementation):
    basis = RadialBasis(rings=8, ring_spacing=0.125, orders=4)  # a spacing that float32 holds exactly
    peaks = PeakBatch.from_lists([([0.125 * n], [0.0], [1.0]) for n in range(10)])
    got = implementation(peaks, basis)
    np.testing.assert_array_equal(got[:8], np.repeat(np.eye(8)[:, :, None], 4, axis=2))
    np.testing.assert_array_equal(got[8:], 0)


@IMPLEMENTATIONS
def test_peaks_beyond_the_reach_of_the_last_ring_contribute_nothing(implementation):
    basis = RadialBasis(rings=8, ring_spacing=0.125, orders=4)
    far = [([1.0, -3e38, 0.0], [0.0, 3e38, 50.0], [1.0, 1.0, 1.0])]
    np.testing.assert_array_equal(implementation(PeakBatch.from_lists(far), basis), 0)
    half_out = implementation(PeakBatch.from_lists([([0.9375], [0.0], [1.0])]), basis)
    np.testing.assert_array_equal(half_out[0, :, 0], [0, 0, 0, 0, 0, 0, 0, 0.5])


@IMPLEMENTATIONS
def test_a_peak_at_the_origin_has_the_argument_zero(implementation):
    for qx in (0.0, -0.0):
        got = implementation.magnitudes_and_arguments(PeakBatch.from_lists([([qx], [-0.0], [0.25])]), PAPER_BASIS)
        np.testing.assert_array_equal(got[0, 0, :, 0], 0.25)
        np.testing.assert_array_equal(got[0, :, :, 1], 0)


@IMPLEMENTATIONS
def test_a_peak_next_to_the_origin_keeps_its_direction(implementation):
    """Squares of such positions vanish in float32."""
    got = implementation(PeakBatch.from_lists([([0.0], [-1e-38], [1.0])]), PAPER_BASIS)
    np.testing.assert_allclose(got[0, 0], (-1j) ** np.arange(13), atol=1e-6)


@IMPLEMENTATIONS
def test_patterns_without_peaks_give_zeros(implementation):
    peaks = PeakBatch.from_lists([[], [], []])
    for got in (implementation(peaks, PAPER_BASIS), implementation.magnitudes_and_arguments(peaks, PAPER_BASIS)):
        assert len(got) == 3
        np.testing.assert_array_equal(got, 0)


@IMPLEMENTATIONS
def test_a_batch_without_patterns_gives_an_empty_array(implementation):
    peaks = PeakBatch.from_lists([])
    assert implementation(peaks, PAPER_BASIS).shape == (0, 41, 13)
    assert implementation.magnitudes_and_arguments(peaks, PAPER_BASIS).shape == (0, 41, 13, 2)


@IMPLEMENTATIONS
def test_the_types_are_those_that_are_promised(implementation):
    peaks = random_peaks([4])
    assert implementation(peaks, PAPER_BASIS).dtype == np.complex64
    assert implementation.magnitudes_and_arguments(peaks, PAPER_BASIS).dtype == np.float32


@IMPLEMENTATIONS
@pytest.mark.parametrize("fold", [2, 3, 4, 6])
def test_the_orders_that_symmetry_cancels_are_exactly_zero(implementation, fold):
    """A ring of equal peaks with a rotation axis of this fold keeps the orders that are multiples of it."""
    polar = implementation.magnitudes_and_arguments(ring_of(fold, radius=0.4), PAPER_BASIS)[0, 8]
    cancelled = np.arange(13) % fold != 0
    np.testing.assert_array_equal(polar[cancelled], 0)
    np.testing.assert_allclose(polar[~cancelled, 0], fold * 0.01, rtol=1e-6)


@IMPLEMENTATIONS
def test_a_negative_coefficient_has_the_argument_pi_never_minus_pi(implementation):
    """Mirror pairs at φ = ±60° have real coefficients; those of order 2 and 4 are negative."""
    y = np.float32(0.4 * np.sqrt(0.75))
    for pair in (([0.2, 0.2], [y, -y]), ([0.2, 0.2], [-y, y]), ([0.2, 0.2], [y, -y * np.float32(1 + 1.2e-7)])):
        polar = implementation.magnitudes_and_arguments(PeakBatch.from_lists([(*pair, [0.1, 0.1])]), PAPER_BASIS)
        np.testing.assert_array_equal(polar[0, 8, [1, 2, 4, 6], 1], np.float32([0, np.pi, np.pi, 0]))


def test_the_arc_tangent_is_right_to_3e_7_in_every_direction():
    phi = np.concatenate([np.linspace(-np.pi, np.pi, 20_001), [1e-3, 1e-6, -1e-9]])
    peaks = PeakBatch.from_lists([([np.cos(angle)], [np.sin(angle)], [1.0]) for angle in phi])
    exact = np.arctan2(peaks.qy.astype(float), peaks.qx)
    exact = np.where(np.abs(np.sin(exact)) <= radial_basis.ROUNDING_LEVEL, np.where(peaks.qx < 0, np.pi, 0), exact)
    polar = magnitudes_and_arguments(peaks, RadialBasis(rings=3, ring_spacing=1.0, orders=2))
    np.testing.assert_allclose(polar[:, 1, 1, 1], exact, rtol=0, atol=3e-7)


@pytest.mark.parametrize("expand", [coefficients, magnitudes_and_arguments])
@pytest.mark.parametrize(("column", "value"), [(0, np.nan), (1, np.inf), (2, np.nan), (2, np.inf), (2, -0.5)])
def test_impossible_values_are_refused_by_pattern_and_peak(expand, column, value):
    patterns = [np.full((count, 3), 0.1) for count in (2, 0, 3)]
    patterns[2][1, column] = value
    with pytest.raises(InvalidPeaks, match=r"^pattern 2, peak 1: "):
        expand(PeakBatch.from_lists(patterns), PAPER_BASIS)


@pytest.mark.parametrize("name", ["rotation", "scale"])
@pytest.mark.parametrize("values", [[0.1], [[0.1, 0.2]], [0.1, np.nan]])
def test_rotation_and_scale_are_one_finite_number_for_each_pattern(name, values):
    with pytest.raises(InvalidPeaks, match=rf"^{name}: expected one finite number for each of 2 patterns"):
        coefficients(random_peaks([1, 2]), PAPER_BASIS, **{name: np.array(values)})


@pytest.mark.parametrize("fault", [{"rings": 0}, {"orders": 0}, {"ring_spacing": 0.0}, {"ring_spacing": np.nan}])
def test_an_impossible_basis_is_refused(fault):
    with pytest.raises(InvalidConfig, match=next(iter(fault))):
        RadialBasis(**{"rings": 3, "ring_spacing": 0.1, "orders": 2, **fault})


def test_importing_the_features_does_not_import_cupy():
    code = "import sys; import gpuediff.features.blocks; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
