"""What each layer of a model loses with fewer bits or more zeros, measured on a few images, and costs.

Size is what a file would hold in which every layer has its own bits: the weights packed without gaps, a scale
of 4 bytes for each output (or one for the layer), and a bias of 4 bytes where the layer has one or gets one
by folding. A layer with zeros is held as the weights that are left and a bit for each weight to say which,
where that is less; zeros that rounding makes are not counted. Everything else takes 4 bytes a parameter.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from kezuri.core.errors import UsageError
from kezuri.core.progress import Progress
from kezuri.model.exporting import example_batch
from kezuri.model.modes import evaluating
from kezuri.quantization.affine import Grid
from kezuri.quantization.chains import tensor_at
from kezuri.quantization.network import HOME, Quantizable, Site, with_quantizers
from kezuri.quantization.ptq import SILENT, PostTraining, fit_weight_
from kezuri.quantization.scheme import Scheme
from kezuri.quantization.sensitivity import (
    INTEGERS,
    UNTOUCHED,
    Cost,
    Option,
    SensitivityTable,
    measure_sensitivity,
)

FLOAT = 4  # bytes of a number that stays in floats, of a scale and of a bias

Answers = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LayerCosts:
    """The layers of a network that may get bits of their own, and what they cost.

    Attributes:
        prepared: the network; its quantizers are off.
        sites: the places where a layer runs, by its name; more than one where it is used again.
        whole: size and MACs of the network in floats, batch normalisation folded.
        fixed: size and MACs of everything that has no options.
    """

    prepared: Quantizable
    sites: Mapping[str, tuple[Site, ...]]
    whole: Cost
    fixed: Cost

    @classmethod
    def of(cls, model: nn.Module, inputs: tuple[Tensor, ...], scheme: Scheme) -> "LayerCosts":
        """Those of a model, which is left as it is; errors as of `with_quantizers`."""
        return cls.of_prepared(with_quantizers(model, inputs, replace(scheme, ranges="fixed", layer_bits={})))

    @classmethod
    def of_prepared(cls, prepared: Quantizable) -> "LayerCosts":
        """Those of a network that has its quantizers."""
        sites: dict[str, tuple[Site, ...]] = {}
        for site in prepared.sites:
            sites[site.layer] = (*sites.get(site.layer, ()), site)
        weights = sum(prepared.weight(each[0]).numel() for each in sites.values())
        macs = sum(site.macs for site in prepared.sites)
        rest = Cost(FLOAT * _others(prepared), prepared.macs - macs)
        return cls(prepared, sites, Cost(rest.size + FLOAT * weights, prepared.macs), rest)

    def weight(self, layer: str) -> Tensor:
        """A layer's weight."""
        return self.prepared.weight(self.sites[layer][0])

    def cost(self, layer: str, option: Option) -> Cost:
        """What a layer costs as it is chosen."""
        weight = self.weight(layer)
        kept = int((weight.detach() != 0)[magnitude_mask(weight, option.sparsity)].sum())
        whole = weight.numel() * option.bits
        packed = -(-min(whole, kept * option.bits + weight.numel()) // 8)
        scales = len(weight) if self.prepared.scheme.per_channel else 1
        macs = sum(site.macs for site in self.sites[layer])
        return Cost(packed + FLOAT * scales, macs * kept / max(weight.numel(), 1))


def _others(prepared: Quantizable) -> int:
    """How many numbers there are beside the weights of the layers, batch normalisation folded into these."""
    nodes = {node.name: node for node in prepared.network.graph.nodes}
    gone = {id(prepared.weight(site)) for site in prepared.sites}
    biases = 0
    for site in prepared.sites:
        if site.norm is not None:
            norm = nodes[site.norm]
            gone |= {id(tensor_at(prepared.network, argument)) for argument in norm.args[1:3]}
            biases += 0 if _has_bias(nodes[site.node]) else len(prepared.weight(site))
    return biases + sum(one.numel() for one in prepared.network.parameters() if id(one) not in gone)


def _has_bias(node: fx.Node) -> bool:
    return len(node.args) > 2 and node.args[2] is not None


@torch.no_grad()
def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Which weights of a layer are kept, bool, when a fraction goes; of equals, the first go."""
    kept = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    kept[weight.abs().flatten().argsort(stable=True)[: round(sparsity * weight.numel())]] = False
    return kept.view_as(weight)


def measure_layers(
    costs: LayerCosts,
    batches: Sequence[tuple[Tensor, ...]],
    method: PostTraining,
    *,
    options: Mapping[str, Sequence[Option]],
    labels: Tensor | None = None,
    journal: Path | None = None,
    progress: Progress = SILENT,
) -> SensitivityTable:
    """The increase of the loss with one option at one layer and nothing else, for every layer and option.

    Weights are rounded to the nearest, whatever rounding the model gets in the end, and activations not at
    all, so that the table serves any of these. The loss is the cross entropy if there are labels. If not,
    it is the Kullback-Leibler divergence from the answers in floats, where these are logits (N, classes), and
    else the mean squared change relative to their variance.

    Args:
        costs: of the model.
        batches: inputs, images as in evaluation.
        method: of which the observer of weights counts.
        options: what may be done to each layer.
        labels: (N,) int64, of all the images in order.
        journal: a file that gains every measured loss; a stopped measuring goes on from it, and another that
            needs the same takes it from there.
        progress: hears of each.

    Raises:
        UsageError: labels do not fit, or the journal belongs to another model, or to other images.
    """
    losses = _Losses(costs, batches, method, labels)
    return measure_sensitivity(
        options,
        losses.with_option,
        costs.cost,
        base_loss=losses.base,
        fixed=costs.fixed,
        about=losses.about,
        journal=journal,
        progress=progress,
    )


def measure_layers_in_integers(
    costs: LayerCosts,
    batches: Sequence[tuple[Tensor, ...]],
    method: PostTraining,
    *,
    cost_of: Callable[[str, Option], Cost],
    fixed: Cost,
    about: Mapping[str, Any],
    labels: Tensor | None = None,
    journal: Path | None = None,
    progress: Progress = SILENT,
) -> SensitivityTable:
    """The increase of the loss with one layer in integers, its weight and its input, and nothing else.

    Args:
        costs: of a network whose quantizers have their ranges; they are left off.
        batches, method, labels, journal, progress: as in `measure_layers`.
        cost_of: what a layer costs in floats and in integers.
        fixed: what everything else costs.
        about: what costs depend on, as plain data.
    """
    losses = _IntegerLosses(costs, batches, method, labels)
    return measure_sensitivity(
        dict.fromkeys(costs.sites, (UNTOUCHED, INTEGERS)),
        losses.with_option,
        cost_of,
        base_loss=losses.base,
        fixed=fixed,
        about={**losses.about, "observer": repr(method.observer), **about},
        journal=journal,
        progress=progress,
    )


class _Losses:
    """The loss of a network with one layer changed."""

    def __init__(
        self,
        costs: LayerCosts,
        batches: Sequence[tuple[Tensor, ...]],
        method: PostTraining,
        labels: Tensor | None,
    ) -> None:
        self.costs, self.batches, self.method = costs, batches, method
        self.images = sum(len(batch[0]) for batch in batches)
        answers = list(self._answers())
        self.name, self.compare, self.wanted = _loss(answers, labels)
        self.base = self._loss(answers)
        tensors = costs.prepared.network.state_dict()
        self.about: dict[str, Any] = {
            "loss": self.name,
            "model": _digest([value for name, value in tensors.items() if not name.startswith(f"{HOME}.")]),
            "images": _digest([*(part for batch in batches for part in batch), *self.wanted]),
            "weight_observer": repr(method.weight_observer),
            "per_channel": costs.prepared.scheme.per_channel,
        }

    def with_option(self, layer: str, option: Option) -> float:
        """The mean over all images."""
        with self._changed(layer, option):
            return self._loss(list(self._answers()))

    @contextmanager
    def _changed(self, layer: str, option: Option) -> Iterator[None]:
        prepared = self.costs.prepared
        weight = self.costs.weight(layer)
        before = weight.detach().clone()
        quantizers = [prepared.weight_quantizer(site) for site in self.costs.sites[layer]]
        try:
            with torch.no_grad():
                weight.mul_(magnitude_mask(weight, option.sparsity))
                for site, quantizer in zip(self.costs.sites[layer], quantizers, strict=True):
                    if option.bits <= 8:
                        quantizer.grid = Grid(option.bits, symmetric=True)
                        fit_weight_(prepared, site, self.method.weight_observer)
            yield
        finally:
            for quantizer in quantizers:
                quantizer.on = False
            with torch.no_grad():
                weight.copy_(before)

    @torch.no_grad()
    def _answers(self) -> Iterator[Tensor]:
        """In floats but for what is changed."""
        network = self.costs.prepared.network
        with evaluating(network):
            for batch in self.batches:
                yield _tensor(network(*batch))

    @torch.no_grad()
    def _loss(self, answers: Sequence[Tensor]) -> float:
        pairs = zip(answers, self.wanted, strict=True)
        return sum(float(self.compare(found, wanted)) for found, wanted in pairs) / self.images


class _IntegerLosses(_Losses):
    """The loss of a network with one layer as it will be in integers."""

    @contextmanager
    def _changed(self, layer: str, option: Option) -> Iterator[None]:  # noqa: ARG002  there is but one
        network = self.costs.prepared.network
        sites = self.costs.sites[layer]
        quantizers = [network.get_submodule(name) for site in sites for name in (site.quantizer, site.inputs)]
        try:
            for quantizer in quantizers:
                quantizer.on = True  # type: ignore[assignment]
            yield
        finally:
            for quantizer in quantizers:
                quantizer.on = False  # type: ignore[assignment]


def _loss(answers: Sequence[Tensor], labels: Tensor | None) -> tuple[str, Answers, list[Tensor]]:
    """What answers are compared with, and how, summed over the images of a batch."""
    logits = answers[0].dim() == 2 and answers[0].shape[1] > 1
    if labels is not None:
        sizes = [len(answer) for answer in answers]
        if not logits or labels.shape != (sum(sizes),):
            raise UsageError(
                f"labels are one number for each of {sum(sizes)} images, for logits (N, classes); got labels "
                f"{tuple(labels.shape)} and answers {tuple(answers[0].shape)}"
            )
        return "cross entropy", _cross_entropy, list(torch.split(labels.to(answers[0].device), sizes))
    if logits:
        return "kl", _divergence, [answer.log_softmax(1) for answer in answers]
    scale = float(torch.cat([answer.flatten() for answer in answers]).var(correction=0)) or 1.0

    def change(found: Tensor, wanted: Tensor) -> Tensor:
        return (found - wanted).square().mean() * len(found) / scale

    return "mse", change, list(answers)


def _cross_entropy(found: Tensor, wanted: Tensor) -> Tensor:
    return F.cross_entropy(found, wanted, reduction="sum")


def _divergence(found: Tensor, wanted: Tensor) -> Tensor:
    return F.kl_div(found.log_softmax(1), wanted, reduction="sum", log_target=True)


def _tensor(answer: object) -> Tensor:
    """The fractions of an answer: as they are if it is one tensor, else in a row for each image."""
    leaves = [x for x in pytree.tree_leaves(answer) if isinstance(x, Tensor) and x.is_floating_point()]
    if len(leaves) == 1:
        return leaves[0].float()
    return torch.cat([leaf.float().flatten(1) for leaf in leaves], 1).unsqueeze(2)


def _digest(tensors: Sequence[Tensor]) -> str:
    digest = sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def layer_inputs(model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Two examples of each input, to follow the model with."""
    return example_batch(model, tuple(part[:2] for part in batches[0]))
