"""The role of a granularity: what is removed together?

A granularity splits the weights into groups of units: single weights, blocks, filters, or channels with
everything that reads and writes them. A unit is worth the mean score of its weights. Filters of one layer
can be zeroed without asking the others; coupled channels can be cut out, so that the model gets smaller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, gcd
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from kezuri.core.errors import RecipeError, UsageError
from kezuri.core.registry import Registry
from kezuri.model.coupling import Coupling, Couplings
from kezuri.prune.criterion import Fineness
from kezuri.prune.units import Channels, Tiles, UnitGroup, judges


class Granularity(Protocol):
    """Splits weights into groups of units that live or die as one."""

    finest: ClassVar[Fineness]
    """What a criterion must tell apart for it: single weights, or output channels only."""

    coupled: ClassVar[bool]
    """Whether its groups are couplings, whose channels can be cut out."""

    def groups(self, weights: Mapping[str, Tensor], couplings: Couplings | None) -> Sequence[UnitGroup]:
        """The groups, in the order of the weights; `couplings` of the model if it needs them."""
        ...


granularities: Registry[type[Granularity]] = Registry("granularity")


@granularities.register("weight")
@dataclass(frozen=True)
class Weight:
    """Every weight on its own."""

    finest: ClassVar[Fineness] = "weight"
    coupled: ClassVar[bool] = False

    def groups(
        self,
        weights: Mapping[str, Tensor],
        couplings: Couplings | None = None,  # noqa: ARG002 (the role's)
    ) -> list[UnitGroup]:
        return [Tiles.of(name, weight, (1, 1, 1)) for name, weight in weights.items()]


@granularities.register("block")
@dataclass(frozen=True)
class Block:
    """Tiles of neighbouring outputs and inputs, at one kernel position; smaller at a ragged edge.

    Attributes:
        rows: output channels a tile.
        columns: input channels a tile.
    """

    rows: int = 4
    columns: int = 1

    finest: ClassVar[Fineness] = "weight"
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise RecipeError(f"a block is at least 1x1, got {self.rows}x{self.columns}")

    def groups(
        self,
        weights: Mapping[str, Tensor],
        couplings: Couplings | None = None,  # noqa: ARG002 (the role's)
    ) -> list[UnitGroup]:
        return [Tiles.of(name, weight, (self.rows, 1, self.columns)) for name, weight in weights.items()]


@granularities.register("filter")
@dataclass(frozen=True)
class Filter:
    """All weights of one output of one layer, whatever reads it; each layer keeps at least one."""

    finest: ClassVar[Fineness] = "channel"
    coupled: ClassVar[bool] = False

    def groups(
        self,
        weights: Mapping[str, Tensor],
        couplings: Couplings | None = None,  # noqa: ARG002 (the role's)
    ) -> list[UnitGroup]:
        return [Tiles.of(name, weight, (1, 0, 0), floor=1) for name, weight in weights.items()]


@granularities.register("channel")
@dataclass(frozen=True)
class Channel:
    """A channel with everything coupled to it: rows of its producers, columns of its consumers.

    A channel is worth the mean score of its slice of a producer, added up over the producers. Where no weight
    produces it (a loose parameter that is added, say), the slices of the layers that read it are scored.

    Attributes:
        floor: units (channels, heads) kept at least in every coupling.
        floor_fraction: the same as a fraction of its units; the larger of the two holds.
        round_to: the number of channels kept is a multiple of this, except where nothing is removed. A unit
            of several channels, such as a head, counts as that many.
        narrow: what that means where there are fewer than 4·round_to channels: `same`, or `finer` for the
            largest power of two that goes into them four times (16 channels lose 4 at a time, 8 lose 2).
        producers: `sum` adds the producers' scores up, as a loss adds up; `mean` averages them, so that
            channels of a residual sum compete on equal terms with those that have one producer.
        residual: whether channels that several layers add into are candidates too.
    """

    floor: int = 1
    floor_fraction: float = 0.05
    round_to: int = 1
    narrow: Literal["same", "finer"] = "same"
    producers: Literal["sum", "mean"] = "sum"
    residual: bool = True

    finest: ClassVar[Fineness] = "channel"
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.floor < 1 or self.round_to < 1:
            raise RecipeError(
                f"floor and round_to are at least 1, got floor={self.floor}, round_to={self.round_to}"
            )
        if not 0 <= self.floor_fraction <= 1:
            raise RecipeError(f"floor_fraction is a fraction from 0 to 1, got {self.floor_fraction}")
        if self.narrow not in ("same", "finer"):
            raise RecipeError(f"narrow is 'same' or 'finer', got {self.narrow!r}")
        if self.producers not in ("sum", "mean"):
            raise RecipeError(f"producers are combined by 'sum' or 'mean', got {self.producers!r}")

    def candidates(self, couplings: Couplings) -> tuple[Coupling, ...]:
        """The couplings that may lose channels."""
        return tuple(c for c in couplings.free if self.residual or not couplings.is_residual(c))

    def groups(self, weights: Mapping[str, Tensor], couplings: Couplings | None) -> list[UnitGroup]:
        """One group a candidate whose producers (or else consumers) are all among `weights`.

        Raises:
            UsageError: no couplings were given.
        """
        if couplings is None:
            raise UsageError(
                "channels are coupled across layers: pass couplings=couple(model, example_inputs) from "
                "kezuri.model.coupling, or choose the granularity 'filter'"
            )
        groups: list[UnitGroup] = []
        for coupling in self.candidates(couplings):
            judged = judges(coupling)
            if judged and all(member.parameter in weights for member in judged):
                floor = max(self.floor, ceil(round(self.floor_fraction * coupling.width, 6)))
                step, summed = self.step(coupling), self.producers == "sum"
                groups.append(Channels.of(coupling, weights, floor=floor, step=step, summed=summed))
        return groups

    def step(self, coupling: Coupling) -> int:
        """How many units of a coupling go at a time, for `round_to`."""
        each = min(member.positions.shape[1] for member in coupling.members if member.role != "other")
        whole, channels = self.round_to, each * coupling.width
        if self.narrow == "finer" and channels < 4 * whole:
            whole = 1 << max(0, (channels // 4).bit_length() - 1)
        return whole // gcd(whole, each)
