"""Evaluation mode for a while, what says which mode it is, and where a model lives."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Mode(nn.Module):
    """Says whether the program is in training mode."""

    def forward(self) -> bool:
        return self.training


class NormMode(Mode):
    """The same for batch normalisation: in evaluation mode it leaves its running statistics as they are."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts every part of the model in evaluation mode, and back as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def fused_attention_off() -> Iterator[None]:
    """Has torch's attention modules compute in plain operations, which can be followed and counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Has no parameter require a gradient for a while: torch's counters stumble over views of such."""
    required = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in required:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)
