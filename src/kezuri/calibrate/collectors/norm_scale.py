"""The scale of the BatchNorm behind each layer: the evidence of network slimming."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from kezuri.calibrate.collector import Gradients, collectors
from kezuri.calibrate.layers import hear_outputs
from kezuri.calibrate.sites import Site


class NormsBehind:
    """Finds by running which BatchNorm reads a layer's output: it is handed the very same tensor."""

    def __init__(self, model: nn.Module, sites: Mapping[str, Site]) -> None:
        self._sites = sites
        self._scales: dict[str, Tensor] = {}
        self._handles = hear_outputs(model, sites, norm=self._look_up)

    def _look_up(self, name: str, norm: nn.Module, _output: Tensor) -> None:
        if isinstance(norm.weight, Tensor):
            self._scales.setdefault(name, self._sites[name].folded(norm.weight.detach().abs()).mean(0))

    def after_batch(self, gradients: Mapping[str, Tensor], images: int) -> None:
        """The scales do not depend on the images."""

    def evidence(self) -> dict[str, Tensor]:
        return dict(self._scales)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


@collectors.register("norm_scale")
@dataclass(frozen=True)
class NormScale:
    """|γ| of the BatchNorm that reads a layer's output, (outputs,); layers without one are left out."""

    gradients: ClassVar[Gradients] = "none"

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> NormsBehind:
        return NormsBehind(model, sites)
