"""Where a network's tensors become integers: the one place that decides it, for training and for export.

What runs in integers needs all its inputs and its output rounded, or the runtime's kernels for floats run and
the conversions come on top. Convolutions, linear layers, sums, concatenations and pools over rounded values
do; attention's two products do; gates, and activations that are a product with a sigmoid, do. What comes in
between (softmax, norms, GELU) stays in floats and is named with the reason.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

from torch import fx

from kezuri.model.in_place import written
from kezuri.quantization.graph import calls, is_float, kind, shape
from kezuri.quantization.macs import CONVOLUTIONS, PRODUCTS, TRANSPOSED, macs
from kezuri.quantization.neighbours import (
    AVERAGES,
    POOLS,
    SAME_SCALE,
    SIGMOIDS,
    SUMS,
    clipped,
    gates_in,
    is_free,
    layer_name,
    moved_from,
    norm_behind,
    operands_of,
)

LAYERS = (*CONVOLUTIONS, "linear")
AS_ASKED = "left in floats as asked"
NO_KERNEL = "no integer kernel for it here"


@dataclass(frozen=True)
class Layer:
    """A layer that runs in integers.

    Attributes:
        node: the operation.
        name: of the layer in the model.
        weight: the node of its weight, (outputs, inputs, …).
        norm: the batch normalisation that is folded into it, if any.
        last: the end of what the kernel does at once: norm and clipping.
        macs: multiply-accumulates for one example.
    """

    node: fx.Node
    name: str
    weight: fx.Node
    norm: fx.Node | None
    last: fx.Node
    macs: int


@dataclass(frozen=True)
class Float:
    """An operation that stays in floats.

    Attributes:
        name: of the layer, or of the operation in the graph.
        kind: the operation.
        reason: why.
        macs: multiply-accumulates for one example.
        node: the operation.
    """

    name: str
    kind: str
    reason: str
    macs: int = 0
    node: fx.Node | None = field(default=None, compare=False, repr=False)


@dataclass
class Placement:
    """What is rounded.

    Attributes:
        layers: those that run in integers, in order.
        rounded: every value to round, with the value whose grid it is on (itself, or what was moved).
        dropped: those of them that a dropout has passed since, which scales values in training.
        floats: what stays.
        whole: operations that run in integers beside the layers.
    """

    layers: list[Layer] = field(default_factory=list)
    rounded: dict[fx.Node, fx.Node] = field(default_factory=dict)
    dropped: set[fx.Node] = field(default_factory=set)
    floats: list[Float] = field(default_factory=list)
    whole: set[fx.Node] = field(default_factory=set)

    @property
    def products(self) -> list[fx.Node]:
        """Products of two activations in integers, in order."""
        return [node for node in sorted(self.whole) if kind(node) in PRODUCTS]


def place(graph: fx.Graph, *, spared: Iterable[str] = (), gates: bool = True) -> Placement:
    """Decides what of a graph runs in integers.

    Args:
        graph: normalised (`normalise_`), with shapes noted.
        spared: names of layers that stay in floats.
        gates: whether the layers of squeeze-and-excite gates go to integers, too.
    """
    return _Placing(graph, set(spared), gates).run()


class _Placing:
    def __init__(self, graph: fx.Graph, spared: set[str], gates: bool) -> None:
        self.graph, self.spared = graph, spared
        gate = () if gates else gates_in(graph)
        self.gate = {node for node in gate if kind(node) not in POOLS}
        self.written = written(graph)
        self.found = Placement()
        self.ready = {node for node in graph.nodes if node.op == "placeholder" and is_float(node)}
        """Values that something in integers gives, or that come in."""

    def run(self) -> Placement:
        for node in calls(self.graph):
            self._visit(node, kind(node))
        done = self._done()
        for node in calls(self.graph):
            if node not in done and not is_free(node):
                self._float(node, kind(node), NO_KERNEL, macs(node))
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        self.found.floats.sort(key=lambda one: order[one.node])
        return self.found

    def _visit(self, node: fx.Node, name: str) -> None:
        if name in LAYERS:
            self._layer(node, name)
        elif name in PRODUCTS:
            self._product(node, name)
        elif (name in SUMS and self._is_sum(node)) or (name == "mul" and self._is_gating(node)):
            self._whole(node, operands_of(node))
        elif name in SIGMOIDS and node.all_input_nodes and self._is_moved(node, node.all_input_nodes[0]):
            self._whole(node, node.all_input_nodes)
        elif name in (*SAME_SCALE, *AVERAGES) and node.all_input_nodes:
            self._passed(node, name)
        elif (source := moved_from(node)) is not None and self._is_moved(node, source):
            self.ready.add(node)
        elif name in TRANSPOSED:
            self._float(node, name, "no runtime kernel for transposed convolutions", macs(node))
        elif name == "scaled_dot_product_attention":
            self._float(node, name, "attention is left fused", macs(node))

    def _done(self) -> set[fx.Node | None]:
        """What runs in integers, layers in floats, and what a runtime does along with either."""
        found: set[fx.Node | None] = {*self.found.whole, *map(clipped, self.found.whole)}
        for layer in self.found.layers:
            found |= {layer.node, layer.norm, layer.last}
        for one in self.found.floats:
            assert one.node is not None
            norm = norm_behind(one.node)
            found |= {norm, clipped(norm or one.node)}
        return found

    def _layer(self, node: fx.Node, name: str) -> None:
        source, weight = node.args[0], node.args[1]
        layer = layer_name(node)
        if not isinstance(weight, fx.Node) or weight.op != "get_attr" or not isinstance(source, fx.Node):
            return self._float(node, name, "its weight is computed", macs(node))
        if source in self.written:
            return self._float(node, name, "what it reads is written in place", macs(node))
        if layer in self.spared:
            return self._float(node, name, AS_ASKED, macs(node))
        if node in self.gate:
            return self._float(node, name, "squeeze-and-excite gate", macs(node))
        norm = norm_behind(node)
        last = clipped(node if norm is None else norm)
        self.found.layers.append(Layer(node, layer, weight, norm, last, macs(node)))
        self._want(source)
        if name != "linear":  # a linear layer may answer in floats, a convolution may not
            self._round(last)
        return None

    def _product(self, node: fx.Node, name: str) -> None:
        operands = operands_of(node)
        if len(operands) < 2:
            return self._float(node, name, "a product with a loose parameter", macs(node))
        if self.written.intersection(operands):
            return self._float(node, name, "what it reads is written in place", macs(node))
        self.found.whole.add(node)
        for operand in operands:
            self._want(operand)
        return None

    def _is_sum(self, node: fx.Node) -> bool:
        operands = operands_of(node)
        if kind(node) == "add" and (len(operands) != 2 or len({shape(one) for one in operands}) != 1):
            return False
        if len(operands) < 2 or node in self.gate or self.written.intersection(operands):
            return False
        return any(one in self.ready for one in operands)

    def _is_gating(self, node: fx.Node) -> bool:
        """Whether it multiplies maps that are there in integers, one by one or channel by channel."""
        operands = operands_of(node)
        if len(operands) != 2 or node in self.gate or self.written.intersection(operands):
            return False
        wide = max(operands, key=lambda one: prod(shape(one)))
        return wide in self.ready and all(len(shape(one)) == 4 for one in operands)

    def _whole(self, node: fx.Node, operands: list[fx.Node]) -> None:
        self.found.whole.add(node)
        for operand in operands:
            self._want(operand)
        self._round(clipped(node))

    def _passed(self, node: fx.Node, name: str) -> None:
        source = node.all_input_nodes[0]
        if not self._is_moved(node, source):
            return
        if name in SAME_SCALE:
            self._want(source)
            self.found.whole.add(node)
            self.found.rounded[node] = self.found.rounded[source]
            self.ready.add(node)
            if source in self.found.dropped:
                self.found.dropped.add(node)
        elif len(shape(source)) == 4:
            self._whole(node, [source])

    def _is_moved(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether integers that come in may pass as they are."""
        allowed = node not in self.gate and source not in self.written
        return allowed and source in self.ready and is_float(node)

    def _want(self, value: fx.Node) -> None:
        """This value is rounded; one that was only moved is on the grid of what was moved."""
        if value in self.found.rounded:
            return
        source = value
        while (before := moved_from(source)) is not None and source not in self.gate:
            if not is_float(before) or before.op == "get_attr" or before in self.written:
                break
            if kind(source) == "dropout":
                self.found.dropped.add(value)
            source = before
        if source in self.found.dropped:
            self.found.dropped.add(value)
        self.found.rounded.setdefault(source, source)
        self.found.rounded[value] = self.found.rounded[source]

    def _round(self, value: fx.Node) -> None:
        self.found.rounded[value] = value
        self.ready.add(value)

    def _float(self, node: fx.Node, name: str, reason: str, work: int) -> None:
        if all(one.node is not node for one in self.found.floats):
            self.found.floats.append(Float(layer_name(node), name, reason, work, node))
