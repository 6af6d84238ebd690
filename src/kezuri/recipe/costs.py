"""What a proposal costs, found without building it where that can be."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from kezuri.core.errors import ProofFailed
from kezuri.measure.macs import count_macs
from kezuri.model.coupling import Couplings
from kezuri.model.exporting import example_batch
from kezuri.model.program import Blueprint
from kezuri.model.shrink import shrink_, structure_of
from kezuri.model.sites import tensors_of

Proposal = Mapping[str, Tensor]
"""What would stay: by coupling name, (width,) bool, True = kept; couplings not named are whole."""


@dataclass(frozen=True)
class Cost:
    """What a model takes.

    Attributes:
        params: numbers that training may change.
        macs: multiply-accumulates for one example.
    """

    params: int
    macs: int


class Costs:
    """Parameters and multiply-accumulates of the proposals for one model, which is left as it is.

    Args:
        model: dense.
        couplings: of the model.
        example_inputs: a batch such as the model takes.
    """

    def __init__(
        self, model: nn.Module, couplings: Couplings, example_inputs: Tensor | tuple[Tensor, ...]
    ) -> None:
        self.model = model
        self.couplings = couplings
        self.inputs = example_batch(model, example_inputs)
        self._known: dict[tuple[int, ...], int] = {}
        self._abstract = True

    def of(self, proposal: Proposal) -> Cost:
        """Both."""
        return Cost(self.params(proposal), self.macs(proposal))

    def params(self, proposal: Proposal) -> int:
        """Parameters left, counted from shapes alone."""
        return sum(map(prod, self.shapes(proposal).values()))

    def shapes(self, proposal: Proposal) -> dict[str, list[int]]:
        """The shape that each parameter is left with, by name."""
        shapes = {name: list(parameter.shape) for name, parameter in self.model.named_parameters()}
        for name, kept in proposal.items():
            for member in self.couplings.named(name).members:
                if member.parameter in shapes:
                    shapes[member.parameter][member.dim] -= int((~kept).sum()) * member.positions.shape[1]
        return shapes

    def macs(self, proposal: Proposal) -> int:
        """Multiply-accumulates left, counted on tensors without content where the model's code allows it.

        Raises:
            ProofFailed: the cut model does not run.
        """
        key = tuple(int(proposal[c.name].sum()) if c.name in proposal else c.width for c in self.couplings)
        if key not in self._known:
            self._known[key] = self._count(proposal)
        return self._known[key]

    def build(self, proposal: Proposal) -> nn.Module:
        """The cut model, not proved; a rewritten program where only that can lose the units."""
        structure = structure_of(self.couplings, proposal)
        if self._rewrites(proposal):
            return self._blueprint.build(structure)
        small = copy.deepcopy(self.model)
        shrink_(small, structure)
        return small

    def _count(self, proposal: Proposal) -> int:
        if self._abstract:
            try:
                return count_macs(self._hollow(proposal), self.inputs)
            except (RuntimeError, NotImplementedError):
                self._abstract = False  # a constant made in forward has content, or an answer decides a size
        try:
            return count_macs(self.build(proposal), self.inputs)
        except Exception as error:  # the user's code may raise anything
            raise ProofFailed(f"the cut model fails: {type(error).__name__}: {error}") from error

    def _hollow(self, proposal: Proposal) -> nn.Module:
        """The cut model without content."""
        if self._rewrites(proposal):
            return self.build(proposal).to("meta")
        small = hollow(self.model)
        shrink_(small, structure_of(self.couplings, proposal))
        return small

    def _rewrites(self, proposal: Proposal) -> bool:
        return any(
            not kept.all() and self.couplings.named(name).rewrite is not None
            for name, kept in proposal.items()
        )

    @cached_property
    def _blueprint(self) -> Blueprint:
        return Blueprint.of(self.model, self.inputs, self.couplings.choices)


def hollow(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes and no content."""
    empty: dict[int, object] = {}
    for tensor in tensors_of(model).values():
        twin = torch.empty_like(tensor, device="meta", requires_grad=False)
        is_parameter = isinstance(tensor, nn.Parameter)
        empty[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if is_parameter else twin
    return copy.deepcopy(model, empty)
