import pytest
import torch
from torch import nn

from kezuri.data import TensorPart


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 5),
    )


@pytest.fixture
def part():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(20, 3, 6, 6, generator=generator)
    return TensorPart(images, torch.randint(5, (20,), generator=generator), classes=5)
