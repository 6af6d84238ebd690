"""A penalty on whole coupled channels, the weakest most."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from kezuri.core.errors import UsageError
from kezuri.model.families import Coupling
from kezuri.prune.regularizer import regularizers
from kezuri.train.hooks import Hook


@regularizers.register("group")
@dataclass(frozen=True)
class GroupSparsity:
    """Draws coupled channels to zero as wholes, the weakest most (Fang et al., 2023, DepGraph).

    Each step adds strength·γ_c·w to the gradient of all that belongs to channel c of a coupling, with
    γ_c = 2^(alpha·(max I - I_c) / (max I - min I)) and I_c the ℓ2 norm of the channel over all its members.

    Attributes:
        strength: of the decay of the strongest channel; the paper has 5e-4 for CIFAR-10.
        alpha: the weakest channel decays 2^alpha times as fast as the strongest.
    """

    strength: float = 5e-4
    alpha: float = 4.0

    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.strength < math.inf:
            raise UsageError(f"strength must be above 0, got {self.strength}")
        if not 0 <= self.alpha <= 32:
            raise UsageError(f"alpha is from 0 to 32, got {self.alpha}")

    def hook(self, model: nn.Module, couplings: Sequence[Coupling] | None = None) -> Hook:
        if couplings is None:
            raise UsageError(
                "group draws at coupled channels: pass couplings=couple(model, example_inputs) from "
                "kezuri.model.coupling"
            )
        trained = {name for name, _ in model.named_parameters()}
        families = [_members(coupling, trained) for coupling in couplings if coupling.reason is None]
        if not any(families):
            raise UsageError(
                "group has nothing to draw at: no channel of this model may be removed "
                "(couplings.explain() says why)"
            )
        return _GroupDecay(families, self)


@dataclass(frozen=True, eq=False)
class _Slices:
    """Where the channels of one coupling lie in one parameter.

    Attributes:
        parameter: its name.
        dim: the dimension that they lie along.
        positions: (width, k) int64.
    """

    parameter: str
    dim: int
    positions: Tensor

    def squared(self, weight: Tensor) -> Tensor:
        """The squared ℓ2 norm of each channel's slice, (width,)."""
        rest = [dim for dim in range(weight.dim()) if dim != self.dim]
        squares = weight.square()
        along = squares.sum(rest) if rest else squares
        return along[self.positions.to(weight.device)].sum(1)

    def decay_(self, weight: Parameter, factors: Tensor) -> None:
        """Adds each channel's factor, (width,), times its slice of the weight to the gradient."""
        if weight.grad is None:
            return
        positions = self.positions.to(weight.device)
        along = torch.zeros(weight.shape[self.dim], dtype=weight.dtype, device=weight.device)
        along[positions] = factors.to(along)[:, None].expand_as(positions)
        weight.grad.addcmul_(
            weight, along.view([-1 if dim == self.dim else 1 for dim in range(weight.dim())])
        )


def _members(coupling: Coupling, trained: set[str]) -> list[_Slices]:
    return [
        _Slices(member.parameter, member.dim, torch.as_tensor(member.positions))
        for member in coupling.members
        if member.parameter in trained
    ]


class _GroupDecay(Hook):
    def __init__(self, families: Sequence[Sequence[_Slices]], settings: GroupSparsity) -> None:
        self._families = families
        self._settings = settings

    @torch.no_grad()
    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:  # noqa: ARG002
        parameters = dict(model.named_parameters())
        for family in self._families:
            factors = self._factors(family, parameters)
            for slices in family:
                slices.decay_(parameters[slices.parameter], factors)

    def _factors(self, family: Sequence[_Slices], parameters: Mapping[str, Parameter]) -> Tensor:
        squares = [slices.squared(parameters[slices.parameter]) for slices in family]
        norms = torch.stack(squares).sum(0).sqrt()
        below, spread = norms.max() - norms, norms.max() - norms.min()
        weakness = below / spread.clamp(min=torch.finfo(norms.dtype).tiny)
        return self._settings.strength * torch.exp2(self._settings.alpha * weakness)
