"""Weights of 4 bits in blocks, rounded so that the answers of the layer change little, not each weight."""

import torch
from torch import Tensor

from kezuri.core.errors import UsageError
from kezuri.quantization.affine import dequantize, quantize
from kezuri.quantization.blocks import GRID, Blocks, fit_blocks, round_to_blocks
from kezuri.quantization.rounding import LayerMap, second_moments
from kezuri.quantization.roundings.gptq import factor

LAZY = 128


def gptq_blocks(
    weight: Tensor, inputs: Tensor, *, block: int = 32, symmetric: bool = False, damp: float = 0.01
) -> Blocks:
    """Rounds one input's weights after the other and moves the rest against the error (Frantar et al., 2023).

    Scales and zero points are those of `fit_blocks`, taken before; inputs of high energy come first. An
    output that the nearest values serve better on the sample gets those.

    Args:
        weight: (outputs, inputs) float.
        inputs: (samples, …, inputs): what the layer reads; several times more samples than inputs, or it fits
            them too well.
        block, symmetric: as in `fit_blocks`.
        damp: added to the diagonal of the second moments, as a fraction of its mean.

    Raises:
        UsageError: as `fit_blocks`, or `damp` is not above 0.
        ShapeError: the inputs do not fit the weight.
        DataError: weight or inputs are not finite.
    """
    if not damp > 0:
        raise UsageError(f"damp is above 0, got {damp}")
    scale, zero_point = fit_blocks(weight, block=block, symmetric=symmetric)
    weight = weight.detach().cpu().float()
    moments = second_moments(inputs.detach().cpu().float(), weight, LayerMap())[0]
    order = moments.diagonal().argsort(descending=True, stable=True)
    upper = factor(moments[order][:, order][None], damp)[0]
    steps, zeros = (
        part.repeat_interleave(block, 1)[:, order] for part in (scale, zero_point.to(torch.int32))
    )
    rounded = torch.empty_like(weight)
    rounded[:, order] = _round(weight[:, order], steps, zeros, upper)
    nearest = round_to_blocks(weight, scale, zero_point, block=block).values()
    better = _error(rounded - weight, moments) < _error(nearest - weight, moments)
    return round_to_blocks(torch.where(better, rounded, nearest), scale, zero_point, block=block)


def _round(moving: Tensor, scale: Tensor, zero_point: Tensor, upper: Tensor) -> Tensor:
    """Weights on the grid, in the order of the columns; `moving` is used up."""
    rounded = torch.empty_like(moving)
    for start in range(0, moving.shape[1], LAZY):
        end = min(start + LAZY, moving.shape[1])
        errors = torch.empty_like(moving[:, start:end])
        for column in range(start, end):
            here, step, zero = moving[:, column], scale[:, column], zero_point[:, column]
            rounded[:, column] = dequantize(quantize(here, step, zero, GRID), step, zero)
            errors[:, column - start] = (here - rounded[:, column]) / upper[column, column]
            moving[:, column:end] -= errors[:, column - start, None] * upper[column, column:end]
        moving[:, end:] -= errors @ upper[start:end, end:]
    return rounded


def _error(off: Tensor, moments: Tensor) -> Tensor:
    """Mean squared error of each output, (outputs, 1)."""
    return ((off @ moments) * off).sum(1, keepdim=True)
