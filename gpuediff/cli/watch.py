"""Watching a folder for a person: a line for every file that was mapped, or that could not be."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gpuediff.cli.progress import duration
from gpuediff.cli.scan import map_and_show
from gpuediff.cli.screen import Screen, say_error
from gpuediff.durable import exclusive
from gpuediff.errors import GpuediffError, InvalidLibrary
from gpuediff.hierarchy.bundle import load_bundle
from gpuediff.scans.maps import ScanMaps, Status
from gpuediff.scans.readers import read_scan
from gpuediff.scans.watching import MEMORY, Event, Failed, Mapped, Memory, NewFile, model_checksum, watch

if TYPE_CHECKING:
    from gpuediff.hierarchy.hierarchy import Hierarchy
    from gpuediff.scans.particles import Particles


def watch_and_show(
    model: Path,
    folder: Path,
    screen: Screen,
    *,
    out: Path | None = None,
    patterns: Sequence[str] = ("*.h5",),
    settle: float = 2.0,
    interval: float = 1.0,
    patience: float = 30.0,
    once: bool = False,
    reading: dict[str, Any] | None = None,
    **mapping: Any,
) -> None:
    """Map scans as they land in a folder until Ctrl-C, or once; `watch` says what its options do.

    Parameters
    ----------
    model, folder, out : Path
        Bundle, where scans land, and where their maps go: `<folder>-maps` if absent.
    screen : Screen
    reading : dict, optional
        What `read_scan` is asked for every file.
    **mapping
        What `map_scan` is asked for every scan.

    Raises
    ------
    GpuediffError
        If another watch writes to the same folder.
    typer.Exit
        With code 130 after Ctrl-C; with code 1 if `once` and a file failed.
    """
    reading = reading or {}
    out = out or Path(f"{folder.resolve().name}-maps")
    made_with = {"model": model_checksum(model), "options": {**reading, **mapping}}
    hierarchy = load_bundle(model)
    inner = Screen(quiet=True)  # the tables of every scan would bury what the watch has to say
    inner.track = screen.track

    def label(path: Path, target: Path) -> tuple[ScanMaps, Particles]:
        return _label(path, target, hierarchy, inner, reading, mapping)

    told = _Told(screen)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with exclusive(out / MEMORY):
            screen.remark(f"watching {folder} for {', '.join(patterns)}; maps go to {out}; Ctrl-C ends it")
            for event in watch(
                folder,
                label,
                Memory(out, made_with),
                patterns=patterns,
                settle=settle,
                interval=interval,
                patience=patience,
                once=once,
            ):
                told.tell(event)
    except InvalidLibrary as error:
        raise GpuediffError(f"{out}: another watch writes to it: end that one, or choose another --out") from error
    except KeyboardInterrupt as interrupt:
        screen.remark(f"interrupted: {told.summary()}; the same command goes on")
        raise typer.Exit(130) from interrupt
    screen.remark(told.summary())
    if told.failed:
        raise typer.Exit(1)


def _label(
    path: Path, target: Path, hierarchy: Hierarchy, screen: Screen, reading: dict[str, Any], mapping: dict[str, Any]
) -> tuple[ScanMaps, Particles]:
    scan = read_scan(path, track=screen.track, **reading)
    maps, particles, *_ = map_and_show(scan, hierarchy, target, screen, **mapping)
    return maps, particles


class _Told:
    """Tells events, and remembers what became of every file."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.maps = 0
        self.notes = {""}
        self.fate: dict[Path, type[Event]] = {}

    @property
    def failed(self) -> int:
        """Number of files whose last try failed."""
        return Counter(self.fate.values())[Failed]

    def tell(self, event: Event) -> None:
        """Write a line."""
        self.fate[event.path] = type(event)
        name = event.path.name
        match event:
            case NewFile():
                self.screen.remark(f"{name}: {'changed' if event.changed else 'new'}")
                self._json("changed" if event.changed else "new", event)
            case Failed():
                say_error(event.message)
                self._json("failed", event, message=event.message)
            case Mapped():
                self.maps += 1
                maps, particles = event.result
                if maps.note not in self.notes:  # once, not for every scan of a session
                    self.notes.add(maps.note)
                    self.screen.remark(f"{name}: {maps.note}")
                growing = ", still growing" if event.growing else ""
                took = duration(event.seconds)
                self.screen.results.print(
                    f"{name}: {_summed_up(maps, len(particles))}; in {took}{growing}: {event.folder}", soft_wrap=True
                )
                self._json(
                    "mapped",
                    event,
                    folder=str(event.folder),
                    seconds=round(event.seconds, 3),
                    growing=event.growing,
                    shape=list(maps.shape),
                    labelled=maps.count(Status.PREDICTED),
                    systems=dict(_shares(maps)),
                    particles=len(particles),
                    note=maps.note,
                )

    def summary(self) -> str:
        """Sum up what became of the files."""
        fates = Counter(self.fate.values())
        parts = [f"{fates[Mapped]:,} file{'s' * (fates[Mapped] != 1)} mapped"]
        if self.maps != fates[Mapped]:
            parts[0] += f" ({self.maps:,} times)"
        if fates[Failed]:
            failed = [path.name for path, fate in self.fate.items() if fate is Failed]
            parts.append(f"{len(failed):,} failed ({', '.join(failed[:5])}{', …' * (len(failed) > 5)})")
        if fates[NewFile]:
            parts.append(f"{fates[NewFile]:,} not finished")
        return ", ".join(parts)

    def _json(self, kind: str, event: Event, **more: Any) -> None:
        if self.screen.as_json:  # a line for every event, so that a script can follow
            sys.stdout.write(json.dumps({"event": kind, "file": str(event.path), **more}) + "\n")
            sys.stdout.flush()


def _shares(maps: ScanMaps) -> list[tuple[str, float]]:
    shares = zip(maps.systems, maps.filtered_fractions().tolist(), strict=True)
    return sorted(((system, share) for system, share in shares if share > 0), key=lambda one: -one[1])


def _summed_up(maps: ScanMaps, particles: int) -> str:
    ny, nx = maps.shape
    systems = ", ".join(f"{system} {share:.0%}" for system, share in _shares(maps)[:3])
    labelled = f"{maps.count(Status.PREDICTED):,} labelled{f' ({systems})' if systems else ''}"
    return f"{ny} x {nx}, {labelled}, {particles:,} particle{'s' * (particles != 1)}"
