"""Which weights calibration learns about, and so which ones a criterion can score."""

from torch import Tensor, nn

from kezuri.model.sites import TRANSPOSED, prunable_weights


def scored_weights(model: nn.Module) -> dict[str, Tensor]:
    """The prunable weights with outputs in dimension 0 and inputs in 1, by parameter name.

    Transposed convolutions, which have it the other way round, are left out. A weight that two layers share
    is listed once, under its first name.
    """
    modules = dict(model.named_modules())
    weights: dict[str, Tensor] = {}
    for name, weight in prunable_weights(model).items():
        transposed = isinstance(modules[name.rpartition(".")[0]], TRANSPOSED)
        if not transposed and not any(weight is known for known in weights.values()):
            weights[name] = weight
    return weights
