"""The commands of `gpuediff`.

Exit codes: 0 done; 1 an error that the message explains; 2 a wrong command line; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gpuediff.cli import scan_commands
from gpuediff.cli.options import Config, Device, Folder, IntensitySum, Json, Model, Quiet, Seed, choose_device
from gpuediff.cli.screen import Screen, say_error
from gpuediff.errors import GpuediffError

app = typer.Typer(
    help="What crystal is this? Random forests on electron diffraction patterns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
library_app = typer.Typer(help="Pattern libraries.", no_args_is_help=True)
model_app = typer.Typer(help="Model bundles.", no_args_is_help=True)
app.add_typer(library_app, name="library")
app.add_typer(model_app, name="model")


def _print_version(asked: bool) -> None:
    if asked:
        from gpuediff import __version__

        typer.echo(f"gpuediff {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What crystal is this? Random forests on electron diffraction patterns."""


@app.command()
def simulate(
    config: Config,
    folder: Folder = None,
    plot: Annotated[
        str | None,
        typer.Option(metavar="MATERIAL", help="Build no library: draw a pattern of this material of the source."),
    ] = None,
    orientation: Annotated[int, typer.Option(min=0, help="With --plot: which of the run's orientations.")] = 0,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers simulate.")] = None,
    memory: Annotated[
        float, typer.Option(min=0.01, help="GiB that the computation may take, beside a shard of the library.")
    ] = 4.0,
    device: Device = "auto",
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Simulate the pattern library of a run; goes on where an interrupted simulation stopped."""
    from gpuediff import workflow
    from gpuediff.cli.library import library_data, library_table
    from gpuediff.library.reader import Library

    screen = Screen(quiet=quiet, as_json=as_json)
    run, folder = _run_and_folder(config, folder, seed)
    chosen = choose_device(device, screen, has_gpu_path=plot is None)
    if plot is not None:
        from gpuediff.cli.plot import plot_material

        picture = plot_material(run, plot, orientation, folder / "plots")
        screen.result(data={"files": [str(picture)]})
        screen.written(picture)
        return
    path = folder / "library.h5"
    with _shards_kept(path), _workers(scheduler) as executor:
        outcome = workflow.simulate(
            run, path, executor=executor, device=chosen, memory=int(memory * 2**30), track=screen.track
        )
    if outcome == "existed":
        screen.remark(f"{path} is already the library of this configuration")
    elif outcome == "resumed":
        screen.remark("went on where an interrupted simulation stopped")
    with Library(path) as library:
        screen.result(library_table(library), data=library_data(library))


@app.command()
def train(
    config: Config,
    folder: Folder = None,
    library: Annotated[Path | None, typer.Option(help="Pattern library.", show_default="<folder>/library.h5")] = None,
    out: Annotated[Path | None, typer.Option(help="The model bundle.", show_default="<folder>/model")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model bundle.")] = False,
    device: Device = "auto",
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the hierarchy of random forests on a pattern library."""
    from gpuediff import workflow
    from gpuediff.cli import show
    from gpuediff.hierarchy.bundle import bundle_info, check_target, save_bundle
    from gpuediff.library.reader import Library

    screen = Screen(quiet=quiet, as_json=as_json)
    run, folder = _run_and_folder(config, folder, seed)
    choose_device(device, screen)
    out = out or folder / "model"
    check_target(out, overwrite=overwrite)
    with Library(library or folder / "library.h5") as patterns:
        hierarchy = workflow.train(run, patterns, track=screen.track)
        save_bundle(hierarchy, out, library=patterns.info(), overwrite=overwrite)
    info = bundle_info(out)
    screen.result(show.bundle(out, info), data=info)


@app.command()
def evaluate(
    config: Config,
    folder: Folder = None,
    library: Annotated[Path | None, typer.Option(help="Pattern library.", show_default="<folder>/library.h5")] = None,
    model: Annotated[Path | None, typer.Option(help="Model bundle.", show_default="<folder>/model")] = None,
    aggregate: Annotated[int, typer.Option(min=2, help="Patterns in an aggregate.")] = 10,
    protocols: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            help="grid, any, measured or hard: what the detector does to the test patterns. May be repeated.",
            show_default="the library's, a perfect detector",
        ),
    ] = None,
    side: Annotated[
        Literal["test", "validation"],
        typer.Option(help="Which materials: choose a model on the validation materials, report the test once."),
    ] = "test",
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score a model on the materials it was not trained on; writes metrics and pictures."""
    from gpuediff import workflow
    from gpuediff.cli import show
    from gpuediff.evaluation.report import write_report
    from gpuediff.hierarchy.bundle import bundle_info, load_bundle, record_metrics
    from gpuediff.library.reader import Library

    screen = Screen(quiet=quiet, as_json=as_json)
    _, folder = _run_and_folder(config, folder, None)
    choose_device(device, screen)
    model = model or folder / "model"
    with Library(library or folder / "library.h5") as patterns:
        hierarchy = load_bundle(model)
        scored = [
            workflow.evaluate(
                patterns, hierarchy, protocol=name, side=side, aggregate_size=aggregate, track=screen.track
            )
            for name in protocols or [patterns.run.simulation.orientations.protocol]
        ]
    evaluations, answers = [list(part) for part in zip(*scored, strict=True)]
    written = write_report(
        folder / ("evaluation" if side == "test" else "evaluation-validation"),
        evaluations,
        answers,
        model=model.name,
        importances=hierarchy.importances(),
    )
    metrics = {one.protocol: dataclasses.asdict(one) for one in evaluations}
    record_metrics(model, (bundle_info(model)["metrics"] or {}) | {side: metrics})
    tables = [table for one in evaluations for table in (show.overview(one), show.by_system(one))]
    screen.result(*tables, data=metrics)
    screen.written(*written)


@app.command()
def predict(
    model: Model,
    peaks: Annotated[Path, typer.Argument(help="Table (CSV, Parquet): pattern, qx, qy (Å⁻¹), intensity (any unit).")],
    together: Annotated[
        bool, typer.Option("--together", help="All patterns are of one material: give one answer.")
    ] = False,
    error_rate: Annotated[
        float | None,
        typer.Option(
            help="Leave undecided what is too doubtful, so that at most this share of the crystal systems given is "
            "wrong: 0.01, 0.02, 0.05, 0.1 or 0.2.",
            show_default="an answer to every pattern",
        ),
    ] = None,
    intensity_sum: IntensitySum = None,
    out: Annotated[Path | None, typer.Option(help="Write the answers to a table (.csv, .parquet).")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Predict crystal system, space group and lattice from lists of Bragg peaks."""
    import numpy as np

    from gpuediff import workflow
    from gpuediff.cli import show
    from gpuediff.hierarchy.bundle import load_bundle
    from gpuediff.tables import check_table_path, doubts, prediction_records, read_peak_table, write_predictions

    screen = Screen(quiet=quiet, as_json=as_json)
    choose_device(device, screen)
    if out is not None:
        check_table_path(out)
    names, batch = read_peak_table(peaks)
    for doubt in doubts(batch):
        screen.remark(f"{peaks}: {doubt}")
    hierarchy = load_bundle(model)
    several = together and len(batch) > 1
    least = None if error_rate is None else hierarchy.least_probability(error_rate, together=several)
    flags = None
    if together:
        groups = np.zeros(len(batch), dtype=np.int64)
        prediction = workflow.predict(hierarchy, batch, groups=groups, intensity_sum=intensity_sum)
    else:
        features = workflow.describe(hierarchy, batch, intensity_sum=intensity_sum)
        prediction, flags = hierarchy.predict(features), hierarchy.flags(features)
        if (flags.novelty > 0.95).mean() > 0.5:
            screen.remark(f"{peaks}: most patterns are unlike any that the model knows: check the pixel size first")
    decided = None if least is None else prediction.system_probability >= least
    if together:
        names = [f"all {len(batch)} patterns"]
    if out is not None:
        write_predictions(out, names, prediction, decided, flags)
    shown = min(len(names), 50)
    title = f"{peaks.name}" if shown == len(names) else f"{peaks.name}: the first {shown} of {len(names):,} answers"
    table = show.predictions(
        names[:shown], prediction[np.arange(shown)], title=title, width=screen.results.width, decided=decided
    )
    screen.result(table, data=prediction_records(names, prediction, decided, flags))
    if decided is not None:
        screen.remark(
            f"{int((~decided).sum()):,} of {len(decided):,} undecided: their probability is below {least:.3f}, from "
            f"which on at most {error_rate:.0%} of the crystal systems are wrong, by the model's validation materials"
        )
    if out is not None:
        screen.written(out)


