"""Which layer a tensor comes out of, found by running."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from kezuri.calibrate.sites import Site
from kezuri.model.sites import PRUNABLE

Heard = Callable[[str, nn.Module, Tensor], None]
"""Called with a weight's name, a module, and the tensor that the module answered."""


def layers_of(model: nn.Module, sites: Mapping[str, Site]) -> Iterator[tuple[str, nn.Module]]:
    """Every linear layer and convolution whose weight is a site, with the site's name."""
    names = {id(site.weight): name for name, site in sites.items()}
    for module in model.modules():
        if isinstance(module, PRUNABLE) and id(module.weight) in names:
            yield names[id(module.weight)], module


def hear_outputs(
    model: nn.Module, sites: Mapping[str, Site], *, layer: Heard | None = None, norm: Heard | None = None
) -> list[RemovableHandle]:
    """Hooks on a model that hear what its layers and the BatchNorms behind them answer.

    A BatchNorm is behind a layer if it is handed the very tensor that the layer returned.

    Args:
        model: gets the hooks.
        sites: whose layers matter.
        layer: hears each layer's output.
        norm: hears each output of a BatchNorm behind a layer, with that layer's weight name.

    Returns:
        what to remove in the end.
    """
    origins: dict[int, tuple[str, ref[Tensor]]] = {}

    def of_layer(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            key = id(output)
            # Held weakly: keeping the outputs of all layers alive would cost as much as a backward pass. An
            # entry goes with its tensor, before another one can get the same id.
            origins[key] = name, ref(output, lambda _: origins.pop(key, None))
            if layer is not None:
                layer(name, module, output)

        return hook

    def of_norm(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if norm is not None and inputs and id(inputs[0]) in origins:
            norm(origins[id(inputs[0])][0], module, output)

    handles = [module.register_forward_hook(of_layer(name)) for name, module in layers_of(model, sites)]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return handles + [module.register_forward_hook(of_norm) for module in norms]
