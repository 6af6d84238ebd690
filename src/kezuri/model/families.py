"""What must go together: the answer of the coupling analysis."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, overload

from torch import Tensor

from kezuri.core.registry import unknown
from kezuri.model.channels import DEFAULT, Choices, Role
from kezuri.model.union_find import Ids


@dataclass(frozen=True, eq=False)
class Member:
    """The part of one parameter or buffer that belongs to a coupling.

    Attributes:
        parameter: its name; of a parameter held twice, the first.
        dim: the dimension that gets shorter.
        positions: (width, k) int64: the k positions along `dim` that unit i takes.
        role: what the layer uses the dimension for; "other" for biases, norms, scales and buffers.
    """

    parameter: str
    dim: int
    positions: Ids
    role: Role

    @property
    def layer(self) -> str:
        """The module that holds it; the full name where it is not a module's `weight`."""
        owner, _, leaf = self.parameter.rpartition(".")
        return owner if leaf == "weight" and owner else self.parameter


@dataclass(frozen=True, eq=False)
class Coupling:
    """Units (channels, neurons) of several layers; unit i goes from all members or from none.

    Attributes:
        name: the first layer, in execution order, that produces it.
        width: how many units there are.
        members: everything that changes when a unit goes.
        reason: None if units may be removed, else why not.
        rewrite: why units can go in a rewritten program only, not in the model's own class; else None.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    reason: str | None
    rewrite: str | None = None

    @property
    def producers(self) -> tuple[str, ...]:
        """The layers whose outputs the units are, in execution order."""
        return tuple(member.layer for member in self.members if member.role == "output")

    @property
    def consumers(self) -> tuple[tuple[str, Member], ...]:
        """The layers that read the units, with what they read."""
        return tuple((member.layer, member) for member in self.members if member.role == "input")


@dataclass(frozen=True)
class Row:
    """How one layer ends: `width` output channels, `kept` of them, and why no more could go."""

    layer: str
    width: int
    kept: int
    state: Literal["cut", "kept", "blocked"]
    reason: str | None


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: where its output channels are.

    Attributes:
        parameter: the weight; None if it is computed (parametrized) or the example input does not reach it.
        channels: output channels for one position along `dim` (more than 1 in grouped transposed ones).
        depthwise: each output channel sees a single input channel, so that the layer passes channels on.
    """

    name: str
    width: int
    parameter: str | None
    dim: int
    channels: int
    depthwise: bool = False


@dataclass(frozen=True, eq=False)
class Couplings(Sequence[Coupling]):
    """All couplings of a model, in execution order, the blocked ones with their reason.

    Attributes:
        shapes: the shape of every parameter and buffer that was seen, by name.
        layers: every prunable layer of the model.
        choices: what was left to the user when they were found.
    """

    items: tuple[Coupling, ...]
    shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[Layer, ...]
    choices: Choices = DEFAULT

    @overload
    def __getitem__(self, index: int) -> Coupling: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Coupling, ...]: ...
    def __getitem__(self, index: int | slice) -> Coupling | tuple[Coupling, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Coupling]:
        return iter(self.items)

    @cached_property
    def free(self) -> tuple[Coupling, ...]:
        """Those whose units may be removed."""
        return tuple(coupling for coupling in self.items if coupling.reason is None)

    def is_residual(self, coupling: Coupling) -> bool:
        """Whether several layers add into the coupling's channels; depthwise ones only pass them on."""
        passing = {layer.name for layer in self.layers if layer.depthwise}
        return len(set(coupling.producers) - passing) > 1

    def named(self, name: str) -> Coupling:
        """The coupling of this name; UnknownName lists what there is."""
        for coupling in self.items:
            if coupling.name == name:
                return coupling
        raise unknown("coupling", name, [coupling.name for coupling in self.items])

    def explain(self, kept: Mapping[str, Tensor] | None = None) -> list[Row]:
        """One row for every convolution and linear layer: cut, kept, or blocked and why.

        Args:
            kept: by coupling name, (width,) bool, True = kept; couplings not named are whole.
        """
        return [self._row(layer, kept or {}) for layer in self.layers]

    def _row(self, layer: Layer, kept: Mapping[str, Tensor]) -> Row:
        if layer.parameter is None:
            return Row(
                layer.name, layer.width, layer.width, "blocked", "not reached, or its weight is computed"
            )
        gone, free, stuck = 0, 0, dict[str, int]()
        for coupling, member in self._outputs[layer.parameter, layer.dim]:
            each = member.positions.shape[1] * layer.channels
            if coupling.reason is None:
                free += each * coupling.width
            else:
                stuck[coupling.reason] = stuck.get(coupling.reason, 0) + each * coupling.width
            if coupling.name in kept:
                gone += each * int((~kept[coupling.name]).sum())
        why = "; ".join(f"{count} of {layer.width}: {reason}" for reason, count in stuck.items())
        reason = (next(iter(stuck)) if len(stuck) == 1 and not free else why) or None
        state: Literal["cut", "kept", "blocked"] = "cut" if gone else "kept" if free else "blocked"
        return Row(layer.name, layer.width, layer.width - gone, state, reason)

    @cached_property
    def _outputs(self) -> dict[tuple[str, int], list[tuple[Coupling, Member]]]:
        found: dict[tuple[str, int], list[tuple[Coupling, Member]]] = {}
        for layer in self.layers:
            if layer.parameter is not None:
                found[layer.parameter, layer.dim] = []
        for coupling in self.items:
            for member in coupling.members:
                if (member.parameter, member.dim) in found:
                    found[member.parameter, member.dim].append((coupling, member))
        return found
