"""The role of a rounding: to which of the two neighbours on the grid does each weight go?

The nearest one is best for a weight alone, and not for a layer: the errors of the weights of one output add
up, and where inputs are correlated they can be made to cancel. A layer is linear, so its error over a sample
of inputs depends on their second moments only: for an output with weights off by d it is dᵀ·E[xxᵀ]·d. So the
other roundings take these moments once and never run the layer again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from kezuri.core.errors import DataError, MissingEvidence, RecipeError, ShapeError
from kezuri.core.registry import Registry
from kezuri.quantization.affine import Grid, along

CHUNK = 2**24  # numbers unfolded at a time


@dataclass(frozen=True)
class LayerMap:
    """How a layer of a kind reads its inputs: a convolution's settings, or nothing for a linear layer.

    Attributes:
        stride, padding, dilation: one number for each spatial dimension, or one for all. Padding is by zeros.
        groups: of the channels; as many as channels for a depthwise convolution.
    """

    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] = (0,)
    dilation: tuple[int, ...] = (1,)
    groups: int = 1

    def __post_init__(self) -> None:
        if min(self.stride) < 1 or min(self.padding) < 0 or min(self.dilation) < 1 or self.groups < 1:
            raise RecipeError(f"strides, dilations and groups are from 1 and paddings from 0, got {self}")


class Rounding(Protocol):
    """Moves a weight onto its grid."""

    needs: ClassVar[frozenset[str]]
    """What it must be given besides: {"inputs"} or nothing."""

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
        """The weight's values on the grid, scale·(q − zero_point), float32, in its shape; it stays as it is.

        Args:
            weight: of a linear layer, (outputs, inputs), or a convolution, (outputs, inputs/groups, *kernel),
                of one to three dimensions. `nearest` takes any shape.
            scale, zero_point: one number each, or one for each position of `axis`.
            grid: which integers there are.
            axis: None or, for all but `nearest`, 0.
            inputs: what the layer reads, on a sample: (samples, …, inputs) of a linear layer, (samples,
                channels, *positions) of a convolution.
            layer: the settings of a convolution; None for plain ones.

        Raises:
            MissingEvidence: no inputs, and it needs them.
            ShapeError: weight, scale and inputs do not fit.
            DataError: inputs are not finite.
        """
        ...


roundings: Registry[type[Rounding]] = Registry("rounding")


@dataclass(frozen=True)
class Rows:
    """A layer's weight as rows that share inputs, and the second moments of these.

    Attributes:
        weight: (groups, outputs a group, inputs a row).
        scale, zero_point: to be broadcast on it.
        moments: E[xxᵀ] over samples and positions, (groups, inputs a row, inputs a row).
    """

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    grid: Grid
    moments: Tensor

    @classmethod
    def of(
        cls,
        weight: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        grid: Grid,
        axis: int | None,
        inputs: Tensor | None,
        layer: LayerMap | None,
    ) -> "Rows":
        """What a rounding was given, in that form; errors as in `Rounding`."""
        if inputs is None:
            raise MissingEvidence("this rounding needs a sample of the layer's inputs, got none")
        if axis not in (None, 0):
            raise ShapeError(f"scales are one for all or one for each output (axis 0), got axis {axis}")
        layer = layer or LayerMap()
        if not 2 <= weight.dim() <= 5 or len(weight) % layer.groups:
            raise ShapeError(
                f"a weight {tuple(weight.shape)} is of no linear layer or convolution with "
                f"{layer.groups} group(s)"
            )
        shape = (layer.groups, len(weight) // layer.groups, -1)
        scale, zero_point = along(scale, axis, weight), along(zero_point, axis, weight)
        return cls(
            weight=weight.detach().float().reshape(shape),
            scale=scale.detach().reshape(1, 1, 1) if axis is None else scale.detach().reshape(*shape[:2], 1),
            zero_point=zero_point.reshape(1, 1, 1) if axis is None else zero_point.reshape(*shape[:2], 1),
            grid=grid,
            moments=second_moments(inputs.detach().float(), weight, layer),
        )

    def onto_grid(self, steps: Tensor) -> Tensor:
        """Numbers of steps from zero, whole ones, clamped to the grid and as values."""
        ends = self.grid.low - self.zero_point, self.grid.high - self.zero_point
        return torch.clamp(steps, *ends) * self.scale

    def nearest(self) -> Tensor:
        """Each weight's nearest value on the grid."""
        return self.onto_grid((self.weight / self.scale).round())

    def error(self, rounded: Tensor) -> Tensor:
        """Mean squared error of each output, (groups, outputs a group, 1)."""
        off = rounded - self.weight
        return (off @ self.moments).mul_(off).sum(2, keepdim=True)

    def settled(self, rounded: Tensor) -> Tensor:
        """Single weights flipped to the other side while that helps; from here or from the nearest values."""
        ours, other = self.flipped(rounded), self.flipped(self.nearest())
        return torch.where(self.error(ours) < self.error(other), ours, other)

    def flipped(self, rounded: Tensor) -> Tensor:
        """In each row, the weight whose flip to the other side of its value helps most, again and again.

        Coordinate descent on the error of the output. It ends when no flip takes a millionth off it.
        """
        rounded = rounded.clone()
        off = rounded - self.weight
        slope = 2 * off @ self.moments
        flip = torch.where(off > 0, -self.scale, self.scale)
        own = self.scale.square() * self.moments.diagonal(dim1=1, dim2=2).unsqueeze(1)
        flipped = (rounded + flip) / self.scale + self.zero_point
        own = own.masked_fill((flipped < self.grid.low - 0.5) | (flipped > self.grid.high + 0.5), torch.inf)
        enough = -1e-6 * self.error(rounded).squeeze(2)
        for _ in range(2 * rounded.shape[2]):
            gain, column = torch.addcmul(own, flip, slope).min(2)
            group, row = torch.nonzero(gain < enough, as_tuple=True)
            if not len(group):
                break
            at = group, row, column[group, row]
            change = flip[at]
            rounded[at] += change
            flip[at] = -change
            slope[group, row] += 2 * change.unsqueeze(1) * self.moments[group, at[2]]
        return self.onto_grid((rounded / self.scale).round())


