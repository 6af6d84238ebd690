"""The role of a scope: who competes with whom for the weights that stay?

Units compete within their layer, across the whole model, with layers of equal shape, or with their neighbours
(N:M). A scope removes the units worth least until enough weights are gone: at least the target, over by less
than one unit. A higher sparsity only ever removes more, ties keep the lower index, and every group keeps its
floor; where floors make the target unreachable, everything above them goes and the shortfall is reported.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Literal, Protocol

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError, ShapeError
from kezuri.core.registry import Registry
from kezuri.prune.allocation import Allocation, Uniform
from kezuri.prune.criterion import Normalize
from kezuri.prune.removal import Count, removal_order, remove
from kezuri.prune.units import UnitGroup


@dataclass(frozen=True, eq=False)
class Choice:
    """Which units stay.

    Attributes:
        kept: flags of each group's units, (units,) bool, by the group's name.
        shortfall: fraction that should have gone too but is held by floors; 0 when the target is reached.
    """

    kept: Mapping[str, Tensor]
    shortfall: float


@dataclass(frozen=True, eq=False)
class Contest:
    """Who could compete, and for what.

    Attributes:
        groups: the units.
        scores: of each group's units, (units,), by the group's name.
        normalize: what makes scores of different groups comparable.
    """

    groups: Sequence[UnitGroup]
    scores: Mapping[str, Tensor]
    normalize: Normalize = "none"


class Scope(Protocol):
    """Chooses the units that stay."""

    def select(self, contest: Contest, sparsity: float, allocation: Allocation) -> Choice:
        """Removes `sparsity`, in [0, 1), of what the units hold.

        Raises:
            RecipeError: the scope cannot honour this sparsity or allocation.
            ShapeError: the units of a layer do not divide as it needs.
        """
        ...


scopes: Registry[type[Scope]] = Registry("scope")


@scopes.register("local")
@dataclass(frozen=True)
class Local:
    """Each layer loses its share by itself.

    Attributes:
        count: what sparsity is a fraction of: `weights`, or `units` (so that a rate counts channels).
    """

    count: Count = "weights"

    def __post_init__(self) -> None:
        _check_count(self.count)

    def select(self, contest: Contest, sparsity: float, allocation: Allocation) -> Choice:
        shares = allocation(contest.groups, sparsity)
        kept: dict[str, Tensor] = {}
        missing = total = 0
        for group in contest.groups:
            alone = remove([group], contest.scores, shares[group.name], self.count)
            kept |= alone.kept
            missing, total = missing + alone.missing, total + alone.total
        return Choice(kept, missing / total)


@scopes.register("global")
@dataclass(frozen=True)
class Global:
    """All layers compete in one ranking.

    Attributes:
        normalize: what makes scores of different layers comparable: `mean` divides by the layer's mean,
            `rank` takes ranks within the layer, `none` takes them as they are, `auto` does what the
            criterion says it needs.
        count: what sparsity is a fraction of: `weights`, or `units` (so that a rate counts channels).
    """

    normalize: Literal["auto", "none", "mean", "rank"] = "auto"
    count: Count = "weights"

    def __post_init__(self) -> None:
        _check_count(self.count)
        if self.normalize not in ("auto", "none", "mean", "rank"):
            raise RecipeError(f"normalize is 'auto', 'none', 'mean' or 'rank', got {self.normalize!r}")

    def select(self, contest: Contest, sparsity: float, allocation: Allocation) -> Choice:
        _check_uniform(allocation, "global: layers compete, so how much each gives comes out of the scores")
        how: Normalize = contest.normalize if self.normalize == "auto" else self.normalize
        scores = {name: normalized(scores, how) for name, scores in contest.scores.items()}
        removal = remove(contest.groups, scores, sparsity, self.count)
        return Choice(removal.kept, removal.missing / removal.total)


@scopes.register("isomorphic")
@dataclass(frozen=True)
class Isomorphic:
    """Only groups of equal shape compete, and every shape loses the same fraction (Fang et al., 2024).

    Scores of layers that do different work are hard to compare. Here the first convolutions of a stage's
    blocks compete with each other, the heads of all attention layers with each other, and so on.

    Attributes:
        normalize, count: as in `global`.
    """

    normalize: Literal["auto", "none", "mean", "rank"] = "auto"
    count: Count = "weights"

    def __post_init__(self) -> None:
        Global(self.normalize, self.count)

    def select(self, contest: Contest, sparsity: float, allocation: Allocation) -> Choice:
        _check_uniform(allocation, "isomorphic: every shape gives the same")
        alike: dict[Hashable, list[UnitGroup]] = {}
        for group in contest.groups:
            alike.setdefault(group.likeness, []).append(group)
        how: Normalize = contest.normalize if self.normalize == "auto" else self.normalize
        scores = {name: normalized(scores, how) for name, scores in contest.scores.items()}
        parts = [remove(groups, scores, sparsity, self.count) for groups in alike.values()]
        kept = {name: flags for part in parts for name, flags in part.kept.items()}
        missing, total = sum(part.missing for part in parts), sum(part.total for part in parts)
        return Choice({group.name: kept[group.name] for group in contest.groups}, missing / total)


@scopes.register("n_of_m")
@dataclass(frozen=True)
class NOfM:
    """Every `m` neighbours keep their best `n`; weights are neighbours along the input channels."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise RecipeError(f"N:M keeps n of m with 1 ≤ n < m, got {self.n}:{self.m}")

    def select(self, contest: Contest, sparsity: float, allocation: Allocation) -> Choice:
        _check_uniform(allocation, f"n_of_m: every layer keeps {self.n} of {self.m}")
        if not isclose(sparsity, 1 - self.n / self.m, abs_tol=1e-6):
            raise RecipeError(f"{self.n}:{self.m} means sparsity {1 - self.n / self.m:g}, got {sparsity:g}")
        return Choice({g.name: self._best(g, contest.scores[g.name]) for g in contest.groups}, 0.0)

    def _best(self, group: UnitGroup, scores: Tensor) -> Tensor:
        if group.run % self.m:
            raise ShapeError(
                f"{group.name} has {group.run} units in a row, which {self.n}:{self.m} does not divide; "
                f"list it under `ignore`"
            )
        if int(group.sizes.min()) < int(group.sizes.max()):
            raise ShapeError(
                f"the units of {group.name} differ in size at its edge, so {self.n}:{self.m} would not "
                f"remove {1 - self.n / self.m:g} of it; list it under `ignore`"
            )
        count = len(scores) * self.n // self.m
        if count < group.floor or count % group.step:
            raise RecipeError(
                f"{self.n}:{self.m} would keep {count} units of {group.name}, whose floor is {group.floor} "
                f"in multiples of {group.step}; list it under `ignore`"
            )
        rows = scores.view(-1, self.m)
        best = rows.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        return torch.zeros_like(rows, dtype=torch.bool).scatter(1, best, True).flatten()


def normalized(scores: Tensor, how: Normalize) -> Tensor:
    """The scores of one group, (units,), on a scale that groups share."""
    if how == "mean" and float(scores.mean()) > 0:
        return scores / scores.mean()
    if how == "rank":
        ranks = torch.empty_like(scores)
        ranks[removal_order(scores)] = torch.arange(1, len(scores) + 1, dtype=scores.dtype) / len(scores)
        return ranks
    return scores


def _check_uniform(allocation: Allocation, why: str) -> None:
    if not isinstance(allocation, Uniform):
        name = type(allocation).__name__.lower()
        raise RecipeError(f"the allocation {name!r} has no say in the scope {why}; use the scope 'local'")


def _check_count(count: str) -> None:
    if count not in ("weights", "units"):
        raise RecipeError(f"sparsity counts 'weights' or 'units', got {count!r}")