app.command()(scan_commands.detect)
app.command()(scan_commands.scan)
app.command()(scan_commands.watch)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", "-f", help="Where to write.")] = Path("runs/demo"),
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Show the whole way: simulate, train, evaluate, and map a simulated scan; with pictures."""
    from gpuediff.cli.demo import run_demo

    run_demo(folder, seed, Screen(quiet=quiet))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Tell what hardware and packages there are, and which path gpuediff takes."""
    from gpuediff.cli import show
    from gpuediff.doctor import examine

    report = examine()
    Screen(as_json=as_json).result(*show.doctor(report), data=report)


@library_app.command("info")
def library_info(
    file: Annotated[Path, typer.Argument(help="A pattern library.")],
    skipped: Annotated[bool, typer.Option("--skipped", help="List every structure left out, with its reason.")] = False,
    as_json: Json = False,
) -> None:
    """Tell what a pattern library holds."""
    from gpuediff.cli import show
    from gpuediff.cli.library import library_data, library_table
    from gpuediff.library.reader import Library

    screen = Screen(as_json=as_json)
    with Library(file) as library:
        if skipped:
            left_out = {structure.material_id: structure.reason for structure in library.skipped}
            title = f"{file}: structures left out" if left_out else f"{file}: no structure was left out"
            screen.result(show.key_values(title, left_out), data=left_out)
        else:
            screen.result(library_table(library), data=library_data(library))


