"""Named, versioned feature blocks: a model bundle states exactly what it was trained on.

A block's description is a flat dictionary that goes into the bundle's manifest, and comes back through
`block_from_description`. Whatever changes the numbers of a block raises its version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import ValidationError

from gpuediff import arrays
from gpuediff.errors import InvalidBundle
from gpuediff.features.descriptions import stated_values
from gpuediff.features.groups import Groups
from gpuediff.features.lattice import LatticeBlock
from gpuediff.features.preparation import remove_direct_beam
from gpuediff.features.radial_basis import RadialBasis, magnitudes_and_arguments
from gpuediff.peaks import DIRECT_BEAM_RADIUS, PeakBatch
from gpuediff.settings import Features, LatticeFeatures, Run


class FeatureBlock(Protocol):
    """What training, prediction and bundles know of a feature family."""

    name: ClassVar[str]
    version: ClassVar[int]
    dtype: ClassVar[np.dtype]
    pools: ClassVar[bool]  # whether it describes several patterns of one material together

    @property
    def width(self) -> int:
        """Number of features."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """A name for every feature."""
        ...

    def compute(self, peaks: PeakBatch, groups: Groups | None = None) -> Any:
        """Return the features, shape (n, width), on the device of `peaks`; of m groups if the block pools."""
        ...

    def lattice(self, features: Any, system: str) -> np.ndarray | None:
        """Return the conventional cells that the features hold, (n, 6); None if they hold none and it is learned."""
        ...

    def lattice_uncertainty(self, features: Any, system: str) -> np.ndarray | None:
        """Return the standard uncertainties of those cells, (n, 6); None if there are none."""
        ...

    def description(self) -> dict[str, Any]:
        """Return what `block_from_description` needs to make the block again."""
        ...


@dataclass(frozen=True)
class RadialBasisBlock:
    """The paper's features: |R_00|, arg R_00, |R_01|, ... of the radial-angular basis, direct beam removed.

    Parameters
    ----------
    basis : RadialBasis
        Rings and angular orders.
    direct_beam : "centre" or "brightest"
        Which peak is removed, see `preparation.remove_direct_beam`.
    """

    name: ClassVar[str] = "radial_basis"
    version: ClassVar[int] = 1
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)
    pools: ClassVar[bool] = False

    basis: RadialBasis
    direct_beam: Literal["centre", "brightest"]

    @classmethod
    def from_settings(cls, settings: Features) -> RadialBasisBlock:
        """Take the block of a run."""
        return cls(RadialBasis.from_settings(settings), settings.direct_beam)

    @property
    def width(self) -> int:
        """Number of features, two for a coefficient."""
        return 2 * self.basis.rings * self.basis.orders

    @property
    def columns(self) -> tuple[str, ...]:
        """Names such as abs_R_03_07 and arg_R_03_07: ring 3, order 7."""
        return tuple(
            f"{part}_R_{n:02d}_{m:02d}"
            for n in range(self.basis.rings)
            for m in range(self.basis.orders)
            for part in ("abs", "arg")
        )

    def compute(self, peaks: PeakBatch, groups: Groups | None = None, *, rotation: Any = None) -> Any:
        """Turn peak lists into features, in batches that fit the memory.

        Parameters
        ----------
        peaks : PeakBatch
            n patterns, the direct beam still in them; q in Å⁻¹.
        groups : None
            Coefficients of several patterns are not pooled: their votes are.
        rotation : array, shape (n,), optional
            In-plane rotation of each pattern, radians, anticlockwise.

        Returns
        -------
        array, shape (n, width), float32
            On the device of `peaks`. Coefficients at rounding level are (0, 0), see
            `radial_basis.magnitudes_and_arguments`.

        Raises
        ------
        InvalidPeaks
            If a position or an intensity is not finite, or an intensity is negative; names the pattern and peak by
            their place in `peaks`.
        ValueError
            If groups are given.
        """
        if groups is not None:
            raise ValueError(f"groups: the block {self.name!r} describes every pattern by itself")
        peaks.validate()
        xp = arrays.namespace(peaks.qx)
        features = xp.empty((len(peaks), self.width), dtype=self.dtype)

        def compute_batch(batch: slice) -> None:
            diffracted = remove_direct_beam(peaks[batch], self.direct_beam, DIRECT_BEAM_RADIUS)
            turned = None if rotation is None else rotation[batch]
            polar = magnitudes_and_arguments(diffracted, self.basis, rotation=turned)
            features[batch] = polar.reshape(len(polar), self.width)

        # A peak is copied twice (12 bytes each), and ranked and masked beside (about 80 bytes).
        bytes_per_pattern = 104 * arrays.to_host(peaks.counts) + self.width * self.dtype.itemsize
        arrays.run_batches(compute_batch, arrays.plan_batches(len(peaks), bytes_per_pattern, arrays.memory_budget(xp)))
        return features

    def lattice(self, features: Any, system: str) -> None:
        """Coefficients hold no lattice: forests learn it."""

    def lattice_uncertainty(self, features: Any, system: str) -> None:
        """Nor an uncertainty: the trees' spread takes its place."""

    def description(self) -> dict[str, Any]:
        """Return what makes this block again, in values that JSON knows."""
        return {
            "name": self.name,
            "version": self.version,
            "rings": self.basis.rings,
            "ring_spacing": self.basis.ring_spacing,
            "orders": self.basis.orders,
            "direct_beam": self.direct_beam,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> RadialBasisBlock:
        """Make the block that `description` came from.

        Raises
        ------
        InvalidBundle
            If it is of another name or version, or a value is missing, unknown or out of range.
        """
        values = stated_values(cls, description)
        missing = sorted(set(Features.model_fields) - {"block"} - set(values))
        if missing:
            raise InvalidBundle(
                f"feature block {cls.name!r} does not state {', '.join(missing)}: the bundle is damaged"
            )
        try:
            return cls.from_settings(Features.model_validate(values))
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise InvalidBundle(
                f"feature block {cls.name!r}: {key} = {fault['input']!r}: {fault['msg']}: the bundle is damaged"
            ) from error


BLOCKS: dict[str, type[RadialBasisBlock] | type[LatticeBlock]] = {
    RadialBasisBlock.name: RadialBasisBlock,
    LatticeBlock.name: LatticeBlock,
}


def block_of_run(run: Run) -> FeatureBlock:
    """Return the block that a run asks for."""
    if isinstance(run.features, LatticeFeatures):
        return LatticeBlock(run.simulation.beam_energy)
    return RadialBasisBlock.from_settings(run.features)


def block_from_description(description: dict[str, Any]) -> FeatureBlock:
    """Make a block from what its `description` returned.

    Raises
    ------
    InvalidBundle
        If no block has that name, or the block refuses the description.
    """
    name = description.get("name")
    if name not in BLOCKS:
        raise InvalidBundle(
            f"feature block {name!r} is unknown; known are {', '.join(sorted(BLOCKS))}: install the release that "
            f"trained the model"
        )
    return BLOCKS[name].from_description(description)
