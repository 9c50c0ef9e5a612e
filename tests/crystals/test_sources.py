import gzip
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpuediff.crystals import sources
from gpuediff.crystals.cif import read_cif
from gpuediff.crystals.sources import read_crystal, read_crystals
from gpuediff.errors import InvalidStructure, InvalidStructureSource
from gpuediff.settings import CRYSTAL_SYSTEMS, Structures

pytestmark = pytest.mark.filterwarnings("ignore")


def cubic_cif(edge: float, element: str = "Po", name: str = "cubic") -> str:
    return f"""data_{name}
_cell_length_a {edge}
_cell_length_b {edge}
_cell_length_c {edge}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{element} 0 0 0
"""


@pytest.fixture
def table(tmp_path) -> Path:
    rows = [(f"id-{number:03d}", cubic_cif(3 + number / 100)) for number in range(40)]
    rows[3] = ("id-003", "not a CIF")
    rows[7] = ("id-007", cubic_cif(3, "Xx"))
    rows[11] = ("id-011", cubic_cif(20))
    rows[13] = ("id-013", "")
    path = tmp_path / "table.csv"
    pd.DataFrame(rows, columns=["material_id", "cif"]).to_csv(path, index=False)
    return path


def structures(path: Path | None, source: str = "table", **others) -> Structures:
    return Structures.model_validate({"source": source, "path": path, **others})


@pytest.fixture(scope="module")
def prototypes():
    return read_crystals(Structures(crystal_systems=CRYSTAL_SYSTEMS))


def test_the_built_in_prototypes_give_crystals_of_every_system(prototypes):
    crystals, skipped = prototypes
    assert len(crystals) + len(skipped) == 288
    assert len(crystals) >= 260
    assert {crystal.crystal_system for crystal in crystals} == set(CRYSTAL_SYSTEMS)
    assert all(entry.reason.startswith("left out") for entry in skipped)
    names = [crystal.material_id for crystal in crystals]
    assert names == sorted(set(names))
    assert {crystal.source for crystal in crystals} == {"prototypes"}


def test_prototypes_have_the_space_group_that_their_aflow_label_says(prototypes):
    crystals, _ = prototypes
    agree = [int(crystal.material_id.split("_")[2]) == crystal.space_group_number for crystal in crystals]
    # Some prototypes are slight distortions, which a tolerance of 0.1 Å takes for the symmetric parent.
    assert np.mean(agree) > 0.95


def test_every_crystal_of_the_prototypes_is_whole(prototypes):
    for crystal in prototypes[0]:
        assert crystal.lattice.shape == (3, 3)
        assert crystal.positions.shape == (len(crystal.atomic_numbers), 3)
        assert crystal.occupancies.shape == crystal.atomic_numbers.shape
        assert ((crystal.positions > -1e-8) & (crystal.positions < 1)).all()
        assert 0 < crystal.volume <= crystal.conventional_volume + 1e-6
        assert crystal.conventional_volume <= 1000
        centring = crystal.conventional_volume / crystal.volume
        assert centring == pytest.approx(round(centring), abs=1e-6)
        assert len(crystal.checksum) == 64


def test_bad_rows_are_skipped_with_their_reasons_and_the_others_taken(table):
    crystals, skipped = read_crystals(structures(table))
    assert len(crystals) == 36
    assert [entry.material_id for entry in skipped] == ["id-003", "id-007", "id-011", "id-013"]
    assert "Xx" in skipped[1].reason
    assert "8000 Å³" in skipped[2].reason
    assert crystals[0].source == "table table.csv"
    assert crystals[0].checksum == hashlib.sha256(cubic_cif(3.0).encode()).hexdigest()
    assert crystals[5].conventional[0] == pytest.approx(3.06)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_every_kind_of_table_gives_the_same_crystals(table, suffix, tmp_path):
    content = pd.read_csv(table, dtype=str)
    content["e_above_hull"] = 0.0
    path = tmp_path / f"other{suffix}"
    if suffix == ".parquet":
        content.to_parquet(path)
    else:
        content.to_csv(path)  # with an unnamed index column, as in MP-20
    crystals, skipped = read_crystals(structures(path))
    expected, _ = read_crystals(structures(table))
    assert [crystal.checksum for crystal in crystals] == [crystal.checksum for crystal in expected]
    assert len(skipped) == 4


