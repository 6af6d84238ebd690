"""A quantized network as it ships: constants folded to integers, and nothing done twice."""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from kezuri.model.program import Program
from kezuri.quantization.alignment import align_channels_
from kezuri.quantization.fake import FakeQuant, WeightQuant, outputs_first
from kezuri.quantization.first_layer import widen_first_layers_
from kezuri.quantization.graph import ATEN, calls, kind, shape
from kezuri.quantization.macs import CONVOLUTIONS
from kezuri.quantization.neighbours import CLIPS, norm_behind
from kezuri.quantization.network import HOME
from kezuri.quantization.operators import BYTE, is_rounded
from kezuri.quantization.padding import pad_with_zeros_

SMALLEST = torch.finfo(torch.float32).tiny
NEARLY_HALF = 0.499
"""Of a step: what is off by less is rounded to the same."""
MOST = 2.0**30
"""Larger integers are not asked of a bias, which is held in 32 bits."""


@torch.no_grad()
def shipped(network: Program, *, aligned: bool = True) -> Program:
    """A copy for export, on the CPU: its quantizers are operations with constants, its weights rounded.

    It answers as the network does in evaluation mode, but for the order that numbers are multiplied in.

    Args:
        aligned: whether channels of zeros are added where they make kernels faster.
    """
    copied = copy.deepcopy(network).cpu().eval()
    graph = copied.graph
    for node in calls(graph):
        if kind(node) in (*CONVOLUTIONS, "linear"):
            _fold(copied, graph, node)
    pad_with_zeros_(copied, graph)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(copied.get_submodule(str(node.target)), FakeQuant):
            _spell_out(copied, graph, node)
    for node in calls(graph):
        if kind(node) == "adaptive_avg_pool2d" and list(node.args[1]) == [1, 1]:  # type: ignore[arg-type]
            node.target, node.args = torch.ops.kezuri.global_pool.default, node.args[:1]
        elif kind(node) == "linear" and len(shape(node)) > 2:
            _flatten(graph, node)
    if aligned:
        align_channels_(copied, graph, HOME)
    widen_first_layers_(copied, graph)
    graph.eliminate_dead_code()
    copied.delete_all_unused_submodules()
    result = Program(copied, graph)
    result.recompile()
    return result


def _fold(network: Program, graph: fx.Graph, node: fx.Node) -> None:
    """Makes a layer's weight and bias, with the normalisation behind it, constants: integers if rounded."""
    source = node.args[1]
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return
    quantizer = network.get_submodule(str(source.target))
    assert isinstance(quantizer, WeightQuant)
    norm = norm_behind(node)
    gain, shift = _gain_and_shift(network, norm)
    weight = _tensor(network, source.args[0])
    bias = _bias(None if len(node.args) < 3 else _tensor(network, node.args[2]), gain, shift)

    def held(what: str, tensor: Tensor) -> fx.Node:
        network.get_submodule(HOME).register_buffer(f"{node.name}_{what}", tensor)
        return graph.get_attr(f"{HOME}.{node.name}_{what}")

    constant = None
    with graph.inserting_before(node):
        if quantizer.on:
            unit = _unit(network, node.args[0])
            q, scale = _integers(quantizer, weight, gain)
            if bias is not None and unit is not None:
                q, scale = _roomy(q, scale, bias, unit)
                whole = (bias / (scale * unit)).round().to(torch.int32)
                parts = held("bias", whole), held("bias_scale", scale * unit)
                constant = graph.call_function(torch.ops.kezuri.constant.default, parts)
            parts = held("integers", q.to(torch.int8)), held("scale", scale)
            folded = graph.call_function(torch.ops.kezuri.constant.default, parts)
        else:
            folded = held("floats", weight if gain is None else weight * outputs_first(gain, weight))
        if bias is not None and constant is None:
            constant = held("bias", bias)
    folded.meta |= source.meta
    node.update_arg(1, folded)
    node.args = (*node.args[:2], constant, *node.args[3:])
    if norm is not None:
        norm.replace_all_uses_with(node)
        graph.erase_node(norm)


