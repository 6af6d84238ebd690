"""Chooses bits and zeros for each layer under a budget."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.core.progress import Progress
from kezuri.quantization.bits import allocate
from kezuri.quantization.budget import Allocated, Budget
from kezuri.quantization.latency_budget import choose_within_latency
from kezuri.quantization.layer_losses import LayerCosts, layer_inputs, magnitude_mask, measure_layers
from kezuri.quantization.layer_times import Race
from kezuri.quantization.ptq import SILENT, PostTraining
from kezuri.quantization.scheme import Scheme


def allocate_layers(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    scheme: Scheme,
    method: PostTraining,
    budget: Budget,
    *,
    race: Race | None = None,
    labels: Tensor | None = None,
    journal: Path | None = None,
    progress: Progress = SILENT,
) -> Allocated:
    """Measures what each layer loses, or reads it, and chooses under a budget; the model stays as it is.

    Every layer may get any of the bits, the first and the last too: what they suffer is in the table.

    Args:
        model: as `quantize` takes it.
        batches: to calibrate with.
        scheme, method: as the model will be quantized; its `layer_bits` do not count.
        budget: what it may cost, and what there is to choose from.
        race: times files where the model will run; needed for a budget of latency.
        labels, journal, progress: as in `kezuri.quantization.layer_losses.measure_layers`.

    Raises:
        GoalUnreachable: the budget is below the cheapest choice; found out before anything is measured,
            unless it is on latency.
        ModelError, UsageError: as of `quantize` and `measure_layers`.
    """
    if budget.metric == "latency":
        if race is None:
            raise UsageError("a budget of latency needs what times files: give race")
        return choose_within_latency(
            model,
            batches,
            scheme,
            method,
            budget.most,
            race=race,
            labels=labels,
            journal=journal,
            progress=progress,
        )
    costs = LayerCosts.of(model, layer_inputs(model, batches), scheme)
    limit = budget.limit(costs)
    table = measure_layers(
        costs,
        batches,
        method,
        options=budget.options(costs),
        labels=labels,
        journal=journal,
        progress=progress,
    )
    chosen = allocate(table, metric=budget.metric, most=limit)
    masks = {
        costs.sites[layer][0].weight: magnitude_mask(costs.weight(layer), option.sparsity)
        for layer, option in chosen.options.items()
        if option.sparsity
    }
    return Allocated(chosen, table, limit, costs.whole, masks)


def without(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with what masks leave out at zero; the model itself if there are none."""
    if not masks:
        return model
    copy = deepcopy(model)
    zero_(copy, masks)
    return copy


@torch.no_grad()
def zero_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets what masks leave out to zero."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, kept in masks.items():
        parameters[name].mul_(kept)
