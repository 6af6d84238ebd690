"""A program's graph in the form that quantization works on: no operation in place, attention in its parts."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from kezuri.model.channels import operation
from kezuri.model.in_place import out_of_place_

ATEN = torch.ops.aten
FACTORS = {"silu": ATEN.sigmoid.default, "hardswish": ATEN.hardsigmoid.default}
"""Activations that are what comes in times a function of it."""


def calls(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operations, in order."""
    return (node for node in list(graph.nodes) if node.op == "call_function")


def kind(node: object) -> str:
    """`conv2d` for `aten.conv2d.default`, `relu` for `aten.relu_.default`; "" for what is no operation."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return ""
    return operation(node).removesuffix("_")


def shape(node: fx.Node) -> tuple[int, ...]:
    """Of its result, in numbers; () where it has none."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return ()
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in value.shape)


def is_float(node: fx.Node) -> bool:
    """Whether it gives one tensor of fractions."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def is_weight(node: object) -> bool:
    """Whether it is a parameter or buffer, or is computed from such alone."""
    seen: set[fx.Node] = set()
    left = [node]
    while left:  # networks are deeper than calls may be
        one = left.pop()
        if not isinstance(one, fx.Node) or one.op == "get_attr" or one in seen:
            continue
        if one.op != "call_function" or not one.args:
            return False
        seen.add(one)
        left += one.all_input_nodes
    return True


def normalise_(graph: fx.Graph, *, attention: bool, swish: bool) -> None:
    """Operations in place become ordinary ones; if asked for, fused attention its matrix products, and
    activations that are a product with a sigmoid become one."""
    out_of_place_(graph)
    for node in calls(graph):
        if swish and kind(node) in FACTORS:
            _as_product(graph, node)
        if kind(node) == "mean":
            _as_pool(graph, node)
        if attention and kind(node) == "scaled_dot_product_attention":
            _lower_attention(graph, node)


def _as_product(graph: fx.Graph, node: fx.Node) -> None:
    with graph.inserting_before(node):
        sigmoid = _call(graph, FACTORS[kind(node)], node.args[:1], name=f"{node.name}_sigmoid")
        result = _call(graph, ATEN.mul.Tensor, (node.args[0], sigmoid), name=f"{node.name}_product")
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _as_pool(graph: fx.Graph, node: fx.Node) -> None:
    """The mean of every map is a pool, which runtimes have in integers."""
    source, dims = node.args[0], node.args[1] if len(node.args) > 1 else ()
    if not isinstance(source, fx.Node) or len(shape(source)) != 4 or node.kwargs.get("dtype") is not None:
        return
    if not isinstance(dims, list | tuple) or sorted(dim % 4 for dim in dims) != [2, 3]:
        return
    keeps = len(node.args) > 2 and bool(node.args[2])
    with graph.inserting_before(node):
        result = _call(graph, ATEN.adaptive_avg_pool2d.default, (source, [1, 1]))
        result = result if keeps else _call(graph, ATEN.flatten.using_ints, (result, 1))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _lower_attention(graph: fx.Graph, node: fx.Node) -> None:
    given = [*node.args, None, 0.0, False][: max(6, len(node.args))]
    query, key, value, mask, _, causal = (*given, *[None] * 6)[:6]
    scale = node.kwargs.get("scale")
    if causal or node.kwargs.get("enable_gqa") or not isinstance(query, fx.Node):
        return
    width = shape(query)[-1]
    factor = 1 / math.sqrt(width) if scale is None else scale
    with graph.inserting_before(node):
        turned = _call(graph, ATEN.transpose.int, (key, -2, -1))
        scores = _call(graph, ATEN.matmul.default, (query, turned))
        scores = _call(graph, ATEN.mul.Tensor, (scores, factor))
        if isinstance(mask, fx.Node):
            scores = _masked(graph, scores, mask)
        shares = _call(graph, ATEN.softmax.int, (scores, -1))
        result = _call(graph, ATEN.matmul.default, (shares, value))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _masked(graph: fx.Graph, scores: fx.Node, mask: fx.Node) -> fx.Node:
    if is_float(mask):
        return _call(graph, ATEN.add.Tensor, (scores, mask))
    hidden = _call(graph, ATEN.logical_not.default, (mask,))
    return _call(graph, ATEN.masked_fill.Scalar, (scores, hidden, -math.inf))


def _call(
    graph: fx.Graph, target: torch._ops.OpOverload, args: tuple[object, ...], *, name: str | None = None
) -> fx.Node:
    """A new operation, with the shape of its result noted."""
    node = graph.create_node("call_function", target, args, name=name)  # type: ignore[arg-type]
    values = [a.meta.get("val") if isinstance(a, fx.Node) else a for a in args]
    node.meta["val"] = target(*values)
    return node
