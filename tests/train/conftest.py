"""A small real problem: four noisy 8×8 patterns, and a net with BatchNorm and dropout."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from kezuri.data import Data, from_tensors


def make_patterns(count: int = 320) -> Data:
    generator = torch.Generator().manual_seed(7)
    patterns = torch.randn(4, 1, 8, 8, generator=generator)
    labels = torch.arange(count) % 4
    images = patterns[labels] + torch.randn(count, 1, 8, 8, generator=generator)
    return from_tensors((images, labels), validation=count // 5, name="patterns")


def make_net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, 4),
        )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def patterns() -> Data:
    return make_patterns()


@pytest.fixture
def net() -> Callable[..., nn.Sequential]:
    return make_net


@pytest.fixture
def same() -> Callable[[nn.Module, nn.Module], bool]:
    def equal(one: nn.Module, other: nn.Module) -> bool:
        ours, theirs = one.state_dict(), other.state_dict()
        assert ours.keys() == theirs.keys()
        return all(torch.equal(ours[name], theirs[name]) for name in ours)

    return equal
