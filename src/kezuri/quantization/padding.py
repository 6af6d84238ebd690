"""A concatenation with zeros as the padding that it is.

Residual networks without weights in their shortcuts add channels of zeros, often as a concatenation with
zeros of the batch's size. That size is then computed at every call, and OpenVINO (2026.4.1, where the batch
size is free) gives wrong numbers for the residual blocks before. Padding says the same, and is read rightly.
"""

import torch
from torch import Tensor, fx, nn

from kezuri.quantization.fake import FakeQuant
from kezuri.quantization.graph import ATEN, calls, kind, shape

SPREADS = ("expand", "repeat", "view", "reshape", "unsqueeze", "clone", "contiguous")
"""What gives zeros of zeros."""
EMPTY = ("zeros", "new_zeros", "zeros_like")


def pad_with_zeros_(network: nn.Module, graph: fx.Graph) -> None:
    """Turns concatenations of one tensor and zeros into paddings; what is computed stays the same.

    Args:
        network: that the graph's modules and constants are in.
        graph: changes; zeros that nothing else reads are left for `eliminate_dead_code`.
    """
    for node in calls(graph):
        if kind(node) == "cat":
            _pad(network, graph, node)


def _pad(network: nn.Module, graph: fx.Graph, node: fx.Node) -> None:
    operands = node.args[0]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    assert isinstance(operands, list | tuple) and isinstance(dim, int)
    parts = [one for one in operands if isinstance(one, fx.Node)]
    if len(parts) != len(operands) or len({len(shape(one)) for one in parts}) != 1:
        return
    whole = [at for at, one in enumerate(parts) if not _is_zero(network, one)]
    if len(whole) != 1 or len(parts) == 1:
        return
    dims = len(shape(node))
    dim %= dims
    sizes = [one.meta["val"].shape[dim] for one in parts]
    zeros = [size for at, size in enumerate(sizes) if at != whole[0]]
    if not all(isinstance(size, int) for size in zeros):
        return
    amounts = [0, 0] * (dims - 1 - dim) + [sum(zeros[: whole[0]]), sum(zeros[whole[0] :])]
    with graph.inserting_before(node):
        padded = graph.call_function(ATEN.constant_pad_nd.default, (parts[whole[0]], amounts, 0.0))
    padded.meta |= node.meta
    node.replace_all_uses_with(padded)
    graph.erase_node(node)


def _is_zero(network: nn.Module, node: fx.Node) -> bool:
    """Whether a value is zero throughout, whatever comes in."""
    while True:
        if node.op == "call_module":  # every grid has zero
            if not isinstance(network.get_submodule(str(node.target)), FakeQuant):
                return False
        elif kind(node) in EMPTY:
            return True
        elif kind(node) not in SPREADS:
            return node.op == "get_attr" and _constant_zero(network, str(node.target))
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source


def _constant_zero(network: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    value = getattr(network.get_submodule(owner), leaf, None)
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not torch.any(value)
