"""One entry of the zoo: how to build a model, what to feed it, and what a right tool can do with it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Batch = Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Graph:
    """A model of the zoo.

    Attributes:
        build: gives the model, the same weights each time.
        batch: example inputs for so many images.
        cut: layers (or, where no layer is meant, parameters) that lose outputs at 50 %; only what is certain.
        whole: layers that must keep every output with any tool.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Batch
    cut: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()


def images(*shape: int) -> Batch:
    """Normal noise, (batch, *shape)."""
    return lambda size: (_noise(size, *shape),)


def several(*shapes: tuple[int, ...]) -> Batch:
    """Several inputs of noise."""
    return lambda size: tuple(_noise(size, *shape) for shape in shapes)


def tokens(length: int, entries: int) -> Batch:
    """Numbers of a vocabulary, (batch, length)."""

    def batch(size: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(7)
        return (torch.randint(0, entries, (size, length), generator=generator),)

    return batch


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


class Net(nn.Module):
    """Layers and loose parameters by name; `forward` is a function of them."""

    def __init__(self, run: Callable[..., object], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


class Pair(Net):
    """The same with two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> object:
        return self.run(self, x, y)


class Many(Net):
    """The same with any number of inputs."""

    def forward(self, *inputs: Tensor) -> object:
        return self.run(self, *inputs)


IMAGES = images(3, 16, 16)


class Shelf(dict[str, Graph]):
    """The graphs of one file, by name; filled by a decorator on the functions that build them."""

    def add(
        self, cut: str = "", whole: str = "", batch: Batch = IMAGES
    ) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
        """`cut` and `whole` are names with spaces between."""

        def keep(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
            name = build.__name__
            if name in self:
                raise ValueError(f"two graphs are named {name}")
            self[name] = Graph(
                name, lambda: seeded(build), batch, frozenset(cut.split()), frozenset(whole.split())
            )
            return build

        return keep


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """The model with weights of a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def conv(inputs: int, outputs: int, kernel: int = 3, **options: object) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)  # type: ignore[arg-type]


def block(inputs: int, outputs: int, kernel: int = 3, **options: object) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    return nn.Sequential(
        conv(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def pooled(x: Tensor) -> Tensor:
    """(batch, channels, height, width) to (batch, channels)."""
    return x.mean((2, 3))
