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

    Biases and norms are neither scored nor counted. Transposed convolutions, embeddings, recurrent and loose
    weights are for coupled channels only. Masks are applied with `Masks.apply_`, held through training with
    `Masks.hold`, and kept channels are cut with `kezuri.model.proof.cut`.

    Args:
        model: left as it is.
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
    check_sparsity(sparsity)
    field = contest(
        model,
        criterion=criterion,
        granularity=granularity,
        evidence=evidence,
        couplings=couplings,
        ignore=ignore,
    )
    choice = scope.select(field, sparsity, allocation)
    kept = choice.kept if granularity.coupled else None
    weights = scored_weights(model, couplings if granularity.coupled else None)
    return Selection(masks_of(field.groups, choice.kept, weights), kept, choice.shortfall)


def check_sparsity(sparsity: float) -> None:
    """Raises RecipeError unless it is a fraction that leaves something."""
    if not 0 <= sparsity < 1:
        raise RecipeError(f"sparsity is a fraction in [0, 1), got {sparsity}")


@torch.no_grad()
def contest(
    model: nn.Module,
    *,
    criterion: Criterion,
    granularity: Granularity,
    evidence: Mapping[str, Evidence] | None = None,
    couplings: Couplings | None = None,
    ignore: Sequence[str] = (),
) -> Contest:
    """Scores a model's units, for a scope to choose among, once or at several sparsities.

    Args and errors are those of `select_masks`. A criterion sees each weight with its outputs in dimension 0.
    Coupled channels of which such a weight is no convolution or linear layer compete if the criterion needs
    no evidence, or has it; those that no weight produces, if it needs none.
    """
    if granularity.finest == "weight" and criterion.per == "channel":
        raise _too_coarse(criterion, granularity)
    known = evidence or {}
    weights = scored_weights(model)
    if granularity.coupled and couplings is not None:
        couplings = _of_parameters(model, couplings)
        if criterion.needs:
            couplings = _written(couplings)
        others = scored_weights(model, couplings)
        weights |= {n: w for n, w in others.items() if n in weights or has_evidence(criterion, known.get(n))}
    groups = _groups(weights, granularity, couplings, ignore)
    needed = dict.fromkeys(key for group in groups for key in group.scored.items())
    scores = {key: _score(*key, weights[key[0]].detach(), criterion, known) for key in needed}
    pooled = {g.name: g.pool({name: scores[name, dim] for name, dim in g.scored.items()}) for g in groups}
    return Contest(groups, pooled, criterion.normalize)


def has_evidence(criterion: Criterion, evidence: Evidence | None) -> bool:
    """Whether all that a criterion needs to know of one weight is known."""
    return all(getattr(evidence, part, None) is not None for part in criterion.needs)


def _of_parameters(model: nn.Module, couplings: Couplings) -> Couplings:
    """The couplings without buffers, which pruning does not score: a fixed kernel says nothing of worth."""
    parameters = {name for name, _ in model.named_parameters()}
    return replace(
        couplings,
        items=tuple(
            replace(item, members=tuple(m for m in item.members if m.parameter in parameters))
            for item in couplings
        ),
    )


def _written(couplings: Couplings) -> Couplings:
    """The couplings that a weight produces: evidence is about a weight's outputs, not about what reads it."""
    written = tuple(item for item in couplings if any(member.role == "output" for member in item.members))
    return replace(couplings, items=written)


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


def _score(
    name: str, dim: int, weight: Tensor, criterion: Criterion, evidence: Mapping[str, Evidence]
) -> Tensor:
    """Scores of a weight, of its shape; `dim` is where its outputs are."""
    outputs_first = weight.movedim(dim, 0)
    scores = criterion(outputs_first, replace(evidence.get(name, Evidence()), name=name))
    if scores.shape != outputs_first.shape:
        wanted = tuple(outputs_first.shape)
        raise ShapeError(f"scores of {name} are {tuple(scores.shape)}, the weight is {wanted}")
    if not bool(scores.isfinite().all()):
        raise TrainingDiverged(
            f"scores of {name} by {criteria.name_of(criterion)!r} are not finite; "
            f"its weights or gradients diverged"
        )
    return scores.movedim(0, dim)


def masks_of(groups: Sequence[UnitGroup], kept: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Masks:
    """The masks of weights, from flags of each group's units, (units,) bool."""
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
