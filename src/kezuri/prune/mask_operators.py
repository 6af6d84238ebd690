"""How masks are drawn, crossed and changed: the moves that all mask searches share.

A mask is one flag a unit of a `Space`, (N,) bool. Every operator keeps what the space promises: the sparsity
as its scope counts it, floors, and units that were removed before. All chance comes from a generator.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.scope import Local
from kezuri.prune.space import GLOBAL, UNIFORM, Space

By = Literal["worth", "gradient", "none"]

TEMPERATURES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""From the criterion's own choice to draws in which worth hardly counts."""

STEEPNESS = 3
"""The power of worth that chances in a swap go as: by worth itself, nearly every swap does harm."""


def sample(space: Space, sparsity: float, temperature: float, generator: Generator) -> Tensor:
    """Draws a mask, more or less by worth, (N,) bool.

    Units are drawn one after the other without putting any back, each with a chance that goes as
    worth^(1/temperature): Gumbel top-k (Kool et al., "Stochastic beams and where to find them", 2019).

    Args:
        sparsity: fraction to remove, in [0, 1).
        temperature: 0 is what the criterion alone would keep, infinity takes no notice of worth.
    """
    if temperature == 0:
        return space.best(sparsity)
    noise = -torch.empty(space.units).exponential_(generator=generator).double().log()
    return space.project(noise if temperature == inf else space.odds.log() / temperature + noise, sparsity)


def temperature_of(number: int, temperatures: Sequence[float]) -> float:
    """The temperature of draw number 0, 1, …: each in turn, but 0, which always gives the same, once."""
    warm = [temperature for temperature in temperatures if temperature > 0]
    cold = len(warm) < len(temperatures)
    if not warm or (cold and number == 0):
        return 0.0
    return warm[(number - cold) % len(warm)]


def varied(sparsity: float, reach: float, space: Space, generator: Generator) -> float:
    """A sparsity at which up to a fraction `reach` more weights are kept, or as many times fewer."""
    exponent = 2 * float(torch.rand((), generator=generator)) - 1
    density = (1 - sparsity) * (1 + reach) ** exponent
    return float(1 - min(1.0, max(density, 1 / space.units)))


def crossover(
    one: Tensor, other: Tensor, space: Space, sparsity: float, generator: Generator, *, layers: bool = False
) -> Tensor:
    """A child of two masks, (N,) bool: it keeps what both keep, and some of what one of them does.

    Args:
        one, other: the parents.
        sparsity: of the child.
        layers: whole groups come from either parent, and only what is then too much or too few by unit.
    """
    keys = one.double() + other + torch.rand(space.units, generator=generator)
    if layers:
        coins = torch.rand(len(space.lengths), generator=generator) < 0.5
        keys += 4 * torch.where(coins.repeat_interleave(torch.tensor(space.lengths)), one, other)
    return space.project(keys, sparsity)


def swap(
    kept: Tensor,
    count: int,
    space: Space,
    sparsity: float,
    generator: Generator,
    *,
    by: By = "worth",
    group: int | None = None,
) -> Tensor:
    """Removes some units and takes as many others back, (N,) bool.

    Where units differ in size, come in steps or have floors, the mask nearest to that which the space allows.
    RigL's step of dropping and growing (Evci et al., 2020) with chance: sequential Poisson sampling (Ohlsson,
    1998) takes the units whose uniform number divided by their chance is lowest.

    Args:
        kept: the mask to change; stays as it is.
        count: how many units, as far as there are so many to remove and to take.
        by: units of little worth go rather, and those come that are worth much ("worth") or promise much
            ("gradient"), with chances that go as the third power of that; or all alike ("none").
        group: the number of the only group to change; the nearest mask may differ in others too.
    """
    start = sum(space.lengths[:group]) if group else 0
    part = slice(0, space.units) if group is None else slice(start, start + space.lengths[group])
    free = ~kept if space.alive is None else ~kept & space.alive
    count = min(count, int(kept[part].sum()), int(free[part].sum()))
    waits = torch.rand(2, part.stop - part.start, generator=generator).double()
    if by != "none":
        waits[0] *= space.odds[part] ** STEEPNESS
        waits[1] /= (space.odds if by == "worth" else space.growth_odds)[part] ** STEEPNESS
    leave, enter = waits
    gone = part.start + _soonest(leave, kept[part], count)
    child = kept.clone()
    if _is_even(space) and (space.scope == GLOBAL or group is not None):
        child[gone] = False
        child[part.start + _soonest(enter, free[part], count)] = True
        return child
    if _is_even(space):
        for place, lost in _by_group(gone, space):
            come = place.start + _soonest(enter[place], free[place], len(lost))
            child[lost[: len(come)]] = False
            child[come] = True
        return child
    keys = _near(kept, space, generator)
    keys[gone] -= 4
    keys[part.start + _soonest(enter, free[part], count)] += 4
    return space.project(keys, sparsity)


