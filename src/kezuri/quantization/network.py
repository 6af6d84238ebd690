"""A model with a quantizer wherever a tensor becomes integers; it computes, trains and saves like any."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from kezuri.core.errors import ModelError, UsageError
from kezuri.core.registry import unknown
from kezuri.model.program import Program, as_program
from kezuri.model.sites import tensors_of
from kezuri.quantization.affine import Grid
from kezuri.quantization.fake import DROPPED, FakeQuant, Ranges, WeightQuant, quantizers_of
from kezuri.quantization.graph import ATEN, calls, kind, normalise_
from kezuri.quantization.macs import macs
from kezuri.quantization.neighbours import ceiling_of
from kezuri.quantization.placement import Float, Layer, Placement, place
from kezuri.quantization.scheme import Scheme

HOME = "quantizers"


@dataclass(frozen=True)
class Site:
    """A layer that runs in integers.

    Attributes:
        layer: its name in the model.
        node: the operation, by its name in the graph.
        weight: the parameter's name, or the buffer's.
        quantizer: of the weight, by module name.
        inputs: of its input, by module name.
        norm: the batch normalisation that is folded into it, by its name in the graph; None if there is none.
        macs: multiply-accumulates for one example.
    """

    layer: str
    node: str
    weight: str
    quantizer: str
    inputs: str
    norm: str | None
    macs: int


@dataclass(frozen=True, eq=False)
class Quantizable:
    """A network with its quantizers, and what is where.

    Attributes:
        network: a program; its parameters go by the model's own names. All quantizers are off.
        sites: layers that run in integers, in order.
        floats: what stays in floats, with the reason.
        scheme: that it was made by.
        products: of two activations in integers, by the operation's name: multiply-accumulates for one
            example.
    """

    network: Program
    sites: tuple[Site, ...]
    floats: tuple[Float, ...]
    scheme: Scheme
    products: Mapping[str, int] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of everything for one example."""
        layers = sum(site.macs for site in self.sites)
        return layers + sum(self.products.values()) + sum(one.macs for one in self.floats)

    def count(self, activation: str) -> int:
        """How many activations of a kind there are, "relu6" for a clipping at 0 and 6."""
        return sum(_activation(node) == activation for node in calls(self.network.graph))

    def weight(self, site: Site) -> Tensor:
        """A layer's weight, not rounded."""
        return tensors_of(self.network, aliases=True)[site.weight]

    def weight_quantizer(self, site: Site) -> WeightQuant:
        """What rounds a layer's weight."""
        found = self.network.get_submodule(site.quantizer)
        assert isinstance(found, WeightQuant)
        return found

    @property
    def activation_quantizers(self) -> list[FakeQuant]:
        """What rounds everything but weights."""
        return [one for one in quantizers_of(self.network).values() if not isinstance(one, WeightQuant)]


def with_quantizers(model: nn.Module, inputs: tuple[Tensor, ...], scheme: Scheme) -> Quantizable:
    """Puts quantizers into a copy of a model, all off: it answers as the model does.

    Args:
        model: left as it is.
        inputs: an example of each, as `kezuri.model.exporting.example_batch` gives.
        scheme: bits and places.

    Raises:
        ModelError: torch.export cannot follow the model, or no layer of it can run in integers.
            It has weights that are not float32.
        UsageError: the model is quantized already, or the scheme names layers that are not there. An input
            holds fractions that are not float32.
    """
    if quantizers_of(model):
        raise UsageError("the model is quantized already: give the one it was made from")
    check_formats(model, inputs)
    network = as_program(model, inputs)
    tensors = tensors_of(network, aliases=True)
    for node in network.graph.nodes:
        if node.op == "get_attr" and node.target in tensors:
            node.meta["val"] = tensors[node.target]
    _replace_(network.graph, scheme.replaced)
    normalise_(network.graph, attention=scheme.attention, swish=scheme.swish is not False)
    network.graph.eliminate_dead_code()
    placement = place(network.graph, spared=scheme.spared, gates=scheme.gates)
    _check_names(placement, scheme)
    if not placement.layers:
        raise ModelError(f"nothing of the model can run in integers: {_why(placement)}")
    products = {node.name: macs(node) for node in placement.products}
    sites = _Inserting(network, placement, scheme).run()
    network.graph.eliminate_dead_code()
    network.graph.lint()
    network.recompile()
    network.train(model.training)
    floats = tuple(replace(one, node=None) for one in placement.floats)
    return Quantizable(network, tuple(sites), floats, scheme, products)


def check_formats(model: nn.Module, inputs: Iterable[object] = ()) -> None:
    """That weights and inputs are float32, which ranges are measured in and files compute in beside integers.

    Args:
        inputs: an example of each; what is no tensor of fractions passes.

    Raises:
        ModelError: a weight is not, or is not finite; names the first.
        UsageError: an input is not.
    """
    weights = [(name, one) for name, one in model.named_parameters() if one.is_floating_point()]
    others = [name for name, one in weights if one.dtype != torch.float32]
    if others:
        kinds = sorted({_format(one) for _, one in weights})
        raise ModelError(
            f"quantization takes models in float32, got weights in {' and '.join(kinds)} ({others[0]!r} is "
            f"the first of {len(others)} that are not float32): give model.float(), and images in float32"
        )
    unusable = next((name for name, one in weights if not bool(one.isfinite().all())), None)
    if unusable is not None:
        raise ModelError(f"the weight {unusable!r} has values that are not finite (nan or inf)")
    for one in inputs:
        if isinstance(one, Tensor) and one.is_floating_point() and one.dtype != torch.float32:
            raise UsageError(f"quantization takes images in float32, got {_format(one)}: give images.float()")


