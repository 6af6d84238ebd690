"""Quantization without data: channels brought to one range, biases that make up for it (Nagel et al., 2019).

The maths on tensors. Which layers follow which is for the caller to know: between two of a chain there may
be nothing or a ReLU (anything with f(s·x) = s·f(x) for s > 0), and BatchNorm must be folded into the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi, sqrt

import torch
from torch import Tensor

from kezuri.core.errors import ShapeError, UsageError

TOLERANCE = 2e-7  # mean change of a weight in a round, from which on it is done
ROUNDS = 1000
FACTORS = 1e-8, 1e8  # what a channel is multiplied with at one time


@dataclass(frozen=True)
class Link:
    """A layer of a chain.

    Attributes:
        weight: (outputs, inputs/groups, *kernel), or (outputs, inputs) of a linear layer.
        bias: (outputs,) or None.
        groups: of a convolution; as many as channels for a depthwise one.
    """

    weight: Tensor
    bias: Tensor | None = None
    groups: int = 1

    def __post_init__(self) -> None:
        if self.weight.dim() < 2 or len(self.weight) % self.groups:
            raise ShapeError(
                f"a weight {tuple(self.weight.shape)} is of no layer with {self.groups} group(s) of channels"
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ShapeError(f"a bias {tuple(self.bias.shape)} does not fit {len(self.weight)} outputs")

    @property
    def grouped(self) -> Tensor:
        """A view of the weight: (groups, outputs a group, inputs a group, *kernel)."""
        return self.weight.view(self.groups, -1, *self.weight.shape[1:])

    def repeats(self, channels: int) -> int:
        """How many inputs in a row come from one channel: 1, or the positions where maps were flattened.

        Raises:
            ShapeError: the inputs cannot be divided among that many channels.
        """
        inputs = self.weight.shape[1] * self.groups
        if channels < 1 or inputs % channels or (self.weight.dim() > 2 and inputs != channels):
            raise ShapeError(
                f"a layer with a weight {tuple(self.weight.shape)} in {self.groups} group(s) reads {inputs} "
                f"channels, got {channels}"
            )
        return inputs // channels


@torch.no_grad()
def equalize_(chain: Sequence[Link]) -> list[Tensor]:
    """Bring the ranges of channels in line across layers; the function stays what it was (section 4.1).

    Each output i of a layer is divided by √(r1_i/r2_i) and the same input of the next multiplied by it, where
    r1_i and r2_i are the largest magnitudes of weights that write and read it. Pair follows pair, again and
    again, until nothing changes. Channels that are all zero on one side stay.

    Args:
        chain: two layers or more, each reading the outputs of the one before it and nobody else doing so;
            depthwise ones may be among them. Weights and biases are changed in place.

    Returns:
        for each layer but the last, what its outputs are multiplied with by now, (outputs,): β and γ of a
        BatchNorm that was folded into it change by the same.

    Raises:
        UsageError: there are fewer than two layers.
        ShapeError: one does not fit the next.
    """
    if len(chain) < 2:
        raise UsageError(f"ranges are equalized across two layers or more, got {len(chain)}")
    for first, second in pairwise(chain):
        second.repeats(len(first.weight))
    factors = [torch.ones_like(link.weight.flatten(1)[:, 0]) for link in chain[:-1]]
    for _ in range(ROUNDS):
        before = [link.weight.clone() for link in chain]
        for so_far, (first, second) in zip(factors, pairwise(chain), strict=True):
            so_far *= _equalize_pair_(first, second)
        changes = [(link.weight - old).abs().mean() for link, old in zip(chain, before, strict=True)]
        if max(changes) < TOLERANCE:
            break
    return factors


def _equalize_pair_(first: Link, second: Link) -> Tensor:
    """What each output of the first was multiplied with, (outputs,)."""
    channels = len(first.weight)
    writing = first.weight.abs().flatten(1).amax(1)
    grouped = second.grouped.abs()
    reading = grouped.amax([dim for dim in range(grouped.dim()) if dim not in (0, 2)])
    reading = reading.view(channels, -1).amax(1)
    factor = ((writing * reading).sqrt() / writing).clamp(*FACTORS)
    factor = torch.where((writing > 0) & (reading > 0), factor, 1.0)
    first.weight.mul_(factor.view(-1, *[1] * (first.weight.dim() - 1)))
    if first.bias is not None:
        first.bias.mul_(factor)
    each = factor.repeat_interleave(second.repeats(channels))
    second.grouped.div_(each.view(second.groups, 1, -1, *[1] * (second.weight.dim() - 2)))
    return factor


@torch.no_grad()
def absorb_(first: Link, second: Link, mean: Tensor, std: Tensor, deviations: float = 3.0) -> Tensor:
    """Move what nearly always passes a ReLU from the first layer's bias to the second's (section 4.1.3).

    Where an output is normal with mean β and standard deviation γ, c = max(0, β − 3γ) of it passes the ReLU
    unchanged but for one value in a thousand; without it the activations have a smaller range. Exact but for
    those values and, with padding, for the border, where the second layer reads zeros instead of c.

    Args:
        first, second: with a ReLU between them; both biases are changed in place.
        mean, std: β and γ of the first layer's outputs, (outputs,): those of its BatchNorm, times the factors
            from `equalize_`.
        deviations: how many of them count as nearly always.

    Returns:
        c, (outputs,), by which the mean is lower now.

    Raises:
        UsageError: a layer has no bias.
        ShapeError: something does not fit.
    """
    if first.bias is None or second.bias is None:
        raise UsageError("a bias is moved from one layer to the next, and one of them has none")
    if mean.shape != first.bias.shape or std.shape != first.bias.shape:
        raise ShapeError(
            f"mean {tuple(mean.shape)} and std {tuple(std.shape)} do not fit {len(first.bias)} outputs"
        )
    moved = (mean - deviations * std).clamp(min=0.0)
    second.bias.add_(response(second, second.weight, moved))
    first.bias.sub_(moved)
    return moved


def relu_mean(mean: Tensor, std: Tensor, ceiling: float | None = None) -> Tensor:
    """E[max(0, x)] of x normal with this mean and standard deviation, in their shape (equation 19).

    Args:
        mean, std: one number a channel, std not below 0.
        ceiling: what is cut off above it, 6 for ReLU6; None for nothing.
    """
    if ceiling is not None:
        return relu_mean(mean, std) - relu_mean(mean - ceiling, std)
    ratio = mean / std.clamp(min=torch.finfo(std.dtype).tiny)
    density = (-ratio.square() / 2).exp() / sqrt(2 * pi)
    return torch.where(std > 0, std * density + mean * torch.special.ndtr(ratio), mean.clamp(min=0.0))


@torch.no_grad()
def corrected_bias(link: Link, rounded: Tensor, mean: Tensor) -> Tensor:
    """The bias that takes the mean error of rounded weights off the outputs, (outputs,) (section 4.2).

    The error is (Ŵ − W)·E[x]. With padding it is exact inside and too much at the border.

    Args:
        link: with the weight as it was and its bias, if any; it stays as it is.
        rounded: the weight in use, of the same shape.
        mean: E[x] of the channels that the layer reads, (channels,): `relu_mean` of the BatchNorm before, or
            measured on data.

    Raises:
        ShapeError: something does not fit.
    """
    if rounded.shape != link.weight.shape:
        raise ShapeError(f"a weight {tuple(rounded.shape)} is not a rounded one {tuple(link.weight.shape)}")
    error = response(link, rounded - link.weight, mean)
    return -error if link.bias is None else link.bias - error


def response(link: Link, weight: Tensor, values: Tensor) -> Tensor:
    """What a layer with this weight makes of inputs that are the same everywhere in a channel, (outputs,).

    Raises:
        ShapeError: `values`, (channels,), are not what the layer reads.
    """
    each = values.repeat_interleave(link.repeats(len(values)))
    grouped = Link(weight, groups=link.groups).grouped
    grouped = grouped.flatten(3).sum(3) if grouped.dim() > 3 else grouped
    return (grouped @ each.view(link.groups, -1, 1)).flatten()
