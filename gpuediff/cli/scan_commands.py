"""The commands about 4D-STEM scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpuediff.cli.options import Device, IntensitySum, Json, Model, Quiet, choose_device
from gpuediff.cli.screen import Screen
from gpuediff.errors import GpuediffError


def scan(
    model: Model,
    file: Annotated[Path, typer.Argument(help="4D-STEM Bragg peaks: a py4DSTEM file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder.", show_default="<file name>-maps")] = None,
    dataset: Annotated[str | None, typer.Option(help="Which one, where the file holds several.")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Å⁻¹ per pixel, for a file without calibration.")] = None,
    centre: Annotated[
        tuple[float, float] | None, typer.Option(metavar="QX QY", help="Direct beam, pixels: two numbers.")
    ] = None,
    intensity_sum: IntensitySum = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace maps that are already there.")] = False,
    lattice_system: Annotated[
        str | None, typer.Option(help="Map space group and lattice with this system's models, not each position's own.")
    ] = None,
    neighbours: Annotated[
        int,
        typer.Option(
            min=0,
            max=5,
            help="Describe each pattern together with those so many rows and columns away (features lattice).",
        ),
    ] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Map crystal system, space group and lattice over a 4D-STEM scan."""
    from gpuediff.cli.scan import map_and_show
    from gpuediff.hierarchy.bundle import load_bundle
    from gpuediff.scans.readers import read_scan

    screen = Screen(quiet=quiet, as_json=as_json)
    choose_device(device, screen)
    out = out or Path(f"{file.stem}-maps")
    if out.exists() and not overwrite:
        raise GpuediffError(
            f"{out}: already exists: pass --overwrite to replace the maps in it, or choose another --out"
        )
    hierarchy = load_bundle(model)
    measured = read_scan(file, dataset=dataset, pixel_size=pixel_size, centre=centre, track=screen.track)
    if measured.note:
        screen.remark(measured.note)
    *_, written = map_and_show(
        measured,
        hierarchy,
        out,
        screen,
        intensity_sum=intensity_sum,
        lattice_system=lattice_system,
        neighbours=neighbours,
    )
    screen.written(*written)
