"""Where a network's tensors become integers: the one place that decides it, for training and for export.

What runs in integers needs all its inputs and its output rounded, or the runtime's kernels for floats run and
the conversions come on top. Convolutions, linear layers, sums, concatenations and pools over rounded values
do; attention's two products do; what comes in between (squeeze-and-excite gates, hard-swish, softmax, norms)
stays in floats and is named with the reason.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf, prod

from torch import Tensor, fx

from kezuri.model.in_place import written
from kezuri.quantization.graph import calls, is_float, is_weight, kind, shape
from kezuri.quantization.macs import CONVOLUTIONS, PRODUCTS, TRANSPOSED, macs

LAYERS = (*CONVOLUTIONS, "linear")
SUMS = ("add", "cat")
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


def place(graph: fx.Graph, *, spared: Iterable[str] = (), gates: bool = False) -> Placement:
    """Decides what of a graph runs in integers.

    Args:
        graph: normalised (`normalise_`), with shapes noted.
        spared: names of layers that stay in floats.
        gates: whether squeeze-and-excite gates go to integers too, which brings no time.
    """
    return _Placing(graph, set(spared), gates).run()


class _Placing:
    def __init__(self, graph: fx.Graph, spared: set[str], gates: bool) -> None:
        self.graph, self.spared = graph, spared
        self.gate = set() if gates else set(_gates(graph))
        self.written = written(graph)
        self.found = Placement()
        self.ready = {node for node in graph.nodes if node.op == "placeholder" and is_float(node)}
        """Values that something in integers gives, or that come in."""

    def run(self) -> Placement:
        for node in calls(self.graph):
            self._visit(node, kind(node))
        done = self._done()
        for node in calls(self.graph):
            if node not in done and not _is_free(node):
                self._float(node, kind(node), NO_KERNEL, macs(node))
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        self.found.floats.sort(key=lambda one: order[one.node])
        return self.found

    def _visit(self, node: fx.Node, name: str) -> None:
        if name in LAYERS:
            self._layer(node, name)
        elif name in PRODUCTS:
            self._product(node, name)
        elif name in SUMS and self._is_sum(node):
            self._whole(node, _operands(node))
        elif name in (*SAME_SCALE, *AVERAGES) and node.all_input_nodes:
            self._passed(node, name)
        elif (source := _moved_from(node)) is not None and self._is_moved(node, source):
            self.ready.add(node)
        elif name in TRANSPOSED:
            self._float(node, name, "no runtime kernel for transposed convolutions", macs(node))
        elif name == "scaled_dot_product_attention":
            self._float(node, name, "attention is left fused", macs(node))

    def _done(self) -> set[fx.Node | None]:
        """What runs in integers, layers in floats, and what a runtime does along with either."""
        found: set[fx.Node | None] = {*self.found.whole, *map(_clipped, self.found.whole)}
        for layer in self.found.layers:
            found |= {layer.node, layer.norm, layer.last}
        for one in self.found.floats:
            assert one.node is not None
            norm = norm_behind(one.node)
            found |= {norm, _clipped(norm or one.node)}
        return found

    def _layer(self, node: fx.Node, name: str) -> None:
        source, weight = node.args[0], node.args[1]
        layer = _name(node)
        if not isinstance(weight, fx.Node) or weight.op != "get_attr" or not isinstance(source, fx.Node):
            return self._float(node, name, "its weight is computed", macs(node))
        if source in self.written:
            return self._float(node, name, "what it reads is written in place", macs(node))
        if layer in self.spared:
            return self._float(node, name, "left in floats as asked", macs(node))
        if node in self.gate:
            return self._float(node, name, "squeeze-and-excite gate", macs(node))
        norm = norm_behind(node)
        last = _clipped(node if norm is None else norm)
        self.found.layers.append(Layer(node, layer, weight, norm, last, macs(node)))
        self._want(source)
        if name != "linear":  # a linear layer may answer in floats, a convolution may not
            self._round(last)
        return None

    def _product(self, node: fx.Node, name: str) -> None:
        operands = _operands(node)
        if len(operands) < 2:
            return self._float(node, name, "a product with a loose parameter", macs(node))
        if self.written.intersection(operands):
            return self._float(node, name, "what it reads is written in place", macs(node))
        self.found.whole.add(node)
        for operand in operands:
            self._want(operand)
        return None

    def _is_sum(self, node: fx.Node) -> bool:
        operands = _operands(node)
        if kind(node) == "add" and (len(operands) != 2 or len({shape(one) for one in operands}) != 1):
            return False
        if len(operands) < 2 or node in self.gate or self.written.intersection(operands):
            return False
        return any(one in self.ready for one in operands)

    def _whole(self, node: fx.Node, operands: list[fx.Node]) -> None:
        self.found.whole.add(node)
        for operand in operands:
            self._want(operand)
        self._round(_clipped(node))

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
        while (before := _moved_from(source)) is not None and source not in self.gate:
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
            self.found.floats.append(Float(_name(node), name, reason, work, node))


def _moved_from(node: fx.Node) -> fx.Node | None:
    """The value whose numbers an operation hands on; None if it computes."""
    if kind(node) == "getitem" and kind(node.args[0]) in SPLITS:
        node = node.all_input_nodes[0]
    elif kind(node) not in MOVES:
        return None
    return node.all_input_nodes[0] if node.all_input_nodes else None


def _operands(node: fx.Node) -> list[fx.Node]:
    """The tensors that go in and are not weights."""
    given = node.args[0] if kind(node) == "cat" else node.args[:2]
    return [
        one
        for one in given  # type: ignore[union-attr]
        if isinstance(one, fx.Node) and is_float(one) and not is_weight(one)
    ]


def norm_behind(node: fx.Node) -> fx.Node | None:
    """The batch normalisation that can be folded into a layer: it has statistics, of the layer's outputs."""
    user = _only_user(node)
    if user is None or kind(user) != "batch_norm" or user.args[0] is not node:
        return None
    if not isinstance(user.args[4], fx.Node):  # it never keeps any
        return None
    return user if kind(node) != "linear" or len(shape(node)) == 2 else None


def _is_free(node: fx.Node) -> bool:
    """Whether an operation computes nothing of activations that a runtime would spend time on."""
    value = node.meta.get("val")
    given = value if isinstance(value, list | tuple) else (value,)
    if not any(isinstance(one, Tensor) and one.is_floating_point() for one in given):
        return True
    return is_weight(node) or kind(node) in (*MOVES, *FREE) or not node.all_input_nodes


def _clipped(node: fx.Node) -> fx.Node:
    """The clipping behind, which rounding does by itself."""
    user = _only_user(node)
    return user if user is not None and kind(user) in CLIPS else node


def ceiling_of(node: fx.Node) -> float:
    """What a clipping from zero up lets pass at most; inf for all else."""
    if kind(node) == "relu6":
        return 6.0
    if kind(node) != "hardtanh":
        return inf
    low, high = node.args[1] if len(node.args) > 1 else -1.0, node.args[2] if len(node.args) > 2 else 1.0
    return float(high) if low == 0 else inf  # type: ignore[arg-type]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _gates(graph: fx.Graph) -> Iterator[fx.Node]:
    """Everything between a pool and the product that it opens and shuts channels by."""
    for node in calls(graph):
        operands = _operands(node) if kind(node) == "mul" else []
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


def _name(node: fx.Node) -> str:
    """The layer's name in the model, by its weight; the operation's where it has none."""
    weight = node.args[1] if len(node.args) > 1 else None
    if isinstance(weight, fx.Node) and weight.op == "get_attr":
        return str(weight.target).rpartition(".")[0] or str(weight.target)
    return node.name