@model_app.command("info")
def model_info(model: Model, as_json: Json = False) -> None:
    """Tell what a model bundle was trained on and what it predicts."""
    from gpuediff.cli import show
    from gpuediff.hierarchy.bundle import bundle_info

    info = bundle_info(model)
    Screen(as_json=as_json).result(show.bundle(model, info), data=info)


def _run_and_folder(config: Path, folder: Path | None, seed: int | None) -> tuple[Any, Path]:
    from gpuediff.settings import load_run

    run = load_run(config)
    return (run if seed is None else run.with_seed(seed)), folder or Path("runs") / config.stem


@contextlib.contextmanager
def _shards_kept(path: Path) -> Iterator[None]:
    """On Ctrl-C, say what is kept of a library and how to go on, and end with code 130."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        shards = len(list(Path(f"{path}.parts").glob("shard-*.h5")))
        kept = f"{shards:,} finished shard{'s are' if shards != 1 else ' is'} kept in {path}.parts"
        how = "run the same command again to go on" if shards else "the same command starts anew"
        say_error(f"interrupted: {kept if shards else 'no shard was finished yet, nothing is kept'}; {how}")
        raise typer.Exit(130) from interrupt


@contextlib.contextmanager
def _workers(scheduler: str | None) -> Iterator[Any]:
    """Yield an executor on the workers of a Dask scheduler; None where none is asked for."""
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise GpuediffError("--scheduler needs Dask: run pip install 'gpuediff[distributed]'") from error
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise GpuediffError(f"--scheduler {scheduler}: cannot be reached: {error}") from error
    with client:
        yield client.get_executor()


def run() -> None:
    """Run the command line; an error that was raised on purpose ends in one message, not in a traceback."""
    try:
        app()
    except (GpuediffError, OSError) as error:
        say_error(f"error: {error}")
        sys.exit(1)
