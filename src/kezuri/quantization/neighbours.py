"""Kinds of operations, and what stands around one in a graph: clippings, normalisation, gates."""

from collections.abc import Iterator
from math import inf, prod

from torch import Tensor, fx

from kezuri.quantization.graph import calls, is_float, is_weight, kind, shape

SUMS = ("add", "cat")
SIGMOIDS = ("sigmoid", "hardsigmoid")
SAME_SCALE = ("max_pool1d", "max_pool2d", "max_pool3d")
AVERAGES = ("avg_pool2d", "adaptive_avg_pool2d")
POOLS = (*AVERAGES, "avg_pool1d", "adaptive_avg_pool1d", "mean")
MOVES = (
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "t",
    "contiguous",
    "clone",
    "dropout",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "expand",
    "channel_shuffle",
    "pixel_shuffle",
    "pixel_unshuffle",
    "upsample_nearest2d",
)
"""What only moves numbers: the result is on the grid that the input is on."""
CLIPS = ("relu", "relu6", "hardtanh")
SPLITS = ("split", "split_with_sizes", "chunk", "unbind")
FREE = ("getitem", "detach", "alias", "lift_fresh_copy", "to", *SPLITS)
"""What only hands values on, beside what moves them."""


def moved_from(node: fx.Node) -> fx.Node | None:
    """The value whose numbers an operation hands on; None if it computes."""
    if kind(node) == "getitem" and kind(node.args[0]) in SPLITS:
        node = node.all_input_nodes[0]
    elif kind(node) not in MOVES:
        return None
    return node.all_input_nodes[0] if node.all_input_nodes else None


def operands_of(node: fx.Node) -> list[fx.Node]:
    """The tensors that go in and are not weights."""
    given = node.args[0] if kind(node) == "cat" else node.args[:2]
    return [
        one
        for one in given  # type: ignore[union-attr]
        if isinstance(one, fx.Node) and is_float(one) and not is_weight(one)
    ]


def norm_behind(node: fx.Node) -> fx.Node | None:
    """The batch normalisation that can be folded into a layer: it has statistics, of the layer's outputs."""
    user = only_user(node)
    if user is None or kind(user) != "batch_norm" or user.args[0] is not node:
        return None
    if not isinstance(user.args[4], fx.Node):  # it never keeps any
        return None
    return user if kind(node) != "linear" or len(shape(node)) == 2 else None


def is_free(node: fx.Node) -> bool:
    """Whether an operation computes nothing of activations that a runtime would spend time on."""
    value = node.meta.get("val")
    given = value if isinstance(value, list | tuple) else (value,)
    if not any(isinstance(one, Tensor) and one.is_floating_point() for one in given):
        return True
    return is_weight(node) or kind(node) in (*MOVES, *FREE) or not node.all_input_nodes


def clipped(node: fx.Node) -> fx.Node:
    """The clipping behind, which rounding does by itself."""
    user = only_user(node)
    return user if user is not None and kind(user) in CLIPS else node


def ceiling_of(node: fx.Node) -> float:
    """What a clipping from zero up lets pass at most; inf for all else."""
    if kind(node) == "relu6":
        return 6.0
    if kind(node) == "hardsigmoid":
        return 1.0
    if kind(node) != "hardtanh":
        return inf
    low, high = node.args[1] if len(node.args) > 1 else -1.0, node.args[2] if len(node.args) > 2 else 1.0
    return float(high) if low == 0 else inf  # type: ignore[arg-type]


def only_user(node: fx.Node) -> fx.Node | None:
    """What alone reads a result, if it is one operation."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def gates_in(graph: fx.Graph) -> Iterator[fx.Node]:
    """Everything between a pool and the product that it opens and shuts channels by."""
    for node in calls(graph):
        operands = operands_of(node) if kind(node) == "mul" else []
        if len(operands) != 2:
            continue
        for gate, other in (operands, operands[::-1]):
            narrow, wide = shape(gate)[2:], shape(other)[2:]
            if wide and len(wide) == len(narrow) and prod(narrow) == 1 < prod(wide):
                yield from _up_to_pool(gate)


def _up_to_pool(node: fx.Node) -> Iterator[fx.Node]:
    found, ahead = set[fx.Node](), [node]
    while ahead:
        one = ahead.pop()
        if one in found or one.op != "call_function":
            continue
        found.add(one)
        if kind(one) not in POOLS:
            ahead += one.all_input_nodes
    if any(kind(one) in POOLS for one in found):
        yield from found


def layer_name(node: fx.Node) -> str:
    """The layer's name in the model, by its weight; the operation's where it has none."""
    weight = node.args[1] if len(node.args) > 1 else None
    if isinstance(weight, fx.Node) and weight.op == "get_attr":
        return str(weight.target).rpartition(".")[0] or str(weight.target)
    return node.name
