"""Column by column, each one making up for the errors so far."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.quantization.affine import Grid
from kezuri.quantization.rounding import LayerMap, Rows, roundings


@roundings.register("gptq")
@dataclass(frozen=True)
class Gptq:
    """Rounds one input's weights after the other and moves the rest against the error (Frantar et al., 2023).

    Fast, and as good as `adaround` where the sample is large; with fewer samples than inputs it fits them too
    well. Nothing in it is random. Flips as in `greedy` follow, and an output that `greedy` alone does better
    on the sample is left to it.

    Attributes:
        damp: added to the diagonal of the second moments, as a fraction of its mean.
        order: whether inputs of high energy come first (the authors' act-order).
        block: inputs rounded before the weights after them are moved; no influence on the result.
    """

    damp: float = 0.01
    order: bool = True
    block: int = 128

    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})

    def __post_init__(self) -> None:
        if not self.damp > 0 or self.block < 1:
            raise RecipeError(f"damp is above 0 and block from 1, got damp={self.damp}, block={self.block}")

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
        moments, moving = rows.moments, rows.weight
        energy = moments.diagonal(dim1=1, dim2=2)
        place = energy.argsort(dim=1, descending=True, stable=True) if self.order else None
        if place is not None:
            across = place.unsqueeze(1)
            moments = moments.gather(1, place.unsqueeze(2).expand_as(moments))
            moments = moments.gather(2, across.expand_as(moments))
            moving = moving.gather(2, across.expand_as(moving))
        rounded = self._round(rows, moving.clone(), factor(moments, self.damp))
        if place is not None:
            rounded = torch.empty_like(rounded).scatter_(2, across.expand_as(rounded), rounded)
        return rows.settled(rounded).reshape(weight.shape)

    def _round(self, rows: Rows, moving: Tensor, upper: Tensor) -> Tensor:
        """Weights on the grid, in the order of the columns; `moving` is used up."""
        rounded = torch.empty_like(moving)
        width = moving.shape[2]
        for start in range(0, width, self.block):
            end = min(start + self.block, width)
            errors = torch.empty_like(moving[:, :, start:end])
            for column in range(start, end):
                here = moving[:, :, column : column + 1]
                there = rows.onto_grid((here / rows.scale).round())
                pivot = upper[:, column : column + 1, column:end]
                error = (here - there) / pivot[:, :, :1]
                rounded[:, :, column : column + 1] = there
                errors[:, :, column - start : column - start + 1] = error
                moving[:, :, column:end] -= error * pivot
            moving[:, :, end:] -= errors @ upper[:, start:end, end:]
        return rounded


def factor(moments: Tensor, damp: float) -> Tensor:
    """U with UᵀU the inverse of damped moments, upper triangular: (groups, n, n).

    Inputs that are always zero get nothing but their own rounding. Damping is raised tenfold where the
    moments cannot be inverted in float32.
    """
    moments = moments.clone()
    diagonal = moments.diagonal(dim1=1, dim2=2)
    diagonal += torch.where(diagonal == 0, 1.0, 0.0)
    more = diagonal.mean(dim=1, keepdim=True) * damp
    while True:
        diagonal += more
        lower, failed = torch.linalg.cholesky_ex(moments)
        if not failed.any():
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed.any():
                return upper
        more = more * 10
