"""A hierarchy that reads its answer out of the pattern, so that a test decides what every probe position says."""

import numpy as np

from gpuediff.features.groups import Groups
from gpuediff.hierarchy.flags import Flags
from gpuediff.hierarchy.prediction import Prediction
from gpuediff.hierarchy.trained_on import TrainedOn
from gpuediff.peaks import PeakBatch
from gpuediff.scans.scan import Scan
from gpuediff.settings import Split

SYSTEMS = ("monoclinic", "hexagonal", "cubic")


class FakeBlock:
    """Features: the sum of all intensities, the system and the lead that `pattern` wrote into the last peak."""

    name = "fake"
    width = 3
    pools = False

    def compute(self, peaks: PeakBatch) -> np.ndarray:
        peaks.validate()
        rows = [(np.sum(intensity), qx[-1], qy[-1]) for qx, qy, intensity in peaks]
        return np.array(rows, dtype=np.float32).reshape(-1, 3)


class PoolingBlock(FakeBlock):
    """Describes a group by the features of its first pattern."""

    pools = True

    def compute(self, peaks: PeakBatch, groups: Groups | None = None) -> np.ndarray:
        features = super().compute(peaks)
        return features if groups is None else features[groups.first]


class FakeHierarchy:
    block = FakeBlock()
    calibration_ = None
    trained_on = TrainedOn(split=Split(), crystals_checksum="ab", intensity_sum=1.0)

    def __init__(self):
        self.intensity_sums = []
        self.sizes = []

    def predict(self, features, *, patterns=None, crystal_system=None):
        self.intensity_sums += features[:, 0].tolist()
        self.sizes += [1] * len(features) if patterns is None else list(patterns)
        index = np.rint(features[:, 1] * 10).astype(int)
        return self._answer(index, features[:, 2], np.zeros_like(features[:, 2]), crystal_system)

    def flags(self, features, *, patterns=None):
        """Take the lead for the probability of several grains, and know nothing of novelty."""
        return Flags(features[:, 2].copy(), np.full(len(features), np.nan, np.float32))

    def least_probability(self, error_rate, *, together=False):
        """Ask for 0.5 and the error rate."""
        assert not together
        return 0.5 + error_rate

    def aggregate(self, features, groups, *, crystal_system=None):
        groups = np.unique(groups, return_inverse=True)[1]
        sums = np.zeros((groups.max() + 1, len(SYSTEMS)))
        np.add.at(sums, (groups, np.rint(features[:, 1] * 10).astype(int)), features[:, 2])
        shares = np.sort(sums / sums.sum(axis=1, keepdims=True), axis=1)
        return self._answer(
            sums.argmax(axis=1), shares[:, -1] - shares[:, -2], shares[:, :-2].sum(axis=1), crystal_system
        )

    def _answer(self, index, lead, rest, crystal_system):
        n = np.arange(len(index))
        votes = np.zeros((len(index), len(SYSTEMS)), np.float32)
        votes[n, (index + 1) % len(SYSTEMS)] = (1 - rest - lead) / 2
        votes[n, (index + 2) % len(SYSTEMS)] = rest
        votes[n, index] = (1 - rest + lead) / 2
        if crystal_system is None:
            model = index
        else:
            names = np.broadcast_to(np.asarray(crystal_system), len(index))
            model = np.array([SYSTEMS.index(name) for name in names], dtype=int)
        half = np.full(len(index), 0.5, np.float32)
        lattice = (10.0 * (model[:, None] + 1) + np.arange(6)).astype(np.float32)
        return Prediction(
            SYSTEMS,
            votes,
            votes,
            index,
            votes[n, index],
            np.float32(lead),
            100 + model,
            half,
            half,
            lattice,
            lattice - np.float32(0.25),
            lattice + np.float32(0.5),
        )


class PoolingHierarchy(FakeHierarchy):
    block = PoolingBlock()


def pattern(system: int, lead: float, *, brightness: float = 1.0, peaks: int = 6):
    """Direct beam, some peaks, and a last one that carries what the fake hierarchy shall answer."""
    angle = np.arange(peaks - 2) * 2.4
    qx = np.concatenate([[0.0], 0.4 * np.cos(angle), [system / 10]])
    qy = np.concatenate([[0.0], 0.4 * np.sin(angle), [lead]])
    return qx, qy, np.concatenate([[10.0], np.full(peaks - 1, brightness)])


def scan_of(patterns, shape, **fields) -> Scan:
    return Scan(PeakBatch.from_lists(patterns), shape, "made for a test", **fields)


def uniform_scan(system, lead, **fields) -> Scan:
    """Make a scan from images of the system and its lead; the system -1 is vacuum, one direct beam."""
    system, lead = np.asarray(system), np.broadcast_to(lead, np.shape(system))
    vacuum = ([0.0], [0.0], [10.0])
    patterns = [vacuum if s < 0 else pattern(int(s), float(d)) for s, d in zip(system.flat, lead.flat, strict=True)]
    return scan_of(patterns, system.shape, **fields)
