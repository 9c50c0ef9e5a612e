"""What defines a run: one TOML file, read into frozen, validated settings.

Only what changes a result is here; device, paths of outputs and verbosity are arguments.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from gpuediff.errors import InvalidConfig

CrystalSystem = Literal["triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"]
Side = Literal["train", "validation", "test"]  # of the division of materials, see `Split`
# From where crystals are seen, and what the detector does: `gpuediff.diffraction.protocols` says what they stand for.
Protocol = Literal["grid", "any", "measured", "hard"]
MEMORY = 4 * 2**30  # bytes that a simulation may take where nobody says otherwise
CRYSTAL_SYSTEMS: tuple[CrystalSystem, ...] = get_args(CrystalSystem)


def within(low: float, high: float, unit: str = "", *, open_low: bool = False) -> AfterValidator:
    """Refuse a number outside [low, high], or (low, high] with `open_low`; the message states the range."""

    def check(value: float) -> float:
        above = value > low if open_low else value >= low
        if not (math.isfinite(value) and above and value <= high):
            relation = "<" if open_low else "<="
            raise ValueError(f"allowed range: {low:g} {relation} value <= {high:g}{' ' + unit if unit else ''}")
        return value

    return AfterValidator(check)


def _expand_range(value: Any) -> Any:
    """Let `{start, stop, step}` stand for an evenly spaced list that includes both ends."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if set(value) != {"start", "stop", "step"} or not all(
        isinstance(number, (int, float)) and math.isfinite(number) for number in value.values()
    ):
        raise ValueError("expected a list of numbers, or { start, stop, step }")
    start, stop, step = (float(value[key]) for key in ("start", "stop", "step"))
    if step <= 0 or stop < start or (stop - start) / step > 100_000:
        raise ValueError("expected step > 0, stop >= start and at most 100,000 values")
    return tuple(start + index * step for index in range(math.floor((stop - start) / step + 1e-9) + 1))


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or any(after <= before for before, after in itertools.pairwise(values)):
        raise ValueError("expected at least one value, rising from thin to thick")
    return values


def _no_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values or len(set(values)) != len(values):
        raise ValueError("expected at least one value, none of them twice")
    return values


Seed = Annotated[int, within(0, 2**32 - 1)]
GroupSize = Annotated[int, within(1, 10_000)]
Thickness = Annotated[float, within(0, 20_000, "Å", open_low=True)]
# balanced: every class counts alike in training, however many training patterns are of it; else every pattern does.
ClassWeight = Literal["balanced"] | None
Thicknesses = Annotated[tuple[Thickness, ...], BeforeValidator(_expand_range), AfterValidator(_rising)]


