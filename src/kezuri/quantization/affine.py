"""The affine map between numbers and a few integers: x ≈ scale · (q − zero_point)."""

from dataclasses import dataclass
from typing import Any

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
        return 1 - int(2 ** (self.bits - 1)) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The highest integer."""
        return int(2 ** (self.bits - 1)) - 1 if self.symmetric else int(2**self.bits) - 1

    def fit(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for values in a range; zero is always met exactly.

        Args:
            low, high: of any one shape (one number, or one a channel), float32.

        Returns:
            scale (float32, above 0) and zero point (int32), of that shape.
        """
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        if self.symmetric:
            scale = _usable(torch.maximum(-low, high) / self.high)
            return scale, torch.zeros_like(scale, dtype=torch.int32)
        scale = _usable((high - low) / self.high)
        zero_point = (-low / scale).round().clamp(self.low, self.high)
        return scale, zero_point.to(torch.int32)


def _usable(scale: Tensor) -> Tensor:
    """No scale is next to nothing; of zeros alone it is 1, as some runtimes lose others along with them."""
    return torch.where(scale > 0, scale.clamp(min=TINY), 1.0)


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

    Outside it they are zero (Jacob et al., 2018). Arguments as in `quantize`; scales learn nothing here. In
    `x`'s number format.
    """
    learns = torch.is_grad_enabled() and x.requires_grad
    rounded: Tensor
    if axis is None:
        ends = _ends(scale, zero_point, grid)
        rounded = _Clipped.apply(x, scale, ends) if learns else _round_between(x, scale, ends)  # type: ignore[no-untyped-call]
        return rounded
    if learns:
        rounded = _StraightThrough.apply(x, scale, zero_point, grid, axis)  # type: ignore[no-untyped-call]
        return rounded
    scale, zero_point = along(scale, axis, x), along(zero_point, axis, x)
    return _integers(x, scale, zero_point).clamp_(grid.low, grid.high).sub_(zero_point).mul_(scale)


def _ends(scale: Tensor, zero_point: Tensor, grid: Grid) -> tuple[float, float]:
    """The lowest and the highest value there is."""
    unit, middle = float(scale), int(zero_point)
    return (grid.low - middle) * unit, (grid.high - middle) * unit


def _round_between(x: Tensor, scale: Tensor, ends: tuple[float, float]) -> Tensor:
    unit = float(scale)
    return x.clamp(*ends).mul_(1 / unit).round_().mul_(unit)


def _integers(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return (x * (1 / scale).to(x.dtype)).round_().add_(zero_point)


class _Clipped(torch.autograd.Function):
    """With one scale for all; several times as fast on a CPU as torch's own fake quantization."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, ends: tuple[float, float]) -> Tensor:
        half = float(scale) / 2
        ctx.between = ends[0] - half, ends[1] + half
        ctx.save_for_backward(x)
        return _round_between(x, scale, ends)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], x, *ctx.between), None, None


class _StraightThrough(torch.autograd.Function):
    """With a scale for each channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, axis: int | None
    ) -> Tensor:
        scale, zero_point = along(scale, axis, x), along(zero_point, axis, x)
        q = _integers(x, scale, zero_point)
        ctx.save_for_backward((q >= grid.low) & (q <= grid.high))
        return q.clamp_(grid.low, grid.high).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


def along(values: Tensor, axis: int | None, like: Tensor) -> Tensor:
    """One value for each position of a dimension, shaped to be broadcast."""
    return values if axis is None else values.view([-1 if dim == axis else 1 for dim in range(like.dim())])
