"""Operations that hold weights, and those that mix channels without weights."""

from collections.abc import Sequence

import numpy as np

from kezuri.model.channels import SINGLE, Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.union_find import Ids

PIXELS = "pixels, tokens or batch"


@rule("conv1d", "conv2d", "conv3d")
def convolution(channels: Channels, call: Call) -> Axes:
    """Grouped ones lose the same position of every group; depthwise ones lose whole groups."""
    x, weight = call.axes("input"), call.axes("weight")
    taps = len(weight) - 2
    seen, (outputs, inputs) = x[-taps - 1], weight[:2]
    groups = call.arguments["groups"]
    _prefer(channels, x, taps)
    if len(inputs) == 1 and groups > 1:
        channels.join(np.repeat(seen, len(outputs) // groups), outputs)
        channels.pin(inputs, SINGLE)
    else:
        contract(channels, call, pairs=[(seen, np.tile(inputs, groups))])
        alike(channels, outputs.reshape(groups, -1))
    _weight(channels, call, output=0, taps=weight[2:])
    _bias(channels, call, outputs)
    return [*x[: -taps - 1], outputs, *_pixels(channels, call.shape[len(x) - taps :])]


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(channels: Channels, call: Call) -> Axes:
    """As `convolution`, with input and output swapped in the weight."""
    x, weight = call.axes("input"), call.axes("weight")
    taps = len(weight) - 2
    seen, (inputs, outputs) = x[-taps - 1], weight[:2]
    groups = call.arguments["groups"]
    _prefer(channels, x, taps)
    contract(channels, call, pairs=[(seen, inputs)])
    if groups > 1 and len(inputs) == groups:
        channels.pin(outputs, "outputs of a group of a depthwise transposed convolution")
        produced = np.repeat(inputs, len(outputs))
    else:
        alike(channels, inputs.reshape(groups, -1))
        produced = np.tile(outputs, groups)
    _weight(channels, call, output=1, taps=weight[2:])
    _bias(channels, call, produced)
    return [*x[: -taps - 1], produced, *_pixels(channels, call.shape[len(x) - taps :])]


@rule("linear")
def linear(channels: Channels, call: Call) -> Axes:
    """Reads the last dimension."""
    x, weight = call.axes("input"), call.axes("weight")
    contract(channels, call, pairs=[(x[-1], weight[1])])
    _weight(channels, call, output=0, taps=[])
    _bias(channels, call, weight[0])
    return [*x[:-1], weight[0]]


@rule("embedding")
def embedding(channels: Channels, call: Call) -> Axes:
    """Its entries stay, its features may go."""
    table = call.axes("weight")
    channels.pin(table[0], "entries of an embedding")
    channels.set_role(call.parameter("weight"), 1, "output")
    return [*call.axes("indices"), table[1]]


@rule("batch_norm", "instance_norm")
def per_channel_norm(channels: Channels, call: Call) -> Axes:
    """Every channel has its own statistics, scale and shift."""
    x = call.axes("input")
    for argument in ("weight", "bias", "running_mean", "running_var"):
        for ids in call.axes(argument):
            channels.join(x[1], ids)
    return x


@rule("layer_norm", "rms_norm")
def norm_across_channels(channels: Channels, call: Call) -> Axes:
    """Pinned unless asked otherwise: removing a channel changes the statistics of the others."""
    x, reason = call.axes("input"), "LayerNorm width" if call.name == "layer_norm" else "RMSNorm width"
    normalized = x[-len(call.arguments["normalized_shape"]) :]
    allowed = channels.choices.norms and len(normalized) == 1 and call.axes("weight")
    for ids in normalized if not allowed else []:
        channels.pin(ids, reason)
    for argument in ("weight", "bias"):
        for ids, own in zip(normalized, call.axes(argument), strict=False):
            channels.join(ids, own)
    return x


@rule("group_norm")
def group_norm(channels: Channels, call: Call) -> Axes:
    """Pinned unless asked otherwise: removing a channel changes the statistics of its group.

    Where every channel is a group, it has its own.
    """
    x, groups = call.axes("input"), call.arguments["num_groups"]
    if groups == len(x[1]):
        if call.parameter("weight") is None:
            channels.suspect(x[1], "literal size in group_norm")
    else:
        if not channels.choices.norms or not call.axes("weight"):
            channels.pin(x[1], "GroupNorm width")
        alike(channels, x[1].reshape(groups, -1))
    for argument in ("weight", "bias"):
        for own in call.axes(argument):
            channels.join(x[1], own)
    return x


@rule("prelu")
def prelu(channels: Channels, call: Call) -> Axes:
    """One slope a channel, or one for all."""
    x = call.axes("self")
    for slopes in call.axes("weight"):
        if len(slopes) > 1:
            channels.join(x[1], slopes)
    return x


def alike(channels: Channels, groups: Ids | Sequence[Ids]) -> None:
    """Groups stay of equal size: position i goes from all of them or from none."""
    for other in groups[1:]:
        channels.join(groups[0], other)


def contract(
    channels: Channels,
    call: Call,
    *,
    pairs: Sequence[tuple[Ids, Ids]],
    factors: Sequence[str] = ("input", "weight"),
) -> None:
    """Sums products over these positions: one that is masked must be zero in one of the factors."""
    zero = any(call.vanishes(factor) for factor in factors)
    for one, other in pairs:
        channels.join(one, other)
        if not zero:
            channels.pin(one, f"aten.{call.name} sums over channels that are not zero when masked")
            channels.pin(other, f"aten.{call.name} sums over channels that are not zero when masked")


def _prefer(channels: Channels, x: Axes, taps: int) -> None:
    """Of what a view splits, the channels may go, not the pixels."""
    for ids in x[-taps:]:
        channels.pin(ids, PIXELS)
    if (tag := channels.tag(x[-taps - 1])) is not None:
        channels.wanted.add(tag)


def _weight(channels: Channels, call: Call, *, output: int, taps: Axes) -> None:
    name = call.parameter("weight")
    channels.set_role(name, output, "output")
    channels.set_role(name, 1 - output, "input")
    for ids in taps:
        channels.pin(ids, "kernel size")


def _bias(channels: Channels, call: Call, outputs: Ids) -> None:
    for ids in call.axes("bias"):
        channels.join(outputs, ids)


def _pixels(channels: Channels, sizes: tuple[int, ...]) -> Axes:
    return [channels.fixed(size, PIXELS) for size in sizes]
