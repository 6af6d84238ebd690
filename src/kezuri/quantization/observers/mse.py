"""The range that loses least."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.quantization.affine import Grid
from kezuri.quantization.histogram import Histogram
from kezuri.quantization.observer import observers, rows, shaped

SHRINK = [1 - 0.01 * i for i in range(80)]  # of the full range, as BRECQ searches it


@observers.register("mse")
@dataclass(frozen=True)
class Mse:
    """Both ends drawn in together, as far as it makes the quantization error smallest (Li et al., 2021).

    The error is Σ|x − x̂|^p; shares of 1, 0.99, …, 0.21 of the full range are tried. Weights with at most
    `bins` values a channel are tried on the values themselves, more of them on their histogram.

    Attributes:
        p: above 0; 2 for the mean squared error, more to spare the outliers.
        bins: of the histogram.
    """

    p: float = 2.4
    bins: int = 8192

    per_channel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise RecipeError(f"p is above 0, got {self.p}")
        Histogram(self.bins)

    def watch(self, grid: Grid, axis: int | None = None) -> "Searcher":
        return Searcher(self, grid, axis)


class Searcher:
    """The watcher of `mse`."""

    def __init__(self, observer: Mse, grid: Grid, axis: int | None) -> None:
        self._p = observer.p
        self._grid = grid
        self._axis = axis
        self._histogram = Histogram(observer.bins)

    def see(self, x: Tensor) -> None:
        self._histogram.add(rows(x, self._axis))

    def range(self) -> tuple[Tensor, Tensor]:
        values, counts = self._histogram.points()
        if len(values) == 1:
            met = counts > 0
            values, counts = values[met].unsqueeze(0), counts[met].unsqueeze(0)
        low, high = self._histogram.extent.each
        share = torch.ones_like(low)
        least = torch.full_like(low, torch.inf)
        for shrink in SHRINK:
            error = self._error(values, counts, low * shrink, high * shrink)
            share = torch.where(error < least, shrink, share)
            least = torch.minimum(error, least)
        return shaped(low * share, high * share, axis=self._axis)

    def _error(self, values: Tensor, counts: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Σ|x − x̂|^p of each channel, (channels,)."""
        scale, zero_point = (each.unsqueeze(1) for each in self._grid.fit(low, high))
        ends = self._grid.low - zero_point, self._grid.high - zero_point
        met = (values / scale).round_().clamp_(*ends).mul_(scale)
        return met.sub_(values).abs_().pow_(self._p).mul_(counts).sum(1)
