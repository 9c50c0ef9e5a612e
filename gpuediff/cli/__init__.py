"""The command line: parse, call one function of the package, show what came back."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `gpuediff` command."""
    from gpuediff.cli.app import run

    run()
