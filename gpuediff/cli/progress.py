"""How far a long loop is: a bar on a terminal, a line now and then in the log of a batch job."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from gpuediff.progress import Item, Track, Workload, silent

# A bar that would be gone before it can be read is not drawn.
PATIENCE_SECONDS = 0.5
LOG_SECONDS = 30.0


class Course:
    """How far a loop is, how fast it goes, and when it will be through.

    Parameters
    ----------
    items : iterable
        A `Workload` tells what its items cost; others are taken for equal.
    total : int, optional
        How many items there are, where they have no length.
    clock : callable
        Seconds.
    """

    def __init__(self, items: Iterable, total: int | None, clock: Callable[[], float]) -> None:
        if total is None and isinstance(items, Sized):
            total = len(items)
        self.total = total
        self.unit, self.sizes, self.costs = "", None, None
        if isinstance(items, Workload):
            self.unit, self.sizes, self.costs = items.unit, items.sizes, items.costs
        self.done = 0
        self._size = self._cost = 0.0
        self._whole = None if total is None else sum(self.costs) if self.costs else float(total)
        self._clock = clock
        self._started = self._latest = clock()

    def advance(self) -> None:
        """Count one item as done."""
        self._size += self.sizes[self.done] if self.sizes else 1
        self._cost += self.costs[self.done] if self.costs else 1
        self.done += 1
        self._latest = self._clock()

    @property
    def share(self) -> float | None:
        """Of the work that is done, 0 .. 1; None where the whole is not known."""
        return None if not self._whole else min(1.0, self._cost / self._whole)

    @property
    def rate(self) -> float | None:
        """Items a second, or what is in them; None before the first."""
        elapsed = self._latest - self._started
        return self._size / elapsed if elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Until all is done, if what is left goes as what was done; None before the first item."""
        elapsed = self._latest - self._started
        if not self._whole or not self._cost:
            return None
        left = elapsed * (self._whole - self._cost) / self._cost
        return max(0.0, left - (self._clock() - self._latest))

    def counted(self) -> str:
        """Say how many of how many."""
        return f"{self.done:,}" + ("" if self.total is None else f" of {self.total:,}")

    def rated(self) -> str:
        """Say how fast."""
        if self.rate is None:
            return ""
        digits = 1 if self.rate < 10 else 0
        return f"{self.rate:,.{digits}f}{' ' + self.unit if self.unit else ''}/s"

    def left(self) -> str:
        """Say how long it will take."""
        return "" if self.seconds_left is None else f"{duration(self.seconds_left)} left"

    def line(self, description: str) -> str:
        """Say all of it."""
        return f"{description}: " + ", ".join(part for part in (self.counted(), self.rated(), self.left()) if part)


def duration(seconds: float) -> str:
    """Say a time with as many digits as a forecast deserves: "40 s", "4 min", "2 h 10 min", "1 d 4 h"."""
    if seconds < 59.5:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        minutes = minutes if minutes < 600 else 10 * round(minutes / 10)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def tracker(console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> Track:
    """Return a `Track` that draws a bar on a terminal, and elsewhere writes a line every half minute."""
    if quiet:
        return silent
    show = _bar if console.is_terminal else _lines

    def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
        return show(items, description, Course(items, total, clock), console, clock)

    return track


def _lines(
    items: Iterable[Item], description: str, course: Course, console: Console, clock: Callable[[], float]
) -> Iterator[Item]:
    started = told = clock()
    for item in items:
        yield item
        course.advance()
        if clock() - told >= LOG_SECONDS and course.done != course.total:
            console.print(course.line(description), soft_wrap=True)
            told = clock()
    if told > started:
        parts = [course.counted(), course.rated(), f"done in {duration(clock() - started)}"]
        console.print(f"{description}: {', '.join(part for part in parts if part)}", soft_wrap=True)


class _CourseColumn(ProgressColumn):
    """One thing that a course can say; read anew at every refresh, so that the time left runs down between items."""

    def __init__(self, say: Callable[[Course], str]) -> None:
        self.say = say
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(self.say(task.fields["course"]), no_wrap=True)


def _bar(
    items: Iterable[Item], description: str, course: Course, console: Console, clock: Callable[[], float]
) -> Iterator[Item]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None if console.width < 100 else 40),
        _CourseColumn(Course.counted),
        _CourseColumn(Course.rated),
        _CourseColumn(Course.left),
    )
    progress = Progress(*columns, console=console, transient=True, expand=console.width < 100)
    task = progress.add_task(description, total=None if course.share is None else 1.0, course=course)
    # The first item may take long: the bar does not wait for it.
    start = threading.Timer(PATIENCE_SECONDS, progress.start)
    start.daemon = True
    start.start()
    try:
        for item in items:
            yield item
            course.advance()
            if course.share is not None:
                progress.update(task, completed=course.share)
    finally:
        start.cancel()
        start.join()
        progress.stop()
