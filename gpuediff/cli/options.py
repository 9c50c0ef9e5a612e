"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from gpuediff.cli.screen import Screen

Config = Annotated[Path, typer.Argument(help="The run's TOML file.", show_default=False)]
Model = Annotated[Path, typer.Argument(help="A model bundle (folder).", show_default=False)]
Folder = Annotated[
    Path | None, typer.Option("--folder", "-f", help="Where the run's files are.", show_default="runs/<config name>")
]
DeviceName = Literal["auto", "gpu", "cpu"]
Device = Annotated[DeviceName, typer.Option(help="Where to compute.")]
Seed = Annotated[
    int | None, typer.Option(min=0, max=2**32 - 1, help="One seed for every random choice, instead of the config's.")
]
IntensitySum = Annotated[
    float | None,
    typer.Option(
        help="Each pattern's intensities are scaled to it, direct beam included (Gleason et al.: 0.3).",
        show_default="as in training",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def choose_device(device: DeviceName, screen: Screen, *, has_gpu_path: bool = False) -> Any:
    """Choose where to compute, and say so."""
    from gpuediff import arrays

    chosen = arrays.choose_device(device, has_gpu_path=has_gpu_path)
    screen.remark(str(chosen))
    return chosen
