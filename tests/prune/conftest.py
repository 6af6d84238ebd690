"""A small residual network and its couplings, written down by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from kezuri.model.coupling import Coupling, Couplings, Member


class Residual(nn.Module):
    """stem (4) → block: conv1 (6) → conv2 (4) added to the stem → head, which sees each channel 4 times."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.norm1 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        inner = self.norm1(self.conv1(x)).relu()
        x = (x + self.norm2(self.conv2(inner))).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def each(width, times=1):
    return np.arange(width * times).reshape(width, times)


@pytest.fixture(scope="session")
def make_residual():
    def make():
        torch.manual_seed(0)
        return Residual()

    return make


@pytest.fixture
def residual(make_residual):
    return make_residual()


@pytest.fixture(scope="session")
def couplings():
    stream = Coupling(
        "stem",
        4,
        (
            Member("stem.weight", 0, each(4), "output"),
            Member("norm.weight", 0, each(4), "other"),
            Member("conv1.weight", 1, each(4), "input"),
            Member("conv2.weight", 0, each(4), "output"),
            Member("norm2.weight", 0, each(4), "other"),
            Member("head.weight", 1, each(4, 4), "input"),
        ),
        None,
    )
    inner = Coupling(
        "conv1",
        6,
        (
            Member("conv1.weight", 0, each(6), "output"),
            Member("norm1.weight", 0, each(6), "other"),
            Member("conv2.weight", 1, each(6), "input"),
        ),
        None,
    )
    classes = Coupling("head", 5, (Member("head.weight", 0, each(5), "output"),), "the model's output")
    return Couplings((stream, inner, classes), {}, ())
