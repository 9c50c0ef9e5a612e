"""A progress bar with rate and time left, on a terminal only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sized

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from gpuediff.progress import Item, Track, silent

# A bar that would be gone before it can be read is not drawn.
PATIENCE_SECONDS = 0.5


class _RateColumn(ProgressColumn):
    def render(self, task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:,.1f}/s", style="progress.data.speed")


def tracker(console: Console, *, quiet: bool = False) -> Track:
    """Return a `Track` that draws on the console, or a silent one where nobody watches."""
    if quiet or not console.is_terminal:
        return silent

    def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
        if total is None and isinstance(items, Sized):
            total = len(items)
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=console, transient=True)
        task = progress.add_task(description, total=total)
        started = time.monotonic()
        drawn = False
        try:
            for item in items:
                yield item
                progress.advance(task)
                if not drawn and time.monotonic() - started > PATIENCE_SECONDS:
                    progress.start()
                    drawn = True
        finally:
            if drawn:
                progress.stop()

    return track
