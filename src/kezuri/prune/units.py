"""Units: the pieces of one group of weights that live or die as one.

Everything here is on the CPU and in float64 or int64, whatever device the weights are on, so that the same
scores give the same masks everywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from kezuri.model.coupling import Coupling, Member


@dataclass(frozen=True, eq=False)
class UnitGroup(ABC):
    """Units that are alike: the tiles of one weight, or the channels of one coupling.

    Attributes:
        name: the weight's parameter name, or the coupling's name.
        sizes: how many weights go with each unit, (units,) int64.
        floor: how many units are kept whatever they are worth.
        run: this many units in a row are neighbours along one axis; N:M divides them.
        step: units go this many at a time, so that the number kept is a multiple of it.
        scored: the weights whose scores `pool` needs, each with the dimension that a criterion is to take
            for the outputs.
        shape: of the one weight it splits, outputs first; None when it spans several.
        likeness: what groups of equal shape have in common.
    """

    name: str
    sizes: Tensor
    floor: int
    run: int
    step: int
    scored: Mapping[str, int]
    shape: tuple[int, ...] | None
    likeness: Hashable

    @abstractmethod
    def pool(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The score of each unit, (units,) float64, from scores of each weight in `scored`."""

    @abstractmethod
    def spread(self, values: Tensor, fill: int) -> dict[str, Tensor]:
        """One integer a unit, (units,), laid over the weights that go with it, by parameter name.

        A weight in two units gets the smaller value, a weight in none gets `fill`.
        """

    def slices(self, values: Tensor, fill: int) -> dict[str, list[Tensor]] | None:  # noqa: ARG002
        """The same as one vector a dimension, whose smallest entry counts; None where units are no slices.

        Units that are no slices do not overlap.
        """
        return None

    def expand(self, kept: Tensor) -> dict[str, Tensor]:
        """Masks (True = kept) by parameter name, from one flag a unit, (units,) bool."""
        return {name: values.bool() for name, values in self.spread(kept.long(), fill=1).items()}


