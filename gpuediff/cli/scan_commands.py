"""The commands about 4D-STEM scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpuediff.cli.options import Device, IntensitySum, Json, Model, Quiet, choose_device
from gpuediff.cli.screen import Screen
from gpuediff.errors import GpuediffError

Dataset = Annotated[str | None, typer.Option(help="Which one, where a file holds several.")]
PixelSize = Annotated[float | None, typer.Option(help="Å⁻¹ per stored unit, for files without calibration.")]
Centre = Annotated[
    tuple[float, float] | None, typer.Option(metavar="QX QY", help="Direct beam in the stored unit: two numbers.")
]
LatticeSystem = Annotated[
    str | None, typer.Option(help="Map space group and lattice with this system's models, not each position's own.")
]
Neighbours = Annotated[
    int,
    typer.Option(
        min=0, max=5, help="Describe each pattern together with those so many rows and columns away (features lattice)."
    ),
]
ErrorRate = Annotated[
    float | None,
    typer.Option(
        help="Leave undecided what is too doubtful, so that at most this share of the crystal systems of single "
        "patterns is wrong: 0.01, 0.02, 0.05, 0.1 or 0.2.",
        show_default="a label wherever neighbours agree",
    ),
]
PeaksMin = Annotated[int, typer.Option(min=1, help="Patterns with fewer peaks are not predicted.")]
FilterSize = Annotated[
    int, typer.Option(min=1, help="Side of the median filter over the map of each crystal system; 1: none.")
]
ConfidenceMin = Annotated[float, typer.Option(min=0, max=1, help="Least difference confidence, filtered, of a label.")]


def scan(
    model: Model,
    file: Annotated[Path, typer.Argument(help="Bragg peaks of a 4D-STEM scan (docs/readers.md: of which programs).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder.", show_default="<file name>-maps")] = None,
    dataset: Dataset = None,
    pixel_size: PixelSize = None,
    centre: Centre = None,
    intensity_sum: IntensitySum = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace maps that are already there.")] = False,
    lattice_system: LatticeSystem = None,
    neighbours: Neighbours = 0,
    error_rate: ErrorRate = None,
    peaks_min: PeaksMin = 5,
    filter_size: FilterSize = 5,
    confidence_min: ConfidenceMin = 0.005,
    pattern: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW,COLUMN", help="Draw this pattern; again for more.", show_default="the brightest"),
    ] = None,
    library: Annotated[
        Path | None, typer.Option(help="Draw where the patterns lie among those of this pattern library.")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write every picture as PDF, too.")] = False,
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
    positions = [_position(text, measured.shape) for text in pattern or ()]
    *_, written = map_and_show(
        measured,
        hierarchy,
        out,
        screen,
        intensity_sum=intensity_sum,
        lattice_system=lattice_system,
        neighbours=neighbours,
        error_rate=error_rate,
        peaks_min=peaks_min,
        filter_size=filter_size,
        difference_confidence_min=confidence_min,
        library=library,
        report={"positions": positions, "details": {"model": str(model)}, "pdf": pdf},
    )
    screen.written(*written)


def watch(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Where 4D-STEM Bragg peaks land.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder.", show_default="<folder name>-maps")] = None,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Names to take; again for more.", show_default="*.h5")
    ] = None,
    settle: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="A file is taken when it has not changed for so long.")
    ] = 2.0,
    interval: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="Between two looks.")] = 1.0,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="A scan that goes on growing is mapped so often.")
    ] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="Map what is there, and return.")] = False,
    dataset: Dataset = None,
    pixel_size: PixelSize = None,
    centre: Centre = None,
    intensity_sum: IntensitySum = None,
    lattice_system: LatticeSystem = None,
    neighbours: Neighbours = 0,
    error_rate: ErrorRate = None,
    peaks_min: PeaksMin = 5,
    filter_size: FilterSize = 5,
    confidence_min: ConfidenceMin = 0.005,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for every event.")] = False,
) -> None:
    """Map scans as they land in a folder, and again as they grow, until Ctrl-C."""
    from gpuediff.cli.watch import watch_and_show

    screen = Screen(quiet=quiet, as_json=as_json)
    choose_device(device, screen)
    watch_and_show(
        model,
        folder,
        screen,
        out=out,
        patterns=names or ("*.h5",),
        settle=settle,
        interval=interval,
        patience=patience,
        once=once,
        reading={"dataset": dataset, "pixel_size": pixel_size, "centre": centre},
        intensity_sum=intensity_sum,
        lattice_system=lattice_system,
        neighbours=neighbours,
        error_rate=error_rate,
        peaks_min=peaks_min,
        filter_size=filter_size,
        difference_confidence_min=confidence_min,
    )


def _position(text: str, shape: tuple[int, int]) -> tuple[int, int]:
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError as error:
        raise GpuediffError(f"--pattern {text}: expected a row and a column, such as 12,40") from error
    if not (0 <= row < shape[0] and 0 <= column < shape[1]):
        raise GpuediffError(f"--pattern {text}: outside the scan of {shape[0]} x {shape[1]} positions")
    return row, column
