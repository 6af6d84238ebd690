"""What the loss says about each weight, or each output channel: the evidence of Taylor criteria."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kezuri.calibrate.collector import collectors
from kezuri.calibrate.sites import scored_weights
from kezuri.core.errors import MissingEvidence


class SquaredChange:
    """Averages (w·∂L/∂w)² over batches, each batch weighted by its images.

    The square is taken batch by batch: the square of a sum over batches would be near zero at a minimum.
    With `summed`, w·∂L/∂w is first added up over each output channel.
    """

    def __init__(self, model: nn.Module, *, summed: bool) -> None:
        self._weights = {name: weight.detach() for name, weight in scored_weights(model).items()}
        self._summed = summed
        self._totals: dict[str, Tensor] = {}
        self._images = 0

    @torch.no_grad()
    def after_batch(self, gradients: Mapping[str, Tensor], images: int) -> None:
        self._images += images
        for name, gradient in gradients.items():
            change = (self._weights[name] * gradient).double()
            square = (change.flatten(1).sum(1) if self._summed else change).square() * images
            self._totals[name] = self._totals[name] + square if name in self._totals else square

    def evidence(self) -> dict[str, Tensor]:
        if not self._images:
            raise MissingEvidence("no batch was seen, so there is no gradient to speak of")
        return {name: total / self._images for name, total in self._totals.items()}

    def close(self) -> None:
        """Nothing was attached."""


@collectors.register("taylor_weight")
@dataclass(frozen=True)
class TaylorWeight:
    """The squared first-order loss change of each weight, of the weight's shape (Molchanov et al., 2019)."""

    gradients: ClassVar[bool] = True

    def listen(self, model: nn.Module) -> SquaredChange:
        return SquaredChange(model, summed=False)


@collectors.register("taylor_channel")
@dataclass(frozen=True)
class TaylorChannel:
    """The squared first-order loss change of each output channel, (outputs,) (Molchanov et al., 2019).

    The sum of w·∂L/∂w over a channel is the gradient of a gate put on it, so this is their gate form.
    """

    gradients: ClassVar[bool] = True

    def listen(self, model: nn.Module) -> SquaredChange:
        return SquaredChange(model, summed=True)
