"""Quantization after training: ranges from a few images, and what repairs the loss without training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from kezuri.core.errors import KezuriError, UsageError
from kezuri.core.progress import NullProgress, Progress
from kezuri.model.modes import evaluating
from kezuri.quantization.chains import equalize_network_, gain_of, tensor_at
from kezuri.quantization.fake import divided, outputs_first
from kezuri.quantization.graph import kind
from kezuri.quantization.network import Quantizable, Site
from kezuri.quantization.observer import Observer
from kezuri.quantization.observers.min_max import MinMax
from kezuri.quantization.rounding import LayerMap, Rounding
from kezuri.quantization.roundings.nearest import Nearest

SILENT = NullProgress()


@dataclass(frozen=True)
class PostTraining:
    """How ranges are found, weights rounded, and losses repaired.

    Attributes:
        observer: of activations.
        weight_observer: of weights.
        rounding: to which neighbour on the grid each weight goes.
        equalize: whether to even out the ranges of channels between layers first (Nagel et al., 2019); helps
            where one scale serves a whole weight. ReLU6 becomes ReLU for it.
        correct_bias: whether to take the mean error of each output out of its bias, layer after layer.
        reestimate_norms: whether batch normalisation gets its statistics from the rounded layers.
        images: of the calibration data, at most.
        batch_size: of these at a time.
    """

    observer: Observer = field(default_factory=MinMax)
    weight_observer: Observer = field(default_factory=MinMax)
    rounding: Rounding = field(default_factory=Nearest)
    equalize: bool = False
    correct_bias: bool = False
    reestimate_norms: bool = False
    images: int = 256
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("images", "batch_size"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise UsageError(f"calibration needs an image at least, got {name}={value!r}")
        for name in ("equalize", "correct_bias", "reestimate_norms"):
            if not isinstance(value := getattr(self, name), bool):
                raise UsageError(f"{name} is true or false, got {value!r}")


@torch.no_grad()
def calibrate_(
    prepared: Quantizable,
    batches: Sequence[tuple[Tensor, ...]],
    method: PostTraining,
    progress: Progress = SILENT,
) -> tuple[str, ...]:
    """Gives every quantizer its range, rounds the weights, and turns all of it on.

    Weights change if `rounding` is not "nearest" or something is equalized; batch normalisation and biases if
    they are repaired.

    Args:
        prepared: by `with_quantizers`; its network changes.
        batches: inputs, images as in evaluation.
        method: how.
        progress: hears of every batch and layer.

    Returns:
        what could not be repaired as asked, in words.

    Raises:
        UsageError: there are no batches, or too few values to re-estimate a normalisation with.
    """
    if not batches:
        raise UsageError("there is nothing to calibrate with: give a few images at least")
    network = prepared.network
    if method.equalize:
        equalize_network_(prepared)
    means = _means(prepared, batches) if method.correct_bias else {}
    with evaluating(network):
        for quantizer in prepared.activation_quantizers:
            quantizer.watch(method.observer)
        progress.start("calibrating", total=len(batches), done=0)
        try:
            for batch in batches:
                network(*batch)
                progress.advance(1, {})
        finally:
            progress.done()
        for quantizer in prepared.activation_quantizers:
            quantizer.settle()
        for site in prepared.sites:
            fit_weight_(prepared, site, method.weight_observer)
        if (
            method.rounding.needs
            or not isinstance(method.rounding, Nearest)
            or means
            or method.reestimate_norms
        ):
            together = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
            _Repairing(prepared, method, means, progress).run(*together)
    return _without_bias(prepared) if method.correct_bias else ()


def _without_bias(prepared: Quantizable) -> tuple[str, ...]:
    """In words, the layers that have no bias to correct."""
    nodes = {node.name: node for node in prepared.network.graph.nodes}
    names = [
        site.layer
        for site in prepared.sites
        if bias_of(prepared.network, nodes[site.norm or site.node]) is None
    ]
    return (f"not corrected, as there is no bias: {', '.join(names)}",) if names else ()


def bias_of(network: nn.Module, node: fx.Node) -> Tensor | None:
    """Of a layer or normalisation; None if it has none."""
    return tensor_at(network, node.args[2]) if len(node.args) > 2 else None


def fit_weight_(prepared: Quantizable, site: Site, observer: Observer) -> None:
    """Gives the quantizer of a layer's weight its range, and turns it on."""
    quantizer = prepared.weight_quantizer(site)
    weight = prepared.weight(site)
    if quantizer.axis is None and site.norm is not None:
        weight = weight * outputs_first(gain_of(prepared.network, site.norm), weight)
    watcher = observer.watch(quantizer.grid, quantizer.axis)
    watcher.see(weight.detach())
    quantizer.fit_weight(*watcher.range(), weight)
    quantizer.on = True


