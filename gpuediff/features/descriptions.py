"""What a bundle's manifest says of a feature block, checked against the block that is here."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from gpuediff.errors import InvalidBundle


class Versioned(Protocol):
    """What has a name and a version."""

    name: ClassVar[str]
    version: ClassVar[int]


def stated_values(block: type[Versioned], description: dict[str, Any]) -> dict[str, Any]:
    """Return what a description says beside name and version.

    Raises
    ------
    InvalidBundle
        If it is of another name or version.
    """
    stated = (description.get("name"), description.get("version"))
    if stated != (block.name, block.version):
        raise InvalidBundle(
            f"feature block {stated[0]!r}, version {stated[1]!r}: this gpuediff computes {block.name!r}, version "
            f"{block.version}: install the release that trained the model, or train it again"
        )
    return {key: value for key, value in description.items() if key not in ("name", "version")}
