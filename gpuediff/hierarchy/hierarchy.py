"""The paper's models: crystal system first, then space group and lattice by forests of that system alone.

(Gleason et al., Phys. Rev. Materials 8, 093802.) A lattice model is one regression forest for each parameter that
the crystal system leaves free; there are none where the features hold the lattice themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gpuediff.crystals.symmetry import LATTICE_PARAMETERS, complete_lattice, independent_parameters
from gpuediff.errors import GpuediffError, InvalidBundle, InvalidFeatures
from gpuediff.forests.treelite_forest import check_shape
from gpuediff.hierarchy.aggregation import Decision, decide, difference_aggregation, median_aggregation
from gpuediff.hierarchy.calibration import Calibration, learn
from gpuediff.hierarchy.flags import FlagCalibration, Flags, ask_flags
from gpuediff.hierarchy.labels import (
    CRYSTAL_SYSTEM,
    check_labels,
    crystal_systems_of,
    lattice_model,
    model_names,
    space_group_model,
    systems_among,
)
from gpuediff.hierarchy.prediction import LATTICE_INTERVAL, Prediction
from gpuediff.hierarchy.training import learn_flags, train_models
from gpuediff.progress import Track, silent
from gpuediff.settings import CRYSTAL_SYSTEMS, Training

if TYPE_CHECKING:
    from gpuediff.features.blocks import FeatureBlock
    from gpuediff.features.examples import Examples
    from gpuediff.forests.forest import Forest
    from gpuediff.hierarchy.trained_on import TrainedOn

# One crystal system for all, or one for each pattern or group.
GivenSystems: TypeAlias = str | Sequence[str] | np.ndarray


class Hierarchy:
    """Forests that name crystal system, space group and lattice.

    Parameters
    ----------
    block : feature block
        What the features are; `block.width` of them make a pattern.
    settings : gpuediff.settings.Training
        Size of the forests, and the seed from which each takes its own.
    trained_on : TrainedOn, optional
        What is to be remembered of the training patterns.

    Attributes
    ----------
    forests_ : dict of str to Forest
        By the names of `gpuediff.hierarchy.labels`.
    calibration_ : Calibration or None
        How far to trust the probabilities of the crystal systems; None if nobody has looked yet.
    flag_calibration_ : FlagCalibration or None
        What the two forests of `gpuediff.hierarchy.flags` come to; None if they were not trained.
    """

    def __init__(self, block: FeatureBlock, settings: Training, trained_on: TrainedOn | None = None) -> None:
        self.block = block
        self.settings = settings
        self.trained_on = trained_on
        self.forests_: dict[str, Forest] = {}
        self.calibration_: Calibration | None = None
        self.flag_calibration_: FlagCalibration | None = None

    @property
    def systems(self) -> tuple[str, ...]:
        """The crystal systems it knows, in the order of `Prediction.system_votes`."""
        return tuple(_classes(self._forest(CRYSTAL_SYSTEM)).tolist())

    @property
    def learns_lattice(self) -> bool:
        """Whether lattice parameters come from forests, and not from the features as they are."""
        return self.block.lattice(np.empty((0, self.block.width), dtype=np.float32), CRYSTAL_SYSTEMS[-1]) is None

    def fit(
        self, features: np.ndarray, space_group_number: np.ndarray, lattice: np.ndarray, *, track: Track = silent
    ) -> Hierarchy:
        """Train all forests; the crystal systems are those of the labels, and an older calibration is dropped.

        Parameters
        ----------
        features : array, shape (n, block.width), float32
        space_group_number : array, shape (n,), integers
            1 .. 230.
        lattice : array, shape (n, 6)
            a, b, c (Å), alpha, beta, gamma (degrees) of the conventional cell.
        track : Track
            Follows the forests.

        Raises
        ------
        InvalidFeatures
            If shapes do not fit, or a value is impossible; names the first such pattern.
        """
        check_shape(features, self.block.width)
        numbers, lattice = check_labels(len(features), space_group_number, lattice)
        systems = systems_among(crystal_systems_of(numbers))
        if not systems:
            raise InvalidFeatures("no patterns: there is nothing to train on")
        self.calibration_ = None
        self.flag_calibration_ = None
        names = model_names(systems, lattice=self.learns_lattice)
        models = train_models(np.asarray(features), numbers, lattice, names, self.settings)
        self.forests_ = dict(track(models, "forests", total=len(names)))
        return self

    def learn_flags(self, training: Examples, validation: Examples, *, track: Track = silent) -> Hierarchy:
        """Learn from a fitted hierarchy's own kinds of patterns what `flags` says; older flags are dropped.

        Parameters
        ----------
        training : Examples
            Of materials that the forests were trained on.
        validation : Examples
            Of other materials; broken ones are not asked for.
        track : Track
            Follows the forests.

        Raises
        ------
        InvalidFeatures
            If there are no examples, or their features are not those of `block`.
        """
        self._forest(CRYSTAL_SYSTEM)
        for examples in (training, validation):
            check_shape(examples.one_grain, self.block.width)
        forests, self.flag_calibration_ = learn_flags(training, validation, self.settings, track=track)
        self.forests_ = self.forests_ | forests
        return self

    def flags(self, features: np.ndarray, *, patterns: np.ndarray | None = None) -> Flags:
        """Say of every single pattern how likely it is of several grains, and how unlike the training patterns.

        Parameters
        ----------
        features : array, shape (n, block.width), float32
        patterns : array, shape (n,), integers, optional
            How many patterns the features describe together; one if absent. Of several together nothing is said.

        Raises
        ------
        InvalidFeatures
            As for `predict`.
        """
        check_shape(features, self.block.width)
        features = np.asarray(features)
        alone = np.ones(len(features), dtype=bool) if patterns is None else np.asarray(patterns) == 1
        if self.flag_calibration_ is None:
            return Flags.unknown(len(features))
        return ask_flags(self.forests_, self.flag_calibration_, features, alone)

    def calibrate(
        self,
        features: np.ndarray,
        space_group_number: np.ndarray,
        *,
        material: np.ndarray,
        patterns: np.ndarray,
        protocol: np.ndarray | None = None,
    ) -> Hierarchy:
        """Learn how far to trust the probabilities, from materials that the forests were not trained on.

        Parameters
        ----------
        features : array, shape (n, block.width), float32
        space_group_number : array, shape (n,), integers
            1 .. 230.
        material : array, shape (n,), integers
            Which of them are of one material.
        patterns : array, shape (n,), integers
            How many patterns the features describe together.
        protocol : array, shape (n,), integers, optional
            Under which of several protocols, of which each must keep to an error rate; one and the same if absent.

        Raises
        ------
        InvalidFeatures
            As for `predict`.
        """
        check_shape(features, self.block.width)
        true = crystal_systems_of(space_group_number)
        truth = np.full(len(true), -1)
        for position, name in enumerate(self.systems):
            truth[true == name] = position
        forest = self._forest(CRYSTAL_SYSTEM)
        votes, probability = forest.votes_and_probability(features)
        protocol = np.zeros(len(truth), dtype=np.int64) if protocol is None else protocol
        self.calibration_ = learn(
            probability, decide(votes).index, truth, material=material, patterns=patterns, protocol=protocol
        )
        return self

    def least_probability(self, error_rate: float, *, together: bool = False) -> float:
        """Return the least calibrated probability to ask for, so that no larger share of the answers given is wrong.

        Parameters
        ----------
        error_rate : float
            One of `gpuediff.hierarchy.calibration.ERROR_RATES`.
        together : bool
            Of answers from several patterns that are described together; else from single patterns.

        Raises
        ------
        InvalidBundle
            If the hierarchy was not calibrated for such answers, or on the validation materials no answers keep to the
            error rate.
        """
        if together and not self.block.pools:
            raise InvalidBundle(
                f"error rate {error_rate:g}: the features {self.block.name!r} describe every pattern by itself, and "
                f"votes of several have no probability: ask for answers to single patterns"
            )
        learned = self.calibration_ and (self.calibration_.groups if together else self.calibration_.single)
        if not learned:
            raise InvalidBundle(
                f"error rate {error_rate:g}: the model does not know how far to trust "
                f"{'groups of patterns' if together else 'single patterns'}: there were no validation materials; train "
                f"again with split.validation_fraction > 0"
            )
        return learned.least_probability(error_rate)

    def predict(
        self,
        features: np.ndarray,
        *,
        crystal_system: GivenSystems | None = None,
        patterns: np.ndarray | None = None,
    ) -> Prediction:
        """Predict from every feature vector by itself.

        A label is what most trees say (of equal ones, the earlier in the list of classes), a lattice parameter the
        median over the trees.

        Parameters
        ----------
        features : array, shape (n, block.width), float32
        crystal_system : str, or n of them, optional
            Take space group and lattice from the models of this system, instead of the predicted one. The predicted
            system and its confidences stay what they are.
        patterns : array, shape (n,), integers, optional
            How many patterns the features describe together, for the probability; one if absent.

        Raises
        ------
        InvalidFeatures
            If the features have a wrong shape or a value that is not finite, or a system is not among `systems`.
        """
        check_shape(features, self.block.width)
        features = np.asarray(features)
        forest = self._forest(CRYSTAL_SYSTEM)
        votes, probability = forest.votes_and_probability(features)
        if self.calibration_ is not None:
            alone = np.ones(len(features), dtype=np.int64)
            probability = self.calibration_.apply(probability, alone if patterns is None else patterns)
        return self._prediction(decide(votes), probability, features, None, crystal_system)

    def aggregate(
        self, features: np.ndarray, groups: np.ndarray, *, crystal_system: GivenSystems | None = None
    ) -> Prediction:
        """Predict groups of patterns, each of one material.

        Labels by `gpuediff.hierarchy.aggregation.difference_aggregation`, the space group over all patterns of the
        group with the model of the group's system; a lattice parameter is the median of the patterns' own.

        Parameters
        ----------
        features : array, shape (n, block.width), float32
        groups : array, shape (n,), integers
            Any numbers; the answer has one row for each distinct one, in rising order.
        crystal_system : str, or one for each distinct group, optional
            As for `predict`.

        Raises
        ------
        InvalidFeatures
            As for `predict`; or if the groups are not n integers.
        """
        check_shape(features, self.block.width)
        features = np.asarray(features)
        group, count = _numbered(groups, len(features))
        votes = self._forest(CRYSTAL_SYSTEM).votes(features)
        decision = decide(difference_aggregation(votes, group, count))
        return self._prediction(decision, np.full(decision.share.shape, np.nan), features, group, crystal_system)

    def in_systems(
        self,
        prediction: Prediction,
        features: np.ndarray,
        crystal_system: GivenSystems,
        *,
        groups: np.ndarray | None = None,
    ) -> Prediction:
        """Return a prediction with space group and lattice from the models of other crystal systems.

        The same as predicting anew with `crystal_system`, but only what it changes is asked anew.

        Parameters
        ----------
        prediction : Prediction
            What `predict` or `aggregate` answered.
        features, groups
            From which it did.
        crystal_system : str, or one for each answer
        """
        check_shape(features, self.block.width)
        features, count = np.asarray(features), len(prediction)
        group = None if groups is None else _numbered(groups, len(features))[0]
        used = self._positions(crystal_system, count)
        other = np.flatnonzero(used != prediction.system_index)
        if group is None:
            part, part_group = features[other], None
        else:
            rows = np.flatnonzero(np.isin(group, other))
            part, part_group = features[rows], np.searchsorted(other, group[rows])
        changed = {}
        for name, values in self._structure(part, part_group, used[other]).items():
            changed[name] = getattr(prediction, name).copy()
            changed[name][other] = values
        return replace(prediction, **changed)

    def importances(self) -> dict[str, float]:
        """Return by the name of each feature its share of what the splits for the crystal system gained."""
        shares = self._forest(CRYSTAL_SYSTEM).importances()
        return dict(zip(self.block.columns, shares.tolist(), strict=True))

    def _prediction(
        self,
        decision: Decision,
        probability: np.ndarray,
        features: np.ndarray,
        group: np.ndarray | None,
        given: GivenSystems | None,
    ) -> Prediction:
        used = decision.index if given is None else self._positions(given, len(decision.index))
        return Prediction(
            systems=self.systems,
            system_votes=decision.share.astype(np.float32),
            probability=probability.astype(np.float32),
            system_index=decision.index,
            confidence=decision.confidence.astype(np.float32),
            difference_confidence=decision.difference_confidence.astype(np.float32),
            **self._structure(features, group, used),
        )

    def _structure(self, features: np.ndarray, group: np.ndarray | None, used: np.ndarray) -> dict[str, np.ndarray]:
        """Answer for space group and lattice by the models of the systems `used`, one for each pattern or group.

        Without groups, every pattern stands for itself.
        """
        count = len(used)
        number = np.zeros(count, dtype=np.int32)
        confidence, difference = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
        lattice = np.zeros((len(LATTICE_INTERVAL), count, len(LATTICE_PARAMETERS)), dtype=np.float32)
        for position in np.unique(used):
            taken = np.flatnonzero(used == position)
            rows, part_group = taken, None
            if group is not None:
                rows = np.flatnonzero(used[group] == position)
                part_group = np.searchsorted(taken, group[rows])
            part = features if len(rows) == len(features) else features[rows]
            name = self.systems[position]
            forest = self._forest(space_group_model(name))
            space_group = decide(_counts(forest.votes(part), part_group, len(taken)))
            number[taken] = _classes(forest)[space_group.index]
            confidence[taken] = space_group.confidence
            difference[taken] = space_group.difference_confidence
            for end, parameters in enumerate(self._free_parameters(name, part, part_group, len(taken))):
                lattice[end, taken] = complete_lattice(name, parameters)
        return {
            "space_group_number": number,
            "space_group_confidence": confidence,
            "space_group_difference_confidence": difference,
            "lattice_low": lattice[0],
            "lattice": lattice[1],
            "lattice_high": lattice[2],
        }

    def _free_parameters(
        self, system: str, features: np.ndarray, group: np.ndarray | None, count: int
    ) -> list[dict[str, np.ndarray]]:
        """Give the lattice parameters that a system leaves free: the interval's low end, the estimate, the high end."""
        held, uncertainty = self.block.lattice(features, system), self.block.lattice_uncertainty(features, system)
        ends: list[dict[str, np.ndarray]] = [{} for _ in LATTICE_INTERVAL]
        for column, parameter in enumerate(LATTICE_PARAMETERS):
            if parameter not in independent_parameters(system):
                continue
            if held is None or uncertainty is None:
                values = self._forest(lattice_model(system, parameter)).quantiles(features, LATTICE_INTERVAL)
            else:
                values = held[:, column, np.newaxis] + uncertainty[:, column, np.newaxis] * np.array([-1, 0, 1])
            for end, own in zip(ends, values.T, strict=True):
                end[parameter] = own if group is None else median_aggregation(own, group, count)
        return ends

    def _positions(self, crystal_system: GivenSystems, count: int) -> np.ndarray:
        """Give the position in `systems` of the systems that the caller named, (count,)."""
        names = np.asarray(crystal_system)
        if names.shape not in ((), (count,)):
            raise InvalidFeatures(f"crystal_system of shape {names.shape}: expected one name, or {count}")
        known = self.systems
        unknown = sorted(set(np.unique(names).tolist()) - set(known))
        if unknown:
            raise InvalidFeatures(f"crystal_system = {unknown[0]!r}: these models know {', '.join(known)}")
        positions = np.zeros(names.shape, dtype=np.int64)
        for position, name in enumerate(known):
            positions[names == name] = position
        return np.broadcast_to(positions, (count,))

    def _forest(self, name: str) -> Forest:
        if not self.forests_:
            raise GpuediffError("the hierarchy has no models yet: call fit, or load a bundle")
        return self.forests_[name]


def _counts(votes: np.ndarray, group: np.ndarray | None, count: int) -> np.ndarray:
    return votes if group is None else difference_aggregation(votes, group, count)


def _numbered(groups: np.ndarray, patterns: int) -> tuple[np.ndarray, int]:
    """Number the groups of the patterns from 0 in rising order of their names, and count them."""
    groups = np.asarray(groups)
    if groups.shape != (patterns,) or not np.issubdtype(groups.dtype, np.integer):
        raise InvalidFeatures(f"groups of shape {groups.shape}, {groups.dtype}: expected ({patterns},), integers")
    distinct, group = np.unique(groups, return_inverse=True)
    return group, len(distinct)


def _classes(forest: Forest) -> np.ndarray:
    assert forest.classes_ is not None, "labels are models of classifiers"
    return forest.classes_
