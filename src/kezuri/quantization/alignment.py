"""Channels of zeros, so that every width runs at the full speed of kernels of integers.

ONNX Runtime 1.32 takes four channels at a step, sixteen at least, and sixteen in depthwise convolutions; for
other numbers it has slower kernels. A depthwise convolution over 120 channels takes three times as long as
one over 128, a 3x3 convolution of 62 channels or to 62 channels 1.4 times as long as with 64. Cut networks
have such widths. Channels of zeros that nothing reads change no answer.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kezuri.quantization.graph import kind, shape
from kezuri.quantization.neighbours import AVERAGES, CLIPS, SAME_SCALE, SIGMOIDS
from kezuri.quantization.operators import in_integers
from kezuri.quantization.ptq import layer_map
from kezuri.quantization.rounding import LayerMap

STEP, WIDE_STEP = 4, 16
FEWEST = 9
"""Channels; for less the additional ones cost as much as they save."""
PASSING = (
    *(*CLIPS, *SIGMOIDS, *SAME_SCALE, *AVERAGES),
    *("silu", "hardswish", "rounded", "hard_sigmoid", "global_pool", "dropout", "contiguous", "clone"),
)
"""What gives a channel for a channel."""
PAIRED = ("add", "mul")
FLATTENING = ("flatten", "view", "reshape")


def wide(channels: int, *, depthwise: bool) -> int:
    """How many channels kernels of integers want for so many."""
    step = WIDE_STEP if depthwise or channels < WIDE_STEP else STEP
    return channels if channels < FEWEST else channels + -channels % step


@dataclass
class _Group:
    """Values with the same channels, and the layers at them.

    Attributes:
        channels: how many.
        writers, readers, depthwise: layers that give them, that read them, and that filter each by itself.
        flat: what lays them out as rows.
        stuck: whether something else touches them.
    """

    channels: int
    writers: list[fx.Node] = field(default_factory=list)
    readers: list[fx.Node] = field(default_factory=list)
    depthwise: list[fx.Node] = field(default_factory=list)
    flat: list[fx.Node] = field(default_factory=list)
    stuck: bool = False

    @property
    def more(self) -> int:
        """How many channels of zeros it wants."""
        layers = [*self.writers, *self.readers, *self.depthwise]
        if self.stuck or not self.writers or not any(in_integers(layer) for layer in layers):
            return 0
        depthwise = any(in_integers(layer) for layer in self.depthwise)
        return wide(self.channels, depthwise=depthwise) - self.channels


def align_channels_(network: nn.Module, graph: fx.Graph, home: str) -> None:
    """Adds channels of zeros between layers, where their number slows kernels down.

    Only between convolutions that say themselves how many channels they give and read, over operations that
    treat every channel alike; where channels are concatenated, split or laid out otherwise they stay.

    Args:
        network: that the graph's constants are in; longer ones are put beside them.
        graph: of a shipped network; changes.
        home: the part of the network to put them in.
    """
    longer = _Longer(network, graph, home)
    for group in _Grouping(graph).groups():
        if more := group.more:
            for layer in group.writers:
                longer.extend(layer, 0, more)
            for layer in group.depthwise:
                longer.extend(layer, 0, more)
                layer.args = (*layer.args[:6], group.channels + more)
            for layer in group.readers:
                longer.extend(layer, 1, more)
            for node in group.flat:
                if kind(node) != "flatten":
                    rows = node.args[1][0]  # type: ignore[index]
                    node.update_arg(1, [rows, group.channels + more])


class _Grouping:
    """Which values have the same channels."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.above: dict[fx.Node, fx.Node] = {}
        self.found: dict[fx.Node, _Group] = {}

    def groups(self) -> list[_Group]:
        for node in self.graph.nodes:
            if node.op == "call_function":
                self._visit(node, kind(node))
            elif node.op != "get_attr":
                self._stick(node, *node.all_input_nodes)
        return list(self.found.values())

    def _visit(self, node: fx.Node, name: str) -> None:
        source = node.args[0] if node.args else None
        if not shape(node) or not isinstance(source, fx.Node) or node.kwargs.get("dtype") is not None:
            self._stick(node, *node.all_input_nodes)
        elif name == "conv2d":
            self._convolution(node, source)
        elif name == "linear" and len(shape(source)) == 2:
            self._of(source).readers.append(node)
            self._stick(node)
        elif name in PASSING and _channels(node) == _channels(source) and _rank(node) == _rank(source):
            self._join(node, source)
        elif name in PAIRED and self._are_alike(node):
            self._join(node, *node.all_input_nodes)
        elif name in FLATTENING and self._lays_out(node, source):
            self._join(node, source)
            self._of(node).flat.append(node)
        else:
            self._stick(node, *node.all_input_nodes)

    def _convolution(self, node: fx.Node, source: fx.Node) -> None:
        groups = _settings(node).groups
        if groups == 1:
            self._of(source).readers.append(node)
            self._of(node).writers.append(node)
        elif groups == _channels(source) == _channels(node):
            self._join(node, source)
            self._of(node).depthwise.append(node)
        else:
            self._stick(node, source)

    def _are_alike(self, node: fx.Node) -> bool:
        operands = node.all_input_nodes
        alike = all(_rank(one) == 4 and _channels(one) == _channels(node) for one in operands)
        return alike and all(one.op != "get_attr" for one in operands) and _rank(node) == 4

    def _lays_out(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether single positions become rows of channels."""
        if _rank(source) != 4 or shape(source)[2:] != (1, 1) or _rank(node) != 2:
            return False
        if _channels(node) != _channels(source):
            return False
        sizes = node.args[1] if len(node.args) > 1 else None
        return kind(node) == "flatten" or (isinstance(sizes, list | tuple) and len(sizes) == 2)

    def _of(self, node: fx.Node) -> _Group:
        root = self._root(node)
        if root not in self.found:
            self.found[root] = _Group(_channels(node), stuck=_rank(node) not in (2, 4))
        return self.found[root]

    def _root(self, node: fx.Node) -> fx.Node:
        while node in self.above:
            node = self.above[node]
        return node

    def _join(self, first: fx.Node, *others: fx.Node) -> None:
        for other in others:
            one, two = self._of(first), self._of(other)
            if one is two:
                continue
            root, gone = self._root(first), self._root(other)
            self.above[gone] = root
            del self.found[gone]
            for name in ("writers", "readers", "depthwise", "flat"):
                getattr(one, name).extend(getattr(two, name))
            one.stuck |= two.stuck or one.channels != two.channels

    def _stick(self, *nodes: fx.Node) -> None:
        for node in nodes:
            if node.op != "get_attr":
                self._of(node).stuck = True


class _Longer:
    """Puts constants with zeros at their ends in the place of a layer's own."""

    def __init__(self, network: nn.Module, graph: fx.Graph, home: str) -> None:
        self.network, self.graph, self.home = network, graph, home

    def extend(self, layer: fx.Node, dim: int, more: int) -> None:
        """More outputs (0) or inputs (1) of zeros."""
        layer.update_arg(1, self._extended(layer, layer.args[1], "weight", dim, more))
        if dim == 0 and len(layer.args) > 2 and layer.args[2] is not None:
            layer.update_arg(2, self._extended(layer, layer.args[2], "bias", 0, more))

    def _extended(self, layer: fx.Node, given: object, what: str, dim: int, more: int) -> fx.Node:
        assert isinstance(given, fx.Node)
        if given.op == "get_attr":
            return self._held(layer, given, what, dim, more)
        q, scale = given.args
        assert isinstance(q, fx.Node) and isinstance(scale, fx.Node)
        parts = [self._held(layer, q, f"{what}_integers", dim, more), scale]
        if dim == 0:
            parts[1] = self._held(layer, scale, f"{what}_scale", 0, more, like_the_first=True)
        with self.graph.inserting_before(layer):
            return self.graph.call_function(given.target, tuple(parts))  # type: ignore[arg-type]

    def _held(
        self, layer: fx.Node, node: fx.Node, what: str, dim: int, more: int, *, like_the_first: bool = False
    ) -> fx.Node:
        owner, _, leaf = str(node.target).rpartition(".")
        tensor: Tensor = getattr(self.network.get_submodule(owner), leaf).detach()
        zeros = [0, 0] * (tensor.dim() - 1 - dim) + [0, more]
        longer = torch.cat([tensor, tensor[:1].expand(more)]) if like_the_first else F.pad(tensor, zeros)
        name = f"{layer.name}_longer_{what}"
        self.network.get_submodule(self.home).register_buffer(name, longer)
        with self.graph.inserting_before(layer):
            return self.graph.get_attr(f"{self.home}.{name}")


def _rank(node: fx.Node) -> int:
    return len(shape(node))


def _channels(node: fx.Node) -> int:
    return shape(node)[1] if _rank(node) > 1 else 0


def _settings(node: fx.Node) -> LayerMap:
    found = layer_map(node)
    assert found is not None
    return found
