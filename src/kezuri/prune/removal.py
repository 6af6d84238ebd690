"""Removing the worst units of one ranking until enough is gone: the arithmetic behind local and global scope.

Groups may overlap: the weight between two channels goes when either does. So what a unit takes with it
depends on those gone before, and is counted exactly: each weight belongs to the first of its units to go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from kezuri.prune.units import UnitGroup

Count = Literal["weights", "units"]


@dataclass(frozen=True, eq=False)
class Removal:
    """What stays, and how far that is from what was asked.

    Attributes:
        kept: flags of each group's units, by the group's name.
        missing: how many more weights (or units) should have gone but are held by floors.
        total: how many there were.
    """

    kept: dict[str, Tensor]
    missing: int
    total: int


def removal_order(scores: Tensor) -> Tensor:
    """The indices of (units,) scores, worst first; of equals the higher index goes first."""
    return len(scores) - 1 - scores.flip(0).argsort(stable=True)


def remove(
    groups: Sequence[UnitGroup], scores: Mapping[str, Tensor], sparsity: float, count: Count
) -> Removal:
    """Removes the worst units of all groups together: at least `sparsity`, over by less than one step.

    Args:
        groups: the units that compete.
        scores: of each group's units, on one scale, by the group's name.
        sparsity: fraction to remove, in [0, 1).
        count: of what.
    """
    turns, steps = _turns(groups, scores)
    holds = _weights_by_turn(groups, turns, steps) if count == "weights" else _units_by_turn(turns, steps)
    total = int(holds.sum())
    # Rounding first, so that 0.1 * 30 asks for 3 and not, by a hair, for 4.
    target = ceil(round(sparsity * total, 6))
    gone = torch.cat([torch.zeros(1, dtype=torch.int64), holds[:steps].cumsum(0)])
    taken = min(int(torch.searchsorted(gone, target)), steps)
    kept = {group.name: turn >= taken for group, turn in zip(groups, turns, strict=True)}
    return Removal(kept, max(0, target - int(gone[taken])), total)


def _turns(groups: Sequence[UnitGroup], scores: Mapping[str, Tensor]) -> tuple[list[Tensor], int]:
    """When each unit goes, (units,) for each group, and how many turns there are; floors come after the last.

    Units of a group that go together have one turn, and are worth as much as the best of them.
    """
    worths, places = [], []
    for group in groups:
        order = removal_order(scores[group.name])[: len(group.sizes) - group.floor]
        first = len(order) % group.step or group.step  # the odd ones go first, then whole steps
        worths.append(scores[group.name][order][first - 1 :: group.step])
        places.append((order, (torch.arange(len(order)) - first).div(group.step, rounding_mode="floor") + 1))
    # Later groups are listed first, so that of equals the earlier group keeps its unit.
    listed = torch.cat(worths[::-1])
    rank = torch.empty(len(listed), dtype=torch.int64)
    rank[listed.argsort(stable=True)] = torch.arange(len(listed))
    ranks = torch.split(rank, [len(worth) for worth in worths[::-1]])[::-1]
    turns = []
    for group, (order, place), own in zip(groups, places, ranks, strict=True):
        turn = torch.full((len(group.sizes),), len(listed))
        turn[order] = own[place]
        turns.append(turn)
    return turns, len(listed)


def _units_by_turn(turns: Sequence[Tensor], steps: int) -> Tensor:
    return torch.cat(list(turns)).bincount(minlength=steps + 1)


def _weights_by_turn(groups: Sequence[UnitGroup], turns: Sequence[Tensor], steps: int) -> Tensor:
    """How many weights go in each turn, (steps + 1,); the last entry counts those that floors hold."""
    counts = torch.zeros(steps + 1, dtype=torch.int64)
    first: dict[str, list[Tensor]] = {}
    for group, turn in zip(groups, turns, strict=True):
        slices = group.slices(turn, fill=steps + 1)
        if slices is None:
            counts.index_add_(0, turn, group.sizes)
            continue
        for name, vectors in slices.items():
            known = first.get(name, vectors)
            first[name] = [torch.minimum(one, other) for one, other in zip(known, vectors, strict=True)]
    for vectors in first.values():
        left = torch.ones(steps + 2, dtype=torch.int64)  # before the first turn, after it, after the next, …
        for along in vectors:
            gone = along.bincount(minlength=steps + 2)[: steps + 1].cumsum(0)
            left[0] *= len(along)
            left[1:] *= len(along) - gone
        counts -= left.diff()
    return counts
