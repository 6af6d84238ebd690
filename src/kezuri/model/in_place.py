"""What operations in place mean for a graph: who shares memory with whom, and how most can do without."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import fx

from kezuri.model.channels import operation


def written(graph: fx.Graph) -> set[fx.Node]:
    """Values that something still writes into, and views of them: what they hold depends on when."""
    groups = _views(graph)
    found = {groups[source] for node in graph.nodes if _writes(node) and (source := _source(node))}
    return {node for node, group in groups.items() if group in found}


def out_of_place_(graph: fx.Graph) -> None:
    """Has operations in place give a new value, unless the old one is read later through a view."""
    order = {node: at for at, node in enumerate(graph.nodes)}
    first: dict[fx.Node, fx.Node] = {}
    shared: dict[fx.Node, list[fx.Node]] = {}
    for node in list(graph.nodes):
        old, plain = _source(node), _functional(node)
        if old is not None and plain is not None:
            others = [one for one in shared[first[old]] if one is not old]
            later = any(order[user] > order[node] for one in others for user in one.users)
            if not later and first[old].op != "get_attr":
                node.target = plain
                old.replace_all_uses_with(node, partial(_follows, order, node))
        first[node] = first[old] if old is not None and _shares(node) else node
        shared.setdefault(first[node], []).append(node)


def _follows(order: Mapping[fx.Node, int], node: fx.Node, user: fx.Node) -> bool:
    return order[user] > order[node]


def _views(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """The first of all that share their memory, for every value."""
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        source = _source(node)
        found[node] = found[source] if source is not None and _shares(node) else node
    return found


def _source(node: fx.Node) -> fx.Node | None:
    source = node.args[0] if node.op == "call_function" and node.args else None
    return source if isinstance(source, fx.Node) else None


def _shares(node: fx.Node) -> bool:
    """Whether its result is in the memory of its first argument, or may be."""
    schema = getattr(node.target, "_schema", None)
    named = schema is not None and any(one.alias_info is not None for one in schema.returns)
    return named or operation(node).removesuffix("_") in ("getitem", "dropout")


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _functional(node: fx.Node) -> torch._ops.OpOverload | None:
    """What does the same out of place."""
    name = operation(node)
    if not name.endswith("_") or name.startswith("_") or not isinstance(node.target, torch._ops.OpOverload):
        return None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    found: torch._ops.OpOverload | None = getattr(packet, node.target._overloadname, None)
    return found
