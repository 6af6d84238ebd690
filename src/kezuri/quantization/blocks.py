"""Weights of 4 bits in blocks: each few inputs of an output have a scale, and a zero point, of their own."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kezuri.core.errors import DataError, ShapeError, UsageError
from kezuri.quantization.affine import TINY, Grid, quantize

GRID = Grid(bits=4)
MIDDLE = 8
BLOCK_SIZES = (16, 32, 64, 128, 256)
STRAY = 1e-3  # of a step, that float32 may put a rounded value beside its point of the grid


@dataclass(frozen=True)
class Blocks:
    """A weight (outputs, inputs) as integers of 4 bits; `scale · (code − zero_point)` is the number meant.

    Attributes:
        codes: (outputs, blocks, block) uint8, 0 to 15; what lies beyond the inputs does not count.
        scale: (outputs, blocks) float32, not 0; may be negative.
        zero_point: (outputs, blocks) uint8, 0 to 15; 8 everywhere is what runtimes take if none is stored.
        inputs: how many there are; the last block may be partly filled.

    Raises:
        ShapeError: these do not fit one another.
        UsageError: a block size that ONNX Runtime has no kernel for.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    inputs: int

    def __post_init__(self) -> None:
        _check_block(self.block)
        outputs, blocks, block = self.codes.shape
        if self.scale.shape != (outputs, blocks) or self.zero_point.shape != (outputs, blocks):
            raise ShapeError(
                f"{outputs} outputs of {blocks} blocks need as many scales and zero points, "
                f"got {tuple(self.scale.shape)} and {tuple(self.zero_point.shape)}"
            )
        if not (blocks - 1) * block < self.inputs <= blocks * block:
            raise ShapeError(f"{self.inputs} inputs do not fill {blocks} blocks of {block}")

    @property
    def block(self) -> int:
        """Inputs that share a scale."""
        return self.codes.shape[-1]

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are 8, so that none need be stored."""
        return bool((self.zero_point == MIDDLE).all())

    def values(self) -> Tensor:
        """(outputs, inputs) float32: the numbers meant."""
        steps = self.codes.to(torch.float32) - self.zero_point[..., None].to(torch.float32)
        return (steps * self.scale[..., None]).flatten(1)[:, : self.inputs]

    def packed(self) -> NDArray[np.uint8]:
        """(outputs, blocks, block / 2): two codes a byte, the first in its low half."""
        return _two_a_byte(self.codes)

    def packed_zero_points(self) -> NDArray[np.uint8]:
        """(outputs, blocks / 2, rounded up): two zero points a byte, the first in its low half."""
        return _two_a_byte(F.pad(self.zero_point, (0, self.zero_point.shape[1] % 2)))


def fit_blocks(weight: Tensor, *, block: int = 32, symmetric: bool = False) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each block of a weight.

    Args:
        weight: (outputs, inputs) float.
        block: inputs that share a scale: 16, 32, 64, 128 or 256.
        symmetric: all zero points are 8, and the value furthest from zero is met exactly, by code 0;
            otherwise the 16 codes span the range from the lowest value to the highest, 0 included.

    Returns:
        (outputs, blocks) float32 and (outputs, blocks) uint8.

    Raises:
        UsageError: no such block size, or the weight is not of two dimensions.
        DataError: the weight holds values that are not finite.
    """
    cut = _blocks_of(weight, block)
    if symmetric:
        extreme = cut.gather(2, cut.abs().argmax(2, keepdim=True)).squeeze(2)
        scale = extreme / -MIDDLE
        scale = torch.where(scale.abs() < TINY, torch.full_like(scale, TINY), scale)
        return scale, torch.full_like(scale, MIDDLE, dtype=torch.uint8)
    scale, zero_point = GRID.fit(cut.amin(2), cut.amax(2))
    return scale, zero_point.to(torch.uint8)


def round_to_blocks(weight: Tensor, scale: Tensor, zero_point: Tensor, *, block: int = 32) -> Blocks:
    """Each weight on the nearest of the 16 values of its block; arguments as in `fit_blocks`."""
    cut = _blocks_of(weight, block)
    codes = quantize(cut, scale[..., None], zero_point[..., None], GRID)
    return Blocks(codes.to(torch.uint8), scale, zero_point, weight.shape[1])


def already_rounded(weight: Tensor, scale: Tensor, zero_point: Tensor, *, block: int = 32) -> Blocks:
    """A weight that something else has moved onto the values of its blocks, such as GPTQ.

    Raises:
        UsageError: a value lies between two of its block.
    """
    blocks = round_to_blocks(weight, scale, zero_point, block=block)
    step = scale.abs().repeat_interleave(block, 1)[:, : weight.shape[1]]
    stray = ((weight - blocks.values()).abs() / step).max()
    if stray > STRAY:
        raise UsageError(f"the weight is not on its blocks' grid: a value is {float(stray):.2g} steps beside")
    return blocks


def _check_block(block: int) -> None:
    if block not in BLOCK_SIZES:
        raise UsageError(f"block is one of {', '.join(map(str, BLOCK_SIZES))}; got {block}")


def _blocks_of(weight: Tensor, block: int) -> Tensor:
    _check_block(block)
    if weight.dim() != 2 or not weight.numel():
        raise UsageError(f"a weight of (outputs, inputs) is needed, got {tuple(weight.shape)}")
    if not bool(weight.isfinite().all()):
        raise DataError("the weight holds values that are not finite")
    filled = F.pad(weight.detach().cpu().to(torch.float32), (0, -weight.shape[1] % block))
    return filled.view(weight.shape[0], -1, block)


def _two_a_byte(values: Tensor) -> NDArray[np.uint8]:
    packed: NDArray[np.uint8] = (values[..., 0::2] | (values[..., 1::2] << 4)).numpy()
    return packed