def second_moments(inputs: Tensor, weight: Tensor, layer: LayerMap) -> Tensor:
    """E[xxᵀ] of what the rows of a weight are multiplied with: (groups, inputs a row, inputs a row).

    Args:
        inputs, weight, layer: as in `Rounding`; inputs float32.

    Raises:
        ShapeError: inputs do not fit the weight.
        DataError: inputs are not finite.
    """
    width = weight[0].numel()
    total = torch.zeros(layer.groups, width, width, device=inputs.device)
    count = 0
    for columns in unfolded(inputs, weight, layer):
        total.baddbmm_(columns, columns.mT)
        count += columns.shape[2]
    if not total.diagonal(dim1=1, dim2=2).isfinite().all():
        raise DataError("the inputs of a layer have values that are not finite (nan or inf)")
    return total / count


def unfolded(inputs: Tensor, weight: Tensor, layer: LayerMap) -> Iterator[Tensor]:
    """What the rows of a weight are multiplied with, piece by piece: (groups, inputs a row, places)."""
    kernel, per_group = weight.shape[2:], weight.shape[1]
    channels = 1 if kernel else -1
    if inputs.dim() < 2 or inputs.numel() == 0 or (kernel and inputs.dim() != weight.dim()):
        raise ShapeError(f"inputs {tuple(inputs.shape)} do not fit a weight {tuple(weight.shape)}")
    if inputs.shape[channels] != per_group * layer.groups:
        raise ShapeError(
            f"a weight {tuple(weight.shape)} in {layer.groups} group(s) reads "
            f"{per_group * layer.groups} channels, got inputs {tuple(inputs.shape)}"
        )
    if not kernel:
        for part in torch.split(inputs.reshape(-1, per_group), max(1, CHUNK // per_group)):
            yield part.T.unsqueeze(0)
        return
    each = inputs[0].numel() * kernel.numel()
    for part in torch.split(inputs, max(1, CHUNK // each)):
        yield windows(part, kernel, layer)


def windows(inputs: Tensor, kernel: torch.Size, layer: LayerMap) -> Tensor:
    """All places a kernel is laid on: (groups, channels a group · kernel, places).

    Raises:
        ShapeError: the inputs are smaller than the kernel, or a setting is for other dimensions.
    """
    dims = len(kernel)
    stride, padding, dilation = (
        each * dims if len(each) == 1 else each for each in (layer.stride, layer.padding, layer.dilation)
    )
    if not len(stride) == len(padding) == len(dilation) == dims:
        raise ShapeError(f"{layer} does not fit a kernel of {dims} dimension(s)")
    x = F.pad(inputs, [pad for side in reversed(padding) for pad in (side, side)])
    for dim, size in enumerate(kernel):
        reach = dilation[dim] * (size - 1) + 1
        if x.shape[2 + dim] < reach:
            raise ShapeError(f"inputs {tuple(inputs.shape)} are smaller than the kernel {tuple(kernel)}")
        x = x.unfold(2 + dim, reach, stride[dim])[..., :: dilation[dim]]
    x = x.reshape(len(x), layer.groups, -1, *x.shape[2:])  # samples, groups, channels, *places, *kernel
    x = x.permute(1, 2, *range(3 + dims, 3 + 2 * dims), 0, *range(3, 3 + dims))
    columns: Tensor = x.reshape(layer.groups, x.shape[1] * kernel.numel(), -1)
    return columns
