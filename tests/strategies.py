"""Hypothesis strategies for what gpuediff takes as input."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpuediff.peaks import PeakBatch, offsets_of


@st.composite
def peak_batches(draw, *, max_patterns=6, max_peaks=40, include_empty=True, q_max=2.25, spacing=0.05):
    """Batches of possible peaks: anywhere up to |qx|, |qy| <= q_max (Å⁻¹), on ring edges, at and next to the origin.

    Peaks in bulk come from a seed, so that long patterns stay cheap to draw; the first few are drawn one by one, so
    that a failure shrinks to something readable.
    """
    counts = draw(st.lists(st.integers(0 if include_empty else 1, max_peaks), max_size=max_patterns))
    total = sum(counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    qx, qy = rng.uniform(-q_max, q_max, (2, total)).astype(np.float32)
    intensity = (10 ** rng.uniform(-6, 0, total)).astype(np.float32)

    by_hand = min(total, 4)
    edges = st.integers(-int(q_max / spacing), int(q_max / spacing)).map(lambda n: float(np.float32(n * spacing)))
    anywhere = st.floats(-q_max, q_max, width=32)
    for values, elements in (
        (qx, edges | anywhere | st.just(0.0)),
        (qy, st.just(0.0) | st.just(-0.0) | edges | anywhere),
        (intensity, st.floats(0, 1, width=32)),
    ):
        values[:by_hand] = draw(hnp.arrays(np.float32, by_hand, elements=elements))
    return PeakBatch(qx, qy, intensity, offsets_of(np.array(counts, dtype=np.int64)))
