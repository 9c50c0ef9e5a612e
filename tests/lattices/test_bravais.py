import warnings

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from scipy.stats import chi2, kstest, multivariate_normal

from gpuediff.crystals.crystal import cell_vectors
from gpuediff.lattices.bravais import conventional, distances, likelihoods
from gpuediff.lattices.holohedries import DEGREES_OF_FREEDOM, TYPES, holohedries
from gpuediff.lattices.reduction import metric_changes, metric_covariances, metrics, reduced
from gpuediff.lattices.twofold import CONDITIONS
from tests.lattices.truth import AXES_OF_TYPE, PRIMITIVE, basis_of, covariances, lattices, measured, unimodular

PRECISE = 1e-6  # Å: errors of noise-free lattices, above rounding
SUPERTYPES = {  # whose lattices are of the type by accident of their metric, one step up
    "aP": "mP mC",
    "mP": "oP oC",
    "mC": "oC oI oF hR",
    "oP": "tP",
    "oC": "tP hP",
    "oI": "tI",
    "oF": "tI",
    "tP": "cP",
    "tI": "cI cF",
    "hR": "cP cI cF",
    "hP": "",
    "cP": "",
    "cI": "",
    "cF": "",
}


def precise(basis):
    return np.tile(np.eye(9) * PRECISE**2, (len(basis), 1, 1))


