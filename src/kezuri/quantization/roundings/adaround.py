"""Up or down, learned."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.quantization.affine import Grid
from kezuri.quantization.rounding import LayerMap, Rows, roundings

STRETCH = 1.1, -0.1  # of the sigmoid, so that it reaches 1 and 0


@roundings.register("adaround")
@dataclass(frozen=True)
class AdaRound:
    """Learns which way each weight goes, from the error of the layer's output (Nagel et al., 2020).

    A soft step h = clamp(1.2·σ(v) − 0.1, 0, 1) up from the lower neighbour is trained with Adam, while
    Σ(1 − |2h − 1|^β) draws it to 0 or 1. Other than in the paper, the error is exact over the whole sample,
    from its second moments, and not that of small batches; it is counted in the errors of rounding to
    nearest, so that `pull` means the same in every layer; and flips as in `greedy` follow. So 500 iterations
    do on a CPU what takes 20,000 there, and nothing is random. One costs outputs · (inputs a row)²
    multiplications. An output that `greedy` alone does better on the sample is left to it.

    Attributes:
        iterations: of Adam; 1,000 gain a little more.
        lr: of Adam, in units of v.
        pull: weight of the second term against the mean error of a weight.
        beta: at first and in the end, in a straight line; high leaves the middle free.
        warmup: fraction of the iterations before the second term sets in.
    """

    iterations: int = 500
    lr: float = 0.03
    pull: float = 10.0
    beta: tuple[float, float] = (20.0, 2.0)
    warmup: float = 0.2

    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.lr > 0 or not self.pull > 0:
            raise RecipeError(
                f"iterations, lr and pull are above 0, got iterations={self.iterations}, lr={self.lr}, "
                f"pull={self.pull}"
            )
        if len(self.beta) != 2 or min(self.beta) <= 1:
            raise RecipeError(f"beta is two numbers above 1, got {self.beta}")
        if not 0 <= self.warmup < 1:
            raise RecipeError(f"warmup is a fraction from 0 to below 1, got {self.warmup}")

    def __call__(
        self,
        weight: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        grid: Grid,
        axis: int | None = None,
        inputs: Tensor | None = None,
        layer: LayerMap | None = None,
    ) -> Tensor:
        rows = Rows.of(weight, scale, zero_point, grid, axis, inputs, layer)
        below = (rows.weight / rows.scale).floor()
        up = self._learn(rows, below) >= 0
        return rows.settled(rows.onto_grid(below + up)).reshape(weight.shape)

    def _learn(self, rows: Rows, below: Tensor) -> Tensor:
        """v of each weight; up where it is 0 or more."""
        high, low = STRETCH
        least, most = rows.grid.low - rows.zero_point, rows.grid.high - rows.zero_point
        usual = rows.error(rows.nearest()) / rows.weight.shape[2]
        unit = torch.where(usual > 0, 1 / usual, 0.0) * 2 * rows.scale
        part = (rows.weight / rows.scale - below).clamp(0.0, 1.0)
        v = -((high - low) / (part - low) - 1).log()
        adam = torch.optim.Adam([v], lr=self.lr)
        for iteration in range(self.iterations):
            sigmoid = v.sigmoid()
            stretched = sigmoid * (high - low) + low
            h = stretched.clamp(0.0, 1.0)
            steps = below + h
            off = torch.clamp(steps, least, most).mul_(rows.scale).sub_(rows.weight)
            slope = (off @ rows.moments).mul_(unit)
            slope.mul_((steps >= least) & (steps <= most))
            beta = self._beta(iteration)
            if beta is not None:
                middle = 2 * h - 1
                slope.sub_(middle.abs().pow_(beta - 1).mul_(middle.sign()), alpha=2 * beta * self.pull)
            slope.mul_(stretched == h).mul_(sigmoid * (1 - sigmoid)).mul_(high - low)
            v.grad = slope
            adam.step()
        return v

    def _beta(self, iteration: int) -> float | None:
        """The exponent at an iteration; None before the term sets in."""
        done = (iteration / self.iterations - self.warmup) / (1 - self.warmup)
        first, last = self.beta
        return None if done < 0 else first + (last - first) * done
