"""Examples to learn flags from: overlaps keep the sum of intensities, broken patterns keep what they should."""

import numpy as np
import pytest

from gpuediff.errors import InvalidLibrary
from gpuediff.features import examples as module
from gpuediff.features.examples import SCALES, Examples, broken, examples
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch
from tests.features.fakes import RandomLattices
from tests.features.test_labelled import FakeLibrary

EACH, MATERIALS = 6, 8


@pytest.fixture(scope="module")
def library():
    return RandomLattices(MATERIALS, EACH)


class PeakLists:
    """Remembers the peak lists that it is to describe, by their number of peaks and sum of intensities."""

    width = 2

    def __init__(self):
        self.seen = []

    def compute(self, peaks):
        self.seen.append(peaks)
        sums = np.bincount(peaks.pattern_of_peak, peaks.intensity.astype(float), minlength=len(peaks))
        return np.column_stack([peaks.counts, sums]).astype(np.float32)


def made(library, materials=None, protocol="any", count=1000, block=None, **options):
    materials = np.ones(len(library.materials.space_group_number), bool) if materials is None else materials
    return examples(library, block or PeakLists(), 200.0, materials, protocol=protocol, count=count, **options)


def test_two_grains_share_the_beam_and_show_the_peaks_of_both(library):
    data = made(library)
    assert len(data) == MATERIALS * EACH
    np.testing.assert_allclose(data.one_grain[:, 1], 1, rtol=1e-5)
    np.testing.assert_allclose(data.several_grains[:, 1], 1, rtol=1e-5)
    assert (data.several_grains[:, 0] > data.one_grain[:, 0]).all()
    np.testing.assert_array_equal(data.broken[:, 0], data.one_grain[:, 0])
    np.testing.assert_allclose(data.broken[:, 1], 1, rtol=1e-5)


def test_the_other_grain_is_of_the_materials_that_are_asked_for_half_of_the_time_of_the_same(library, monkeypatch):
    """No pattern of a test material may be learned from, not even beneath another."""
    wanted = np.arange(MATERIALS) % 2 == 0
    read = []

    def peaks(thickness, patterns):
        read.append(np.asarray(patterns))
        return RandomLattices.peaks(library, thickness, patterns)

    monkeypatch.setattr(library, "peaks", peaks)
    data = made(library, wanted, kinds=("several_grains",))
    drawn, partner = (library.material_of_pattern[patterns] for patterns in read)
    np.testing.assert_array_equal(drawn, data.material)
    assert set(partner.tolist()) == set(np.flatnonzero(wanted).tolist())
    assert (read[0] != read[1]).all()
    assert 0.35 < np.mean(drawn == partner) < 0.85
    assert len(data.one_grain) == len(data.broken) == 0


def test_patterns_of_one_grain_have_no_second_one_under_any_protocol(library):
    """The detector of `hard` differs from that of `measured` by jitter and second grains; neither makes peaks."""
    hard, measured = (made(library, protocol=name, kinds=("one_grain",)).one_grain for name in ("hard", "measured"))
    by_number = made(library, protocol="any", kinds=("one_grain",)).one_grain[:, 0]
    for data in (hard, measured):
        assert (data[:, 0] <= 1.3 * by_number + 3).all()
    assert made(library, protocol="hard").several_grains[:, 0].mean() > hard[:, 0].mean() * 1.2


def test_as_many_are_drawn_as_are_asked_for_and_the_same_every_time(library):
    few, again, other = made(library, count=10), made(library, count=10), made(library, count=10, seed=1)
    assert len(few) == 10
    for kind in module.KINDS:
        np.testing.assert_array_equal(getattr(few, kind), getattr(again, kind))
    assert (few.broken != other.broken).any()
    both = Examples.join([few, other])
    assert len(both) == len(both.broken) == 20


def test_a_single_pattern_has_no_other_grain(library):
    lonely = RandomLattices(1, 1)
    assert len(made(lonely)) == 0
    assert len(made(RandomLattices(2, 1))) == 2


def test_a_protocol_needs_its_orientations():
    with pytest.raises(InvalidLibrary, match="needs 'any'"):
        made(FakeLibrary("grid"), protocol="measured")


def test_broken_patterns_are_at_a_wrong_scale_or_their_peaks_lie_anywhere():
    library = RandomLattices(40, 10, seed=1)
    peaks = library.peaks(200.0, np.arange(400))
    wrong = broken(peaks, np.random.default_rng(0))
    np.testing.assert_array_equal(wrong.intensity, peaks.intensity)
    np.testing.assert_array_equal(wrong.offsets, peaks.offsets)
    scales, same_radius, anywhere = [], 0, 0
    for one, other in zip(lists(peaks), lists(wrong), strict=True):
        direct = np.abs(one) <= DIRECT_BEAM_RADIUS
        np.testing.assert_array_equal(one[direct], other[direct])
        ratio = other[~direct] / one[~direct]
        if np.ptp(ratio.real) + np.ptp(ratio.imag) < 1e-4:
            scales.append(ratio.real.mean())
        elif np.allclose(np.abs(ratio), 1, atol=1e-5):
            same_radius += 1
        else:
            anywhere += 1
            assert np.abs(other).max() <= np.abs(one).max() * (1 + 1e-6)
    assert 160 < len(scales) < 240
    assert same_radius > 60
    assert anywhere > 60
    size = np.exp(np.abs(np.log(scales)))
    assert SCALES[0] - 1e-3 < size.min() < size.max() < SCALES[1] + 1e-3
    assert 0.35 < np.mean(np.array(scales) > 1) < 0.65


def test_peaks_at_random_prefer_no_direction_and_cover_the_disc_evenly(monkeypatch):
    monkeypatch.setattr(module, "WRONG_SCALE", 0.0)
    monkeypatch.setattr(module, "ANY_RADIUS", 1.0)
    line = PeakBatch.from_lists([(np.linspace(0.1, 1.0, 200), np.zeros(200), np.ones(200))] * 20)
    wrong = broken(line, np.random.default_rng(3))
    assert np.abs(np.exp(1j * np.arctan2(wrong.qy, wrong.qx)).mean()) < 0.04
    assert np.mean(np.hypot(wrong.qx, wrong.qy) < np.sqrt(0.5)) == pytest.approx(0.5, abs=0.03)


def lists(peaks):
    for pattern in range(len(peaks)):
        part = peaks[pattern : pattern + 1]
        yield part.qx.astype(float) + 1j * part.qy.astype(float)