def _format(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_names(placement: Placement, scheme: Scheme) -> None:
    known = {layer.name for layer in placement.layers} | {one.name for one in placement.floats}
    for name in (*scheme.spared, *scheme.layer_bits):
        if name not in known:
            raise unknown("layer to quantize", name, sorted(known))


def _why(placement: Placement) -> str:
    reasons = [f"{one.name}: {one.reason}" for one in placement.floats]
    return "; ".join(reasons) or "it has no convolution or linear layer"


def _replace_(graph: fx.Graph, replaced: Mapping[str, str]) -> None:
    kinds = {_activation(node) for node in calls(graph)}
    for name in replaced:
        if name not in kinds:
            raise UsageError(f"replaced: the model has no {name} to replace, as one operation of torch's")
    for node in calls(graph):
        if (other := replaced.get(_activation(node))) is not None:
            clip = other == "relu6"
            node.target = ATEN.hardtanh.default if clip else ATEN.relu.default
            node.args = (node.args[0], 0.0, 6.0) if clip else (node.args[0],)
            node.kwargs = {}


def _activation(node: fx.Node) -> str:
    return "relu6" if kind(node) == "hardtanh" and node.args[1:] == (0.0, 6.0) else kind(node)


class _Inserting:
    """Puts the modules of a placement into a network."""

    def __init__(self, network: Program, placement: Placement, scheme: Scheme) -> None:
        self.network, self.graph = network, network.graph
        self.placement, self.scheme = placement, scheme
        self.home = nn.Module()
        self.tensors = tensors_of(network, aliases=True)
        self.edges = (placement.layers[0], placement.layers[-1])
        self.names: dict[fx.Node, str] = {}

    def run(self) -> list[Site]:
        if hasattr(self.network, HOME):
            raise ModelError(f"a part of the model is named {HOME!r}, as those that are put in: rename it")
        self.network.add_module(HOME, self.home)
        edges = {self.placement.rounded[layer.node.args[0]] for layer in self.edges}  # type: ignore[index]
        for value, leader in self.placement.rounded.items():
            if leader not in self.names:
                bits = max(self.scheme.activation_bits, self.scheme.edge_bits if leader in edges else 0)
                quantizer = FakeQuant(Grid(bits), ceiling=ceiling_of(leader))
                _train(quantizer, self.scheme.ranges)
                self.names[leader] = self._add(leader.name, quantizer)
            self.names[value] = self.names[leader]
        sites = [self._layer(layer) for layer in self.placement.layers]
        for value in self.placement.rounded:
            self._round(value)
        return sites

    def _add(self, name: str, quantizer: FakeQuant) -> str:
        while hasattr(self.home, name):  # torch's own, as `to`
            name += "_"
        self.home.add_module(name, quantizer)
        return f"{HOME}.{name}"

    def _round(self, value: fx.Node) -> None:
        users = list(value.users)
        after = value if value.op != "placeholder" else _last_placeholder(self.graph)
        args = (value, DROPPED) if value in self.placement.dropped else (value,)
        with self.graph.inserting_after(after):
            node = self.graph.call_module(self.names[value], args)
            node.meta |= value.meta
        for user in users:
            user.replace_input_with(value, node)

    def _layer(self, layer: Layer) -> Site:
        scheme = self.scheme
        bits = scheme.layer_bits.get(layer.name)
        if bits is None:
            bits = max(scheme.bits, scheme.edge_bits if layer in self.edges else 0)
        outputs = len(self.tensors[str(layer.weight.target)])
        channels, axis = (outputs, 0) if scheme.per_channel else (None, None)
        quantizer = WeightQuant(layer.name, Grid(bits, symmetric=True), channels, axis)
        _train(quantizer, "learned" if scheme.ranges == "learned" else "moving")
        name = self._add(f"{layer.node.name}_weight", quantizer)
        with self.graph.inserting_before(layer.node):
            args: tuple[fx.Node, ...] = (layer.weight,)
            if not scheme.per_channel and layer.norm is not None:
                args = (layer.weight, self._gain(layer.norm))
            node = self.graph.call_module(name, args)
            node.meta |= layer.weight.meta
        layer.node.update_arg(1, node)
        source = layer.node.args[0]
        assert isinstance(source, fx.Node)
        return Site(
            layer=layer.name,
            node=layer.node.name,
            weight=str(layer.weight.target),
            quantizer=name,
            inputs=self.names[source],
            norm=None if layer.norm is None else layer.norm.name,
            macs=layer.macs,
        )

    def _gain(self, norm: fx.Node) -> fx.Node:
        """What batch normalisation multiplies each output with, in evaluation mode."""
        weight, variance, epsilon = norm.args[1], norm.args[4], norm.args[7]
        for node in (weight, variance):  # they may stand behind the convolution
            if isinstance(node, fx.Node):
                first = next(iter(self.graph.nodes))
                first.prepend(node)
        shifted = self.graph.call_function(ATEN.add.Scalar, (variance, epsilon))
        gain: fx.Node = self.graph.call_function(ATEN.rsqrt.default, (shifted,))
        if isinstance(weight, fx.Node):
            gain = self.graph.call_function(ATEN.mul.Tensor, (gain, weight))
        detached: fx.Node = self.graph.call_function(ATEN.detach.default, (gain,))
        return detached


def _train(quantizer: FakeQuant, ranges: Ranges) -> None:
    if ranges == "learned":
        quantizer.learn()
    else:
        quantizer.ranges = ranges


def _last_placeholder(graph: fx.Graph) -> fx.Node:
    placeholders: list[fx.Node] = [node for node in graph.nodes if node.op == "placeholder"]
    return placeholders[-1]