def test_without_a_material_id_the_row_is_the_name(tmp_path):
    path = tmp_path / "rows.csv"
    pd.DataFrame({"cif": [cubic_cif(3 + number / 10) for number in range(11)]}).to_csv(path, index=False)
    crystals, _ = read_crystals(structures(path))
    assert [crystal.material_id for crystal in crystals][::10] == ["row-00", "row-10"]
    assert crystals[10].conventional[0] == pytest.approx(4)


def test_an_id_that_appears_twice_is_taken_once(tmp_path):
    path = tmp_path / "twice.csv"
    pd.DataFrame({"material_id": ["x", "x", "y"], "cif": [cubic_cif(3), cubic_cif(4), cubic_cif(5)]}).to_csv(path)
    crystals, skipped = read_crystals(structures(path))
    assert [(crystal.material_id, crystal.conventional[0]) for crystal in crystals] == [("x", 3), ("y", 5)]
    assert "more than once" in skipped[0].reason


def test_a_sample_depends_on_the_seed_and_not_on_the_order_of_rows(table, tmp_path):
    content = pd.read_csv(table, dtype=str)
    path = tmp_path / "shuffled.csv"
    content.sample(frac=1, random_state=1).to_csv(path, index=False)
    first, _ = read_crystals(structures(table, sample=10, seed=4))
    second, _ = read_crystals(structures(path, sample=10, seed=4))
    other, _ = read_crystals(structures(table, sample=10, seed=5))
    names = [crystal.material_id for crystal in first]
    assert names == [crystal.material_id for crystal in second]
    assert names != [crystal.material_id for crystal in other]
    assert len(names) == 10
    larger = {crystal.material_id for crystal in read_crystals(structures(table, sample=20, seed=4))[0]}
    assert set(names) < larger


def test_a_sample_looks_at_no_more_structures_than_it_needs(table, monkeypatch):
    looked_at = []
    read = sources._read

    def counted(name, parse, entry, settings):
        looked_at.append(entry.material_id)
        return read(name, parse, entry, settings)

    monkeypatch.setattr(sources, "_read", counted)
    crystals, skipped = read_crystals(structures(table, sample=25, seed=1))
    assert len(crystals) == 25
    assert len(looked_at) == len(set(looked_at)) == 25 + len(skipped)


def test_one_crystal_is_read_alone_and_is_the_same_as_among_the_others(table, monkeypatch):
    expected = next(crystal for crystal in read_crystals(structures(table))[0] if crystal.material_id == "id-025")
    parsed = []
    monkeypatch.setattr(sources, "read_cif", lambda text: parsed.append(text) or read_cif(text))
    found = read_crystal(structures(table, sample=1), "id-025")
    assert len(parsed) == 1
    assert (found.material_id, found.checksum) == ("id-025", expected.checksum)
    np.testing.assert_array_equal(found.lattice, expected.lattice)


def test_an_unknown_material_is_answered_with_the_closest_ids(table):
    with pytest.raises(
        InvalidStructureSource, match=r"'id-0255': not among the 40 structures of table table\.csv"
    ) as it:
        read_crystal(structures(table), "id-0255")
    assert "the closest ids are id-025, " in str(it.value)
    with pytest.raises(InvalidStructureSource, match=r"the closest ids are AB_cF8_225_a_b-NaCl$"):
        read_crystal(Structures(), "nacl")
    with pytest.raises(InvalidStructureSource, match="its ids are like id-000"):
        read_crystal(structures(table), "?")


def test_a_material_that_cannot_be_taken_says_why(table):
    with pytest.raises(InvalidStructure, match=r"'id-011' of table table\.csv: left out: .* 8000 Å³"):
        read_crystal(structures(table), "id-011")


def test_a_sample_larger_than_the_source_takes_everything(table):
    crystals, skipped = read_crystals(structures(table, sample=1000))
    assert (len(crystals), len(skipped)) == (36, 4)


