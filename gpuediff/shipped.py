"""Files that travel with the package: CUDA sources and example configurations."""

from __future__ import annotations

from pathlib import Path


def shipped_file(folder: str, name: str) -> Path:
    """Return the path of a file in the installed package, or beside it in the repository.

    Raises
    ------
    FileNotFoundError
        If it is in neither place.
    """
    package = Path(__file__).resolve().parent
    candidates = [place / folder / name for place in (package, package.parent)]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {folder}/{name}: looked for {' and '.join(map(str, candidates))}")
