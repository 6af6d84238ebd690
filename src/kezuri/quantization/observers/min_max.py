"""Everything that was seen."""

from dataclasses import dataclass
from typing import ClassVar

from kezuri.quantization.affine import Grid
from kezuri.quantization.observer import Extent, observers


@observers.register("min_max")
@dataclass(frozen=True)
class MinMax:
    """From the lowest to the highest value seen: nothing is clipped (Jacob et al., 2018)."""

    per_channel: ClassVar[bool] = True

    def watch(self, grid: Grid, axis: int | None = None) -> Extent:  # noqa: ARG002 (the role's)
        return Extent(axis)
