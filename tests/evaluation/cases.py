"""Answers that are made by hand, so that their scores are known."""

import numpy as np

from gpuediff.evaluation.metrics import Answers, Evaluation, score
from gpuediff.hierarchy.prediction import Prediction

NUMBERS = {"triclinic": 2, "monoclinic": 14, "tetragonal": 139, "cubic": 225}


def prediction(systems, predicted, *, confidence=None, probability=None, numbers=None, lattice=None, votes=None):
    """Predict a system by name for each pattern; the rest follows from it where it is not given."""
    n = len(predicted)
    index = np.array([systems.index(name) for name in predicted])
    sure = np.ones(n, np.float32) if confidence is None else np.asarray(confidence, np.float32)
    values = {
        "systems": tuple(systems),
        "system_votes": np.eye(len(systems), dtype=np.float32)[index] if votes is None else np.asarray(votes),
        "system_index": index,
        "confidence": sure,
        "difference_confidence": sure,
        "space_group_number": np.asarray(numbers or [NUMBERS[name] for name in predicted], np.int32),
        "space_group_confidence": sure,
        "space_group_difference_confidence": sure,
        "lattice": cells(n) if lattice is None else np.asarray(lattice, np.float32),
        "probability": np.full((n, len(systems)), np.nan)
        if probability is None
        else np.asarray(probability, np.float32),
    }
    return Prediction(**values, lattice_low=values["lattice"], lattice_high=values["lattice"])


def cells(n):
    """Return n cubic cells of 4 Å."""
    return np.tile(np.array([4, 4, 4, 90, 90, 90], np.float32), (n, 1))


def answers(true, predicted, *, material=None, **options):
    """Pair a prediction, taken for the true system's too, with the truth."""
    systems = options.pop("systems", tuple(dict.fromkeys([*true, *predicted])))
    told = prediction(systems, predicted, **options)
    material = np.arange(len(true)) if material is None else np.asarray(material)
    numbers = np.array([NUMBERS[name] for name in true], np.int32)
    return Answers(told, told, material, numbers, cells(len(true)).astype(float))


def evaluation(single, aggregate=None, *, protocol="any", systems=None, side="test", learned=None):
    """Evaluate hand-made answers."""
    systems = systems or single.predicted.systems
    return Evaluation(
        protocol=protocol,
        thickness=200.0,
        side=side,
        systems=systems,
        train_materials=7,
        train_space_groups={139: 3, 225: 4},
        test_materials=len(np.unique(single.material)),
        train_patterns=70,
        test_patterns=len(single.material),
        untrained_space_groups=0.25,
        aggregate_size=10,
        single=score(single, systems, learned),
        aggregate=None if aggregate is None else score(aggregate, systems, learned),
    )
