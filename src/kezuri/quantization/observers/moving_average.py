"""Bounds of the batches, averaged over time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.quantization.affine import Grid
from kezuri.quantization.observer import Extent, observers, rows, shaped


@observers.register("moving_average")
@dataclass(frozen=True)
class MovingAverage:
    """A batch's own bounds, averaged over the batches; one odd batch counts little (Jacob et al., 2018).

    Attributes:
        momentum: how much of the average a new batch leaves standing, [0, 1). The first batch sets it, so
            that 0.99 suits training, and calibration of a few batches something like 0.9.
    """

    momentum: float = 0.99

    per_channel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise RecipeError(f"momentum is from 0 to below 1, got {self.momentum}")

    def watch(self, grid: Grid, axis: int | None = None) -> "Averager":  # noqa: ARG002 (the role's)
        return Averager(self.momentum, axis)


class Averager:
    """The watcher of `moving_average`."""

    def __init__(self, momentum: float, axis: int | None) -> None:
        self._momentum = momentum
        self._extent = Extent(axis)
        self._mean: tuple[Tensor, Tensor] | None = None

    def see(self, x: Tensor) -> None:
        new = self._extent.take(rows(x, self._extent.axis))
        old = self._mean or new
        low, high = (torch.lerp(b, a, self._momentum) for a, b in zip(old, new, strict=True))
        self._mean = low, high

    def range(self) -> tuple[Tensor, Tensor]:
        return shaped(*(self._mean or self._extent.each), axis=self._extent.axis)
