import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuediff.errors import GpuediffError, InvalidBundle
from gpuediff.hierarchy import bundle as bundle_module
from gpuediff.hierarchy.bundle import bundle_info, load_bundle, record_metrics, save_bundle
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.hierarchy.labels import model_names
from gpuediff.hierarchy.manifest import parse_manifest
from gpuediff.settings import Forest
from tests.hierarchy.conftest import SETTINGS, Patterns, assert_same, small_block

SMALL = SETTINGS.model_copy(
    update=dict.fromkeys(("crystal_system", "space_group", "lattice"), Forest(trees=3, depth=3))
)


@pytest.fixture(scope="session")
def small():
    """Two systems, five forests of three trees."""
    return Patterns(60, (62, 221, 225)).fit(SMALL)


@pytest.fixture(scope="session")
def small_path(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "model"
    save_bundle(small, path, library={"checksum": "ab12"}, metrics={"single": {"accuracy": np.float64(0.5)}})
    return path


@pytest.fixture
def path(small_path, tmp_path):
    """A copy to damage."""
    return shutil.copytree(small_path, tmp_path / "model")


def edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_metrics_are_recorded_and_leave_the_forests_alone(path, unseen):
    before = {file.name: file.read_bytes() for file in (path / "forests").iterdir()}
    record_metrics(path, {"single": {"accuracy": np.float64(0.75)}})
    assert bundle_info(path)["metrics"] == {"single": {"accuracy": 0.75}}
    assert {file.name: file.read_bytes() for file in (path / "forests").iterdir()} == before
    assert [file.name for file in path.parent.iterdir()] == ["model"]
    load_bundle(path)


def test_metrics_that_are_no_json_are_refused_and_leave_the_old_ones(path):
    with pytest.raises(InvalidBundle, match="null in place of NaN"):
        record_metrics(path, {"accuracy": float("nan")})
    assert bundle_info(path)["metrics"] == {"single": {"accuracy": 0.5}}
    assert [file.name for file in path.parent.iterdir()] == ["model"]


def test_the_loaded_hierarchy_answers_bit_for_bit_as_the_trained_one(hierarchy, unseen, tmp_path):
    save_bundle(hierarchy, tmp_path / "model")
    loaded = load_bundle(tmp_path / "model")
    assert loaded.block == hierarchy.block
    assert loaded.settings == hierarchy.settings
    assert_same(loaded.predict(unseen.features), hierarchy.predict(unseen.features))
    groups = np.arange(len(unseen.features)) % 13
    assert_same(loaded.aggregate(unseen.features, groups), hierarchy.aggregate(unseen.features, groups))
    for name, forest in hierarchy.forests_.items():
        assert loaded.forests_[name].hyper_parameters == forest.hyper_parameters
        np.testing.assert_array_equal(loaded.forests_[name].importances(), forest.importances())


def test_a_bundle_is_a_manifest_and_a_checkpoint_for_each_model(small_path):
    files = {file.relative_to(small_path).as_posix() for file in small_path.rglob("*") if file.is_file()}
    models = model_names(["orthorhombic", "cubic"])
    assert files == {"manifest.json", *(f"forests/{name}.tl" for name in models)}
    assert not [file for file in small_path.parent.iterdir() if file != small_path]


def test_saving_the_same_models_twice_gives_the_same_bytes(small, small_path, tmp_path):
    save_bundle(small, tmp_path / "again", library={"checksum": "ab12"}, metrics={"single": {"accuracy": 0.5}})
    for file in small_path.rglob("*"):
        if file.is_file():
            assert (tmp_path / "again" / file.relative_to(small_path)).read_bytes() == file.read_bytes()


def test_a_loaded_hierarchy_can_be_saved_again(small_path, tmp_path):
    save_bundle(load_bundle(small_path), tmp_path / "again")
    loaded = load_bundle(tmp_path / "again")
    assert loaded.systems == ("orthorhombic", "cubic")


def test_info_tells_what_is_in_the_manifest_and_how_large_it_is(small_path):
    info = bundle_info(small_path)
    assert info["models"]["space_group-cubic"]["classes"] == [221, 225]
    assert info["models"]["lattice-cubic-a"]["classes"] is None
    assert info["models"]["crystal_system"]["hyper_parameters"]["criterion"] == "gini"
    assert info["training"]["crystal_system"]["trees"] == 3
    assert info["features"] == small_block().description()
    assert info["library"] == {"checksum": "ab12"}
    assert info["metrics"] == {"single": {"accuracy": 0.5}}
    assert set(info["software"]) == {"gpuediff", "numpy", "scikit-learn", "lightgbm", "treelite"}
    assert info["size"] == sum(file.stat().st_size for file in (small_path / "forests").iterdir())
    json.dumps(info)


def test_info_needs_neither_treelite_nor_scikit_learn(small_path):
    code = (
        "import sys; from gpuediff.hierarchy.bundle import bundle_info; bundle_info(sys.argv[1]); "
        "print([name for name in ('treelite', 'sklearn', 'numba') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, small_path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# Damage ---------------------------------------------------------------------------------------------------------------


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_one_flipped_bit_is_seen_before_treelite_reads(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "treelite", None)  # an import would fail
    flip_a_byte(path / "forests/space_group-cubic.tl")
    with pytest.raises(InvalidBundle) as caught:
        load_bundle(path)
    assert str(caught.value) == (
        f"{path}/: forests/space_group-cubic.tl does not match its sha256 in manifest.json: the file is damaged or was "
        f"replaced"
    )


def test_a_shortened_file_is_seen_without_reading_it(path):
    file = path / "forests/lattice-cubic-a.tl"
    file.write_bytes(file.read_bytes()[:-8])
    for read in (load_bundle, bundle_info):
        with pytest.raises(InvalidBundle, match=r"lattice-cubic-a\.tl has [\d,]+ bytes, manifest\.json says"):
            read(path)


def test_a_missing_file_is_named(path):
    (path / "forests/crystal_system.tl").unlink()
    for read in (load_bundle, bundle_info):
        with pytest.raises(InvalidBundle, match=r"forests/crystal_system\.tl is missing"):
            read(path)
    shutil.rmtree(path / "forests")
    with pytest.raises(InvalidBundle, match="is missing"):
        load_bundle(path)


@pytest.mark.parametrize("name", ["notes.txt", "forests/space_group-hexagonal.tl", "forests/.hidden"])
def test_a_file_too_many_is_named(path, name):
    (path / name).write_text("?")
    with pytest.raises(InvalidBundle, match=f"{name} is not listed"):
        load_bundle(path)


def test_links_and_folders_in_place_of_files_are_refused(path, tmp_path):
    file = path / "forests/crystal_system.tl"
    moved = file.rename(tmp_path / "elsewhere.tl")
    file.symlink_to(moved)
    with pytest.raises(InvalidBundle, match="not a regular file"):
        load_bundle(path)
    file.unlink()
    file.mkdir()
    with pytest.raises(InvalidBundle, match="not a regular file"):
        load_bundle(path)
    file.rmdir()
    moved.rename(file)
    load_bundle(path)
    forests = (path / "forests").rename(tmp_path / "forests")
    (path / "forests").symlink_to(forests)
    with pytest.raises(InvalidBundle, match="forests is not a regular file"):
        load_bundle(path)


def test_a_manifest_that_is_a_link_or_no_file_is_refused(path, tmp_path):
    moved = (path / "manifest.json").rename(tmp_path / "manifest.json")
    with pytest.raises(InvalidBundle, match=r"no manifest\.json"):
        load_bundle(path)
    (path / "manifest.json").symlink_to(moved)
    with pytest.raises(InvalidBundle, match="is this a model bundle"):
        load_bundle(path)
    with pytest.raises(InvalidBundle, match="no such folder"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(InvalidBundle, match=r"no manifest\.json"):
        load_bundle(moved)


@pytest.mark.parametrize("name", ["../elsewhere.tl", "/etc/passwd", "forests/../../x.tl", "forests/lattice-cubic-a.tl"])
def test_a_manifest_cannot_name_another_file(path, name):
    edit(path, lambda manifest: manifest["models"]["crystal_system"].update(file=name))
    with pytest.raises(InvalidBundle, match=r"models\.crystal_system\.file .*expected 'forests/crystal_system\.tl'"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=1), "schema_version = 1: this gpuediff reads version 3"),
        (lambda m: m.update(schema_version=True), "schema_version = True"),
        (lambda m: m.update(format="onnx"), "not that of a gpuediff model bundle"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m.pop("training"), "training"),
        (lambda m: m["models"].pop("lattice-cubic-a"), "lattice-cubic-a"),
        (lambda m: m["models"].update(other=m["models"]["crystal_system"]), "other"),
        (lambda m: m["models"]["crystal_system"].update(classes=["cubic", "cubic"]), "distinct crystal systems"),
        (lambda m: m["models"]["crystal_system"].update(classes=["cubic", "kubic"]), "distinct crystal systems"),
        (lambda m: m["models"]["crystal_system"].update(classes=None), "distinct crystal systems"),
        (lambda m: m["models"]["crystal_system"].update(classes=["cubic", "tetragonal"]), "tetragonal"),
        (lambda m: m["models"]["space_group-cubic"].update(classes=[62, 225]), "cubic space group numbers"),
        (lambda m: m["models"]["space_group-cubic"].update(classes=[225]), "leaves of shape"),
        (lambda m: m["models"]["space_group-cubic"].update(kind="regressor"), "kind"),
        (lambda m: m["models"]["lattice-cubic-a"].update(classes=[1]), "classes"),
        (lambda m: m["models"]["lattice-cubic-a"].update(trees=4), "has 3 trees"),
        (lambda m: m["models"]["lattice-cubic-a"].update(sha256="0" * 64), "does not match its sha256"),
        (lambda m: m["features"].update(rings=4), "has 12 features"),
        (lambda m: m["features"].update(name="tea leaves"), "tea leaves"),
        (lambda m: m["features"].update(name=[]), "features"),
        (lambda m: m["training"].update(seed=-1), "training.seed"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(path, change, message):
    edit(path, change)
    with pytest.raises(InvalidBundle, match=message) as caught:
        load_bundle(path)
    assert str(caught.value).startswith(f"{path}/: ")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '{"format": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, '"\\ud800"']
)
def test_a_text_that_is_no_manifest_is_refused(path, text):
    (path / "manifest.json").write_text(text)
    with pytest.raises(InvalidBundle, match=r"manifest\.json"):
        load_bundle(path)


def test_bytes_that_are_no_text_are_refused(path):
    (path / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InvalidBundle, match="cannot be read"):
        load_bundle(path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(content, here=()):
    """Give the path of every value in a JSON document."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*here, key)
        if isinstance(value, dict | list):
            yield from places(value, (*here, key))


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_manifest_is_refused_or_works(small_path, small, tmp_path, data):
    path = tmp_path / "model"
    if not path.exists():
        shutil.copytree(small_path, path)
    manifest = json.loads((small_path / "manifest.json").read_text())
    *parents, key = data.draw(st.sampled_from(list(places(manifest))))
    holder = manifest
    for parent in parents:
        holder = holder[parent]
    change = data.draw(st.sampled_from(["replace", "remove", "swap", "rename"]))
    if change == "remove":
        del holder[key]
    elif change == "rename" and isinstance(holder, dict):
        holder[data.draw(st.text(max_size=8))] = holder.pop(key)
    elif change == "swap":
        other = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = data.draw(ANYTHING)
    (path / "manifest.json").write_text(json.dumps(manifest))
    X = np.zeros((2, small.block.width), dtype=np.float32)
    try:
        prediction = load_bundle(path).predict(X)
    except InvalidBundle:
        return
    assert prediction.lattice.shape == (2, 6)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_text_is_refused(content):
    with pytest.raises(InvalidBundle):
        parse_manifest(content.decode("utf-8", errors="replace"), "model")


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_bundle_of_another_version_is_replaced_only_if_asked_for(small, tmp_path):
    path = tmp_path / "model"
    save_bundle(small, path)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 3', '"schema_version": 2'))
    (path / "forests" / "of-then.tl").write_bytes(b"what that version kept")
    with pytest.raises(InvalidBundle, match="not a whole model bundle"):
        save_bundle(small, path)
    save_bundle(small, path, overwrite=True)
    assert load_bundle(path).forests_.keys() == small.forests_.keys()


def test_a_bundle_is_replaced_only_if_asked_for(small, path):
    before = (path / "manifest.json").read_bytes()
    with pytest.raises(InvalidBundle, match="ask to overwrite it"):
        save_bundle(small, path)
    assert (path / "manifest.json").read_bytes() == before
    save_bundle(small, path, overwrite=True)
    assert bundle_info(path)["library"] is None
    assert os.listdir(path.parent) == ["model"]


def test_what_is_not_a_bundle_is_never_replaced(small, path, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("It was a dark and stormy night")
    (tmp_path / "file").write_text("?")
    (path / "forests/notes.txt").write_text("mine")
    for target in (tmp_path / "thesis", tmp_path / "file", path):
        with pytest.raises(InvalidBundle, match="not a whole model bundle"):
            save_bundle(small, target, overwrite=True)
    assert (tmp_path / "thesis/chapter1.tex").exists()
    assert (path / "forests/notes.txt").exists()


def test_a_failed_save_leaves_the_old_bundle_and_nothing_else(small, path, monkeypatch):
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    for name in ("sha256_of_file", "publish"):
        with monkeypatch.context() as patch:
            patch.setattr(bundle_module, name, no_space)
            with pytest.raises(OSError, match="No space left"):
                save_bundle(small, path, overwrite=True)
        assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
        assert os.listdir(path.parent) == ["model"]


@pytest.mark.parametrize("metrics", [{"accuracy": float("nan")}, {"accuracy": {1, 2}}, [1, 2]])
def test_metrics_that_json_cannot_hold_are_refused(small, tmp_path, metrics):
    with pytest.raises(InvalidBundle, match="must be JSON values"):
        save_bundle(small, tmp_path / "model", metrics=metrics)
    assert not list(tmp_path.iterdir())


def test_a_hierarchy_without_models_is_not_saved(tmp_path):
    with pytest.raises(GpuediffError, match="call fit"):
        save_bundle(Hierarchy(small_block(), SETTINGS), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_missing_folders_on_the_way_are_made(small, tmp_path):
    save_bundle(small, tmp_path / "runs/today/model")
    load_bundle(str(tmp_path / "runs/today/model"))
