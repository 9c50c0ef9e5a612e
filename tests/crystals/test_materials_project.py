import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from gpuediff.crystals.sources import read_crystals
from gpuediff.errors import InvalidStructureSource
from gpuediff.settings import Structures

pytestmark = pytest.mark.filterwarnings("ignore")


def document(material_id: str, element: str, edge: float) -> SimpleNamespace:
    structure = Structure(Lattice.cubic(edge), [element], [[0, 0, 0]])
    return SimpleNamespace(material_id=material_id, formula_pretty=element, structure=structure)


DOCUMENTS = [document("mp-81", "Au", 3), document("mp-30", "Cu", 2)]


class FakeClient:
    """Stands in for mp_api.client.MPRester."""

    queries: ClassVar[list[dict]] = []
    answer: ClassVar[object] = DOCUMENTS

    def __init__(self, key):
        self.key = key
        self.materials = SimpleNamespace(summary=self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def search(self, **query):
        FakeClient.queries.append({"key": self.key, **query})
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def client(monkeypatch):
    package, module = ModuleType("mp_api"), ModuleType("mp_api.client")
    module.MPRester = FakeClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mp_api", package)
    monkeypatch.setitem(sys.modules, "mp_api.client", module)
    monkeypatch.setenv("MP_API_KEY", "secret")
    monkeypatch.setattr(FakeClient, "queries", [])
    return FakeClient


def from_materials_project(path):
    return read_crystals(Structures(source="materials-project", path=path))


def test_the_answer_is_kept_and_read_instead_of_asking_again(client, tmp_path):
    path = tmp_path / "snapshots" / "mp.csv.gz"
    crystals, skipped = from_materials_project(path)
    assert [crystal.material_id for crystal in crystals] == ["mp-30", "mp-81"]
    assert [crystal.formula for crystal in crystals] == ["Cu", "Au"]
    assert crystals[1].conventional[0] == pytest.approx(3)
    assert skipped == []
    assert crystals[0].source == "materials-project mp.csv.gz"
    assert client.queries[0]["key"] == "secret"
    assert client.queries[0]["theoretical"] is False
    before = path.read_bytes()
    again, _ = from_materials_project(path)
    assert len(client.queries) == 1
    assert [crystal.checksum for crystal in again] == [crystal.checksum for crystal in crystals]
    path.unlink()
    from_materials_project(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["mp.csv.gz"]
    assert list(pd.read_csv(path).columns) == ["material_id", "formula", "cif"]
    assert b"secret" not in before


def test_a_snapshot_needs_neither_key_nor_package(client, tmp_path, monkeypatch):
    path = tmp_path / "mp.csv.gz"
    from_materials_project(path)
    monkeypatch.delenv("MP_API_KEY")
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    assert len(from_materials_project(path)[0]) == 2


def test_what_is_missing_is_said(client, tmp_path, monkeypatch):
    path = tmp_path / "mp.csv.gz"
    with pytest.raises(InvalidStructureSource, match=r"structures\.path is missing.*snapshot"):
        from_materials_project(None)
    with pytest.raises(InvalidStructureSource, match=r"must end in \.csv\.gz"):
        from_materials_project(tmp_path / "mp.parquet")
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(InvalidStructureSource, match="MP_API_KEY"):
        from_materials_project(path)
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(InvalidStructureSource, match=r"gpuediff\[materials-project\]"):
        from_materials_project(path)
    assert not path.exists()


def test_a_failed_query_leaves_no_file_and_does_not_show_the_key(client, tmp_path, monkeypatch):
    path = tmp_path / "mp.csv.gz"
    monkeypatch.setattr(client, "answer", RuntimeError("403 for header secret"))
    with pytest.raises(InvalidStructureSource, match="the query failed: 403 for header <key>"):
        from_materials_project(path)
    monkeypatch.setattr(client, "answer", [])
    with pytest.raises(InvalidStructureSource, match="found nothing"):
        from_materials_project(path)
    assert list(tmp_path.iterdir()) == []
