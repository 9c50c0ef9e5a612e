"""The commands about 4D-STEM scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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


def detect(
    file: Annotated[
        Path, typer.Argument(help="Raw frames of a 4D-STEM scan: HDF5, .npy, or a microscope's own format.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File of peaks (.h5).", show_default="<file name>-peaks.h5")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Which one, where the file holds several.")] = None,
    scan_shape: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="ROWS COLUMNS", help="Probe positions, for a file that only holds a row of frames."),
    ] = None,
    radius: Annotated[
        float | None, typer.Option(help="Of the probe, pixels.", show_default="measured on the direct beam")
    ] = None,
    vacuum: Annotated[
        Path | None, typer.Option(help="Frames without a specimen: their mean is the probe.", show_default="a disk")
    ] = None,
    ring: Annotated[
        str | None,
        typer.Option(
            help="Fit pixel size and ellipse to the rings of a polycrystal: Au, Al, Ni, Pt, Cu, the lattice parameter "
            "of a cubic F lattice (Å), or plane spacings (Å) with commas."
        ),
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Å⁻¹ per pixel; with --ring, roughly.", show_default="the file's")
    ] = None,
    centre: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="QX QY", help="Direct beam of all frames, pixels.", show_default="found in every frame"),
    ] = None,
    centring: Annotated[
        Literal["plane", "median", "frame"],
        typer.Option(help="plane: linear over the scan. median: one for all frames. frame: each frame's own."),
    ] = "plane",
    max_wander: Annotated[
        float | None,
        typer.Option(help="Of the direct beam from its mean place, pixels.", show_default="3 radii of the probe"),
    ] = None,
    gain: Annotated[
        float | None,
        typer.Option(help="Variance over mean of the counts; 1 for a detector that counts.", show_default="estimated"),
    ] = None,
    saturation: Annotated[
        float | None,
        typer.Option(help="Counts from which on a pixel is saturated.", show_default="the largest of 8 or 16 bits"),
    ] = None,
    min_relative: Annotated[float, typer.Option(min=0, max=1, help="Weakest peak, of the brightest.")] = 5e-4,
    min_significance: Annotated[float, typer.Option(min=0, help="Weakest peak, in standard deviations.")] = 4.5,
    min_spacing: Annotated[
        float | None, typer.Option(help="Between peaks, pixels.", show_default="1.5 radii of the probe")
    ] = None,
    edge: Annotated[
        int | None,
        typer.Option(min=1, help="No peaks nearer to the frame's edge, pixels.", show_default="the kernel's"),
    ] = None,
    max_peaks: Annotated[int, typer.Option(min=1, max=10_000, help="In a frame, the brightest.")] = 100,
    corr_power: Annotated[
        float, typer.Option(min=0.01, max=1, help="1: cross-correlation; less: hybrid, for disks with much structure.")
    ] = 1.0,
    smoothing: Annotated[float, typer.Option(min=0, max=20, help="Of the correlation, pixels.")] = 0.5,
    subpixel: Annotated[
        Literal["parabola", "fourier"], typer.Option(help="fourier: a little finer for strong disks, and slower.")
    ] = "parabola",
    intensity: Annotated[
        Literal["correlation", "aperture"], typer.Option(help="How the counts of a disk are measured.")
    ] = "correlation",
    step_size: Annotated[
        float | None, typer.Option(help="Å between probe positions.", show_default="the file's")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="On a CPU.", show_default="as many as cores")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace peaks that are already there.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find the Bragg peaks in the raw frames of a 4D-STEM scan, and calibrate them."""
    from gpuediff.cli.detect import detect_and_show, detection_settings

    screen = Screen(quiet=quiet, as_json=as_json)
    chosen = choose_device(device, screen, has_gpu_path=True)
    settings = detection_settings(
        corr_power=corr_power,
        smoothing=smoothing,
        min_relative=min_relative,
        min_significance=min_significance,
        min_spacing=min_spacing,
        edge=edge,
        max_peaks=max_peaks,
        subpixel=subpixel,
        intensity=intensity,
    )
    _, written = detect_and_show(
        file,
        out or Path(f"{file.stem}-peaks.h5"),
        screen,
        dataset=dataset,
        scan_shape=scan_shape,
        vacuum=vacuum,
        ring=ring,
        overwrite=overwrite,
        settings=settings,
        radius=radius,
        gain=gain,
        saturation=saturation,
        centre=centre,
        centring=centring,
        max_wander=max_wander,
        pixel_size=pixel_size,
        step_size=step_size,
        threads=threads,
        device=chosen,
    )
    screen.written(*written)


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
