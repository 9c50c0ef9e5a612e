"""Which patterns belong together: groups of patterns of one material, ragged like peak lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuediff.peaks import offsets_of


@dataclass(frozen=True, eq=False)
class Groups:
    """m groups of patterns; group i has the members `members[offsets[i]:offsets[i + 1]]`.

    A pattern may be in several groups, or in none.

    Parameters
    ----------
    members : array, shape (k,), int64
        Places of patterns in their batch.
    offsets : array, shape (m + 1,), int64
        Start of every group, and the end of the last.
    """

    members: np.ndarray
    offsets: np.ndarray

    @classmethod
    def singles(cls, count: int) -> Groups:
        """Let every one of `count` patterns be a group of its own."""
        return cls(np.arange(count), np.arange(count + 1))

    @classmethod
    def of_labels(cls, labels: np.ndarray) -> Groups:
        """Gather the patterns of each label, (n,) integers, in rising order of the labels; negative labels are none."""
        labels = np.asarray(labels)
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        _, counts = np.unique(labels[order], return_counts=True)
        return cls(order, offsets_of(counts))

    @classmethod
    def join(cls, parts: Sequence[Groups]) -> Groups:
        """Put groups of the same batch one after the other."""
        sizes = [part.sizes for part in parts]
        members = [part.members for part in parts]
        return cls(np.concatenate(members).astype(np.int64), offsets_of(np.concatenate(sizes)))

    @property
    def sizes(self) -> np.ndarray:
        """Number of patterns in every group, shape (m,), int64."""
        return np.diff(self.offsets)

    @property
    def group_of_member(self) -> np.ndarray:
        """Group of every member, shape (k,), int64."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @property
    def first(self) -> np.ndarray:
        """The first pattern of every group, shape (m,), int64; no group may be empty."""
        return self.members[self.offsets[:-1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1
