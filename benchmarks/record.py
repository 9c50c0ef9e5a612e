"""A benchmark's record: what was measured, where, with which versions, at which commit."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from gpuediff.doctor import examine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write_record(name: str, content: dict[str, Any]) -> Path:
    """Write a dated, machine-labelled record to benchmarks/results and return its path."""
    seen = examine()
    record = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {
            "processor": _processor(),
            "cores": seen["cores"],
            "memory_gib": seen["memory_gib"],
            "gpu": seen["gpu"],
        },
        "python": seen["python"],
        "packages": {package: version for package, version in seen["packages"].items() if version},
        **content,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
