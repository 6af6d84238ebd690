"""From weights to masks: all the questions of pruning, answered at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kezuri.calibrate.sites import scored_weights
from kezuri.core.errors import RecipeError, ShapeError, TrainingDiverged, UsageError
from kezuri.model.coupling import Couplings
from kezuri.prune.allocation import Allocation, Uniform
from kezuri.prune.criterion import Criterion, criteria
from kezuri.prune.evidence import Evidence
from kezuri.prune.granularity import Granularity, granularities
from kezuri.prune.masks import Masks
from kezuri.prune.patterns import matching
from kezuri.prune.scope import Contest, Scope
from kezuri.prune.units import UnitGroup

UNIFORM = Uniform()


@dataclass(frozen=True, eq=False)
class Selection:
    """What stays.

    Attributes:
        masks: of every weight the units touch, on the weights' devices.
        kept_channels: flags of the channels of each coupling, (width,) bool, by the coupling's name, ready
            for `kezuri.model.proof.cut`; None for granularities that do not cut.
        shortfall: fraction that was asked for but is held by floors; 0 when the target is reached.
    """

    masks: Masks
    kept_channels: Mapping[str, Tensor] | None
    shortfall: float

    @property
    def sparsity(self) -> float:
        """Fraction of the masked weights that is removed."""
        return self.masks.sparsity


@torch.no_grad()
def select_masks(
    model: nn.Module,
    sparsity: float,
    *,
    criterion: Criterion,
    granularity: Granularity,
    scope: Scope,
    allocation: Allocation = UNIFORM,
    evidence: Mapping[str, Evidence] | None = None,
    couplings: Couplings | None = None,
    ignore: Sequence[str] = (),
) -> Selection:
    """Chooses the weights of a model to remove; the model stays as it is.

    Biases, norms and transposed convolutions are not scored. Masks are applied with `Masks.apply_`, held
    through training with `Masks.hold`, and kept channels are cut with `kezuri.model.proof.cut`.

    Args:
        model: its convolutions and linear layers are looked at.
        sparsity: fraction to remove, in [0, 1), of the weights that can go (or of the units, if the scope
            counts those).
        criterion: what a weight is worth.
        granularity: what is removed together.
        scope: who competes.
        allocation: how much each layer gives, for scopes that prune each by itself.
        evidence: from `gather_evidence`, by weight name.
        couplings: from `kezuri.model.coupling.couple`, for coupled channels.
        ignore: layers to leave alone, by name, with `*` and `?`; of a coupled channel, the layers that
            write it.

    Raises:
        RecipeError: the choices do not go together, or a pattern fits no layer.
        UsageError: couplings are needed, or nothing is left to prune.
        MissingEvidence: the criterion needs more evidence.
        ShapeError: a layer does not divide as the scope needs.
        TrainingDiverged: a score is not finite.
    """
    if not 0 <= sparsity < 1:
        raise RecipeError(f"sparsity is a fraction in [0, 1), got {sparsity}")
    if granularity.finest == "weight" and criterion.per == "channel":
        raise _too_coarse(criterion, granularity)
    weights = scored_weights(model)
    groups = _groups(weights, granularity, couplings, ignore)
    known = evidence or {}
    needed = dict.fromkeys(name for group in groups for name in group.scored)
    scores = {name: _score(name, weights[name].detach(), criterion, known) for name in needed}
    pooled = {group.name: group.pool(scores) for group in groups}
    choice = scope.select(Contest(groups, pooled, criterion.normalize), sparsity, allocation)
    kept = choice.kept if granularity.coupled else None
    return Selection(_masks(groups, choice.kept, weights), kept, choice.shortfall)


def _groups(
    weights: Mapping[str, Tensor],
    granularity: Granularity,
    couplings: Couplings | None,
    ignore: Sequence[str],
) -> Sequence[UnitGroup]:
    ignored = {name for pattern in ignore for name in matching(pattern, weights)}
    groups = granularity.groups({n: weights[n] for n in weights if n not in ignored}, couplings)
    if not groups:
        raise UsageError(
            f"nothing can be pruned: {len(weights)} convolutions and linear layers, of which {len(ignored)} "
            f"are ignored" + (" and no channel of the others may be cut" if granularity.coupled else "")
        )
    return groups


def _score(name: str, weight: Tensor, criterion: Criterion, evidence: Mapping[str, Evidence]) -> Tensor:
    scores = criterion(weight, replace(evidence.get(name, Evidence()), name=name))
    if scores.shape != weight.shape:
        raise ShapeError(f"scores of {name} are {tuple(scores.shape)}, the weight is {tuple(weight.shape)}")
    if not bool(scores.isfinite().all()):
        raise TrainingDiverged(
            f"scores of {name} by {criteria.name_of(criterion)!r} are not finite; "
            f"its weights or gradients diverged"
        )
    return scores


def _masks(groups: Sequence[UnitGroup], kept: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Masks:
    masks: dict[str, Tensor] = {}
    for group in groups:
        for name, mask in group.expand(kept[group.name]).items():
            masks[name] = masks[name] & mask if name in masks else mask
    return Masks(
        {name: masks[name].contiguous().to(weights[name].device) for name in weights if name in masks}
    )


def _too_coarse(criterion: Criterion, granularity: Granularity) -> RecipeError:
    name = criteria.name_of(criterion)
    finer = "taylor with per='weight', " if name == "taylor" else ""
    return RecipeError(
        f"the criterion {name!r} gives one score an output channel, so it cannot tell apart the units of the "
        f"granularity {granularities.name_of(granularity)!r}; use {finer}another criterion, or the "
        f"granularity 'filter' or 'channel'"
    )