def _means(prepared: Quantizable, batches: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """The mean of each channel that leaves a layer, in floats, by the node's name."""
    wanted = {site.norm or site.node for site in prepared.sites}
    images = sum(len(batch[0]) for batch in batches)
    total: dict[str, Tensor] = {}
    with evaluating(prepared.network):
        for batch in batches:
            for name, mean in _Listening(prepared.network, wanted).means(batch).items():
                total[name] = total.get(name, torch.zeros_like(mean)) + mean * (len(batch[0]) / images)
    return total


class _Listening(fx.Interpreter):
    """Runs a network and keeps the channel means of some of its values."""

    def __init__(self, network: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(network)
        self.wanted = wanted
        self.found: dict[str, Tensor] = {}

    def means(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        self.run(*batch)
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.wanted:
            self.found[n.name] = channel_means(result, n)
        return result


def channel_means(x: Tensor, node: fx.Node) -> Tensor:
    """Of what a layer answers: channels are last of a linear layer, else second."""
    dim = x.dim() - 1 if kind(node) == "linear" else 1
    return x.float().movedim(dim, 0).flatten(1).mean(1)


class _Repairing(fx.Interpreter):
    """Walks through a rounded network once, with all images, and repairs layer after layer.

    So each layer is repaired for inputs that come through the layers before it as they then are.
    """

    def __init__(
        self, prepared: Quantizable, method: PostTraining, means: Mapping[str, Tensor], progress: Progress
    ) -> None:
        super().__init__(prepared.network)
        self.extra_traceback = False  # errors name the layer
        self.prepared, self.method, self.means, self.progress = prepared, method, means, progress
        self.sites = {site.node: site for site in prepared.sites}

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self.progress.start("rounding", total=len(self.sites), done=0)
        try:
            return super().run(*args, **kwargs)
        finally:
            self.progress.done()

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.sites:
            site = self.sites[n.name]
            try:
                self._round(n, site)
            except KezuriError as error:
                raise type(error)(f"{site.layer}: {error}") from error
            self.progress.advance(1, {})
        if kind(n) == "batch_norm" and self.method.reestimate_norms:
            self._reestimate(n)
        result = super().run_node(n)
        if n.name in self.means:
            result = self._corrected(n, result)
        return result

    def _round(self, node: fx.Node, site: Site) -> None:
        rounding, quantizer = self.method.rounding, self.prepared.weight_quantizer(site)
        weight = self.prepared.weight(site)
        if not isinstance(weight, nn.Parameter):  # not all of these are kept in files
            return
        inputs = self.env[node.args[0]]  # type: ignore[index]
        gain = None
        if quantizer.axis is None and site.norm is not None:
            gain = outputs_first(gain_of(self.prepared.network, site.norm), weight)
        rounded = rounding(
            weight if gain is None else weight * gain,
            quantizer.scale,
            quantizer.zero_point,
            quantizer.grid,
            quantizer.axis,
            inputs if rounding.needs else None,
            layer_map(node),
        )
        rounded = rounded.masked_fill(weight == 0, 0)  # what was pruned stays pruned
        weight.copy_(rounded if gain is None else divided(rounded, gain))
        self.env[node.args[1]] = weight  # type: ignore[index]

    def _reestimate(self, node: fx.Node) -> None:
        x = self.env[node.args[0]].float()  # type: ignore[index]
        values = x.movedim(1, 0).flatten(1)
        mean, variance = (tensor_at(self.prepared.network, node.args[at]) for at in (3, 4))
        if mean is None or variance is None:  # it takes those of each batch
            return
        if values.shape[1] < 2:
            raise UsageError(
                f"reestimate_norms needs two values a channel at least, {node.name} has one: give more images"
            )
        mean.copy_(values.mean(1))
        variance.copy_(values.var(1))

    def _corrected(self, node: fx.Node, result: Tensor) -> Tensor:
        """The result without its mean error, which goes into the layer's bias."""
        bias = bias_of(self.prepared.network, node)
        if bias is None:
            return result
        off = channel_means(result, node) - self.means[node.name]
        bias.sub_(off)
        return result - (off if kind(node) == "linear" else off.view(-1, *[1] * (result.dim() - 2)))


def layer_map(node: fx.Node) -> LayerMap | None:
    """The settings of a convolution; None of a linear layer."""
    if kind(node) == "linear":
        return None
    given = [*node.args[3:], *[None] * 4]
    if isinstance(given[1], str):
        given[1] = _same(node) if given[1] == "same" else 0

    def numbers(value: Any, default: int) -> tuple[int, ...]:
        if isinstance(value, int):
            return (value,)
        return (default,) if value is None else tuple(int(number) for number in value)

    groups = given[3] if isinstance(given[3], int) else 1
    return LayerMap(numbers(given[0], 1), numbers(given[1], 0), numbers(given[2], 1), groups)


def _same(node: fx.Node) -> tuple[int, ...]:
    """The padding that keeps the size, for odd kernels."""
    weight = node.args[1].meta["val"]  # type: ignore[union-attr]
    dilation = node.args[5] if len(node.args) > 5 else 1
    each = list(dilation) if isinstance(dilation, list | tuple) else [dilation] * (weight.dim() - 2)
    return tuple(step * (size - 1) // 2 for step, size in zip(each, weight.shape[2:], strict=True))
