"""What is said about a long loop: honest counts and rates, and a time left that holds when items differ."""

import io

import numpy as np
import pytest
from rich.console import Console

from gpuediff.cli.progress import Course, duration, tracker
from gpuediff.progress import Workload, silent


class Clock:
    """Stands still until it is told how much time passed."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def crystals(sizes, costs):
    return Workload(range(len(sizes)), sizes, costs, "patterns")


def worked(items, seconds, description="simulating crystals", total=None, *, terminal=False, quiet=False):
    """Track a loop in which every item takes its time; returns what was written."""
    clock, text = Clock(), io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, color_system=None)
    for _, passed in zip(tracker(console, quiet=quiet, clock=clock)(items, description, total), seconds, strict=True):
        clock.now += passed
    return text.getvalue().splitlines()


def test_the_time_left_holds_when_the_last_crystals_are_the_dear_ones():
    random = np.random.default_rng(0)
    seconds = np.sort(random.lognormal(0, 1.5, 200))
    clock = Clock()
    course = Course(crystals([10] * 200, list(3 * seconds)), None, clock)
    for passed in seconds[:150]:
        clock.now += passed
        course.advance()
    assert course.seconds_left == pytest.approx(seconds[150:].sum())
    assert course.rate == pytest.approx(1500 / seconds[:150].sum())
    by_count = seconds[:150].sum() * 50 / 150
    assert by_count < 0.2 * course.seconds_left  # what equal items would make of it


def test_the_time_left_runs_down_while_an_item_takes_long():
    clock = Clock()
    course = Course(range(4), None, clock)
    assert course.left() == ""
    clock.now += 60
    course.advance()
    assert course.seconds_left == 180
    clock.now += 50
    assert course.seconds_left == 130
    clock.now += 500
    assert course.seconds_left == 0
    assert course.share == 0.25


def test_a_log_gets_a_line_every_half_minute():
    lines = worked(crystals([20] * 300, [1.0] * 300), [2.0] * 300)
    assert lines[0] == "simulating crystals: 15 of 300, 10 patterns/s, 10 min left"
    assert lines[1] == "simulating crystals: 30 of 300, 10 patterns/s, 9 min left"
    assert len(lines) == 20
    assert lines[-1] == "simulating crystals: 300 of 300, 10 patterns/s, done in 10 min"


def test_a_short_loop_leaves_no_line_in_a_log():
    assert worked(range(10), [1.0] * 10) == []


def test_quiet_means_silent():
    assert worked(range(10), [100.0] * 10, quiet=True) == []
    assert tracker(Console(file=io.StringIO(), force_terminal=True), quiet=True) is silent


def test_a_loop_of_unknown_length_tells_what_it_can():
    lines = worked(iter(range(3)), [40.0] * 3, "reading peaks")
    assert lines[0] == "reading peaks: 1, 0.0/s"
    assert lines[-1] == "reading peaks: 3, 0.0/s, done in 2 min"


def test_a_terminal_shows_the_bar_before_the_first_item_is_through(monkeypatch):
    monkeypatch.setattr("gpuediff.cli.progress.PATIENCE_SECONDS", 0.0)
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80, color_system=None)
    for item in tracker(console)(crystals([5, 5], [1.0, 1.0]), "simulating crystals"):
        while item == 0 and "0 of 2" not in text.getvalue():
            pass
    assert "simulating crystals" in text.getvalue()
    assert max(len(line) for line in text.getvalue().splitlines()) < 200


def test_a_bar_ends_with_its_loop_also_where_an_error_ends_it(monkeypatch):
    monkeypatch.setattr("gpuediff.cli.progress.PATIENCE_SECONDS", 0.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)

    def interrupted():
        for _ in tracker(console)(range(3), "training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not console._live_stack


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (40, "40 s"),
        (59.8, "1 min"),
        (240, "4 min"),
        (3599, "1 h"),
        (7800, "2 h 10 min"),
        (47_000, "13 h"),
        (100_800, "1 d 4 h"),
        (86_399, "1 d"),
    ],
)
def test_a_duration_has_no_more_digits_than_a_forecast(seconds, text):
    assert duration(seconds) == text
