"""From a model to the masks that a search may propose."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.calibrate.sites import scored_weights
from kezuri.core.seeds import derive
from kezuri.data import Part
from kezuri.model.coupling import Couplings
from kezuri.model.modes import device_of, evaluating
from kezuri.prune.allocation import Allocation
from kezuri.prune.criteria.norm import L1
from kezuri.prune.criterion import Criterion
from kezuri.prune.evidence import Evidence
from kezuri.prune.granularity import Granularity, Weight
from kezuri.prune.masks import Masks
from kezuri.prune.scope import Global, Scope
from kezuri.prune.select import contest
from kezuri.prune.space import UNIFORM, Space
from kezuri.prune.units import UnitGroup

MAGNITUDE, SINGLE, TOGETHER = L1(), Weight(), Global(normalize="none")
BATCHES = 8
BATCH_SIZE = 64


def mask_space(
    model: nn.Module,
    *,
    criterion: Criterion = MAGNITUDE,
    granularity: Granularity = SINGLE,
    scope: Scope = TOGETHER,
    allocation: Allocation = UNIFORM,
    evidence: Mapping[str, Evidence] | None = None,
    couplings: Couplings | None = None,
    ignore: Sequence[str] = (),
    masks: Masks | None = None,
) -> Space:
    """The masks of a model: its units, what a criterion says each is worth, and who competes.

    Args:
        criterion: where a search begins.
        granularity, scope, allocation, evidence, couplings, ignore: as in `kezuri.select_masks`; by default
            every weight competes with every other by its magnitude as it is.
        masks: of weights that were removed before, and stay so.

    Raises: as `kezuri.select_masks`.
    """
    field = contest(
        model,
        criterion=criterion,
        granularity=granularity,
        evidence=evidence,
        couplings=couplings,
        ignore=ignore,
    )
    weights = scored_weights(model, couplings if granularity.coupled else None)
    return Space.of(field, weights, scope=scope, allocation=allocation, masks=masks)


def with_growth(space: Space, model: nn.Module, part: Part, *, sparsity: float, seed: int) -> Space:
    """The space, with what each unit promises if it came back: how hard the loss pulls at its weights.

    That is the mean |∂L/∂w| over a few batches, of the model with what the criterion alone would remove set
    to zero (where a dense model's gradients are near zero, and a pruned one's are not; Evci et al., "Rigging
    the Lottery", 2020).

    Args:
        model: left as it is.
        part: training images.
        sparsity: fraction the criterion removes, in [0, 1).
        seed: which images.
    """
    twin = copy.deepcopy(model)
    space.masks(space.best(sparsity)).apply_(twin)
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    wanted = [parameters[name].requires_grad_(True) for name in space.weights]
    total = torch.zeros(())
    batches = part.batches(BATCH_SIZE, seed=derive(seed, "growth"), device=device_of(twin))
    with evaluating(twin), torch.enable_grad():
        for batch in islice(batches, BATCHES):
            total = total.to(batch.images.device) + F.cross_entropy(twin(batch.images), batch.targets)
    pulls = torch.autograd.grad(total, wanted, allow_unused=True)
    known = {
        name: torch.zeros_like(weight) if pull is None else pull.abs()
        for (name, weight), pull in zip(space.weights.items(), pulls, strict=True)
    }
    return replace(space, growth=torch.cat([pooled(group, known) for group in space.groups]))


def pooled(group: UnitGroup, values: Mapping[str, Tensor]) -> Tensor:
    """Values of the weights, by parameter name, as one a unit, (units,) float64."""
    return group.pool({name: values[name] for name in group.scored}).cpu()
