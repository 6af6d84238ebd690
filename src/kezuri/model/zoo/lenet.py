"""LeNets (LeCun et al., 1998), with ReLU and max pooling as used today."""

import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.model.zoo.initialise import he_normal_
from kezuri.model.zoo.registry import zoo


class LeNet300(nn.Module):
    """Two hidden layers of 300 and 100 units on the flattened image."""

    def __init__(self, classes: int, inputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits


class LeNet5(nn.Module):
    """Two 5x5 convolutions and three linear layers."""

    def __init__(self, classes: int, channels: int, *, padding: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits


@zoo.register("lenet300_100")
def lenet300_100(classes: int = 10, channels: int = 1, image_size: int = 28) -> nn.Module:
    """LeNet-300-100: 266,610 parameters on 28x28 grey images."""
    model = LeNet300(classes, channels * image_size**2)
    he_normal_(model)
    return model


@zoo.register("lenet5")
def lenet5(classes: int = 10, channels: int = 1, image_size: int = 28) -> nn.Module:
    """LeNet-5: 61,706 parameters on grey images; 28x28 is padded to the 32x32 of the paper.

    Raises:
        ModelError: the image is too small for two convolutions and two poolings.
    """
    padding = 2 if image_size == 28 else 0
    side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
    if side < 1:
        raise ModelError(f"lenet5 needs images of at least 16x16 pixels, got {image_size}x{image_size}")
    model = LeNet5(classes, channels, padding=padding, side=side)
    he_normal_(model)
    return model
