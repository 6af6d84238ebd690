"""Nets of two stages, a wide teacher and a narrow student, and four noisy 8×8 patterns to tell apart."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from kezuri.data import Data, from_tensors


class TwoStages(nn.Module):
    """Maps of 8×8, then of 4×4, with BatchNorm and dropout."""

    def __init__(self, width: int, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.second(self.first(x)).mean((2, 3))))


def make_net(width: int = 4, seed: int = 0, classes: int = 4) -> TwoStages:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TwoStages(width, classes)


def make_patterns(count: int = 160) -> Data:
    generator = torch.Generator().manual_seed(7)
    patterns = torch.randn(4, 1, 8, 8, generator=generator)
    labels = torch.arange(count) % 4
    images = patterns[labels] + torch.randn(count, 1, 8, 8, generator=generator)
    return from_tensors((images, labels), validation=count // 5, name="patterns")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def net() -> Callable[..., TwoStages]:
    return make_net


@pytest.fixture
def patterns() -> Data:
    return make_patterns()


@pytest.fixture
def student() -> TwoStages:
    return make_net(4)


@pytest.fixture
def teacher() -> TwoStages:
    return make_net(8, seed=1)
