"""Plain convolutional networks of several depths, for teachers, assistants and students of one kind.

The depths are those Mirzadeh et al. (2020) compare: 2, 4, 6, 8 and 10 convolutions.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.model.zoo.initialise import he_normal_, scaled
from kezuri.model.zoo.registry import zoo

WIDTHS = (16, 32, 64, 128)
"""Channels of the stages, times the width."""

STAGES = {2: (1, 1), 4: (2, 2), 6: (2, 2, 2), 8: (2, 2, 2, 2), 10: (2, 2, 3, 3)}
"""Convolutions in each stage, by how many there are in all."""

HIDDEN = 128


class Plain(nn.Module):
    """Stages of 3x3 convolutions, each ended by a 2x2 pooling, then two linear layers."""

    def __init__(self, depth: int, classes: int, channels: int, *, image_size: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for outputs, count in zip(WIDTHS, STAGES[depth], strict=False):
            outputs = scaled(outputs, width)
            for _ in range(count):
                conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        side = image_size >> len(STAGES[depth])
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(inputs * side * side, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.features(x).flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


def _plain(depth: int, classes: int, channels: int, image_size: int, width: float) -> nn.Module:
    least = 1 << len(STAGES[depth])
    if image_size < least:
        raise ModelError(
            f"plain{depth} needs images of at least {least}x{least} pixels, got {image_size}x{image_size}"
        )
    model = Plain(depth, classes, channels, image_size=image_size, width=width)
    he_normal_(model)
    return model


@zoo.register("plain2")
def plain2(classes: int = 10, channels: int = 3, image_size: int = 32, *, width: float = 1.0) -> nn.Module:
    """Two convolutions and two linear layers: 268,698 parameters on 32x32 colour images."""
    return _plain(2, classes, channels, image_size, width)


@zoo.register("plain4")
def plain4(classes: int = 10, channels: int = 3, image_size: int = 32, *, width: float = 1.0) -> nn.Module:
    """Four convolutions in two stages, and two linear layers."""
    return _plain(4, classes, channels, image_size, width)


@zoo.register("plain6")
def plain6(classes: int = 10, channels: int = 3, image_size: int = 32, *, width: float = 1.0) -> nn.Module:
    """Six convolutions in three stages, and two linear layers."""
    return _plain(6, classes, channels, image_size, width)


@zoo.register("plain8")
def plain8(classes: int = 10, channels: int = 3, image_size: int = 32, *, width: float = 1.0) -> nn.Module:
    """Eight convolutions in four stages, and two linear layers."""
    return _plain(8, classes, channels, image_size, width)


@zoo.register("plain10")
def plain10(classes: int = 10, channels: int = 3, image_size: int = 32, *, width: float = 1.0) -> nn.Module:
    """Ten convolutions in four stages, and two linear layers."""
    return _plain(10, classes, channels, image_size, width)
