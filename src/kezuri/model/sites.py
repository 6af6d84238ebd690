"""Where a model can be pruned."""

from torch import Tensor, nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that may be masked, by parameter name, in definition order.

    Weights of linear layers and of plain and transposed convolutions; a shared layer is listed once, and one
    whose weight is computed (parametrized) is not.
    """
    return {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE) and module._parameters.get("weight") is not None
    }


def tensors_of(model: nn.Module, *, aliases: bool = False) -> dict[str, Tensor]:
    """Parameters and buffers by name; one that is held twice only under its first name, unless `aliases`."""
    return {
        **dict(model.named_parameters(remove_duplicate=not aliases)),
        **dict(model.named_buffers(remove_duplicate=not aliases)),
    }
