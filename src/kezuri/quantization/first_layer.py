"""The convolution that reads images, rearranged so that runtimes have a fast kernel of integers for it.

Kernels of integers take four channels at a step, and images have three. ONNX Runtime 1.32 then gathers what
each output reads a pixel at a time, which took longer than the whole convolution did in floats.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kezuri.quantization.graph import ATEN, calls, kind, shape
from kezuri.quantization.operators import in_integers, is_rounded, space_to_depth
from kezuri.quantization.ptq import layer_map
from kezuri.quantization.rounding import LayerMap

STEP = 4
LEAST = 16
"""With fewer outputs there is no such kernel, and zeros would only be more work."""


def widen_first_layers_(network: nn.Module, graph: fx.Graph) -> None:
    """Has the convolutions of images read a multiple of four channels; what they give stays the same.

    Where the stride divides the image, each block of pixels that the kernel moves on by becomes one pixel of
    more channels (space to depth). Elsewhere channels of zeros are added, where that pays.

    Args:
        network: that the graph's constants are in; weights change.
        graph: of a shipped network; changes.
    """
    for node in calls(graph):
        if kind(node) != "conv2d" or not _reads_images(node):
            continue
        layer = layer_map(node)
        assert layer is not None
        if layer.groups > 1:
            continue
        source, block = node.args[0], _block(node, layer)
        assert isinstance(source, fx.Node)
        if block == 1 and len(_integers(network, node)[2]) < LEAST:
            continue
        image = source.args[0]
        with graph.inserting_before(source):
            if block > 1:
                wide = graph.call_function(torch.ops.kezuri.space_to_depth.default, (image, block))
            else:
                more = [0, 0, 0, 0, 0, STEP - shape(source)[1]]
                wide = graph.call_function(ATEN.constant_pad_nd.default, (image, more, 0.0))
        source.update_arg(0, wide)
        if block > 1:
            _to_blocks(network, node, block, layer)
        else:
            owner, name, weight = _integers(network, node)
            setattr(owner, name, F.pad(weight, more))


def _reads_images(node: fx.Node) -> bool:
    """Whether it is in integers, and few channels that were never in integers before are read by it alone."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if not (in_integers(node) and is_rounded(source)) or len(source.users) > 1:
        return False
    return shape(source)[1] < STEP and not any(is_rounded(one) for one in _before(source))


def _before(node: fx.Node) -> Iterator[fx.Node]:
    seen, left = set[fx.Node](), list(node.all_input_nodes)
    while left:
        one = left.pop()
        if one not in seen:
            seen.add(one)
            left += one.all_input_nodes
            yield one


def _block(node: fx.Node, layer: LayerMap) -> int:
    """The side of the blocks; 1 where blocks do not do."""
    _, channels, *sides = shape(node.args[0])  # type: ignore[arg-type]
    block = layer.stride[0]
    whole = not any(side % block for side in sides) and not channels * block**2 % STEP
    return block if whole and set(layer.stride) == {block} and set(layer.dilation) == {1} else 1


def _to_blocks(network: nn.Module, node: fx.Node, block: int, layer: LayerMap) -> None:
    """Has a convolution of stride `block` read blocks, one at a step."""
    owner, name, weight = _integers(network, node)
    ahead = [-(-padding // block) for padding in (layer.padding * 2)[:2]]  # blocks of zeros before the image
    taps, behind = [], []
    for dim, padding in enumerate((layer.padding * 2)[:2]):
        front = ahead[dim] * block - padding
        taps.append((front, -(front + weight.shape[2 + dim]) % block))
        blocks = shape(node.args[0])[2 + dim] // block  # type: ignore[arg-type]
        kernel = (sum(taps[dim]) + weight.shape[2 + dim]) // block
        behind.append(shape(node)[2 + dim] + kernel - 1 - blocks - ahead[dim])
    setattr(owner, name, space_to_depth(F.pad(weight, (*taps[1], *taps[0])), block))
    node.target = torch.ops.kezuri.conv2d.default
    node.args = (*node.args[:3], [*ahead, *behind])


def _integers(network: nn.Module, node: fx.Node) -> tuple[nn.Module, str, Tensor]:
    """Where the integers of its weight are held, and they."""
    weight = node.args[1]
    assert isinstance(weight, fx.Node) and isinstance(weight.args[0], fx.Node)
    path, _, name = str(weight.args[0].target).rpartition(".")
    owner = network.get_submodule(path)
    return owner, name, getattr(owner, name)