def test_progress_counts_every_structure(table):
    seen = []

    def track(items, description, total=None):
        for item in items:
            seen.append(total)
            yield item

    read_crystals(structures(table), track=track)
    assert seen == [40] * 40


def test_worker_processes_change_nothing(table, monkeypatch):
    serial, skipped = read_crystals(structures(table))
    monkeypatch.setattr(sources, "_PARALLEL_FROM", 2)
    monkeypatch.setattr(sources, "_CHUNK", 3)
    parallel, also_skipped = read_crystals(structures(table))
    assert also_skipped == skipped
    assert [crystal.material_id for crystal in parallel] == [crystal.material_id for crystal in serial]
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one.lattice, other.lattice)
        np.testing.assert_array_equal(one.positions, other.positions)


def test_a_folder_of_cif_files_is_read_with_its_subfolders_and_blocks(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "one.cif").write_text("data_global\n_journal_name x\n" + cubic_cif(3))
    (tmp_path / "two.CIF").write_text(cubic_cif(4, name="first") + cubic_cif(5, name="second"))
    (tmp_path / "deep" / "one.cif").write_bytes(cubic_cif(6).encode() + "# Å".encode("latin-1"))
    (tmp_path / "broken.cif").write_text("data_broken\nloop_\n_atom_site_label\n")
    (tmp_path / "empty.cif").write_text("")
    (tmp_path / "notes.txt").write_text("not a structure")
    crystals, skipped = read_crystals(structures(tmp_path, "cif"))
    found = {crystal.material_id: crystal.conventional[0] for crystal in crystals}
    assert found == {"deep/one": 6, "one": 3, "two:first": 4, "two:second": 5}
    assert [entry.material_id for entry in skipped] == ["broken", "empty"]
    alone, _ = read_crystals(structures(tmp_path / "one.cif", "cif"))
    assert [crystal.material_id for crystal in alone] == ["one"]


def test_a_source_that_cannot_be_read_says_which_and_what_to_do(tmp_path):
    def complaint(path: Path | None, source: str = "table") -> str:
        with pytest.raises(InvalidStructureSource) as caught:
            read_crystals(structures(path, source))
        return str(caught.value)

    missing = tmp_path / "missing.csv"
    assert "missing.csv: there is no such table" in complaint(missing)
    assert "no such folder" in complaint(tmp_path / "nowhere", "cif")
    assert "no file ends in .cif" in complaint(tmp_path, "cif")
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("material_id,structure\na,b\n")
    assert "no column 'cif' among material_id, structure" in complaint(wrong)
    wrong.write_text("")
    assert "wrong.csv: the table cannot be read" in complaint(wrong)
    wrong.write_text("material_id,cif\n")
    assert "no rows" in complaint(wrong)
    damaged = tmp_path / "damaged.csv.gz"
    damaged.write_bytes(gzip.compress(b"material_id,cif\n" + os.urandom(4000).hex().encode())[:500])
    assert "damaged.csv.gz: the table cannot be read" in complaint(damaged)
    damaged.write_bytes(b"not gzip")
    assert "cannot be read" in complaint(damaged)
    parquet = tmp_path / "damaged.parquet"
    parquet.write_bytes(b"PAR1 and no more")
    assert "damaged.parquet: the table cannot be read" in complaint(parquet)
    strange = tmp_path / "table.xlsx"
    strange.write_bytes(b"")
    assert ".parquet" in complaint(strange)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_interrupt_ends_the_reading_at_once(tmp_path):
    path = tmp_path / "long.csv"
    pd.DataFrame({"cif": [cubic_cif(3 + number / 1000) for number in range(20_000)]}).to_csv(path, index=False)
    code = (
        "from pathlib import Path; from gpuediff.crystals.sources import read_crystals\n"
        "from gpuediff.settings import Structures\n"
        "def track(items, description, total=None):\n"
        "    for item in items:\n        print('.', flush=True); yield item\n"
        f"read_crystals(Structures(source='table', path=Path({str(path)!r})), track=track)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell starts what it runs in the background with interrupts ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b".\n"
    sent = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the process and its workers
    _, messages = process.communicate(timeout=20)
    assert time.monotonic() - sent < 15
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in messages
