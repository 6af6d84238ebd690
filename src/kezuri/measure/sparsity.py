"""How much of a model is zero, counted the three ways that papers count."""

from torch import Tensor, nn

from kezuri.core.measurement import Measurement
from kezuri.model.sites import layer_tensors


def sparsity(model: nn.Module) -> tuple[Measurement, ...]:
    """The fraction of zeros; the condition `of` says among what, because papers differ.

    `weights`: weights of convolutions and linear layers, which pruning may remove. `weights and biases`: with
    their biases. `parameters`: all, normalisation and embeddings too. Where there are none of a kind, nothing
    is said of it.

    Args:
        model: also one that became a program, by a cut or by quantization; there weights count unrounded.
    """
    layers = layer_tensors(model)
    counted: dict[str, list[Tensor]] = {
        "weights": layers["weight"],
        "weights and biases": layers["weight"] + layers["bias"],
        "parameters": list(model.parameters()),
    }
    return tuple(_zeros(tensors, of) for of, tensors in counted.items() if tensors)


def _zeros(tensors: list[Tensor], of: str) -> Measurement:
    total = sum(tensor.numel() for tensor in tensors)
    zeros = sum(tensor.numel() - int(tensor.count_nonzero()) for tensor in tensors)
    return Measurement("sparsity", zeros / total, "fraction", samples=total, conditions={"of": of})
