"""Lattices of known Bravais type, in bases that hide it."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from gpuediff.crystals.crystal import cell_vectors
from gpuediff.lattices.reduction import metric_changes, metric_covariances, metrics, reduced

PRIMITIVE = {
    "P": np.eye(3),
    "C": np.array([[1, -1, 0], [1, 1, 0], [0, 0, 2]]) / 2,
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}
AXES_OF_TYPE = {"aP": 0, "mP": 1, "mC": 1, "oP": 3, "oC": 3, "oI": 3, "oF": 3, "tP": 5, "tI": 5, "hR": 3, "hP": 7}
AXES_OF_TYPE |= {"cP": 9, "cI": 9, "cF": 9}


@dataclass(frozen=True)
class Truth:
    """Conventional parameters of one type, and primitive bases turned and mixed at random."""

    parameters: np.ndarray
    basis: np.ndarray
    reduced: np.ndarray


def conventional_cell(name, rng):
    """Draw a cell in the standard of the labels; the reduced setting of mC and aP is not enforced."""
    a, b, c = rng.uniform(3, 12, 3)
    if name[0] == "a":
        return np.array([a, b, c, *rng.uniform(65, 115, 3)])
    if name[0] == "m":
        return np.array([a, b, c, 90, rng.uniform(91, 125), 90])
    if name[0] == "o":
        a, b, c = (*sorted((a, b)), c) if name == "oC" else sorted((a, b, c))
        return np.array([a, b, c, 90, 90, 90])
    if name[0] == "h":
        return np.array([a, a, c, 90, 90, 120])
    return np.array([a, a, a if name[0] == "c" else c, 90, 90, 90])


def rotations(n, rng):
    q, _ = np.linalg.qr(rng.normal(size=(n, 3, 3)))
    return q * np.sign(np.linalg.det(q))[:, None, None]


def unimodular(n, rng, steps=5):
    matrices = np.tile(np.eye(3), (n, 1, 1))
    for matrix in matrices:
        for _ in range(steps):
            i, j = rng.choice(3, 2, replace=False)
            matrix[i] += rng.integers(-2, 3) * matrix[j]
    return matrices


@cache
def lattices(name, n, seed=0):
    rng = np.random.default_rng([seed, *map(ord, name)])
    parameters = np.array([conventional_cell(name, rng) for _ in range(n)])
    primitive = np.array([PRIMITIVE[name[1]] @ cell_vectors(p) for p in parameters]) @ rotations(n, rng)
    basis = unimodular(n, rng) @ primitive
    return Truth(parameters, basis, reduced(basis).basis)


def covariances(bases, relative, rng):
    """Draw covariances of metrics, those of errors of the vectors of about the given part of a mean edge."""
    n = len(bases)
    error = rng.normal(size=(n, 9, 9)) * relative * np.abs(np.linalg.det(bases))[:, None, None] ** (1 / 3) / 3
    return metric_covariances(bases, error @ error.transpose(0, 2, 1))


def measured(bases, relative, seed=0):
    """Return noisy metrics of the bases, and their covariances, both in yet other bases."""
    rng = np.random.default_rng(seed)
    covariance = covariances(bases, relative, rng)
    noise = np.linalg.cholesky(covariance) @ rng.normal(size=(len(bases), 6, 1))
    change = metric_changes(unimodular(len(bases), rng, steps=3))
    metric = change @ (metrics(bases)[..., None] + noise)
    return metric[..., 0], change @ covariance @ change.transpose(0, 2, 1)


def basis_of(metric):
    """Return rows that have the metric."""
    full = metric[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    return np.linalg.cholesky(full)
