"""Optimizer: what turns gradients into weight changes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import Parameter

from kezuri.core.errors import UsageError
from kezuri.core.registry import Registry


class Optimizer(Protocol):
    """Settings that build a torch optimizer; the learning rate comes from the training's schedule."""

    def __call__(self, parameters: Iterable[Parameter], lr: float) -> torch.optim.Optimizer: ...


optimizers: Registry[type[Optimizer]] = Registry("optimizer")


@optimizers.register("sgd")
@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum (Sutskever et al., 2013)."""

    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True

    def __post_init__(self) -> None:
        _check_fractions(momentum=self.momentum)
        _check_decay(self.weight_decay)
        if self.nesterov and self.momentum == 0:
            raise UsageError("nesterov needs a momentum above 0; set nesterov to false for plain descent")

    def __call__(self, parameters: Iterable[Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@optimizers.register("adam")
@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015); weight decay is added to the gradient."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_fractions(**{"betas[0]": self.betas[0], "betas[1]": self.betas[1]})
        _check_decay(self.weight_decay)

    def __call__(self, parameters: Iterable[Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            parameters, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )


@optimizers.register("adamw")
@dataclass(frozen=True)
class AdamW:
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, 2019)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check_fractions(**{"betas[0]": self.betas[0], "betas[1]": self.betas[1]})
        _check_decay(self.weight_decay)

    def __call__(self, parameters: Iterable[Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )


def _check_fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} must be in [0, 1), got {value}")


def _check_decay(value: float) -> None:
    if value < 0:
        raise UsageError(f"weight_decay must be 0 or more, got {value}")
