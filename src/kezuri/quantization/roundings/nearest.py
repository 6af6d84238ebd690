"""To the nearest value."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kezuri.quantization.affine import Grid, dequantize, quantize
from kezuri.quantization.rounding import LayerMap, roundings


@roundings.register("nearest")
@dataclass(frozen=True)
class Nearest:
    """Each weight to the nearest value on the grid; halves to the even one."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(
        self,
        weight: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        grid: Grid,
        axis: int | None = None,
        inputs: Tensor | None = None,  # noqa: ARG002 (the role's)
        layer: LayerMap | None = None,  # noqa: ARG002 (the role's)
    ) -> Tensor:
        integers = quantize(weight.detach().float(), scale, zero_point, grid, axis)
        return dequantize(integers, scale, zero_point, axis)
