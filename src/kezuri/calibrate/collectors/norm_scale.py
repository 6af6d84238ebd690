"""The scale of the BatchNorm behind each layer: the evidence of network slimming."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kezuri.calibrate.collector import collectors
from kezuri.calibrate.sites import scored_weights


class NormsBehind:
    """Finds by running which BatchNorm reads a layer's output: it is handed the very same tensor."""

    def __init__(self, model: nn.Module) -> None:
        names = {id(weight): name for name, weight in scored_weights(model).items()}
        self._outputs: dict[int, tuple[str, Tensor]] = {}
        self._scales: dict[str, Tensor] = {}
        self._handles = []
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if id(weight) in names:
                self._handles.append(module.register_forward_hook(self._remember(names[id(weight)])))
            elif isinstance(module, _BatchNorm) and module.affine:
                self._handles.append(module.register_forward_pre_hook(self._look_up))

    def _remember(self, name: str) -> Any:
        def remember(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            # The tensor is kept with its id, so that the id is not given to another one meanwhile.
            self._outputs[id(output)] = (name, output)

        return remember

    def _look_up(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in self._outputs and isinstance(norm.weight, Tensor):
            name, _ = self._outputs[id(inputs[0])]
            self._scales.setdefault(name, norm.weight.detach().abs().clone())

    def after_batch(self, gradients: Mapping[str, Tensor], images: int) -> None:  # noqa: ARG002 (the role's)
        self._outputs.clear()

    def evidence(self) -> dict[str, Tensor]:
        return dict(self._scales)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


@collectors.register("norm_scale")
@dataclass(frozen=True)
class NormScale:
    """|γ| of the BatchNorm that reads a layer's output, (outputs,); layers without one are left out."""

    gradients: ClassVar[bool] = False

    def listen(self, model: nn.Module) -> NormsBehind:
        return NormsBehind(model)
