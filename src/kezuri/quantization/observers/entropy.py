"""The range that keeps most information."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError, UsageError
from kezuri.quantization.affine import Grid
from kezuri.quantization.histogram import Histogram
from kezuri.quantization.observer import observers, rows, shaped

SMOOTH = 1e-4  # occurrences taken for where there were none, so that no divergence is infinite


@observers.register("entropy")
@dataclass(frozen=True)
class Entropy:
    """Clipped where the distribution of the quantized values diverges least (Migacz, 2017, TensorRT).

    For every width around zero, what lies outside is added to the outermost bins; the divergence is that of
    Kullback and Leibler from there to the same bins merged into as many as the grid has levels. Zeros, which
    are met exactly, count as much as their neighbours and no more. One range for all: a channel of a weight
    has too few values for it.

    Attributes:
        bins: of the histogram; from 512, twice the levels of 8 bits.
    """

    bins: int = 2048

    per_channel: ClassVar[bool] = False

    def __post_init__(self) -> None:
        Histogram(self.bins)
        if self.bins < 512:
            raise RecipeError(f"entropy needs at least 512 bins, got {self.bins}")

    def watch(self, grid: Grid, axis: int | None = None) -> "Comparer":
        if axis is not None:
            raise UsageError(
                f"entropy gives one range for all, not one for each position of axis {axis}: "
                "use min_max, percentile or mse there"
            )
        return Comparer(self, grid)


class Comparer:
    """The watcher of `entropy`."""

    def __init__(self, observer: Entropy, grid: Grid) -> None:
        self._grid = grid
        self._histogram = Histogram(observer.bins)

    def see(self, x: Tensor) -> None:
        values = rows(x, None)
        self._histogram.add(values.abs() if self._grid.symmetric else values)

    def range(self) -> tuple[Tensor, Tensor]:
        low, high = self._histogram.extent.each
        counts, zero, width = self._histogram.binned()
        levels = self._grid.high + 1  # of |x| on a symmetric grid
        start, end = least_divergent(counts, zero, levels)
        low, high = low.clamp(min=(start - zero) * width), high.clamp(max=(end - zero) * width)
        return shaped(-high if self._grid.symmetric else low, high, axis=None)


def least_divergent(counts: Tensor, zero: int, levels: int) -> tuple[int, int]:
    """The bins, from start to before end, that are best told apart in so many levels.

    Args:
        counts: of each bin, (n,).
        zero: the bin that begins at zero; windows reach equally far to both sides of it, or to the end.
        levels: all windows have at least that many bins, unless there are fewer.
    """
    counts = counts.double()
    around = counts[max(zero - 1, 0) : zero + 2].clone()
    around[min(zero, 1)] = 0.0
    counts = counts.clone()
    counts[zero] = torch.minimum(counts[zero], around.max())
    reach = torch.arange(1, max(zero, len(counts) - zero) + 1, device=counts.device)
    start, end = (zero - reach).clamp(min=0), (zero + reach).clamp(max=len(counts))
    wide = end - start >= levels
    if not wide.any():
        return 0, len(counts)
    start, end = start[wide], end[wide]
    best = int(divergence(counts, start, end, levels).argmin())
    return int(start[best]), int(end[best])


def divergence(counts: Tensor, start: Tensor, end: Tensor, levels: int) -> Tensor:
    """Of each window from its clipped bins to the same in so many levels, in nats: (windows,) float64.

    It is infinite where nothing lies inside.
    """
    total = counts.sum()
    upto = sums(counts)
    below, above = upto[start], total - upto[end]
    steps = torch.arange(levels + 1, device=counts.device) * (end - start).unsqueeze(1) // levels
    edges = start.unsqueeze(1) + steps
    inside, bins = upto[edges].diff(dim=1), sums((counts > 0).double())[edges].diff(dim=1)
    bins[:, 0] += (counts[start] == 0) & (below > 0)
    bins[:, -1] += (counts[end - 1] == 0) & (above > 0)
    clipped = inside.clone()
    clipped[:, 0] += below
    clipped[:, -1] += above
    own = sums(torch.xlogy(counts, counts))
    first, last = counts[start] + below, counts[end - 1] + above
    information = own[end - 1] - own[start + 1] + torch.xlogy(first, first) + torch.xlogy(last, last)
    flat = inside.clamp(min=SMOOTH) / bins.clamp(min=1)
    kept = upto[end] - upto[start]
    found = (information - torch.xlogy(clipped, flat).sum(1)) / total + (kept / total).log()
    return torch.where(kept > 0, found, torch.inf)


def sums(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, …, n values, (n + 1,)."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])
