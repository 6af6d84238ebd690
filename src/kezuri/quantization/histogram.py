"""How often which value occurred, in memory that does not grow with what was seen."""

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError, ShapeError
from kezuri.quantization.observer import Extent

FINEST = -100  # bins are no narrower than 2 to this, so that nothing underflows
BINS = range(64, 2**16 + 1)
PART = 2**18  # values counted at a time, which a processor's cache holds


class Histogram:
    """Counts of values in bins of equal width, for each channel on its own.

    Bins are as wide as a power of two and begin at its multiples. Two neighbours make exactly one bin of the
    next width, so that a range that grows loses nothing, and the counts in the end are those of one batch
    with all values in it, whatever order they came in. As long as there are no more values a channel than
    bins, the values themselves are kept.

    Args:
        bins: at most this many a channel, and more than half of it in use; zero always lies in one.
    """

    def __init__(self, bins: int) -> None:
        if bins not in BINS:
            raise RecipeError(f"a histogram has {BINS.start} to {BINS.stop - 1} bins, got {bins}")
        self.bins = bins
        self.extent = Extent(axis=None)
        self._few: list[Tensor] = []
        self._counts: Tensor | None = None
        self._first = self._exponent = torch.empty(0, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Take in values, (channels, values), finite float32.

        Raises:
            ShapeError: another number of channels than before.
            DataError: a value is not finite.
        """
        self.extent.take(values)
        if self._counts is None:
            self._few.append(values.clone())
            if sum(some.shape[1] for some in self._few) > self.bins:
                self._spread()
        else:
            self._widen(self._counts)
            self._count(values)

    def points(self) -> tuple[Tensor, Tensor]:
        """Values in rising order and how often each occurred: (channels, n) float32 and int64.

        The values are those seen as long as there are few, and then the middles of the bins.

        Raises:
            MissingEvidence: nothing was seen.
        """
        low, high = self.extent.each
        if self._counts is None:
            values = torch.cat(self._few, 1).sort(1).values
            return values, torch.ones_like(values, dtype=torch.int64)
        index = self._first.unsqueeze(1) + torch.arange(self.bins, device=low.device)
        middles = ((index + 0.5) * self._width()).float()
        return torch.clamp(middles, low.unsqueeze(1), high.unsqueeze(1)), self._counts

    def binned(self) -> tuple[Tensor, int, float]:
        """Counts of the bins in use, (n,), which of them begins at zero, and their width; of one channel.

        Raises:
            MissingEvidence: nothing was seen.
            ShapeError: there are several channels.
        """
        low, high = self.extent.each
        if len(low) != 1:
            raise ShapeError(f"one channel is asked for, and there are {len(low)}")
        counts = self._spread() if self._counts is None else self._counts
        width, first = float(self._width()), int(self._first)
        last = int(high.double().clamp(min=0.0).div(width).floor())
        return counts[0, : last - first + 1], -first, width

    def _spread(self) -> Tensor:
        """From the few values themselves to counts."""
        few, self._few = self._few, []
        channels = len(few[0])
        self._counts = torch.zeros(channels, self.bins, dtype=torch.int64, device=few[0].device)
        self._exponent, self._first = finest(*self.extent.each, self.bins)
        for values in few:
            self._count(values)
        return self._counts

    def _widen(self, counts: Tensor) -> None:
        """Lay the bins out for the range seen by now."""
        exponent, first = finest(*self.extent.each, self.bins)
        if torch.equal(exponent, self._exponent) and torch.equal(first, self._first):
            return
        old = self._first.unsqueeze(1) + torch.arange(self.bins, device=counts.device)
        index = (old >> (exponent - self._exponent).unsqueeze(1)) - first.unsqueeze(1)
        index.clamp_(0, self.bins - 1)  # what falls outside is empty
        self._counts = torch.zeros_like(counts).scatter_add_(1, index, counts)
        self._exponent, self._first = exponent, first

    def _count(self, values: Tensor) -> None:
        assert self._counts is not None  # _spread comes first
        width, counts = self._width().float(), self._counts
        for part in torch.split(values, PART, dim=1):
            index = (part / width).floor_().sub_(self._first.unsqueeze(1)).to(torch.int32)
            if len(index) > 1:
                index += torch.arange(len(index), device=index.device).unsqueeze(1) * self.bins
            counts += torch.bincount(index.flatten(), minlength=counts.numel()).view_as(counts)

    def _width(self) -> Tensor:
        """Of the bins of each channel, (channels, 1), float64."""
        return torch.ldexp(torch.ones_like(self._exponent, dtype=torch.float64), self._exponent).unsqueeze(1)


def finest(low: Tensor, high: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The narrowest bins that reach over a range and over zero, as (exponents, first indices), (channels,).

    A wider range never gets narrower ones; a bin of index i goes from i·2^exponent to (i+1)·2^exponent.
    """
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    exponent = ((high - low) / bins).log2().floor().clamp(min=FINEST + 1).to(torch.int64) - 1
    while True:
        width = torch.ldexp(torch.ones_like(low), exponent)
        first = (low / width).floor()
        too_many = (high / width).floor() - first >= bins
        if not too_many.any():
            return exponent, first.to(torch.int64)
        exponent = exponent + too_many
