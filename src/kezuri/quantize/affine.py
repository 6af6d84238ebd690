"""The affine map between numbers and a few integers: x ≈ scale · (q − zero_point)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kezuri.core.errors import UsageError

TINY = 1e-8
BITS = range(2, 9)


@dataclass(frozen=True)
class Grid:
    """Which integers there are.

    Attributes:
        bits: 2 to 8.
        symmetric: around zero and with zero_point 0, as weights have it (8 bits: −127 … 127); otherwise from
            0 up with any zero_point, as activations have it (8 bits: 0 … 255).
    """

    bits: int = 8
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UsageError(f"bits are from {BITS.start} to {BITS.stop - 1}, got {self.bits}")

    @property
    def low(self) -> int:
        """The lowest integer."""
        return 1 - 2 ** (self.bits - 1) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The highest integer."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    def fit(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for values in a range; zero is always met exactly.

        Args:
            low, high: of any one shape (one number, or one a channel), float32.

        Returns:
            scale (float32, above 0) and zero point (int32), of that shape.
        """
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        if self.symmetric:
            scale = torch.maximum(-low, high) / self.high
            return scale.clamp(min=TINY), torch.zeros_like(scale, dtype=torch.int32)
        scale = ((high - low) / self.high).clamp(min=TINY)
        zero_point = (-low / scale).round().clamp(self.low, self.high)
        return scale, zero_point.to(torch.int32)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, axis: int | None = None) -> Tensor:
    """The nearest integers, int32, in the shape of `x`.

    Args:
        x: float.
        scale, zero_point: one number each, or one for each position of dimension `axis`.
        grid: which integers there are.
        axis: None for one scale for all.
    """
    scale, zero_point = along(scale, axis, x), along(zero_point, axis, x)
    return ((x / scale).round() + zero_point).clamp(grid.low, grid.high).to(torch.int32)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None) -> Tensor:
    """What integers stand for, float32; arguments as in `quantize`."""
    return (q - along(zero_point, axis, q)) * along(scale, axis, q)


def fake_quant(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, axis: int | None = None) -> Tensor:
    """The values that `x` is turned into and back; gradients pass straight through inside the range.

    Outside it they are zero (Jacob et al., 2018). Arguments as in `quantize`; scales learn nothing here.
    """
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, grid.low, grid.high)
    return torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, grid.low, grid.high)


def along(values: Tensor, axis: int | None, like: Tensor) -> Tensor:
    """One value for each position of a dimension, shaped to be broadcast."""
    return values if axis is None else values.view([-1 if dim == axis else 1 for dim in range(like.dim())])
