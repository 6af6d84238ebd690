"""How large the activations are that each weight multiplies: the evidence of Wanda."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kezuri.calibrate.collector import Gradients, collectors
from kezuri.calibrate.layers import layers_of
from kezuri.calibrate.sites import Site


class InputNorms:
    """Adds up the squares of what goes into each input channel of each layer."""

    def __init__(self, model: nn.Module, sites: Mapping[str, Site]) -> None:
        self._sites = sites
        self._layers = dict(layers_of(model, sites))
        self._totals: dict[str, Tensor] = {}
        self._images = 0
        self._handles = [
            module.register_forward_pre_hook(self._adding(name)) for name, module in layers_of(model, sites)
        ]

    def _adding(self, name: str) -> Any:
        @torch.no_grad()
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            channel = inputs[0].dim() - 1 if isinstance(module, nn.Linear) else 1
            rest = [dim for dim in range(inputs[0].dim()) if dim != channel]
            squares = inputs[0].detach().float().square().sum(rest, dtype=torch.float64)
            self._totals[name] = self._totals[name] + squares if name in self._totals else squares

        return add

    def after_batch(self, gradients: Mapping[str, Tensor], images: int) -> None:  # noqa: ARG002 (the role's)
        self._images += images

    def evidence(self) -> dict[str, Tensor]:
        norms = {name: (total / self._images).sqrt() for name, total in self._totals.items()}
        return {name: self._read_by_outputs(name, norm) for name, norm in norms.items()}

    def _read_by_outputs(self, name: str, norm: Tensor) -> Tensor:
        """Which inputs each output reads, (outputs, inputs an output reads), from (inputs,)."""
        site, groups = self._sites[name], getattr(self._layers[name], "groups", 1)
        if site.dim or groups == 1:  # a grouped transposed convolution has all inputs along dimension 0
            return norm.expand(site.outputs, -1)
        return norm.view(groups, -1).repeat_interleave(site.outputs // groups, 0)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


@collectors.register("input_norm")
@dataclass(frozen=True)
class InputNorm:
    """ℓ2 norm of each input channel over an image's positions, root mean square over the images.

    As (outputs, inputs an output reads), so that it lies beside the weight. Layers whose weight is used
    without calling the layer are left out.
    """

    gradients: ClassVar[Gradients] = "none"

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> InputNorms:
        return InputNorms(model, sites)
