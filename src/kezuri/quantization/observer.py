"""The role of an observer: from which values to which does a tensor go?

An observer is a choice and its settings. Its `watch` gives a watcher, which sees batch after batch of one
tensor, keeps bounds or counts but never the batches, and in the end gives the range that a `Grid` is fitted
to. What lies outside that range is clipped; giving up a few outliers makes the steps inside it finer.
"""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from kezuri.core.errors import DataError, MissingEvidence, ShapeError
from kezuri.core.registry import Registry
from kezuri.quantization.affine import Grid


class Watcher(Protocol):
    """Sees the values of one tensor, and then knows their range."""

    def see(self, x: Tensor) -> None:
        """Take in more values: float, of any shape.

        Raises:
            ShapeError: there are no values, no such axis, or another number of channels than before.
            DataError: a value is not finite.
        """
        ...

    def range(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value to be told apart, float32: one number each, or (channels,).

        Raises:
            MissingEvidence: nothing was seen.
        """
        ...


class Observer(Protocol):
    """Chooses the range of a tensor from its values."""

    per_channel: ClassVar[bool]
    """Whether it can give each channel a range of its own."""

    def watch(self, grid: Grid, axis: int | None = None) -> Watcher:
        """A watcher of one tensor.

        Args:
            grid: the integers that the range will be laid out on.
            axis: the dimension that has a range at each position; None for one range for all.

        Raises:
            UsageError: an axis, and the observer knows one range only.
        """
        ...


observers: Registry[type[Observer]] = Registry("observer")


class Extent:
    """The lowest and the highest value so far; itself the watcher of `min_max`."""

    def __init__(self, axis: int | None) -> None:
        self.axis = axis
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def see(self, x: Tensor) -> None:
        self.take(rows(x, self.axis))

    def take(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in `rows` of a tensor; the lowest and highest of these alone, (channels,)."""
        low, high = extremes(values)
        if self._low is None or self._high is None:
            self._low, self._high = low, high
            return low, high
        if low.shape != self._low.shape:
            raise ShapeError(f"a tensor of {self._low.numel()} channels came with {low.numel()} this time")
        self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        return low, high

    @property
    def each(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest, (channels,); one channel where there is no axis."""
        if self._low is None or self._high is None:
            raise MissingEvidence("no values were seen yet, so there is no range: run the calibration first")
        return self._low, self._high

    def range(self) -> tuple[Tensor, Tensor]:
        return shaped(*self.each, axis=self.axis)


def rows(x: Tensor, axis: int | None) -> Tensor:
    """Values as (channels, values), float32; one channel where `axis` is None.

    Raises:
        ShapeError: `x` is empty or has no such axis.
    """
    if x.numel() == 0:
        raise ShapeError(f"a tensor of shape {tuple(x.shape)} has no values to take a range of")
    x = x.detach().float()
    if axis is None:
        return x.reshape(1, -1)
    if not 0 <= axis < x.dim():
        raise ShapeError(f"a tensor of shape {tuple(x.shape)} has no axis {axis}")
    return x.movedim(axis, 0).reshape(x.shape[axis], -1)


def extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest of each row, (channels,).

    Raises:
        DataError: a value is not finite.
    """
    if len(values) == 1:
        low, high = (end.view(1) for end in torch.aminmax(values))
    else:
        low, high = torch.aminmax(values, dim=1)
    if not (low.isfinite() & high.isfinite()).all():
        raise DataError("a tensor has values that are not finite (nan or inf), so it has no range")
    return low, high


def shaped(low: Tensor, high: Tensor, *, axis: int | None) -> tuple[Tensor, Tensor]:
    """Bounds of each channel, as a watcher gives them: one number each where there is no axis."""
    return (low, high) if axis is not None else (low.reshape(()), high.reshape(()))
