"""Operations that hold weights, and those that mix channels without weights."""

import numpy as np

from kezuri.model.channels import SINGLE, Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.union_find import Ids

ATTENTION = "attention head layout"
PIXELS = "pixels, tokens or batch"


@rule("conv1d", "conv2d", "conv3d")
def convolution(channels: Channels, call: Call) -> Axes:
    """Grouped ones lose the same position of every group; depthwise ones lose whole groups."""
    x, weight = call.axes("input"), call.axes("weight")
    taps = len(weight) - 2
    seen, (outputs, inputs) = x[-taps - 1], weight[:2]
    groups = call.arguments["groups"]
    if len(inputs) == 1 and groups > 1:
        channels.join(np.repeat(seen, len(outputs) // groups), outputs)
        channels.pin(inputs, SINGLE)
    else:
        channels.join(seen, np.tile(inputs, groups))
        _alike(channels, outputs.reshape(groups, -1))
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
    channels.join(seen, inputs)
    if groups > 1 and len(inputs) == groups:
        channels.pin(outputs, "outputs of a group of a depthwise transposed convolution")
        produced = np.repeat(inputs, len(outputs))
    else:
        _alike(channels, inputs.reshape(groups, -1))
        produced = np.tile(outputs, groups)
    _weight(channels, call, output=1, taps=weight[2:])
    _bias(channels, call, produced)
    return [*x[: -taps - 1], produced, *_pixels(channels, call.shape[len(x) - taps :])]


@rule("linear")
def linear(channels: Channels, call: Call) -> Axes:
    """Reads the last dimension."""
    x, weight = call.axes("input"), call.axes("weight")
    channels.join(x[-1], weight[1])
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
    """Pinned: removing a channel would change the statistics of the others."""
    x, reason = call.axes("input"), "LayerNorm width" if call.name == "layer_norm" else "RMSNorm width"
    normalized = x[-len(call.arguments["normalized_shape"]) :]
    for ids in normalized:
        channels.pin(ids, reason)
    for argument in ("weight", "bias"):
        for ids, own in zip(normalized, call.axes(argument), strict=False):
            channels.join(ids, own)
    return x


@rule("group_norm")
def group_norm(channels: Channels, call: Call) -> Axes:
    """Pinned: removing a channel would change the statistics of its group."""
    x = call.axes("input")
    channels.pin(x[1], "GroupNorm width")
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


@rule("scaled_dot_product_attention")
def attention(channels: Channels, call: Call) -> Axes:
    """Pinned: head sizes are part of the layout and of the scale."""
    query, value = call.axes("query"), call.axes("value")
    for axes in (query, call.axes("key"), value):
        for ids in axes:
            channels.pin(ids, ATTENTION)
    return [*query[:-1], value[-1]]


@rule("matmul", "bmm")
def product_of_activations(channels: Channels, call: Call) -> Axes:
    """Pinned: no weight can be zeroed to take a channel out of the sum."""
    for axes in call.inputs():
        for ids in axes:
            channels.pin(ids, ATTENTION)
    return [channels.fixed(size, ATTENTION) for size in call.shape]


def _alike(channels: Channels, groups: Ids) -> None:
    """Groups stay of equal size: position i goes from all of them or from none."""
    for other in groups[1:]:
        channels.join(groups[0], other)


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
