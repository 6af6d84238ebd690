"""To the nearest value, and then whatever single change helps."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kezuri.quantization.affine import Grid
from kezuri.quantization.rounding import LayerMap, Rows, roundings


@roundings.register("greedy")
@dataclass(frozen=True)
class Greedy:
    """From the nearest values, flips the weight that helps an output most, until none does any more.

    Coordinate descent on the error that `adaround` and `gptq` go down too (compare the greedy updates of Chee
    et al., 2023); both end with it. Most of their gain, for a few hundredths of their time.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})

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
        return rows.flipped(rows.nearest()).reshape(weight.shape)
