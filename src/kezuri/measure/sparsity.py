"""How much of a model is zero, counted the three ways that papers count."""

from torch import Tensor, nn

from kezuri.core.measurement import Measurement

PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def sparsity(model: nn.Module) -> tuple[Measurement, Measurement, Measurement]:
    """The fraction of zeros; the condition `of` says among what, because papers differ.

    `weights`: weights of convolutions and linear layers, which pruning may remove. `weights and biases`: with
    their biases. `parameters`: all, normalisation and embeddings too. A model without any counts as dense.
    """
    layers = [module for module in model.modules() if isinstance(module, PRUNABLE)]
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return (
        _zeros(weights, "weights"),
        _zeros([*weights, *biases], "weights and biases"),
        _zeros(list(model.parameters()), "parameters"),
    )


def _zeros(tensors: list[Tensor], of: str) -> Measurement:
    unique = {id(tensor): tensor for tensor in tensors}.values()
    total = sum(tensor.numel() for tensor in unique)
    zeros = sum(tensor.numel() - int(tensor.count_nonzero()) for tensor in unique)
    return Measurement(
        "sparsity", zeros / total if total else 0.0, "fraction", samples=total, conditions={"of": of}
    )
