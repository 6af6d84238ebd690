"""Operations that reorder, split, merge or repeat dimensions."""

import math

import numpy as np

from kezuri.model.channels import SINGLE, Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.coupling_rules.layers import PIXELS, alike

LITERAL_EXPAND = "literal size in expand"


@rule("permute")
def permute(_: Channels, call: Call) -> Axes:
    """Reorders dimensions."""
    x = call.axes("self")
    return [x[dim] for dim in call.arguments["dims"]]


@rule("transpose", "t", "swapaxes", "swapdims")
def transpose(_: Channels, call: Call) -> Axes:
    """Swaps two dimensions."""
    x = call.axes("self")
    if len(x) < 2:
        return x
    given = call.arguments
    first, second = given.get("dim0", given.get("axis0", 0)), given.get("dim1", given.get("axis1", 1))
    x[first], x[second] = x[second], x[first]
    return x


@rule("unsqueeze")
def unsqueeze(channels: Channels, call: Call) -> Axes:
    """A new dimension of size 1."""
    x = call.axes("self")
    x.insert(call.arguments["dim"] % (len(x) + 1), channels.fixed(1, SINGLE))
    return x


@rule("squeeze")
def squeeze(_: Channels, call: Call) -> Axes:
    """Dimensions of size 1 go."""
    x = call.axes("self")
    dims = call.arguments.get("dim")
    named = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(x) for dim in named}
    return [ids for dim, ids in enumerate(x) if dim not in gone or len(ids) != 1]


@rule("expand")
def expand(channels: Channels, call: Call) -> Axes:
    """Repeats dimensions of size 1; sizes written out may be literal."""
    x, sizes = call.axes("self"), call.arguments["size"]
    new = len(sizes) - len(x)
    result: Axes = []
    for dim, (size, asked) in enumerate(zip(call.shape, sizes, strict=True)):
        if dim < new or len(x[dim - new]) != size:
            result.append(channels.fixed(size, LITERAL_EXPAND))
            continue
        if asked != -1:
            channels.suspect(x[dim - new], LITERAL_EXPAND)
        result.append(x[dim - new])
    return result


@rule("expand_as")
def expand_as(_: Channels, call: Call) -> Axes:
    """The sizes follow the other tensor."""
    x, other = call.axes("self"), call.axes("other")
    new = len(other) - len(x)
    return [
        ids if dim < new or len(x[dim - new]) != len(ids) else x[dim - new] for dim, ids in enumerate(other)
    ]


@rule("repeat", "tile")
def repeat(channels: Channels, call: Call) -> Axes:
    """The whole dimension again and again."""
    x, times = call.axes("self"), call.arguments.get("repeats", call.arguments.get("dims"))
    new = len(call.shape) - len(x)
    ones = [channels.fixed(1, SINGLE) for _ in range(new)]
    return [
        np.tile(ids, size // len(ids)) for ids, size in zip([*ones, *x], call.shape, strict=True) if times
    ]


@rule("repeat_interleave")
def repeat_interleave(_: Channels, call: Call) -> Axes:
    """Every position several times in a row."""
    x, dim = call.axes("self"), call.arguments["dim"]
    if dim is None or not isinstance(call.arguments["repeats"], int):
        raise ValueError("repeats that differ")
    x[dim] = np.repeat(x[dim], call.arguments["repeats"])
    return x


@rule("flip")
def flip(_: Channels, call: Call) -> Axes:
    """The other way round."""
    x = call.axes("self")
    for dim in call.arguments["dims"]:
        x[dim] = x[dim][::-1].copy()
    return x


@rule("roll")
def roll(channels: Channels, call: Call) -> Axes:
    """Positions that leave at one end come in at the other."""
    x, dims = call.axes("self"), call.arguments["dims"]
    if not dims:
        raise ValueError("all dimensions as one")
    for dim, shift in zip(dims, call.arguments["shifts"], strict=True):
        channels.suspect(x[dim], "literal size in roll")
        x[dim] = np.roll(x[dim], shift)
    return x


@rule("movedim", "moveaxis")
def movedim(_: Channels, call: Call) -> Axes:
    """Takes dimensions out and puts them elsewhere."""
    x = call.axes("self")
    given = [call.arguments[name] for name in ("source", "destination")]
    source, target = ([one] if isinstance(one, int) else list(one) for one in given)
    places = range(len(x))
    moved = {to % len(x): place % len(x) for place, to in zip(source, target, strict=True)}
    rest = iter(dim for dim in places if dim not in moved.values())
    return [x[moved[dim]] if dim in moved else x[next(rest)] for dim in places]


@rule("mT", "mH", "numpy_T", "adjoint")
def turned(_: Channels, call: Call) -> Axes:
    """The last two dimensions swapped, or all."""
    x = call.axes("self")
    return x[::-1] if call.name == "numpy_T" else [*x[:-2], x[-1], x[-2]]


@rule("view_as_complex", "view_as_real")
def complex_pairs(channels: Channels, call: Call) -> Axes:
    """The last dimension holds real and imaginary part, or they become one."""
    x = call.axes("self")
    if call.name == "view_as_real":
        return [*x, channels.fixed(2, "real and imaginary part")]
    channels.pin(x[-1], "real and imaginary part")
    return x[:-1]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(channels: Channels, call: Call) -> Axes:
    """Groups are interleaved; each loses the same position."""
    x, groups = call.axes("self"), call.arguments["groups"]
    rows = x[1].reshape(groups, -1)
    alike(channels, rows)
    x[1] = np.ascontiguousarray(rows.T).ravel()
    return x


@rule("pixel_shuffle")
def pixel_shuffle(channels: Channels, call: Call) -> Axes:
    """A block of channels becomes one; it goes whole."""
    x, block = call.axes("self"), call.arguments["upscale_factor"] ** 2
    columns = x[-3].reshape(-1, block).T
    alike(channels, columns)
    return [*x[:-3], columns[0].copy(), *(channels.fixed(size, PIXELS) for size in call.shape[-2:])]


@rule("pixel_unshuffle")
def pixel_unshuffle(channels: Channels, call: Call) -> Axes:
    """A channel becomes a block of them."""
    x, block = call.axes("self"), call.arguments["downscale_factor"] ** 2
    return [*x[:-3], np.repeat(x[-3], block), *(channels.fixed(size, PIXELS) for size in call.shape[-2:])]


@rule("im2col")
def im2col(channels: Channels, call: Call) -> Axes:
    """A channel becomes as many as the kernel has taps."""
    x, taps = call.axes("self"), math.prod(call.arguments["kernel_size"])
    return [*x[:-3], np.repeat(x[-3], taps), channels.fixed(call.shape[-1], PIXELS)]


@rule("col2im")
def col2im(channels: Channels, call: Call) -> Axes:
    """As many channels as the kernel has taps become one again."""
    x, taps = call.axes("self"), math.prod(call.arguments["kernel_size"])
    columns = x[-2].reshape(-1, taps).T
    alike(channels, columns)
    return [*x[:-2], columns[0].copy(), *(channels.fixed(size, PIXELS) for size in call.shape[-2:])]


@rule("unfold")
def unfold(channels: Channels, call: Call) -> Axes:
    """Windows along one dimension, which is pinned."""
    x = call.axes("self")
    dim = call.arguments["dimension"] % len(x)
    channels.pin(x[dim], "windows run over the channels")
    x[dim] = channels.fixed(call.shape[dim], PIXELS)
    return [*x, channels.fixed(call.shape[-1], PIXELS)]
