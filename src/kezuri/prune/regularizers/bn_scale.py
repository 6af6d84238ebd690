"""An ℓ1 penalty on the scales of BatchNorms."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kezuri.core.errors import UsageError
from kezuri.model.families import Coupling
from kezuri.prune.regularizer import regularizers
from kezuri.train.hooks import Hook


@regularizers.register("bn_scale")
@dataclass(frozen=True)
class BnScaleSparsity:
    """Draws every BatchNorm's scale γ to zero, before `bn_scale` ranks them (Liu et al., 2017, slimming).

    Attributes:
        strength: added to ∂L/∂γ, times the sign of γ; the paper has 1e-4 for VGG and 1e-5 for ResNets.
    """

    strength: float = 1e-4

    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.strength < math.inf:
            raise UsageError(f"strength must be above 0, got {self.strength}")

    def hook(self, model: nn.Module, couplings: Sequence[Coupling] | None = None) -> Hook:  # noqa: ARG002
        if next(_scales(model), None) is None:
            raise UsageError(
                "bn_scale draws the scales of BatchNorms to zero, and this model has none; "
                "use the regularizer 'group'"
            )
        return _SignOfScales(self.strength)


def _scales(model: nn.Module) -> Iterator[Tensor]:
    """γ of every BatchNorm that has one."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None:
            yield module.weight


class _SignOfScales(Hook):
    def __init__(self, strength: float) -> None:
        self._strength = strength

    @torch.no_grad()
    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:  # noqa: ARG002
        for scale in _scales(model):
            if scale.grad is not None:
                scale.grad.add_(scale.sign(), alpha=self._strength)