class Settings(BaseModel):
    """Base of all settings: frozen, strict about types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _one_of(key: str, *kinds: type[Settings]) -> BeforeValidator:
    """Read a table as the kind that its `key` names: as the first kind where it names none.

    Not one of pydantic's discriminated unions: these need the key to be stated, and name its value within the place of
    a fault, where it is no key of the file.
    """
    by_name = {str(kind.model_fields[key].default): kind for kind in kinds}

    def read(value: Any) -> Any:
        if isinstance(value, kinds):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected a table, whose {key} is one of {', '.join(by_name)}")
        name = value.get(key, next(iter(by_name)))
        if not isinstance(name, str) or name not in by_name:
            raise ValueError(f"{key} = {name!r}: expected {' or '.join(map(repr, by_name))}")
        return by_name[name].model_validate(value)

    return BeforeValidator(read)


class Structures(Settings):
    """Where crystal structures come from and which of them are taken."""

    source: Literal["prototypes", "cif", "table", "materials-project"] = "prototypes"
    path: Path | None = None  # CIF folder, table, or snapshot of a Materials Project query
    volume_max: Annotated[float, within(1, 100_000, "Å³")] = 1000.0  # conventional cell
    crystal_systems: Annotated[tuple[CrystalSystem, ...], AfterValidator(_no_repeats)] = CRYSTAL_SYSTEMS[1:]
    sample: Annotated[int, within(1, 10_000_000)] | None = None  # materials drawn at random; all if absent
    seed: Seed = 0
    symprec: Annotated[float, within(1e-5, 1, "Å")] = 0.1  # as Materials Project
    angle_tolerance: Annotated[float, within(0.01, 30, "°")] = 5.0

    @model_validator(mode="after")
    def _path_where_needed(self) -> Structures:
        if self.source in ("cif", "table") and self.path is None:
            raise ValueError(f"source = {self.source!r} needs a path")
        if self.source == "prototypes" and self.path is not None:
            raise ValueError("source = 'prototypes' is built in and takes no path")
        return self


class Orientations(Settings):
    """From which directions each crystal is seen."""

    protocol: Literal["grid", "any"] = "grid"  # grid: same zone axes for all crystals of a Laue class; any: at random
    count: Annotated[int, within(1, 100_000)] = 100
    seed: Seed = 0


class Precession(Settings):
    """The incident beam circles on a cone about the foil normal while a pattern is recorded."""

    angle: Annotated[float, within(0, 10, "°")] = 1.0  # between the beam and the axis of the cone
    azimuths: Annotated[int, within(1, 4096)] = 32  # directions on the cone that are simulated and averaged


class Simulation(Settings):
    """Diffraction by Bloch waves; the defaults are those of Gleason et al. 2024."""

    beam_energy: Annotated[float, within(10e3, 3e6, "eV")] = 300e3
    g_max: Annotated[float, within(0.1, 6, "Å⁻¹")] = 2.0
    excitation_error_max: Annotated[float, within(0, 0.5, "Å⁻¹", open_low=True)] = 0.06
    displacement: Annotated[float, within(0, 0.5, "Å")] = 0.08  # rms thermal displacement of an atom, one direction
    form_factors: Literal["wk-cp", "lobato"] = "wk-cp"
    scattering: Literal["default", "py4dstem"] = "default"  # py4dstem: with the faults of py4DSTEM 0.14.18
    thicknesses: Thicknesses = (200.0,)  # Å
    intensity_min: Annotated[float, within(0, 0.1)] = 1e-6  # peaks weaker at every thickness are not stored
    precision: Literal["float32", "float64"] = "float32"
    theory: Literal["dynamical", "kinematic"] = "dynamical"
    precession: Precession | None = None  # none if absent
    orientations: Orientations = Orientations()


class Features(Settings):
    """The radial-angular basis (Gleason et al. 2024, Eqs. 1 and 2)."""

    block: Literal["radial-basis"] = "radial-basis"
    rings: Annotated[int, within(1, 1000)] = 41
    ring_spacing: Annotated[float, within(0.001, 1, "Å⁻¹")] = 0.05
    orders: Annotated[int, within(1, 100)] = 13  # angular orders 0 .. orders - 1
    direct_beam: Literal["centre", "brightest"] = "centre"  # which peak is removed; brightest: the paper's way


class LatticeFeatures(Settings):
    """A three-dimensional lattice found in the patterns themselves; holds at any orientation."""

    block: Literal["lattice"] = "lattice"


class Split(Settings):
    """Division by material, once for all models: a test material is a test material everywhere."""

    train_fraction: Annotated[float, within(0.05, 0.95)] = 0.75  # of the materials; all others are for testing
    # Of all materials, taken from those for training: no forest learns from them, they say how far to trust its
    # probabilities. None of them: no calibration.
    validation_fraction: Annotated[float, within(0, 0.5)] = 0.1
    seed: Seed = 0

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Split:
        if self.validation_fraction >= self.train_fraction:
            raise ValueError(
                f"validation_fraction = {self.validation_fraction:g} is taken from train_fraction = "
                f"{self.train_fraction:g} and must be smaller"
            )
        return self


class Forest(Settings):
    """One random forest."""

    method: Literal["random-forest"] = "random-forest"
    trees: Annotated[int, within(1, 10_000)]
    depth: Annotated[int, within(1, 1000)]
    max_features: Literal["sqrt", "all"] = "sqrt"  # features tried at a split
    class_weight: ClassWeight = None


class Boosting(Settings):
    """One classifier of gradient-boosted trees."""

    method: Literal["gradient-boosting"] = "gradient-boosting"
    rounds: Annotated[int, within(1, 10_000)] = 300  # each grows one tree a class
    leaves: Annotated[int, within(2, 4096)] = 31  # of a tree, at most
    learning_rate: Annotated[float, within(0, 1, open_low=True)] = 0.05
    min_samples_leaf: Annotated[int, within(1, 1_000_000)] = 20  # patterns
    feature_fraction: Annotated[float, within(0, 1, open_low=True)] = 0.3  # of the features, drawn for each tree
    bagging_fraction: Annotated[float, within(0, 1, open_low=True)] = 0.8  # of the patterns, drawn for each round
    l2: Annotated[float, within(0, 1e6)] = 1.0  # penalty on the scores of the leaves
    class_weight: ClassWeight = None


Classifier = Annotated[Forest | Boosting, _one_of("method", Forest, Boosting)]


class Flags(Settings):
    """What is said of single patterns beside their crystal: several grains in the beam, and nothing like it known."""

    # Of one grain, overlapping, and broken: so many of each are learned from, over all protocols. 0: nothing is said.
    patterns: Annotated[int, within(0, 100_000)] = 2000
    forest: Classifier = Boosting(rounds=100)


class Training(Settings):
    """The hierarchy of forests: crystal system, then space group and lattice per crystal system."""

    thickness: Thickness = 200.0  # Å
    # What is done to the patterns: each is seen under all of these protocols; as it was simulated if absent.
    protocols: Annotated[tuple[Protocol, ...], AfterValidator(_no_repeats)] | None = None
    # That are told apart; all of the library if absent.
    crystal_systems: Annotated[tuple[CrystalSystem, ...], AfterValidator(_no_repeats)] | None = None
    # Patterns of one material that are described together, by feature blocks that can (`lattice`).
    group_sizes: Annotated[tuple[GroupSize, ...], AfterValidator(_no_repeats)] = (1, 3, 10)
    crystal_system: Classifier = Forest(trees=80, depth=40)
    space_group: Classifier = Forest(trees=128, depth=30)
    lattice: Forest = Forest(trees=80, depth=100)
    flags: Flags = Flags()
    seed: Seed = 0

    @model_validator(mode="after")
    def _lattices_have_no_classes(self) -> Training:
        if self.lattice.class_weight is not None:
            raise ValueError(f"lattice.class_weight = {self.lattice.class_weight!r}: a lattice model has no classes")
        return self


class Run(Settings):
    """One reproducible run, from structures to evaluated models."""

    structures: Structures = Structures()
    simulation: Simulation = Simulation()
    features: Annotated[Features | LatticeFeatures, _one_of("block", Features, LatticeFeatures)] = Features()
    split: Split = Split()
    training: Training = Training()

    @model_validator(mode="after")
    def _trained_thickness_is_simulated(self) -> Run:
        thicknesses = self.simulation.thicknesses
        if not any(math.isclose(self.training.thickness, thickness) for thickness in thicknesses):
            raise ValueError(
                f"training.thickness = {self.training.thickness:g} Å is not among the "
                f"simulated thicknesses ({thicknesses[0]:g} .. {thicknesses[-1]:g} Å)"
            )
        return self

    def with_seed(self, seed: int) -> Run:
        """Return the same run with one seed for every random choice in it."""
        orientations = self.simulation.orientations.model_copy(update={"seed": seed})
        changed = self.model_copy(
            update={
                "structures": self.structures.model_copy(update={"seed": seed}),
                "simulation": self.simulation.model_copy(update={"orientations": orientations}),
                "split": self.split.model_copy(update={"seed": seed}),
                "training": self.training.model_copy(update={"seed": seed}),
            }
        )
        return Run.model_validate(changed.model_dump())  # a copy alone is not validated

    def without_folders(self) -> Run:
        """Return the same run with the name of its source only: what is kept must not tell whose machine it was."""
        if self.structures.path is None:
            return self
        structures = self.structures.model_copy(update={"path": Path(self.structures.path.name)})
        return self.model_copy(update={"structures": structures})


def load_run(path: str | Path) -> Run:
    """Read a run from a TOML file.

    A relative `structures.path` is taken from the folder of the file.

    Raises
    ------
    InvalidConfig
        If the file cannot be read, or a key is unknown or a value out of range; names file, key, value and
        allowed range, one line for each fault.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{path}: not valid TOML: {error}") from error
    try:
        # Through JSON, because only there strict validation takes an array for a tuple and a string for a path.
        run = Run.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise InvalidConfig("\n".join(_explain(path, fault) for fault in error.errors())) from error
    source = run.structures.path
    if source is not None and not source.is_absolute():
        structures = run.structures.model_copy(update={"path": (path.parent / source).resolve()})
        run = run.model_copy(update={"structures": structures})
    return run


def _explain(path: Path, fault: Any) -> str:
    location = ""
    for part in fault["loc"]:
        location += f"[{part}]" if isinstance(part, int) else f".{part}" if location else part
    if fault["type"] == "extra_forbidden":
        known = _known_keys(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{path}: {location} = {fault['input']!r}: unknown key; {hint}"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if isinstance(fault["input"], dict):
        return f"{path}: {location + ': ' if location else ''}{message}"
    return f"{path}: {location} = {fault['input']!r}: {message}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    models: list[Any] = [Run]
    for part in location:
        annotation = models[0].model_fields[part].annotation
        # A section that may be absent is annotated as `Section | None`, a forest as one of several kinds.
        sections = [kind for kind in get_args(annotation) if isinstance(kind, type) and issubclass(kind, Settings)]
        models = sections or [annotation]
    return sorted({key for model in models for key in model.model_fields})
