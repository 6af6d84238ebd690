"""Norms that average over channels, in a masked model: what is masked must not be averaged in."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.model.shrink import Structure

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def narrow_norms_(masked: nn.Module, structure: Structure) -> None:
    """Has the norms of a masked model take their statistics over what a cut keeps, as the cut model will.

    Without this no masked model is equal to a cut one that lost channels which such a norm averages over.

    Args:
        masked: changed in place; its norms keep their size.
        structure: what the cut keeps of each parameter.
    """
    for name, module in masked.named_modules():
        dims: Mapping[int, tuple[int, ...]] = structure.kept.get(f"{name}.weight" if name else "weight", {})
        if isinstance(module, NORMS) and 0 in dims:
            module.register_forward_hook(partial(_narrowed, torch.tensor(dims[0])))


def _narrowed(kept: Tensor, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    x = inputs[0]
    dim = 1 if isinstance(module, nn.GroupNorm) else -1
    kept = kept.to(x.device)
    weight, bias = module.get_parameter("weight")[kept], getattr(module, "bias", None)
    bias = bias[kept] if isinstance(bias, Tensor) else None
    part = x.index_select(dim, kept)
    if isinstance(module, nn.GroupNorm):
        narrow = F.group_norm(part, module.num_groups, weight, bias, module.eps)
    elif isinstance(module, nn.LayerNorm):
        narrow = F.layer_norm(part, (len(kept),), weight, bias, module.eps)
    else:
        assert isinstance(module, nn.RMSNorm)
        narrow = F.rms_norm(part, (len(kept),), weight, module.eps)
    return torch.zeros_like(output).index_copy(dim, kept, narrow)