def resized(kept: Tensor, space: Space, sparsity: float, generator: Generator) -> Tensor:
    """A mask with units removed or taken until its sparsity is another, (N,) bool, by worth and chance."""
    return space.project(_near(kept, space, generator), sparsity)


def neighbour(
    kept: Tensor,
    sparsity: float,
    fraction: float,
    space: Space,
    generator: Generator,
    *,
    by: By = "worth",
    one_layer: bool = False,
    resize: float = 0.0,
) -> tuple[Tensor, float]:
    """A mask near another, (N,) bool, and its sparsity.

    Args:
        sparsity: that `kept` was made at.
        fraction: of the kept units that are swapped; at least one is.
        by: as in `swap`.
        one_layer: only one group, drawn here, is changed by the swap.
        resize: up to this fraction more or fewer weights are kept; 0 leaves the sparsity.
    """
    if resize:
        sparsity = varied(sparsity, resize, space, generator)
        kept = resized(kept, space, sparsity, generator)
    group = int(torch.randint(len(space.groups), (), generator=generator)) if one_layer else None
    count = max(1, round(fraction * int(kept.sum())))
    return swap(kept, count, space, sparsity, generator, by=by, group=group), sparsity


def shared(space: Space, densities: Tensor, sparsity: float) -> Tensor:
    """The mask whose groups keep fractions that stand to each other as asked, (N,) bool.

    Of each group the units worth most stay. The fractions are scaled until the sparsity is met; a group that
    would be more than whole is whole, and floors hold.

    Args:
        space: its scope and allocation have no say.
        densities: one a group, (groups,), positive.
    """
    worth = space.worth if space.alive is None else space.worth.masked_fill(~space.alive, -inf)
    keys = []
    for part, density in zip(torch.split(worth, space.lengths), densities.tolist(), strict=True):
        place = torch.empty_like(part)
        place[part.argsort(descending=True, stable=True)] = torch.arange(len(part)).double() + 0.5
        keys.append(density * len(part) / place)
    return replace(space, scope=GLOBAL, allocation=UNIFORM).project(torch.cat(keys), sparsity)


def _soonest(waits: Tensor, among: Tensor, count: int) -> Tensor:
    """The indices of the `count` shortest waits among those flagged, or of all there are, shortest first."""
    count = min(count, int(among.sum()))
    return waits.masked_fill(~among, inf).topk(count, largest=False).indices


def _near(kept: Tensor, space: Space, generator: Generator) -> Tensor:
    """Keys whose projection changes no more than it must, by worth and chance: from 2 kept, to 1 removed."""
    waits = torch.rand(space.units, generator=generator) / space.odds**STEEPNESS
    return 2 * kept.double() + 1 / (1 + waits / waits.median())


def _is_even(space: Space) -> bool:
    """Whether one unit may take the place of any other in the model, or at least in its group."""
    return space.is_plain and (space.scope == GLOBAL or isinstance(space.scope, Local))


def _by_group(units: Tensor, space: Space) -> list[tuple[slice, Tensor]]:
    """Where each group that some of these units are in lies, and which they are."""
    ends = torch.tensor(space.lengths).cumsum(0)
    owners = torch.searchsorted(ends, units, right=True)
    return [
        (slice(int(ends[group]) - space.lengths[group], int(ends[group])), units[owners == group])
        for group in sorted(set(owners.tolist()))
    ]


def check_temperatures(temperatures: Sequence[float]) -> None:
    """Raises RecipeError unless there are some, none of them negative."""
    if not temperatures or not all(temperature >= 0 for temperature in temperatures):
        raise RecipeError(f"temperatures are numbers from 0 to infinity, got {list(temperatures)}")


def check_by(by: str) -> None:
    """Raises RecipeError unless it is a way to choose what is taken back."""
    if by not in get_args(By):
        raise RecipeError(f"grow is 'worth', 'gradient' or 'none', got {by!r}")
