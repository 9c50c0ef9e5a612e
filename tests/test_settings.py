"""A run's TOML file becomes settings, or is refused in words that help."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuediff.errors import InvalidConfig
from gpuediff.settings import Boosting, LatticeFeatures, Run, Thicknesses, load_run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def refused(tmp_path, text):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        load_run(file)
    assert str(file) in str(caught.value)
    return str(caught.value).replace(str(file), "run.toml")


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_in_the_repository_is_valid(config):
    load_run(config)


def test_the_paper_config_states_the_numbers_of_the_paper():
    run = load_run(CONFIGS / "paper.toml")
    simulation, training = run.simulation, run.training
    assert (simulation.beam_energy, simulation.g_max, simulation.excitation_error_max) == (300e3, 2.0, 0.06)
    assert simulation.thicknesses == tuple(20.0 * step for step in range(1, 101))
    assert simulation.orientations.count == 100
    assert training.thickness == 200
    assert (run.features.rings, run.features.orders) == (41, 13)
    forests = training.crystal_system, training.space_group, training.lattice
    assert [(forest.trees, forest.depth, forest.max_features) for forest in forests] == [
        (80, 40, "sqrt"),
        (128, 30, "sqrt"),
        (80, 100, "sqrt"),
    ]
    assert (run.split.train_fraction, run.split.validation_fraction) == (0.75, 0)
    assert "triclinic" not in run.structures.crystal_systems
    assert len(run.structures.crystal_systems) == 6


def test_an_empty_file_is_the_default_run(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("")
    assert load_run(file) == Run()


def test_settings_survive_the_way_through_json():
    run = load_run(CONFIGS / "paper.toml")
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Run().split.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[simulation]\ng_mx = 2", "run.toml: simulation.g_mx = 2: unknown key; did you mean 'g_max'?"),
        (
            "[simulation.precession]\nangel = 1.0",
            "simulation.precession.angel = 1.0: unknown key; did you mean 'angle'?",
        ),
        ("[simulation]\ng_max = 90", "run.toml: simulation.g_max = 90: allowed range: 0.1 <= value <= 6 Å⁻¹"),
        (
            "[simulation]\nthicknesses = [100, 200, -200]",
            "run.toml: simulation.thicknesses[2] = -200: allowed range: 0 < value <= 20000 Å",
        ),
        ("[simulation]\nthicknesses = [200, 100]", "rising"),
        ("[simulation]\nthicknesses = []", "at least one value"),
        ("[simulation]\nthicknesses = { start = 20, stop = 10, step = 1 }", "stop >= start"),
        ("[simulation]\nthicknesses = { start = 20, stop = 100 }", "{ start, stop, step }"),
        ("[simulation]\ndisplacement = nan", "simulation.displacement"),
        ("[simulation]\ng_max = '2'", "simulation.g_max = '2': expected a valid number"),
        ("[training]\nthickness = 300", "training.thickness = 300 Å is not among the simulated thicknesses"),
        ("[training.lattice]\ntrees = 80", "training.lattice.depth: Field required"),
        ("[structures]\nsource = 'table'", "needs a path"),
        ("[structures]\nsource = 'prototypes'\npath = 'x'", "takes no path"),
        ("[structures]\ncrystal_systems = ['cubic', 'cubic']", "twice"),
        ("[structures]\ncrystal_systems = ['quartz']", "structures.crystal_systems[0] = 'quartz': expected"),
        ("[split]\nseed = -1", "split.seed = -1: allowed range: 0 <= value"),
        ("[split]\nvalidation_fraction = 0.8", "split.validation_fraction = 0.8: allowed range: 0 <= value <= 0.5"),
        (
            "[split]\ntrain_fraction = 0.3\nvalidation_fraction = 0.3",
            "split: validation_fraction = 0.3 is taken from train_fraction = 0.3 and must be smaller",
        ),
        (
            "[training]\ncrystal_system = { trees = 8, depth = 8, class_weight = 'rare' }",
            "class_weight",
        ),
        (
            "[training]\nlattice = { trees = 8, depth = 8, class_weight = 'balanced' }",
            "training: lattice.class_weight = 'balanced': a lattice model has no classes",
        ),
        ("[nonsense]", "run.toml: nonsense = {}: unknown key; known keys: features"),
        ("[simulation", "not valid TOML"),
    ],
)
def test_a_faulty_file_is_refused_with_key_value_and_range(tmp_path, text, message):
    assert message in refused(tmp_path, text)


def test_all_faults_are_told_at_once(tmp_path):
    message = refused(tmp_path, "[split]\nseed = -1\n[features]\nrings = 0")
    assert len(message.splitlines()) == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidConfig, match=r"absent\.toml: cannot be read"):
        load_run(tmp_path / "absent.toml")


def test_a_relative_path_is_taken_from_the_folder_of_the_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[structures]\nsource = 'table'\npath = 'data/structures.csv'")
    assert load_run(file).structures.path == tmp_path / "data" / "structures.csv"


def test_one_seed_reaches_every_random_choice():
    run = Run().with_seed(7)
    assert {run.structures.seed, run.simulation.orientations.seed, run.split.seed, run.training.seed} == {7}


def test_an_impossible_seed_is_refused():
    with pytest.raises(ValueError, match="allowed range"):
        Run().with_seed(-1)


@given(st.integers(1, 500), st.integers(1, 100), st.integers(0, 50))
def test_a_range_of_thicknesses_holds_both_ends(start, step, steps):
    from pydantic import TypeAdapter

    values = TypeAdapter(Thicknesses).validate_python({"start": start, "stop": start + step * steps, "step": step})
    assert values[0] == start
    assert values[-1] == pytest.approx(start + step * steps)
    assert len(values) == steps + 1


@given(st.text(max_size=300))
def test_no_text_gives_anything_but_a_run_or_a_refusal(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("fuzz") / "run.toml"
    file.write_text(text, encoding="utf-8")
    with contextlib.suppress(InvalidConfig):
        load_run(file)


def test_a_feature_block_and_a_forest_are_read_as_what_they_say_they_are(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[features]\nblock = "lattice"\n[training]\nprotocols = ["any", "hard"]\ngroup_sizes = [1, 5]\n'
        'crystal_system = { method = "gradient-boosting", rounds = 50 }\n'
    )
    run = load_run(file)
    assert isinstance(run.features, LatticeFeatures)
    assert isinstance(run.training.crystal_system, Boosting)
    assert run.training.protocols == ("any", "hard")
    assert run.training.group_sizes == (1, 5)
    assert Run.model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[features]\nblock = "wavelets"', "expected 'radial-basis' or 'lattice'"),
        ('[features]\nblock = "lattice"\nrings = 4', "features.rings = 4: unknown key"),
        ('[training]\nprotocols = ["easy"]', "training.protocols[0] = 'easy'"),
        ("[training]\ngroup_sizes = [3, 3]", "none of them twice"),
        (
            "[training]\ncrystal_system = { method = 'gradient-boosting', roundz = 5 }",
            "training.crystal_system.roundz = 5: unknown key; did you mean 'rounds'?",
        ),
    ],
)
def test_a_faulty_block_protocol_or_forest_is_refused(tmp_path, text, message):
    assert message in refused(tmp_path, text)
