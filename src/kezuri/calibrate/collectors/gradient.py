"""What the loss says about each weight, or each output channel: the evidence of Taylor and Fisher."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kezuri.calibrate.collector import Gradients, collectors
from kezuri.calibrate.layers import hear_outputs
from kezuri.calibrate.sites import Site
from kezuri.core.errors import MissingEvidence

Change = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""From the gradients of a batch, what the loss would change by, to first order; by weight name."""


class SquaredChange:
    """Averages the square of a change over batches, each batch weighted by its images.

    The square is taken batch by batch: the square of a sum over batches would be near zero at a minimum.
    """

    def __init__(self, change: Change, handles: Sequence[RemovableHandle] = ()) -> None:
        self._change = change
        self._handles = handles
        self._totals: dict[str, Tensor] = {}
        self._images = 0

    @torch.no_grad()
    def after_batch(self, gradients: Mapping[str, Tensor], images: int) -> None:
        self._images += images
        for name, change in self._change(gradients).items():
            square = change.square() * images
            self._totals[name] = self._totals[name] + square if name in self._totals else square

    def evidence(self) -> dict[str, Tensor]:
        if not self._images:
            raise MissingEvidence("no batch was seen, so there is no gradient to speak of")
        return {name: total / self._images for name, total in self._totals.items()}

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def weight_changes(sites: Mapping[str, Site]) -> Change:
    """w·∂L/∂w of each weight, of the weight's shape with its outputs first."""

    def change(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: site.outputs_first(site.weight.detach() * gradients[name]).double()
            for name, site in sites.items()
            if name in gradients
        }

    return change


def channel_changes(sites: Mapping[str, Site]) -> Change:
    """The sum of w·∂L/∂w over each output channel, (outputs,): what a factor on its weights would feel."""
    of_weights = weight_changes(sites)
    return lambda gradients: {name: c.flatten(1).sum(1) for name, c in of_weights(gradients).items()}


class GateChanges:
    """∂L/∂g of a gate g = 1 on each output channel, (outputs,), behind the BatchNorm if there is one.

    With y = γ·x̂ + β behind the norm, a gate on y feels γ·∂L/∂γ + β·∂L/∂β; without a norm, the sum of w·∂L/∂w
    over the channel plus that of its bias. Either follows from gradients of parameters alone.
    """

    def __init__(self, model: nn.Module, sites: Mapping[str, Site]) -> None:
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._names = {id(parameter): name for name, parameter in self._parameters.items()}
        self._sites = sites
        self._of_weights = channel_changes(sites)
        self._norms: dict[str, tuple[str, ...]] = {}
        self.handles = hear_outputs(model, sites, norm=self._remember)

    def _remember(self, name: str, norm: nn.Module, _output: Tensor) -> None:
        held = [parameter for parameter in (norm.weight, norm.bias) if parameter is not None]
        if held:
            self._norms[name] = tuple(self._names[id(parameter)] for parameter in held)

    def __call__(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        felt: dict[str, Tensor] = {}
        for name, of_weights in self._of_weights(gradients).items():
            bias = f"{name.removesuffix('weight')}bias"
            parts = [
                (self._parameters[part].detach() * gradients[part]).double()
                for part in self._norms.get(name, (bias,))
                if part in gradients
            ]
            if name not in self._norms:
                parts.append(of_weights)
            folded = [self._sites[name].folded(part).sum(0) for part in parts]
            felt[name] = torch.stack(folded).sum(0)
        return felt


@collectors.register("taylor_weight")
@dataclass(frozen=True)
class TaylorWeight:
    """The squared first-order loss change of each weight, of the weight's shape (Molchanov et al., 2019)."""

    gradients: ClassVar[Gradients] = "batch"

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> SquaredChange:  # noqa: ARG002 (the role's)
        return SquaredChange(weight_changes(sites))


@collectors.register("taylor_channel")
@dataclass(frozen=True)
class TaylorChannel:
    """The squared first-order loss change of each output channel's weights, (outputs,).

    The sum of w·∂L/∂w over a channel is the gradient of a gate between the weights and what follows (bias,
    BatchNorm), as of the weight form of Molchanov et al. (2019) for a whole filter.
    """

    gradients: ClassVar[Gradients] = "batch"

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> SquaredChange:  # noqa: ARG002 (the role's)
        return SquaredChange(channel_changes(sites))


@collectors.register("taylor_gate")
@dataclass(frozen=True)
class TaylorGate:
    """The squared gradient of a gate behind each channel's BatchNorm, (outputs,) (Molchanov et al., 2019)."""

    gradients: ClassVar[Gradients] = "batch"

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> SquaredChange:
        changes = GateChanges(model, sites)
        return SquaredChange(changes, changes.handles)


@collectors.register("fisher_weight")
@dataclass(frozen=True)
class FisherWeight:
    """w² times the diagonal empirical Fisher information, of the weight's shape: single images' gradients."""

    gradients: ClassVar[Gradients] = "image"

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> SquaredChange:  # noqa: ARG002 (the role's)
        return SquaredChange(weight_changes(sites))


@collectors.register("fisher_channel")
@dataclass(frozen=True)
class FisherChannel:
    """The Fisher information of a gate behind each channel's BatchNorm, (outputs,) (Theis et al., 2018)."""

    gradients: ClassVar[Gradients] = "image"

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> SquaredChange:
        changes = GateChanges(model, sites)
        return SquaredChange(changes, changes.handles)
