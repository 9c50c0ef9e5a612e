"""Gradient boosting on the CPU with LightGBM; what comes back is a treelite forest at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

from gpuediff.forests.samples import check_samples, check_weight, columns_of_labels
from gpuediff.forests.treelite_forest import BoostedForest, annotate
from gpuediff.settings import Boosting

if TYPE_CHECKING:
    import lightgbm
    import treelite

# LightGBM draws from a generator of its own for each of these.
_SEEDS = ("seed", "bagging_seed", "feature_fraction_seed", "data_random_seed", "extra_seed", "objective_seed")


def hyper_parameters(settings: Boosting, *, classes: int, seed: int) -> dict[str, Any]:
    """Return everything LightGBM is told that can change a forest, so that no default of its can."""
    # LightGBM's seeds are 31 bits wide, ours 32.
    seeds = np.random.SeedSequence(seed).generate_state(len(_SEEDS)) >> 1
    return {
        "objective": "multiclass",
        "num_class": classes,
        "boosting": "gbdt",
        "data_sample_strategy": "bagging",
        "tree_learner": "serial",
        "device_type": "cpu",
        "num_iterations": settings.rounds,
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "max_depth": -1,
        "min_data_in_leaf": settings.min_samples_leaf,
        "min_sum_hessian_in_leaf": 1e-3,
        "min_gain_to_split": 0.0,
        "max_delta_step": 0.0,
        "lambda_l1": 0.0,
        "lambda_l2": settings.l2,
        "linear_lambda": 0.0,
        "path_smooth": 0.0,
        "bagging_fraction": settings.bagging_fraction,
        "bagging_freq": 1,
        "feature_fraction": settings.feature_fraction,
        "feature_fraction_bynode": 1.0,
        "extra_trees": False,
        "linear_tree": False,
        "use_quantized_grad": False,
        "early_stopping_round": 0,
        "boost_from_average": True,
        "is_unbalance": False,
        "max_bin": 255,
        "min_data_in_bin": 3,
        "bin_construct_sample_cnt": 200_000,
        "feature_pre_filter": False,
        "enable_bundle": True,
        "is_enable_sparse": True,
        "use_missing": False,
        "zero_as_missing": False,
        "deterministic": True,
        "force_row_wise": True,
        "force_col_wise": False,
        **dict(zip(_SEEDS, seeds.tolist(), strict=True)),
    }


def fit_classifier(
    X: np.ndarray,
    labels: np.ndarray,
    settings: Boosting,
    *,
    seed: int,
    classes: Sequence[int] | Sequence[str] | None = None,
    weight: np.ndarray | None = None,
) -> BoostedForest:
    """Train a classifier on all cores: one tree for each round and class, two classes included.

    Training ends before `settings.rounds` if no tree finds a split any more; with fewer than twice
    `settings.min_samples_leaf` patterns this is at once, and the answer is how often each class was seen.

    Parameters and errors are those of `gpuediff.forests.training.fit_classifier`.
    """
    import lightgbm
    from treelite.frontend import from_lightgbm

    X, labels = check_samples(X, labels, "labels")
    column, columns = columns_of_labels(labels, classes)
    weight = check_weight(weight, len(X))
    parameters = hyper_parameters(settings, classes=len(columns), seed=seed)
    if len(columns) == 1:
        model, gain = _certainty(X.shape[1]), np.zeros(X.shape[1])
    else:
        # The rounds are an argument; among the parameters LightGBM takes them with a warning.
        told = {name: value for name, value in parameters.items() if name != "num_iterations"}
        told |= {"num_threads": _threads(), "verbosity": -1}
        data = lightgbm.Dataset(X, label=column, weight=weight, params=told)
        booster = lightgbm.train(told, data, num_boost_round=settings.rounds)
        model, gain = from_lightgbm(booster), _shares_of_gain(booster)
    annotate(model, gain)
    return BoostedForest(model, classes=columns, hyper_parameters={"backend": "lightgbm", **parameters})


def _threads() -> int:
    """Give the number of cores we may use; 0 leaves it to OpenMP, where the user told it."""
    return 0 if "OMP_NUM_THREADS" in os.environ else joblib.cpu_count()


def _shares_of_gain(booster: lightgbm.Booster) -> np.ndarray:
    gain = booster.feature_importance("gain").astype(np.float64)
    total = gain.sum()
    return gain / total if total > 0 else gain


def _certainty(features: int) -> treelite.Model:
    """Make the forest of a single class, which LightGBM does not train: one leaf."""
    from treelite.model_builder import Metadata, ModelBuilder, PostProcessorFunc, TreeAnnotation

    builder = ModelBuilder(
        threshold_type="float64",
        leaf_output_type="float64",
        metadata=Metadata(
            num_feature=features,
            task_type="kRegressor",  # treelite before 4.8 takes no classifier of a single class
            average_tree_output=False,
            num_target=1,
            num_class=[1],
            leaf_vector_shape=(1, 1),
        ),
        tree_annotation=TreeAnnotation(num_tree=1, target_id=[0], class_id=[0]),
        postprocessor=PostProcessorFunc(name="softmax"),
        base_scores=[0.0],
    )
    builder.start_tree()
    builder.start_node(0)
    builder.leaf(0.0)
    builder.end_node()
    builder.end_tree()
    return builder.commit()
