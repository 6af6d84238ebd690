"""Gives a fresh model weights as a trained one has them, so that no mistake hides behind zeros and ones."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def roughened(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy without constant parameters, and with batch statistics measured on the inputs.

    Scales of 1 or 1e-6, biases and position maps of 0 get values around; everything else stays.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(99)
    for parameter in model.parameters():
        if (
            parameter.numel() > 1
            and parameter.is_floating_point()
            and bool((parameter == parameter.flatten()[0]).all())
        ):
            parameter.copy_(_values(parameter, generator))
    _measure(model, inputs)
    return model


def _values(parameter: Tensor, generator: torch.Generator) -> Tensor:
    constant = float(parameter.flatten()[0])
    if constant == 0:
        inputs = parameter.numel() // len(parameter) if parameter.dim() > 1 else 1
        spread = min(0.1, 1 / math.sqrt(inputs))
        return torch.randn(parameter.shape, generator=generator) * spread
    middle = constant if abs(constant) > 0.1 else math.copysign(0.5, constant)
    return middle * (0.5 + torch.rand(parameter.shape, generator=generator))


def _measure(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Sets running statistics to those of a batch; a channel that hardly varies gets a larger variance."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    modes = [(module, module.training, getattr(module, "momentum", None)) for module in model.modules()]
    model.eval()
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        model(*inputs)
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(min=0.05 * float(norm.running_var.mean()) + 1e-4)
    for module, mode, momentum in modes:
        module.training = mode
        if isinstance(module, _BatchNorm):
            module.momentum = momentum
