"""All but the last few outliers."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.quantization.affine import Grid
from kezuri.quantization.histogram import Histogram
from kezuri.quantization.observer import observers, rows, shaped


@observers.register("percentile")
@dataclass(frozen=True)
class Percentile:
    """As far as nearly all values go, at either end (McKinstry et al., 2018; Wu et al., 2020).

    Attributes:
        percent: (50, 100]; at 99.99 one value in 10,000 lies above the range, and one below.
        bins: of the histogram behind it; the answer is off by half a bin at most.
    """

    percent: float = 99.99
    bins: int = 8192

    per_channel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 50 < self.percent <= 100:
            raise RecipeError(f"percent is above 50 and at most 100, got {self.percent}")
        Histogram(self.bins)

    def watch(self, grid: Grid, axis: int | None = None) -> "Ranker":  # noqa: ARG002 (the role's)
        return Ranker(self, axis)


class Ranker:
    """The watcher of `percentile`."""

    def __init__(self, observer: Percentile, axis: int | None) -> None:
        self._share = observer.percent / 100
        self._axis = axis
        self._histogram = Histogram(observer.bins)

    def see(self, x: Tensor) -> None:
        self._histogram.add(rows(x, self._axis))

    def range(self) -> tuple[Tensor, Tensor]:
        values, counts = self._histogram.points()
        need = ceil(self._share * int(counts[0].sum()) - 1e-6)
        high = reaching(values, counts, need)
        low = -reaching(-values.flip(1), counts.flip(1), need)
        return shaped(low, high, axis=self._axis)


def reaching(values: Tensor, counts: Tensor, need: int) -> Tensor:
    """The first of rising values, in each row, that `need` of the counts go up to: (channels,)."""
    wanted = torch.full_like(counts[:, :1], need)
    return values.gather(1, torch.searchsorted(counts.cumsum(1), wanted)).squeeze(1)
