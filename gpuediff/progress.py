"""How long loops report how far they are: a `Track` wraps the iterable and hands its items through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Workload(Generic[Item]):
    """An iterable whose items differ in size and cost, both known before the items are worked on.

    Parameters
    ----------
    items : iterable
    sizes : sequence of int
        What is in every item, counted in `unit`.
    costs : sequence of float
        How long every item is expected to take, in whatever unit.
    unit : str
        E.g. "patterns".
    """

    items: Iterable[Item]
    sizes: Sequence[int]
    costs: Sequence[float]
    unit: str

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.sizes)


class Track(Protocol):
    """Wraps an iterable; `total` is needed where it has no length, and a `Workload` tells more than that."""

    def __call__(self, items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
        """Yield the items unchanged, showing progress on the way."""
        ...


def silent(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Show nothing."""
    return items
