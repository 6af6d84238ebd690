"""Residual networks for small images (He et al., 2016, section 4.2)."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.model.zoo.initialise import he_normal_, scaled
from kezuri.model.zoo.registry import zoo

Shortcut = Literal["A", "B"]


class PadChannels(nn.Module):
    """Shortcut A: every second pixel, with channels of zeros before and after.

    The zeros are buffers and not a number in `forward`, so cutting channels can cut them as well.
    """

    before: Tensor
    after: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.register_buffer("before", torch.zeros(before, 1, 1), persistent=False)
        self.register_buffer("after", torch.zeros(after, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, ::2, ::2]
        size = (x.shape[0], -1, x.shape[2], x.shape[3])
        before = [self.before.expand(size)] if len(self.before) else []
        after = [self.after.expand(size)] if len(self.after) else []
        return torch.cat([*before, x, *after], dim=1)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and shortcut == "A":
            extra = outputs - inputs
            self.shortcut = PadChannels(extra // 2, extra - extra // 2)
        elif stride != 1:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem and three stages of equal depth; each later stage halves the image."""

    def __init__(
        self, classes: int, channels: int, *, depth: int, shortcut: Shortcut, stages: tuple[int, int, int]
    ) -> None:
        super().__init__()
        first, second, third = stages
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks=blocks, stride=1, shortcut=shortcut)
        self.layer2 = _stage(first, second, blocks=blocks, stride=2, shortcut=shortcut)
        self.layer3 = _stage(second, third, blocks=blocks, stride=2, shortcut=shortcut)
        self.linear = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = Block(inputs, outputs, stride=stride, shortcut=shortcut)
    rest = [Block(outputs, outputs, stride=1, shortcut=shortcut) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _build(depth: int, classes: int, channels: int, *, shortcut: Shortcut, width: float) -> nn.Module:
    if shortcut not in get_args(Shortcut):
        raise ModelError(f"shortcut is 'A' (zeros, no weights) or 'B' (1x1 convolution), got {shortcut!r}")
    stages = (scaled(16, width), scaled(32, width), scaled(64, width))
    model = ResNet(classes, channels, depth=depth, shortcut=shortcut, stages=stages)
    he_normal_(model)
    return model


@zoo.register("resnet8")
def resnet8(
    classes: int = 10, channels: int = 3, *, shortcut: Shortcut = "A", width: float = 1.0
) -> nn.Module:
    """ResNet-8: one block a stage, 0.08 M parameters, for quick tries."""
    return _build(8, classes, channels, shortcut=shortcut, width=width)


@zoo.register("resnet20")
def resnet20(
    classes: int = 10, channels: int = 3, *, shortcut: Shortcut = "A", width: float = 1.0
) -> nn.Module:
    """ResNet-20: three blocks a stage, 0.27 M parameters."""
    return _build(20, classes, channels, shortcut=shortcut, width=width)


@zoo.register("resnet32")
def resnet32(
    classes: int = 10, channels: int = 3, *, shortcut: Shortcut = "A", width: float = 1.0
) -> nn.Module:
    """ResNet-32: five blocks a stage, 0.46 M parameters."""
    return _build(32, classes, channels, shortcut=shortcut, width=width)


@zoo.register("resnet44")
def resnet44(
    classes: int = 10, channels: int = 3, *, shortcut: Shortcut = "A", width: float = 1.0
) -> nn.Module:
    """ResNet-44: seven blocks a stage, 0.66 M parameters."""
    return _build(44, classes, channels, shortcut=shortcut, width=width)


@zoo.register("resnet56")
def resnet56(
    classes: int = 10, channels: int = 3, *, shortcut: Shortcut = "A", width: float = 1.0
) -> nn.Module:
    """ResNet-56: nine blocks a stage, 0.85 M parameters."""
    return _build(56, classes, channels, shortcut=shortcut, width=width)