def conventional_of(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analyzer = SpacegroupAnalyzer(Structure(Lattice(rows), ["Cu"], [[0, 0, 0]]), 1e-4, 0.01)
        return analyzer.get_conventional_standard_structure().lattice.parameters


@pytest.mark.parametrize("kind", range(14), ids=TYPES)
def test_the_conventional_cell_of_an_exact_lattice_is_pymatgens(kind):
    truth = lattices(TYPES[kind], 60 if kind == 0 else 20, seed=1)
    cells = conventional(truth.basis, precise(truth.basis))
    expected = [conventional_of(rows) for rows in truth.reduced]
    np.testing.assert_allclose(cells.parameters[:, kind], expected, atol=1e-5)
    assert (cells.chi_squared[:, kind] < 1e-6).all()


@pytest.mark.parametrize("kind", range(3, 14), ids=TYPES[3:])
def test_the_conventional_parameters_are_those_the_lattice_was_made_of(kind):
    truth = lattices(TYPES[kind], 200)
    cells = conventional(truth.basis, precise(truth.basis))
    np.testing.assert_allclose(cells.parameters[:, kind], truth.parameters, atol=1e-8)


@pytest.mark.parametrize("kind", range(14), ids=TYPES)
def test_the_transformation_makes_a_cell_of_these_parameters_and_centring(kind):
    truth = lattices(TYPES[kind], 30)
    cells = conventional(truth.basis, precise(truth.basis))
    rows = cells.transformation[:, kind] @ truth.basis
    np.testing.assert_allclose([Lattice(r).parameters for r in rows], cells.parameters[:, kind], atol=1e-6)
    points = {"P": 1, "C": 2, "I": 2, "F": 4, "R": 3}[TYPES[kind][1]]
    np.testing.assert_allclose(np.linalg.det(cells.transformation[:, kind]), points)
    centred = PRIMITIVE[TYPES[kind][1]] @ cells.transformation[:, kind]
    np.testing.assert_allclose(centred, np.rint(centred), atol=1e-9)  # the centring is that of the letter, R obverse


@pytest.mark.parametrize("kind", range(1, 14), ids=TYPES[1:])
@pytest.mark.parametrize("relative", [1e-4, 1e-2])
def test_chi_squared_of_the_true_type_follows_its_distribution(kind, relative):
    """At 1 % of an edge noise makes other reduced cells of most lattices; nothing may be lost at these edges."""
    metric, covariance = measured(lattices(TYPES[kind], 200).reduced, relative)
    distance = distances(metric, covariance)[:, kind]
    accepted = (distance < chi2.ppf(0.95, DEGREES_OF_FREEDOM[kind])).sum()
    assert 190 - 12 <= accepted <= 190 + 9  # 4 and 3 standard deviations of a binomial distribution
    assert kstest(distance, chi2(DEGREES_OF_FREEDOM[kind]).cdf).pvalue > 1e-4


@pytest.mark.parametrize("kind", range(14), ids=TYPES)
def test_the_likeliest_type_is_the_true_one_or_a_supertype_its_metric_cannot_be_told_from(kind):
    metric, covariance = measured(lattices(TYPES[kind], 200).reduced, 1e-4)
    best = likelihoods(metric, covariance).argmax(axis=1)
    higher = [TYPES.index(name) for name in SUPERTYPES[TYPES[kind]].split()]
    assert np.isin(best, [kind, *higher]).mean() > 0.98
    assert (best == kind).mean() > 0.95


def test_a_lattice_is_of_every_type_below_its_own_and_of_none_above():
    exact = lattices("cF", 20).reduced
    metric = metrics(exact)
    distance = distances(metric, metric_covariances(exact, precise(exact)))
    of_type = (distance < 1e-3).all(axis=0)
    assert {name for name, fits in zip(TYPES, of_type, strict=True) if fits} == {
        "aP",
        "mC",
        "oI",
        "oF",
        "tI",
        "hR",
        "cF",
    }


@pytest.mark.parametrize("kind", [1, 2, 4, 8, 9, 13], ids=lambda kind: TYPES[kind])
def test_the_distance_is_that_of_the_fitted_metric_in_the_covariance(kind):
    basis = basis_of(measured(lattices(TYPES[kind], 20).reduced, 1e-3)[0])
    covariance = covariances(basis, 1e-3, np.random.default_rng(1))
    cells = conventional(basis, covariance)
    fitted = metrics(np.array([cell_vectors(p) for p in cells.parameters[:, kind]]))
    back = metric_changes(np.linalg.inv(cells.transformation[:, kind]))
    residual = metrics(basis) - np.einsum("nij,nj->ni", back, fitted)
    expected = np.einsum("ni,ni->n", residual, np.linalg.solve(covariance, residual[..., None])[..., 0])
    np.testing.assert_allclose(cells.chi_squared[:, kind], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", range(1, 14), ids=TYPES[1:])
def test_the_distance_is_the_least_over_all_settings_of_the_type(kind):
    exact = lattices("cI", 60).reduced
    covariance = covariances(exact, 3e-2, np.random.default_rng(4))
    noise = np.linalg.cholesky(covariance) @ np.random.default_rng(5).normal(size=(60, 6, 1))
    cells = reduced(basis_of(metrics(exact) + noise[..., 0]))
    change = metric_changes(cells.transformation)
    covariance = change @ covariance @ change.transpose(0, 2, 1)
    table = holohedries()
    of_type = slice(table.first[kind], table.first[kind + 1])
    conditions = table.conditions[of_type, : DEGREES_OF_FREEDOM[kind]]
    z = np.einsum("mij,nj->nmi", conditions, metrics(cells.basis))
    spread = np.einsum("mij,njk,mlk->nmil", conditions, covariance, conditions)
    expected = np.einsum("nmi,nmi->nm", z, np.linalg.solve(spread, z[..., None])[..., 0]).min(axis=1)
    np.testing.assert_allclose(distances(metrics(cells.basis), covariance)[:, kind], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", range(3, 14), ids=TYPES[3:])
def test_parameters_are_off_by_their_uncertainties(kind):
    truth = lattices(TYPES[kind], 200)
    metric, covariance = measured(truth.reduced, 1e-4)
    cells = conventional(basis_of(metric), covariance)
    free = cells.uncertainties[:, kind] > 1e-7
    assert free.any(axis=1).all()
    error = (cells.parameters[:, kind] - truth.parameters)[free] / cells.uncertainties[:, kind][free]
    assert np.mean(np.abs(error) < 1) == pytest.approx(0.683, abs=0.11)
    assert np.mean(np.abs(error) < 3) > 0.985
    np.testing.assert_allclose(cells.parameters[:, kind][~free], truth.parameters[~free], atol=1e-9)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=TYPES[:3])
def test_oblique_parameters_are_off_by_their_uncertainties(kind):
    """Compared with the exact lattice in the same vectors, because noise may choose another of nearly equal cells."""
    truth = lattices(TYPES[kind], 200)
    covariance = covariances(truth.reduced, 1e-4, np.random.default_rng(2))
    noise = np.linalg.cholesky(covariance) @ np.random.default_rng(3).normal(size=(200, 6, 1))
    cells = conventional(basis_of(metrics(truth.reduced) + noise[..., 0]), covariance)
    exact = np.array([Lattice(r).parameters for r in cells.transformation[:, kind] @ truth.reduced])
    free = cells.uncertainties[:, kind] > 1e-7
    error = (cells.parameters[:, kind] - exact)[free] / cells.uncertainties[:, kind][free]
    assert free.sum(axis=1).min() == (6, 4, 4)[kind]
    assert np.mean(np.abs(error) < 1) == pytest.approx(0.683, abs=0.06)
    assert np.mean(np.abs(error) < 3) > 0.99


def test_the_likelihood_is_that_of_the_conditions_with_and_without_the_symmetry():
    """Against densities of scipy, for a lattice off a primitive monoclinic one."""
    rows = np.array([[[5.0, 0, 0], [0.01, 6.0, 0], [-1.3, 0.02, 7.0]]])
    covariance = metric_covariances(rows, np.eye(9)[None] * 1e-4)
    metric, spread = metrics(rows)[0], 0.1
    full = rows[0] @ rows[0].T
    of_bc_and_ab = np.array([[1, 2], [0, 1]])
    strained = np.empty((2, 2))
    for i, (a, b) in enumerate(of_bc_and_ab):
        for j, (c, d) in enumerate(of_bc_and_ab):
            strained[i, j] = 2 * spread**2 * (full[a, c] * full[b, d] + full[a, d] * full[b, c])
    z, exact = metric[[3, 5]], covariance[0][np.ix_([3, 5], [3, 5])]
    expected = multivariate_normal(cov=exact).logpdf(z) - multivariate_normal(cov=exact + strained).logpdf(z)
    got = likelihoods(metric[None], covariance, spread=spread)[0]
    assert got[1] == pytest.approx(expected, rel=1e-6)
    assert got[0] == 0


def test_without_a_measurement_all_types_are_equally_likely_but_for_the_prior():
    exact = lattices("oP", 5).reduced
    covariance = covariances(exact, 1e3, np.random.default_rng(0))
    np.testing.assert_allclose(likelihoods(metrics(exact), covariance), 0, atol=0.01)
    prior = np.arange(14.0)
    logs = likelihoods(metrics(exact), covariance, prior=prior)
    assert np.isneginf(logs[:, 0]).all()
    np.testing.assert_allclose(logs[:, 1:], np.log(prior[1:]) * np.ones((5, 1)), atol=0.01)


def test_the_basis_and_orientation_of_a_measured_lattice_do_not_matter():
    exact = lattices("tI", 50)
    metric, covariance = measured(exact.reduced, 1e-3)
    change = metric_changes(unimodular(50, np.random.default_rng(0)))
    first = likelihoods(metric, covariance)
    second = likelihoods(np.einsum("nij,nj->ni", change, metric), change @ covariance @ change.transpose(0, 2, 1))
    # Of types that are out of the question the nearest setting need not be among those of a reduced cell.
    np.testing.assert_allclose(np.maximum(first, -30), np.maximum(second, -30), atol=1e-4)


def test_every_setting_keeps_its_axes_and_no_metric_of_it_has_more():
    table = holohedries()
    for kind, name in enumerate(TYPES):
        for m in range(table.first[kind], table.first[kind + 1]):
            free = table.free[m][:, : 6 - DEGREES_OF_FREEDOM[kind]]
            kept = np.flatnonzero(np.abs(CONDITIONS @ free).max(axis=(1, 2)) < 1e-9)
            assert kept.tolist() == table.axes[m][table.axes[m] >= 0].tolist()
            assert len(kept) == AXES_OF_TYPE[name]
            np.testing.assert_allclose(table.conditions[m] @ free, 0, atol=1e-12)


def test_settings_number_as_the_sets_of_axes_of_reduced_cells_do():
    """Monoclinic: one for each of the 81 two-fold rotations, 3 of which have all axes along edges."""
    numbers = np.diff(holohedries().first)
    assert dict(zip(TYPES, numbers.tolist(), strict=True))["mP"] == 3
    assert numbers[1:3].sum() == 81


def test_what_cannot_be_judged_is_nan_and_does_not_disturb_its_neighbours():
    rows = np.array([np.eye(3) * 4, np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(3) * 4, np.eye(3) * 4])
    spread = np.tile(np.eye(9) * 1e-4, (5, 1, 1))
    spread[3] = 0
    cells = conventional(rows, spread)
    assert np.isnan(cells.parameters[1:4]).all()
    assert np.isnan(cells.log_likelihood[1:4]).all()
    assert not cells.transformation[1:4].any()
    np.testing.assert_allclose(cells.parameters[[0, 4], TYPES.index("cP")], [[4, 4, 4, 90, 90, 90]] * 2)
    assert np.isnan(distances(np.array([[1.0, 1, 1, 2, 0, 0]]), np.eye(6)[None])).all()


def test_a_wrong_prior_or_spread_is_named():
    metric, covariance = np.array([[9.0, 9, 9, 0, 0, 0]]), np.eye(6)[None]
    with pytest.raises(ValueError, match="prior"):
        likelihoods(metric, covariance, prior=-np.ones(14))
    with pytest.raises(ValueError, match="spread = 0"):
        likelihoods(metric, covariance, spread=0)
    with pytest.raises(ValueError, match="covariance has the shape"):
        distances(metric, np.eye(5)[None])
