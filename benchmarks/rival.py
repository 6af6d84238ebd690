"""Torch-Pruning (Fang et al., 2023), where it is installed: `pip install torch-pruning==1.6.1`."""

import copy
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

STEPS = 400  # as its authors take for CIFAR-10


def installed() -> str | None:
    """Its version, or None."""
    try:
        return version("torch-pruning")
    except PackageNotFoundError:
        return None


def group_norm_pruned(
    model: nn.Module,
    example: torch.Tensor,
    *,
    spared: Sequence[nn.Module],
    small_enough: Callable[[nn.Module], bool],
) -> nn.Module:
    """A copy that its group-norm pruner cut until it is small enough, without its sparse learning."""
    import torch_pruning

    small, ignored = copy.deepcopy((model, list(spared)))
    pruner = torch_pruning.pruner.GroupNormPruner(
        small,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.95,
        iterative_steps=STEPS,
        ignored_layers=ignored,
    )
    for _ in range(STEPS):
        pruner.step()
        if small_enough(small):
            return small
    raise AssertionError("Torch-Pruning stopped before the model was small enough")
