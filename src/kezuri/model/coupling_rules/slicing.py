"""Operations that put tensors together, take them apart, or take a part."""

import numpy as np

from kezuri.model.channels import Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.coupling_rules.layers import PIXELS, alike
from kezuri.model.union_find import Ids


@rule("cat", "concat", "concatenate")
def concatenation(channels: Channels, call: Call) -> Axes:
    """Positions one after the other; the other dimensions are joined."""
    parts = [call.axes_of(tensor) for tensor in call.arguments["tensors"]]
    parts = [part for part in parts if part != [] and len(part) == len(call.shape)]
    along = call.arguments["dim"] % len(call.shape)
    result: Axes = list(parts[0])
    for dim in range(len(result)):
        if dim == along:
            result[dim] = np.concatenate([part[dim] for part in parts])
            continue
        for part in parts[1:]:
            channels.join(result[dim], part[dim])
    return result


@rule("stack")
def stack(channels: Channels, call: Call) -> Axes:
    """A new dimension; all others are joined."""
    parts = [call.axes_of(tensor) for tensor in call.arguments["tensors"]]
    for part in parts[1:]:
        for ids, own in zip(parts[0], part, strict=True):
            channels.join(ids, own)
    result = list(parts[0])
    along = call.arguments["dim"] % len(call.shape)
    result.insert(along, channels.fixed(len(parts), "stacked tensors"))
    return result


@rule("chunk", "tensor_split")
def chunk(channels: Channels, call: Call) -> list[Axes]:
    """The sizes follow the tensor, so equal chunks stay equal when each loses the same position."""
    return _pieces(channels, call)


@rule("split", "split_with_sizes")
def split(channels: Channels, call: Call) -> list[Axes]:
    """As `chunk`, with sizes written out."""
    x = call.axes("self")
    channels.suspect(x[call.arguments["dim"]], "literal size in split")
    return _pieces(channels, call)


@rule("getitem")
def getitem(channels: Channels, call: Call) -> Axes:
    """One of several tensors."""
    several = channels.axes[call.node.args[0]]  # type: ignore[index]
    return several[call.node.args[1]]  # type: ignore[index, return-value]


@rule("unbind")
def unbind(channels: Channels, call: Call) -> list[Axes]:
    """Pins the dimension taken apart."""
    x = call.axes("self")
    dim = call.arguments["dim"] % len(x)
    channels.pin(x[dim], "channels are taken apart one by one")
    return [[*x[:dim], *x[dim + 1 :]] for _ in x[dim]]


@rule("select")
def select(channels: Channels, call: Call) -> Axes:
    """Pins the dimension picked from."""
    x = call.axes("self")
    dim = call.arguments["dim"] % len(x)
    channels.pin(x[dim], "a channel is picked by its number")
    return [*x[:dim], *x[dim + 1 :]]


@rule("slice")
def part(channels: Channels, call: Call) -> Axes:
    """A slice may have been computed from the size: a trial tells. Whole equal pieces stay equal."""
    x = call.axes("self")
    dim, step = call.arguments["dim"] % len(x), call.arguments["step"]
    whole = x[dim]
    x[dim] = whole[slice(call.arguments["start"], call.arguments["end"], step)]
    size = len(x[dim])
    if size == len(whole):
        return x
    first = call.arguments["start"] or 0
    if step == 1 and size and len(whole) % size == 0 and first % size == 0:
        alike(channels, whole.reshape(-1, size))
    channels.suspect(whole, "literal size in slice")
    return x


@rule("narrow")
def narrow(channels: Channels, call: Call) -> Axes:
    """A slice by its start and length."""
    x = call.axes("self")
    dim, start = call.arguments["dim"] % len(x), call.arguments["start"]
    channels.suspect(x[dim], "literal size in narrow")
    x[dim] = x[dim][start : start + call.arguments["length"]]
    return x


@rule("index")
def index(channels: Channels, call: Call) -> Axes:
    """Picks along some dimensions by tables of numbers; unless the numbers are known, those are pinned."""
    x, tables = call.axes("self"), call.arguments["indices"]
    picked = [dim for dim, table in enumerate(tables) if table is not None]
    if (
        len(picked) == 1
        and (numbers := channels.numbers.get(tables[picked[0]])) is not None
        and numbers.ndim == 1
    ):
        return _picked(channels, x, picked[0], numbers)
    for dim in picked:
        channels.pin(x[dim], "channels are picked by their numbers")
    added = len(call.shape) - (len(x) - len(picked))
    together = picked[-1] - picked[0] + 1 == len(picked)
    at = picked[0] if together else 0
    rest = [ids for dim, ids in enumerate(x) if dim not in picked]
    new = [channels.fixed(size, PIXELS) for size in call.shape[at : at + added]]
    return [*rest[:at], *new, *rest[at:]]


@rule("index_select", "gather", "take_along_dim")
def pick(channels: Channels, call: Call) -> Axes:
    """Picks along one dimension, which is pinned unless the numbers are known."""
    x = call.axes("self")
    dim = call.arguments["dim"] % len(x)
    numbers = channels.numbers.get(call.arguments["index"]) if call.name == "index_select" else None
    if numbers is not None and numbers.ndim == 1:
        return _picked(channels, x, dim, numbers)
    channels.pin(x[dim], "channels are picked by their numbers")
    x[dim] = channels.fixed(call.shape[dim], PIXELS)
    if call.name != "index_select":
        x = [
            ids if len(ids) == size else channels.fixed(size, PIXELS)
            for ids, size in zip(x, call.shape, strict=True)
        ]
    return x


@rule("pad")
def padding(channels: Channels, call: Call) -> Axes:
    """Zeros beside channels (ResNet's option A) are literal; the channels between them may go."""
    x, amounts = call.axes("self"), call.arguments["pad"]
    reason = "zero-padded shortcut: literal sizes"
    for at in range(len(amounts) // 2):
        dim, before, after = len(x) - 1 - at, amounts[2 * at], amounts[2 * at + 1]
        if before == after == 0:
            continue
        if (x[dim] < 0).all():
            x[dim] = channels.fixed(call.shape[dim], PIXELS)
            continue
        if min(before, after) < 0 or call.arguments["mode"] != "constant":
            channels.pin(x[dim], "channels are cropped or mirrored")
            x[dim] = channels.fixed(call.shape[dim], "channels are cropped or mirrored")
            continue
        channels.suspect(x[dim], reason)
        zeros = channels.fresh(before), channels.fresh(after)
        for ids in zeros:
            channels.suspect(ids, reason)
        x[dim] = np.concatenate([zeros[0], x[dim], zeros[1]])
    return x


def _picked(channels: Channels, x: Axes, dim: int, numbers: Ids) -> Axes:
    channels.suspect(x[dim], "channels are picked by their numbers")
    x[dim] = x[dim][numbers]
    return x


def _pieces(channels: Channels, call: Call) -> list[Axes]:
    x = call.axes("self")
    dim = call.arguments["dim"] % len(x)
    sizes = [shape[dim] for shape in call.shapes]
    pieces = np.split(x[dim], np.cumsum(sizes)[:-1])
    if len(set(sizes)) == 1:
        alike(channels, pieces)
    else:
        channels.suspect(x[dim], "pieces of unequal size")
    return [[*x[:dim], piece, *x[dim + 1 :]] for piece in pieces]
