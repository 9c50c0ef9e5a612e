import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuediff.errors import InvalidScan
from gpuediff.scans.readers.reading import Asked, Extent, refuse_implausible, without_calibration

coordinates = st.lists(st.floats(-1e3, 1e3) | st.sampled_from([np.nan, np.inf, -np.inf]), max_size=20)


def extent_of(*blocks):
    extent = Extent()
    for qx, qy in blocks:
        extent.add(np.asarray(qx, float), np.asarray(qy, float))
        extent.patterns += 1
    return extent


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), max_size=6))
def test_an_extent_of_blocks_is_that_of_all_finite_positions(blocks):
    blocks = [(qx[: len(qy)], qy[: len(qx)]) for qx, qy in blocks]
    extent = extent_of(*blocks)
    positions = np.array([pair for qx, qy in blocks for pair in zip(qx, qy, strict=True)]).reshape(-1, 2)
    positions = positions[np.isfinite(positions).all(axis=1)]
    assert extent.empty == (len(positions) == 0)
    if len(positions):
        assert extent.qx == (positions[:, 0].min(), positions[:, 0].max())
        assert extent.qy == (positions[:, 1].min(), positions[:, 1].max())
        assert extent.q_max == np.hypot(*positions.T).max()


def test_a_few_peaks_on_one_side_of_a_direct_beam_are_centred_but_do_not_lie_around_zero():
    extent = extent_of(([0, 0.5, 0.8], [0, 0.4, 0.4]), ([0.01], [0.0]))
    assert extent.centred
    assert not extent.around_zero


def test_peaks_of_one_corner_are_not_centred_though_one_of_them_is_at_zero():
    corner = ([1.2, 1.5, 0.4], [1.0, 0.3, 1.4])
    extent = extent_of(corner, corner, ([0.0, 1.0], [0.0, 1.0]))
    assert not extent.centred
    with pytest.raises(InvalidScan, match=r"scan: the peaks do not lie around zero \(qx 0 \.\. 1\.5, qy 0 \.\. 1\.4\)"):
        refuse_implausible("scan", extent, Asked())
    refuse_implausible("scan", extent, Asked(centre=(0.0, 0.0)))  # what the user says is not doubted


def test_far_peaks_are_refused_until_the_user_says_what_a_pixel_is():
    extent = extent_of(([-20.0, 20.0], [-20.0, 20.0]))
    with pytest.raises(InvalidScan, match=r"scan: peaks as far out as 28\.28 cannot be Å⁻¹"):
        refuse_implausible("scan", extent, Asked())
    refuse_implausible("scan", extent, Asked(pixel_size=1.0))


def test_no_peaks_are_no_reason_to_refuse():
    refuse_implausible("scan", Extent(), Asked())
    assert without_calibration("scan", Extent(), Asked()) == "no peaks"
