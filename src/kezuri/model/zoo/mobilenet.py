"""MobileNets for 32x32 images: the stem and the first narrow stage keep the image's size."""

from torch import Tensor, nn

from kezuri.model.zoo.initialise import divisible, he_normal_
from kezuri.model.zoo.registry import zoo

# channels, stride
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# expansion, channels, blocks, stride of the first block
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class SeparableConv(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y: Tensor = self.relu(self.bn2(self.conv2(x)))
        return y


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project; the input is added where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand: list[nn.Module] = []
        if expansion != 1:
            expand = [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.expand = nn.Sequential(*expand)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu = nn.ReLU6()
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn1(self.depthwise(self.expand(x))))
        y = self.bn2(self.project(y))
        return x + y if self.is_residual else y


class MobileNet(nn.Module):
    """A 3x3 stem, the blocks of either version, global pooling and one linear layer."""

    def __init__(self, stem: nn.Module, blocks: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = blocks
        self.linear = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def _conv(inputs: int, outputs: int, size: int, activation: nn.Module) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation)


@zoo.register("mobilenet_v1")
def mobilenet_v1(classes: int = 10, channels: int = 3, *, width: float = 1.0) -> nn.Module:
    """MobileNet (Howard et al., 2017): depthwise separable convolutions, 3.2 M parameters."""
    inputs = divisible(32, width)
    stem = _conv(channels, inputs, 3, nn.ReLU())
    blocks = nn.Sequential()
    for outputs, stride in V1:
        outputs = divisible(outputs, width)
        blocks.append(SeparableConv(inputs, outputs, stride))
        inputs = outputs
    model = MobileNet(stem, blocks, inputs, classes)
    he_normal_(model)
    return model


@zoo.register("mobilenet_v2")
def mobilenet_v2(classes: int = 10, channels: int = 3, *, width: float = 1.0) -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018): inverted residuals, 2.2 M parameters."""
    inputs = divisible(32, width)
    stem = _conv(channels, inputs, 3, nn.ReLU6())
    blocks = nn.Sequential()
    for expansion, outputs, count, first_stride in V2:
        outputs = divisible(outputs, width)
        for index in range(count):
            stride = first_stride if index == 0 else 1
            blocks.append(InvertedResidual(inputs, outputs, stride=stride, expansion=expansion))
            inputs = outputs
    features = divisible(1280, max(1.0, width))
    blocks.append(_conv(inputs, features, 1, nn.ReLU6()))
    model = MobileNet(stem, blocks, features, classes)
    he_normal_(model)
    return model
