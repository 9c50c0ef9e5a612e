"""What a command says, and where: results, remarks and errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console


class Screen:
    """What a command says: results to standard output, progress and remarks to standard error."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        from gpuediff.cli.progress import tracker

        self.as_json = as_json
        # A name in brackets is a name, not markup.
        self.remarks = Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet)
        self.results = Console(highlight=False, markup=False, emoji=False, quiet=quiet or as_json)
        if not self.results.is_terminal:  # a file or a pipe has no edge to wrap at
            self.results.width = 160
        self.track = tracker(self.remarks, quiet=quiet)

    def remark(self, text: str) -> None:
        """Tell what is going on."""
        self.remarks.print(text, soft_wrap=True)

    def result(self, *tables: Any, data: Any) -> None:
        """Show tables to a person, or the data to a script."""
        for table in tables:
            self.results.print(table)
            self.results.print()
        if self.as_json:
            sys.stdout.write(json.dumps(data, indent=2, default=_plain, allow_nan=False) + "\n")

    def written(self, *paths: Path) -> None:
        """Name the files that were written."""
        for path in paths:
            self.results.print(f"wrote {path}", soft_wrap=True)


def say_error(text: str) -> None:
    """Tell why a command ends."""
    console = Console(stderr=True, highlight=False, markup=False)
    console.print(text, style="red", soft_wrap=not console.is_terminal)  # one line in a log, whole words for a person


def _plain(value: Any) -> Any:
    """Let JSON take NumPy values and paths."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
