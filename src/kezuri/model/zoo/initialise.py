"""Starting weights."""

import math

from torch import nn

from kezuri.core.errors import ModelError


def he_normal_(model: nn.Module) -> None:
    """Draws convolution and linear weights after He et al. (2015), with biases at zero.

    Fan-in, because PyTorch's fan-out ignores `groups` and would start depthwise convolutions near zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, at least one."""
    return max(1, round(channels * _positive(width)))


def divisible(channels: int, width: float, divisor: int = 8) -> int:
    """`channels` times the width multiplier, rounded to a multiple of 8 but never below 90 % of it.

    The rounding rule of the MobileNets (Sandler et al., 2018).
    """
    wanted = channels * _positive(width)
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded


def _positive(width: float) -> float:
    if not isinstance(width, int | float) or not 0 < width < math.inf:
        raise ModelError(f"width multiplies the channels of every layer and is above 0, got {width!r}")
    return width
