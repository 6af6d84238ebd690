"""The operations that a shipped network is rounded with, as torch.export and ONNX know them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from kezuri.quantization.affine import Grid, dequantize, fake_quant

BYTE = Grid(8)


@torch.library.custom_op("kezuri::rounded", mutates_args=())
def rounded(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """`x` on the grid of the integers 0 … 255."""
    return fake_quant(x, torch.tensor(scale), torch.tensor(zero_point), BYTE)


@torch.library.custom_op("kezuri::constant", mutates_args=())
def constant(q: Tensor, scale: Tensor) -> Tensor:
    """What integers stand for, with a scale for each position of dimension 0."""
    return dequantize(q, scale, torch.zeros_like(scale, dtype=torch.int32), 0)


@torch.library.custom_op("kezuri::global_pool", mutates_args=())
def global_pool(x: Tensor) -> Tensor:
    """The mean of every map, (B, C, H, W) to (B, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


@torch.library.custom_op("kezuri::space_to_depth", mutates_args=())
def space_to_depth(x: Tensor, block: int) -> Tensor:
    """Blocks of pixels as channels, (B, C, H, W) to (B, block²·C, H/block, W/block), as ONNX orders them."""
    pixels = F.pixel_unshuffle(x, block)
    by_place = pixels.reshape(len(x), x.shape[1], block**2, *pixels.shape[2:]).transpose(1, 2)
    return by_place.reshape(pixels.shape)


@torch.library.custom_op("kezuri::conv2d", mutates_args=())
def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, pads: list[int]) -> Tensor:
    """A convolution of stride 1 with zeros around: above, left, below, right.

    Its name is that of the convolution in whose place it stands, so that exporters number both as one.
    """
    above, left, below, right = pads
    return F.conv2d(F.pad(x, (left, right, above, below)), weight, bias)


@rounded.register_fake
def _(x: Tensor, scale: float, zero_point: int) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


@constant.register_fake
def _(q: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=scale.dtype)


@global_pool.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], 1, 1)


@torch.library.custom_op("kezuri::hard_sigmoid", mutates_args=())
def hard_sigmoid(x: Tensor, scale: float) -> Tensor:
    """min(max(x + 3, 0), 6) / 6 on the grid of the integers 0 … 255, whose last is 1 at most."""
    return fake_quant(F.hardsigmoid(x), torch.tensor(scale), torch.tensor(0), BYTE)


@space_to_depth.register_fake
def _(x: Tensor, block: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] * block**2, x.shape[2] // block, x.shape[3] // block)


@conv2d.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, pads: list[int]) -> Tensor:  # noqa: ARG001
    sides = (x.shape[2 + dim] + pads[dim] + pads[2 + dim] - weight.shape[2 + dim] + 1 for dim in range(2))
    return x.new_empty(x.shape[0], weight.shape[0], *sides)


@hard_sigmoid.register_fake
def _(x: Tensor, scale: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


def is_rounded(node: object) -> bool:
    """Whether a value of a shipped network is on a grid."""
    return isinstance(node, fx.Node) and node.target is torch.ops.kezuri.rounded.default


def in_integers(layer: fx.Node) -> bool:
    """Whether a layer of a shipped network has a weight of integers."""
    weight = layer.args[1]
    return isinstance(weight, fx.Node) and weight.target is torch.ops.kezuri.constant.default


def translations() -> Mapping[Callable[..., object], Callable[..., object]]:
    """What the ONNX exporter makes of them."""
    import onnx_ir
    from onnxscript import opset20

    op: Any = opset20  # its annotations are of eager values, not of the graph's

    def to_rounded(x: Any, scale: float, zero_point: int) -> Any:
        ends = op.Constant(value_float=scale), op.Constant(value=onnx_ir.tensor(np.uint8(zero_point)))
        return op.DequantizeLinear(op.QuantizeLinear(x, *ends), *ends)

    def to_constant(q: Any, scale: Any) -> Any:
        zeros = np.zeros(tuple(scale.shape), np.dtype(q.dtype.numpy()))
        return op.DequantizeLinear(q, scale, op.Constant(value=onnx_ir.tensor(zeros)), axis=0)

    def to_depth(x: Any, block: int) -> Any:
        return op.SpaceToDepth(x, blocksize=block)

    def to_conv(x: Any, weight: Any, bias: Any, pads: Sequence[int]) -> Any:
        return op.Conv(x, weight, bias, pads=pads)

    def to_hard_sigmoid(x: Any, scale: float) -> Any:
        """A sum whose integers end where the clipping does, read as a sixth of it."""
        zero = op.Constant(value=onnx_ir.tensor(np.uint8(0)))
        three = op.Constant(value=onnx_ir.tensor(np.uint8(1))), op.Constant(value_float=3.0), zero
        total = op.QuantizeLinear(
            op.Add(x, op.DequantizeLinear(*three)), op.Constant(value_float=6 * scale), zero
        )
        return op.DequantizeLinear(total, op.Constant(value_float=scale), zero)

    ops = torch.ops.kezuri
    return {
        ops.rounded.default: to_rounded,
        ops.constant.default: to_constant,
        ops.global_pool.default: op.GlobalAveragePool,
        ops.space_to_depth.default: to_depth,
        ops.conv2d.default: to_conv,
        ops.hard_sigmoid.default: to_hard_sigmoid,
    }
