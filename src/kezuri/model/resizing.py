"""Which literal sizes of an operation follow when positions of its tensors are gone."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from kezuri.model.channels import Axes, Call, Channels
from kezuri.model.union_find import Ids

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Survivors:
    """What is left of every tensor.

    Attributes:
        channels: the positions.
        removed: roots of those that are gone.
        tables: numbers of positions that the program needs, by the name of the operation that picks them.
    """

    channels: Channels
    removed: Ids
    tables: dict[str, Ids] = field(default_factory=dict)

    def of(self, ids: Ids) -> np.ndarray:
        """Which of these positions are left, (n,) bool."""
        left = np.ones(len(ids), dtype=bool)
        free = ids >= 0
        left[free] = ~np.isin(self.channels.sets.roots(ids[free]), self.removed)
        return left

    def count(self, ids: Ids) -> int:
        """How many of these positions are left."""
        return int(self.of(ids).sum())


Resizer = Callable[[Survivors, Call, fx.Node], None]
_resizers: dict[str, Resizer] = {}


def resize(survivors: Survivors, call: Call, node: fx.Node) -> None:
    """Changes the sizes that `node`, a copy of `call`, has written out."""
    function = _resizers.get(call.name)
    if function is not None and call.node not in survivors.channels.unknown:
        function(survivors, call, node)


def _of(*operations: str) -> Callable[[Resizer], Resizer]:
    def add(function: Resizer) -> Resizer:
        _resizers.update(dict.fromkeys(operations, function))
        return function

    return add


def _put(node: fx.Node, argument: str, value: Any) -> None:
    names = [one.name for one in node.target._schema.arguments]  # type: ignore[union-attr]
    at = names.index(argument)
    if at < len(node.args):
        node.update_arg(at, value)
    else:
        node.update_kwarg(argument, value)


def _sizes(survivors: Survivors, node: fx.Node, written: list[Any], axes: Axes) -> list[Any]:
    """Sizes as written, those that changed put right; sizes that are computed are scaled."""
    result = []
    for size, ids in zip(written, axes, strict=True):
        left = survivors.count(ids)
        if left == len(ids) or (isinstance(size, int) and size == -1):
            result.append(size)
        elif isinstance(size, fx.Node):
            with node.graph.inserting_before(node):
                more = node.graph.call_function(operator.mul, (size, left))
                result.append(node.graph.call_function(operator.floordiv, (more, len(ids))))
        else:
            result.append(left)
    return result


@_of("view", "reshape", "_unsafe_view", "expand", "zeros", "new_zeros")
def _written_out(survivors: Survivors, call: Call, node: fx.Node) -> None:
    name = next(name for name in ("size", "shape") if name in call.arguments)
    axes = survivors.channels.axes[call.node]
    own = _argument(node, name)
    if isinstance(own, list | tuple):
        _put(node, name, _sizes(survivors, node, list(own), axes))  # type: ignore[arg-type]


@_of("unflatten")
def _unflattened(survivors: Survivors, call: Call, node: fx.Node) -> None:
    axes: Any = survivors.channels.axes[call.node]
    own = list(_argument(node, "sizes"))
    dim = call.arguments["dim"] % len(call.axes("self"))
    _put(node, "sizes", _sizes(survivors, node, own, axes[dim : dim + len(own)]))


@_of("chunk", "split", "split_with_sizes", "tensor_split")
def _pieces(survivors: Survivors, call: Call, node: fx.Node) -> None:
    pieces: Any = survivors.channels.axes[call.node]
    dim = call.arguments["dim"] % len(pieces[0])
    left = [survivors.count(axes[dim]) for axes in pieces]
    if left != [len(axes[dim]) for axes in pieces]:
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], left, dim), {}


@_of("slice")
def _sliced(survivors: Survivors, call: Call, node: fx.Node) -> None:
    x = call.axes("self")
    ids = x[call.arguments["dim"] % len(x)]
    left = survivors.of(ids)
    if left.all():
        return
    if call.arguments["step"] != 1:
        chosen = slice(*(call.arguments[name] for name in ("start", "end", "step")))
        _pick(survivors, node, call.arguments["dim"], left, np.arange(len(ids))[chosen])
        return
    first, last, _ = slice(call.arguments["start"], call.arguments["end"]).indices(len(ids))
    _put(node, "start", int(left[:first].sum()))
    _put(node, "end", int(left[:last].sum()))


@_of("narrow")
def _narrowed(survivors: Survivors, call: Call, node: fx.Node) -> None:
    x = call.axes("self")
    left = survivors.of(x[call.arguments["dim"] % len(x)])
    start, length = call.arguments["start"], call.arguments["length"]
    if not left.all():
        _put(node, "start", int(left[:start].sum()))
        _put(node, "length", int(left[start : start + length].sum()))


@_of("roll")
def _rolled(survivors: Survivors, call: Call, node: fx.Node) -> None:
    x = call.axes("self")
    shifts = []
    for dim, shift in zip(call.arguments["dims"], call.arguments["shifts"], strict=True):
        left = survivors.of(x[dim])
        shifts.append(shift if left.all() else int(left[len(left) - shift % len(left) :].sum()))
    _put(node, "shifts", shifts)


@_of("index")
def _indexed(survivors: Survivors, call: Call, node: fx.Node) -> None:
    x, tables = call.axes("self"), call.arguments["indices"]
    for dim, table in enumerate(tables):
        left = survivors.of(x[dim])
        if table is not None and not left.all():
            _pick(survivors, node, dim, left, survivors.channels.numbers[table])


@_of("index_select")
def _selected(survivors: Survivors, call: Call, node: fx.Node) -> None:
    x, dim = call.axes("self"), call.arguments["dim"]
    left = survivors.of(x[dim])
    if not left.all():
        _pick(survivors, node, dim, left, survivors.channels.numbers[call.arguments["index"]])


def _pick(survivors: Survivors, node: fx.Node, dim: int, left: np.ndarray, numbers: Ids) -> None:
    """Picks what is left of these positions, where it is now."""
    table = (np.cumsum(left) - 1)[numbers[left[numbers]]]
    name = f"positions_{node.name}"
    survivors.tables[name] = table.astype(np.int64)
    with node.graph.inserting_before(node):
        positions = node.graph.get_attr(name)
    node.target = aten.index_select.default
    node.args, node.kwargs = (node.args[0], dim, positions), {}


@_of("pad")
def _padded(survivors: Survivors, call: Call, node: fx.Node) -> None:
    result: Any = survivors.channels.axes[call.node]
    amounts = list(call.arguments["pad"])
    for at in range(len(amounts) // 2):
        before, after = amounts[2 * at : 2 * at + 2]
        ids = result[len(result) - 1 - at]
        if min(before, after) >= 0 and (ids >= 0).any():
            amounts[2 * at] = survivors.count(ids[:before])
            amounts[2 * at + 1] = survivors.count(ids[len(ids) - after :])
    if amounts != list(call.arguments["pad"]):
        _put(node, "pad", amounts)


@_of("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _grouped(survivors: Survivors, call: Call, node: fx.Node) -> None:
    """Depthwise convolutions have as many groups as channels."""
    groups = call.arguments["groups"]
    x, weight = call.axes("input"), call.axes("weight")
    seen = x[-(len(weight) - 2) - 1]
    if groups > 1 and groups == len(seen):
        _put(node, "groups", survivors.count(seen))


@_of("layer_norm", "rms_norm")
def _normalised(survivors: Survivors, call: Call, node: fx.Node) -> None:
    own = list(_argument(node, "normalized_shape"))
    _put(node, "normalized_shape", _sizes(survivors, node, own, call.axes("input")[-len(own) :]))


@_of("group_norm")
def _one_group_a_channel(survivors: Survivors, call: Call, node: fx.Node) -> None:
    ids = call.axes("input")[1]
    if call.arguments["num_groups"] == len(ids):
        _put(node, "num_groups", survivors.count(ids))


@_of("scaled_dot_product_attention")
def _scaled(survivors: Survivors, call: Call, node: fx.Node) -> None:
    width = call.axes("query")[-1]
    if call.arguments.get("scale") is None and survivors.count(width) != len(width):
        _put(node, "scale", len(width) ** -0.5)


def _argument(node: fx.Node, name: str) -> Any:
    names = [one.name for one in node.target._schema.arguments]  # type: ignore[union-attr]
    at = names.index(name)
    return node.args[at] if at < len(node.args) else node.kwargs.get(name)
