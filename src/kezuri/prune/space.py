"""Which masks a search may propose: units, what each is worth at the start, and how many may stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Any

import torch
from torch import Tensor

from kezuri.core.errors import ShapeError
from kezuri.prune.allocation import Allocation, Uniform
from kezuri.prune.criterion import Normalize
from kezuri.prune.masks import Masks
from kezuri.prune.scope import Contest, Global, Scope, normalized
from kezuri.prune.select import masks_of
from kezuri.prune.units import UnitGroup

UNIFORM = Uniform()
GLOBAL = Global(normalize="none")


@dataclass(frozen=True, eq=False)
class Space:
    """The masks of one model, each as one flag a unit (True = kept): all groups of units in a row, (N,) bool.

    Attributes:
        contest: the units of the model and what a criterion says they are worth.
        weights: the masked weights, by parameter name.
        scope: who competes for the places that are left.
        allocation: how much each layer gives, for scopes that prune each by itself.
        alive: units that may be kept, (N,) bool; the others were removed before and stay so.
        growth: what a removed unit promises, (N,) float64; None where nothing is known but its worth.
    """

    contest: Contest
    weights: Mapping[str, Tensor]
    scope: Scope = GLOBAL
    allocation: Allocation = UNIFORM
    alive: Tensor | None = None
    growth: Tensor | None = None

    @classmethod
    def of(
        cls,
        contest: Contest,
        weights: Mapping[str, Tensor],
        *,
        scope: Scope,
        allocation: Allocation = UNIFORM,
        masks: Masks | None = None,
    ) -> "Space":
        """What a scope lets compete.

        Args:
            contest: of the model.
            weights: of the model, by parameter name; those that no unit touches are left out.
            scope: its way of making layers comparable is applied to the worths once, and then no more.
            allocation: how much each layer gives.
            masks: of weights that were removed before.
        """
        asked: Any = getattr(scope, "normalize", "none")
        how: Normalize = contest.normalize if asked == "auto" else asked
        scores = {name: normalized(scores, how) for name, scores in contest.scores.items()}
        if hasattr(scope, "normalize"):
            scope = replace(scope, normalize="none")  # type: ignore[type-var]
        touched = {
            name for group in contest.groups for name in group.expand(torch.ones_like(group.sizes) > 0)
        }
        known = {name: weight for name, weight in weights.items() if name in touched}
        space = cls(Contest(contest.groups, scores), known, scope, allocation)
        if masks is None:
            return space
        alive = {
            group.name: group.pool(
                {
                    name: masks[name].double() if name in masks else torch.ones(known[name].shape)
                    for name in group.scored
                }
            )
            > 0
            for group in contest.groups
        }
        return replace(space, alive=torch.cat([alive[group.name] for group in contest.groups]))

    @property
    def groups(self) -> Sequence[UnitGroup]:
        """The units, a group after the other."""
        return self.contest.groups

    @cached_property
    def lengths(self) -> list[int]:
        """How many units each group has."""
        return [len(group.sizes) for group in self.groups]

    @property
    def units(self) -> int:
        """How many there are in all, N."""
        return sum(self.lengths)

    @cached_property
    def sizes(self) -> Tensor:
        """How many weights go with each unit, (N,) int64; units may share some."""
        return torch.cat([group.sizes for group in self.groups])

    @cached_property
    def worth(self) -> Tensor:
        """The criterion's score of each unit, (N,) float64, on a scale that groups share; higher is kept."""
        return torch.cat([self.contest.scores[group.name].double().cpu() for group in self.groups])

    @cached_property
    def odds(self) -> Tensor:
        """What each unit counts in a draw by worth, (N,) float64, positive."""
        return positive(self.worth)

    @cached_property
    def growth_odds(self) -> Tensor:
        """What each unit counts in a draw by what it promises, (N,) float64, positive."""
        return self.odds if self.growth is None else positive(self.growth.double().cpu())

    @cached_property
    def is_plain(self) -> bool:
        """Whether every unit is one weight that goes alone and no group has a floor."""
        return bool((self.sizes == 1).all()) and all(one.step == 1 and one.floor == 0 for one in self.groups)

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """Values of the units, (N,), by group."""
        return {
            group.name: part
            for group, part in zip(self.groups, torch.split(values, self.lengths), strict=True)
        }

    def project(self, keys: Tensor, sparsity: float) -> Tensor:
        """The units that stay when those with the lowest keys go, as the scope counts: (N,) bool.

        At least `sparsity` goes, over by less than one step; of equal keys the lower index stays.

        Args:
            keys: (N,) floats, finite.
            sparsity: fraction to remove, in [0, 1).
        """
        if keys.shape != (self.units,):
            raise ShapeError(f"{tuple(keys.shape)} keys do not fit {self.units} units")
        if self.alive is not None:
            least = keys.min()
            keys = torch.where(self.alive, keys, least - 1)
        if self.is_plain and self.scope == GLOBAL:
            return self._best(keys, sparsity)
        field = replace(self.contest, scores=self.split(keys), normalize="none")
        choice = self.scope.select(field, sparsity, self.allocation)
        return self.joined(choice.kept)

    def joined(self, kept: Mapping[str, Tensor]) -> Tensor:
        """Flags of each group's units as one row, (N,) bool."""
        flags = torch.cat([kept[group.name] for group in self.groups])
        return flags if self.alive is None else flags & self.alive

    def _best(self, keys: Tensor, sparsity: float) -> Tensor:
        """The same where any weight may go: no ranking is needed to find the lowest."""
        gone = ceil(round(sparsity * len(keys), 6))
        kept = torch.ones(len(keys), dtype=torch.bool)
        if gone:
            edge = keys.kthvalue(gone).values
            kept = keys > edge
            level = (keys == edge).nonzero().flatten()
            kept[level[: len(keys) - gone - int(kept.sum())]] = True
        return kept if self.alive is None else kept & self.alive

    def best(self, sparsity: float) -> Tensor:
        """What the criterion alone would keep, (N,) bool."""
        return self.project(self.worth, sparsity)

    def masks(self, kept: Tensor) -> Masks:
        """The masks of the weights, from flags of the units, (N,) bool."""
        return masks_of(self.groups, self.split(kept), self.weights)

    def sparsity(self, kept: Tensor) -> float:
        """Fraction of the masked weights that a choice of units, (N,) bool, removes."""
        if self.is_plain:
            return 1 - int(kept.sum()) / self.units
        return self.masks(kept).sparsity


def positive(values: Tensor) -> Tensor:
    """Values, (N,), with those under a millionth of the mean of the positive ones raised to that."""
    above = values[values > 0]
    return values.clamp(min=1e-6 * float(above.mean())) if len(above) else torch.ones_like(values)
