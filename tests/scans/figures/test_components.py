import numpy as np
import pytest
from matplotlib.colors import to_rgb

from gpuediff.scans.comparison import Components, principal_components
from gpuediff.scans.figures.components import component_figure, enclosing_levels
from gpuediff.scans.figures.drawing import COLOURS


@pytest.fixture
def case():
    """Two clouds of simulated patterns, cubic to the right, and 60 measured patterns."""
    rng = np.random.default_rng(8)
    reference_system = np.repeat(["cubic", "hexagonal"], 200)
    reference = rng.normal(size=(400, 2)) + np.where(reference_system == "cubic", 5.0, -5.0)[:, np.newaxis]
    scan_system = np.repeat(["cubic", "hexagonal", ""], [35, 20, 5])
    components = Components(reference, 3 * rng.normal(size=(60, 2)), np.array([0.62, 0.11]), np.eye(2), np.arange(2))
    return components, reference_system, scan_system


def dots(axes):
    return [item for item in axes.collections if type(item).__name__ == "PathCollection" and len(item.get_offsets())]


def test_measured_patterns_are_dots_in_the_colour_of_their_predicted_system(case):
    components, _, scan_system = case
    figure = component_figure(*case)
    titles = ["all measured (n = 60)", "cubic (n = 35)", "hexagonal (n = 20)"]
    assert [axes.get_title() for axes in figure.axes] == titles
    for axes, system in zip(figure.axes[1:], ("cubic", "hexagonal"), strict=True):
        (drawn,) = dots(axes)
        np.testing.assert_allclose(drawn.get_offsets(), components.scan[scan_system == system, :2])
        np.testing.assert_allclose(drawn.get_facecolor()[0, :3], to_rgb(COLOURS[system]))
    assert sum(len(drawn.get_offsets()) for drawn in dots(figure.axes[0])) == 60


def test_axis_labels_state_the_share_of_the_variance(case):
    figure = component_figure(*case)
    assert figure.get_supxlabel() == "component 1 (62% of variance)"
    assert figure.get_supylabel() == "component 2 (11% of variance)"


def test_contours_enclose_the_shares_that_the_legend_states():
    """Of a round normal cloud the density on the contour of 90% is 10% of the peak's, and 50% on that of 50%."""
    place = np.linspace(-6, 6, 601)
    density = np.exp(-(place**2 + place[:, None] ** 2) / 2)
    np.testing.assert_allclose(enclosing_levels(density, (0.9, 0.5)), [0.1, 0.5], rtol=1e-2)


def test_the_contours_of_a_system_lie_around_its_own_simulated_patterns(case):
    _, cubic, hexagonal = component_figure(*case).axes
    for axes, sign in ((cubic, 1), (hexagonal, -1)):
        own = [item for item in axes.collections if hasattr(item, "levels")][-1]
        path = own.get_paths()[-1].vertices  # of 50%
        assert (path.min(axis=0) < sign * 5).all()
        assert (path.max(axis=0) > sign * 5).all()
        np.testing.assert_array_equal(np.sign(path), sign)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("measured", [0, 1, 30])
@pytest.mark.parametrize("simulated", [3, 200])
def test_few_or_no_patterns_can_be_drawn(measured, simulated):
    rng = np.random.default_rng(2)
    components = principal_components(rng.normal(size=(simulated, 4)), rng.normal(size=(measured, 4)))
    systems = np.full(simulated, "cubic"), np.full(measured, "cubic" if measured < 30 else "")
    component_figure(components, *systems).draw_without_rendering()


@pytest.mark.filterwarnings("error::UserWarning")
def test_patterns_that_all_coincide_can_be_drawn():
    same = Components(np.zeros((50, 2)), np.zeros((4, 2)), np.array([0.6, 0.4]), np.eye(2), np.arange(2))
    component_figure(same, np.full(50, "cubic"), np.full(4, "trigonal")).draw_without_rendering()
