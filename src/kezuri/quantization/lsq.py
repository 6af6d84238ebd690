"""Learned step size quantization: the scale is trained along with the weights (Esser et al., 2020)."""

from typing import Any

import torch
from torch import Tensor

from kezuri.quantization.affine import TINY, Grid, along, fake_quant


def lsq(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    grid: Grid,
    axis: int | None = None,
    *,
    batched: bool = False,
) -> Tensor:
    """The values that `x` is turned into and back, with a gradient for the scale too.

    With v = x/scale, ∂x̂/∂scale is round(v) − v inside the grid, and the outermost step outside it (equation
    3); it is multiplied with 1/√(N·Qp), where Qp is the highest step from zero and N how many values have
    that scale (section 2.2). ∂x̂/∂x is 1 inside and 0 outside. torch's own learnable fake quantization has
    another gradient in the half step beyond either end, and takes several times as long on a CPU.

    Args:
        x: float, of any shape.
        scale: float32, one number, or one for each position of dimension `axis`. What counts is `positive`
            of it, so that no optimizer can turn the steps around.
        zero_point: int32, of the scale's shape; it learns nothing.
        grid: which integers there are.
        axis: None for one scale for all.
        batched: whether the first dimension counts samples, as in activations; N is then that of one sample.

    Returns:
        values of the shape of `x`.
    """
    count = x.numel() // scale.numel()
    if batched:
        count //= len(x)
    rounded: Tensor = _Lsq.apply(x, scale, zero_point, grid, axis, count)  # type: ignore[no-untyped-call]
    return rounded


def positive(scale: Tensor) -> Tensor:
    """The step size that a trained scale stands for: its magnitude, never zero."""
    return scale.abs().clamp(min=TINY)


class _Lsq(torch.autograd.Function):
    """Sums over x̂ − x instead of keeping round(v) − v: two passes over memory less."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, axis: int | None, count: int
    ) -> Tensor:
        rounded = fake_quant(x, positive(scale), zero_point, grid, axis)
        ctx.save_for_backward(x, rounded, scale, zero_point)
        ctx.grid, ctx.axis, ctx.count = grid, axis, count
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, rounded, scale, zero_point = ctx.saved_tensors
        grid, axis, gradient = ctx.grid, ctx.axis, gradients[0]
        step = positive(scale)
        low, high = (grid.low - zero_point) * step, (grid.high - zero_point) * step
        if scale.numel() == 1:
            to_x = torch.ops.aten.hardtanh_backward(gradient, x, float(low), float(high))
        else:
            low, high = along(low, axis, x), along(high, axis, x)
            to_x = gradient * ((x > low) & (x < high))
        if not ctx.needs_input_grad[1]:
            return to_x, None, None, None, None, None
        inside = total(to_x, rounded - x, scale, axis)
        outside = total(gradient - to_x, rounded, scale, axis)
        weight = 1 / ((grid.high - zero_point).clamp(min=1) * ctx.count).sqrt()
        sign = torch.where(scale < 0, -1.0, 1.0)
        return to_x, (inside + outside) / step * weight * sign, None, None, None, None


def total(a: Tensor, b: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    """Σ a·b over the values that have one scale, in the scale's shape."""
    if scale.numel() == 1:
        return torch.dot(a.flatten().float(), b.flatten().float()).reshape(scale.shape)
    return (a.float() * b).sum([dim for dim in range(a.dim()) if dim != axis])
