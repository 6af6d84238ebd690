"""VGG-16 for 32x32 images, with batch normalisation (Simonyan & Zisserman, 2015; Li et al., 2017)."""

import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.model.zoo.initialise import he_normal_, scaled
from kezuri.model.zoo.registry import zoo

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each ended by a 2x2 pooling, and two linear layers."""

    def __init__(self, classes: int, channels: int, *, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for outputs, count in STAGES:
            outputs = scaled(outputs, width)
            for _ in range(count):
                conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(inputs, inputs, bias=False)
        self.bn = nn.BatchNorm1d(inputs)
        self.fc2 = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))
        logits: Tensor = self.fc2(F.relu(self.bn(self.fc1(x))))
        return logits


@zoo.register("vgg16_bn")
def vgg16_bn(classes: int = 10, channels: int = 3, *, width: float = 1.0) -> nn.Module:
    """VGG-16 as the pruning papers use it on CIFAR: 14.99 M parameters, images of at least 32x32."""
    model = VGG(classes, channels, width=width)
    he_normal_(model)
    return model
