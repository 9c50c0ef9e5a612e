import pytest

from gpuediff.library import shards, writer
from tests.library import fakes


@pytest.fixture(autouse=True)
def _fake_simulation(monkeypatch):
    """Simulate nothing, in small shards; tests of the real simulation undo it."""
    monkeypatch.setattr(writer, "simulate_crystal", fakes.fake_patterns)
    monkeypatch.setattr(shards, "SHARD_CRYSTALS", fakes.CRYSTALS_PER_SHARD)