@dataclass(frozen=True, eq=False)
class Tiles(UnitGroup):
    """Tiles of one weight seen as outputs x kernel positions x inputs; a ragged edge makes smaller tiles."""

    extent: tuple[int, int, int]
    tile: tuple[int, int, int]

    @classmethod
    def of(cls, name: str, weight: Tensor, tile: tuple[int, int, int], *, floor: int = 0) -> "Tiles":
        """Splits `weight`; a tile length of 0 means the whole axis."""
        extent = (weight.shape[0], prod(weight.shape[2:]), weight.shape[1])
        tile = (tile[0] or extent[0], tile[1] or extent[1], tile[2] or extent[2])
        lengths = [
            torch.tensor([min(step, whole - at) for at in range(0, whole, step)])
            for whole, step in zip(extent, tile, strict=True)
        ]
        sizes = lengths[0][:, None, None] * lengths[1][:, None] * lengths[2]
        rows, positions, columns = sizes.shape
        return cls(
            name=name,
            sizes=sizes.flatten(),
            floor=min(floor, sizes.numel()),
            run=rows if positions == columns == 1 else columns,
            step=1,
            scored={name: 0},
            shape=tuple(weight.shape),
            likeness=(tuple(weight.shape), tile),
            extent=extent,
            tile=tile,
        )

    @property
    def _grid(self) -> tuple[int, int, int]:
        rows, positions, columns = (
            ceil(whole / step) for whole, step in zip(self.extent, self.tile, strict=True)
        )
        return rows, positions, columns

    def pool(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The mean score of each tile."""
        cube = scores[self.name].double().movedim(1, -1).reshape(self.extent)
        edges = [-whole % step for whole, step in zip(self.extent, self.tile, strict=True)]
        cube = pad(cube, (0, edges[2], 0, edges[1], 0, edges[0]))
        split = [length for pair in zip(self._grid, self.tile, strict=True) for length in pair]
        return cube.view(split).sum((1, 3, 5)).flatten().cpu() / self.sizes

    def spread(self, values: Tensor, fill: int) -> dict[str, Tensor]:  # noqa: ARG002 (tiles leave no gap)
        cube = values.view(self._grid)
        for axis, (whole, step) in enumerate(zip(self.extent, self.tile, strict=True)):
            cube = cube.repeat_interleave(step, axis).narrow(axis, 0, whole)
        assert self.shape is not None
        outputs, inputs, *kernel = self.shape
        return {self.name: cube.reshape(outputs, *kernel, inputs).movedim(-1, 1)}


@dataclass(frozen=True, eq=False)
class Channels(UnitGroup):
    """The channels of one coupling, with their slices of every weight that reads or writes them.

    Attributes:
        judged: the members whose slices say what a channel is worth: those that produce it; those that read
            it where no weight does, as with a loose parameter that is added or multiplied.
        members: all that hold weights.
        shapes: of the members, by parameter name.
        summed: whether scores are added up over `judged`, else averaged.
    """

    judged: tuple[Member, ...]
    members: tuple[Member, ...]
    shapes: Mapping[str, tuple[int, ...]]
    summed: bool

    @classmethod
    def of(
        cls, coupling: Coupling, weights: Mapping[str, Tensor], *, floor: int, step: int, summed: bool
    ) -> "Channels":
        """The channels of `coupling` as far as `weights` know them, which hold all that is judged."""
        members = tuple(member for member in coupling.members if member.parameter in weights)
        shapes = {member.parameter: tuple(weights[member.parameter].shape) for member in members}
        size = sum(_slice_size(shape, name, members) for name, shape in shapes.items())
        floor = min(coupling.width, ceil(floor / step) * step)
        judged = judges(coupling)
        scored: dict[str, int] = {}
        for member in judged:
            scored.setdefault(member.parameter, member.dim)
        return cls(
            name=coupling.name,
            sizes=torch.full((coupling.width,), size),
            floor=floor,
            run=coupling.width,
            step=step,
            scored=scored,
            shape=None,
            likeness=likeness(coupling, shapes),
            judged=judged,
            members=members,
            shapes=shapes,
            summed=summed,
        )

    def pool(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The mean score of a channel's slice of each weight judged, summed (or averaged) over those."""
        total = torch.zeros(self.sizes.numel(), dtype=torch.float64)
        for member in self.judged:
            rows = scores[member.parameter].movedim(member.dim, 0)
            each = rows.reshape(len(rows), -1).mean(1, dtype=torch.float64).cpu()
            total += each[torch.as_tensor(member.positions)].mean(1)
        return total if self.summed else total / len(self.judged)

    def spread(self, values: Tensor, fill: int) -> dict[str, Tensor]:
        laid = {}
        for name, vectors in self.slices(values, fill).items():
            laid[name] = torch.full(self.shapes[name], fill, dtype=torch.int64)
            for dim, along in enumerate(vectors):
                laid[name] = torch.minimum(laid[name], _over(along, dim, len(vectors)))
        return laid

    def expand(self, kept: Tensor) -> dict[str, Tensor]:
        masks = {}
        for name, vectors in self.slices(kept.long(), fill=1).items():
            masks[name] = torch.ones(self.shapes[name], dtype=torch.bool)
            for dim, along in enumerate(vectors):
                masks[name].index_fill_(dim, (along == 0).nonzero().flatten(), False)
        return masks

    def slices(self, values: Tensor, fill: int) -> dict[str, list[Tensor]]:
        vectors = {
            name: [torch.full((size,), fill, dtype=torch.int64) for size in shape]
            for name, shape in self.shapes.items()
        }
        for member in self.members:
            positions = torch.as_tensor(member.positions)
            along = vectors[member.parameter][member.dim]
            along[positions.flatten()] = values.repeat_interleave(positions.shape[1])
        return vectors


def _over(along: Tensor, dim: int, dims: int) -> Tensor:
    """A vector as a view that spans dimension `dim` of a tensor of `dims` dimensions."""
    return along.view([-1 if other == dim else 1 for other in range(dims)])


def likeness(coupling: Coupling, shapes: Mapping[str, tuple[int, ...]]) -> Hashable:
    """What couplings of equal shape have in common: width, and the members whose shapes are given."""
    known = (member for member in coupling.members if member.parameter in shapes)
    return coupling.width, tuple(
        sorted((one.role, one.dim, one.positions.shape[1], shapes[one.parameter]) for one in known)
    )


def judges(coupling: Coupling) -> tuple[Member, ...]:
    """The members that say what a channel is worth: its producers; its consumers where it has none."""
    for role in ("output", "input"):
        if found := tuple(member for member in coupling.members if member.role == role):
            return found
    return ()


def _slice_size(shape: tuple[int, ...], parameter: str, members: tuple[Member, ...]) -> int:
    """How many entries of one weight go with one channel; a weight may have it as output and as input."""
    rest = list(shape)
    for member in members:
        if member.parameter == parameter:
            rest[member.dim] -= member.positions.shape[1]
    return prod(shape) - prod(rest)
