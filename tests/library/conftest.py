import pytest

from gpuediff.library import shards, writer
from tests.library import fakes


def pretend(monkeypatch):
    """Simulate nothing, in small shards."""
    monkeypatch.setattr(writer, "simulate_crystal", fakes.fake_patterns)
    monkeypatch.setattr(shards, "SHARD_CRYSTALS", fakes.CRYSTALS_PER_SHARD)


@pytest.fixture(autouse=True)
def _fake_simulation(monkeypatch):
    """Tests of the real simulation undo it."""
    pretend(monkeypatch)


@pytest.fixture(scope="module")
def fake_simulation_of_module():
    """For libraries that the tests of a module share."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        pretend(monkeypatch)
        yield
