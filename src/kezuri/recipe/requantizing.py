"""Pruning what is quantized: the weights beneath are pruned in floats, and rounded again as before.

A cut changes what every scale was found for, so ranges are found anew by the step that had quantized the
model, with its settings, its floor, and its training.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from kezuri.core.errors import UsageError
from kezuri.model.file_checks import saved_tensors
from kezuri.model.shrink import shrink_
from kezuri.recipe.recipe import Recipe
from kezuri.recipe.step import ModelState, Resources, Step, steps
from kezuri.recipe.steps.distill import Distill
from kezuri.recipe.steps.pcas import PcasLoop
from kezuri.recipe.steps.population import PopulationTraining
from kezuri.recipe.steps.prune import Prune
from kezuri.recipe.steps.prune_blocks import PruneBlocks
from kezuri.recipe.steps.quantize import Quantize

AGAIN = "quantize"


def quantized_before(recipe: Recipe) -> Iterator[tuple[Step, Quantize | None]]:
    """Each step, with what has quantized the model that it prunes; None where it prunes none, or no integers.

    Raises:
        UsageError: a step would prune what cannot be given back in floats; names the two.
    """
    quantize, number = None, 0
    for at, step in enumerate(recipe.steps, start=1):
        prunes = isinstance(step, Prune | PcasLoop | PruneBlocks | PopulationTraining)
        if prunes and quantize is not None and (quantize.replaced or quantize.equalize):
            setting = "replaced" if quantize.replaced else "equalize"
            raise UsageError(
                f"step {at} ({steps.name_of(step)}) cannot prune what step {number} (quantize) has quantized "
                f"with {setting}, which leaves another network: prune first, then quantize"
            )
        yield step, quantize if prunes else None
        if isinstance(step, Distill) and step.student is not None:
            quantize = None  # another model from here on
        if isinstance(step, Quantize):
            quantize, number = step, at


def apply_step(
    step: Step, quantize: Quantize | None, state: ModelState, resources: Resources, *, stage: str
) -> ModelState:
    """Applies a step; if it prunes what `quantize` has quantized, in floats, and quantizes again."""
    if quantize is None:
        return step.apply(state, resources, stage=stage)
    pruned = step.apply(in_floats(state, resources), resources, stage=stage)
    return _still(quantize, pruned).apply(pruned, resources, stage=f"{stage}.{AGAIN}")


@torch.no_grad()
def in_floats(state: ModelState, resources: Resources) -> ModelState:
    """A quantized model without its quantizers, with its weights as they are."""
    model = resources.fresh(state.spec)
    shrink_(model, state.structure)
    given = saved_tensors(state.model)
    for name, tensor in saved_tensors(model).items():
        if name in given:  # a program has only what it reads
            tensor.data = given[name].detach().clone()
    model.to(resources.device).train(state.model.training)
    return replace(state, model=model, quantization=None)


def _still(quantize: Quantize, state: ModelState) -> Quantize:
    """The step, of the layers that there still are."""
    names = {name for name, _ in (*state.model.named_modules(), *state.model.named_parameters())}
    bits = {name: bits for name, bits in quantize.layer_bits.items() if name in names}
    return replace(quantize, layer_bits=bits, spared=tuple(name for name in quantize.spared if name in names))
