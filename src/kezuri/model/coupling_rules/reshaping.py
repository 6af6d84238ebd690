"""Operations that reorder, split, merge or repeat dimensions."""

from collections.abc import Sequence

import numpy as np

from kezuri.model.channels import SINGLE, Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.union_find import Ids

LITERAL_VIEW = "literal size in view"
LITERAL_EXPAND = "literal size in expand"


@rule("permute")
def permute(_: Channels, call: Call) -> Axes:
    """Reorders dimensions."""
    x = call.axes("self")
    return [x[dim] for dim in call.arguments["dims"]]


@rule("transpose", "t")
def transpose(_: Channels, call: Call) -> Axes:
    """Swaps two dimensions."""
    x = call.axes("self")
    if len(x) < 2:
        return x
    first, second = call.arguments.get("dim0", 0), call.arguments.get("dim1", 1)
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


@rule("view", "reshape", "_unsafe_view")
def view(channels: Channels, call: Call) -> Axes:
    """Sizes written out may be literal; -1 follows the tensor."""
    asked = call.arguments.get("size", call.arguments.get("shape"))
    if not isinstance(asked, list | tuple):
        return call.axes("self")
    return _reshaped(channels, call, asked)


@rule("flatten")
def flatten(channels: Channels, call: Call) -> Axes:
    """Its sizes follow the tensor."""
    return _reshaped(channels, call, [-1] * len(call.shape))


@rule("unflatten")
def unflatten(channels: Channels, call: Call) -> Axes:
    """Only the dimension that is split has sizes written out."""
    dim, sizes = call.arguments["dim"] % len(call.axes("self")), list(call.arguments["sizes"])
    behind = len(call.shape) - dim - len(sizes)
    return _reshaped(channels, call, [-1] * dim + sizes + [-1] * behind)


def _reshaped(channels: Channels, call: Call, asked: Sequence[int]) -> Axes:
    """`asked`: the sizes as written, -1 where they follow from the tensor."""
    x, shape = call.axes("self"), call.shape
    result: Axes = []
    for sources, targets in _blocks([len(ids) for ids in x], shape):
        sizes = [shape[dim] for dim in targets]
        wide = [at for at, size in enumerate(sizes) if size > 1]
        parts = [x[dim] for dim in sources if len(x[dim]) > 1] or [x[dim] for dim in sources]
        out = [channels.fixed(size, LITERAL_VIEW) for size in sizes]
        wanted = [asked[dim] for dim in targets]
        if len(parts) > 1 and len(wide) > 1:
            for ids in parts:
                channels.pin(ids, LITERAL_VIEW)
        elif parts and sizes:
            at = wide[0] if len(wide) == 1 else _survivor(wide, wanted) if wide else 0
            out[at] = _merged(channels, parts) if len(wide) <= 1 else _split(channels, parts, sizes, at)
            if wanted[at] != -1:
                channels.suspect(out[at], LITERAL_VIEW)
        result.extend(out)
    return result


def _survivor(wide: list[int], wanted: list[int]) -> int:
    """The dimension that takes the change when one is split: the one written as -1, else the innermost."""
    return next((at for at in wide if wanted[at] == -1), wide[-1])


def _split(channels: Channels, parts: Axes, sizes: list[int], at: int) -> Ids:
    rows = np.moveaxis(parts[0].reshape(sizes), at, 0).reshape(sizes[at], -1)
    for column in rows.T[1:]:
        channels.join(rows[:, 0], column)
    return rows[:, 0].copy()


def _merged(channels: Channels, parts: Axes) -> Ids:
    free = [at for at, ids in enumerate(parts) if (ids >= 0).any()]
    if len(free) > 1:
        for ids in parts:
            channels.pin(ids, "two dimensions of channels are merged")
    kept = free[0] if free else 0
    sizes = [len(ids) for ids in parts]
    grid = np.broadcast_to(np.expand_dims(parts[kept], [d for d in range(len(parts)) if d != kept]), sizes)
    return np.ascontiguousarray(grid).ravel()


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest cut of two shapes into runs of dimensions with equal numbers of elements."""
    blocks = []
    i = j = 0
    while i < len(before) and j < len(after):
        start, left, right = (i, j), before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        blocks.append((list(range(start[0], i)), list(range(start[1], j))))
    blocks.append((list(range(i, len(before))), list(range(j, len(after)))))
    return blocks