def _flatten(graph: fx.Graph, node: fx.Node) -> None:
    """A linear layer over many rows as one over a matrix, which runtimes have in integers with its bias."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    if sizes.count(-1) > 1:
        return
    with graph.inserting_before(node):
        flat = graph.call_function(ATEN.reshape.default, (source, [-1, shape(source)[-1]]))
        if is_rounded(source):  # so that it is rounded right before
            flat = graph.call_function(torch.ops.kezuri.rounded.default, (flat, *source.args[1:]))
    node.update_arg(0, flat)
    with graph.inserting_after(node):
        back = graph.call_function(ATEN.reshape.default, (node, sizes))
    node.replace_all_uses_with(back, lambda user: user is not back)


def _integers(quantizer: WeightQuant, weight: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weight with its normalisation as integers, and the scale of each output (one for all, repeated)."""
    scale = quantizer.step
    if quantizer.axis is None:
        q = quantizer(weight if gain is None else weight * outputs_first(gain, weight)) / scale
        return q.round(), scale.expand(len(weight)).clone()
    q = (quantizer(weight) / outputs_first(scale, weight)).round()
    if gain is None:
        return q, scale
    return q * torch.sign(outputs_first(gain, weight)), (scale * gain.abs()).clamp(min=SMALLEST)


def _roomy(q: Tensor, scale: Tensor, bias: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Integers and scales that the bias fits in 32 bits with; only outputs that are nearly zero change."""
    least = bias.abs() / (unit * MOST)
    wider = torch.maximum(scale, least)
    return (q * outputs_first(scale / wider, q)).round(), wider


def _unit(network: nn.Module, source: object) -> float | None:
    """The scale of a layer's input; None where it is not rounded."""
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return None
    quantizer = network.get_submodule(str(source.target))
    return float(quantizer.step) if isinstance(quantizer, FakeQuant) and quantizer.on else None


def _gain_and_shift(network: nn.Module, norm: fx.Node | None) -> tuple[Tensor | None, Tensor | None]:
    if norm is None:
        return None, None
    weight, bias, mean, variance = (_tensor(network, arg) for arg in norm.args[1:5])
    assert mean is not None and variance is not None
    gain = torch.rsqrt(variance + norm.args[7])
    gain = gain if weight is None else gain * weight
    shift = -mean * gain
    return gain, shift if bias is None else shift + bias


def _bias(bias: Tensor | None, gain: Tensor | None, shift: Tensor | None) -> Tensor | None:
    if gain is None or shift is None:
        return bias
    return shift if bias is None else shift + bias * gain


def _tensor(network: nn.Module, node: Any) -> Any:
    if not isinstance(node, fx.Node):
        return None
    owner, _, leaf = str(node.target).rpartition(".")
    return getattr(network.get_submodule(owner), leaf).detach()


def _spell_out(network: Program, graph: fx.Graph, node: fx.Node) -> None:
    """A quantizer of activations as an operation; a clipping before it goes if rounding does it."""
    quantizer = network.get_submodule(str(node.target))
    assert isinstance(quantizer, FakeQuant)
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if not quantizer.on:
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        return
    scale, zero_point = float(quantizer.step), int(quantizer.zero_point)
    grid = quantizer.grid
    low, high = grid.low, grid.high
    value, inner = source, source.args[0] if source.args else None
    clips = len(source.users) == 1 and _clips(source, scale, zero_point, high)
    with graph.inserting_before(node):
        if clips and kind(source) == "hardsigmoid" and grid == BYTE and is_rounded(inner):
            value = graph.call_function(torch.ops.kezuri.hard_sigmoid.default, (inner, scale))
        else:
            if clips and kind(source) in CLIPS:
                assert isinstance(inner, fx.Node)
                value = inner
            if grid != BYTE:  # files hold bytes; fewer bits are their lower part
                ends = (scale * (low - zero_point), scale * (high - zero_point))
                value = graph.call_function(ATEN.hardtanh.default, (value, *ends))
            value = graph.call_function(torch.ops.kezuri.rounded.default, (value, scale, zero_point))
    value.meta |= source.meta
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _clips(node: fx.Node, scale: float, zero_point: int, high: int) -> bool:
    """Whether what the operation clips to is rounded to the ends of the grid."""
    ceiling = {"relu": float("inf"), "relu6": 6.0, "hardsigmoid": 1.0}.get(kind(node))
    floor = 0.0
    if ceiling is None and kind(node) != "hardtanh":
        return False
    if ceiling is None:
        floor = float(node.args[1]) if len(node.args) > 1 else -1.0  # type: ignore[arg-type]
        ceiling = float(node.args[2]) if len(node.args) > 2 else 1.0  # type: ignore[arg-type]
    lowest, highest = -scale * zero_point, scale * (high - zero_point)
    return lowest >= floor - NEARLY_HALF * scale and highest <= ceiling + NEARLY_HALF * scale
