"""Pruning to a target: so many parameters, multiply-accumulates, bytes or milliseconds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.core.registry import unknown
from kezuri.model.coupling import Coupling, Couplings, Member
from kezuri.prune.scope import Choice
from kezuri.recipe.costs import Costs, Proposal

METRICS = {"params": "parameters", "macs": "multiply-accumulates", "size": "bytes", "latency": "ms"}
MOST = 1 - 1e-9
FINEST = 2.0**-26
TRIES = 6
SHOWN = 3
UNSEEN = "parameters that the analysis could not follow"
ROLES = ("output", "other", "input")


def check_budget(budget: Mapping[str, float]) -> dict[str, float]:
    """The ceilings, as floats.

    Raises:
        UnknownName: a metric that is none of params, macs, size and latency.
        UsageError: there is none, or one is not above 0.
    """
    if not budget:
        raise UsageError(f"the budget is empty; give a ceiling on one of {', '.join(METRICS)}")
    for metric, ceiling in budget.items():
        if metric not in METRICS:
            raise unknown("budget", metric, list(METRICS))
        if isinstance(ceiling, bool) or not isinstance(ceiling, int | float) or not ceiling > 0:
            raise UsageError(
                f"the budget of {metric} is a fraction of the dense model's in (0, 1), or a number of "
                f"{METRICS[metric]} from 1 on; got {ceiling!r}"
            )
    return {metric: float(ceiling) for metric, ceiling in budget.items()}


@dataclass(frozen=True)
class Nested:
    """Proposals by sparsity, where more sparsity only ever removes more.

    Attributes:
        select: what a scope chooses at a sparsity in [0, 1).
        highest: the sparsity that is considered at most.
    """

    select: Callable[[float], Choice]
    highest: float = MOST

    @cached_property
    def least(self) -> Proposal:
        """What removes nothing."""
        return self.select(0.0).kept

    @cached_property
    def most(self) -> Proposal:
        """What removes most; at the usual `highest`, all that floors let go."""
        return self.select(self.highest).kept

    def first(self, holds: Callable[[Proposal], bool]) -> float | None:
        """The sparsity of the proposal that removes least of those which `holds` of; None if of none.

        Found by bisection: what holds of a proposal must hold of those that remove more.
        """
        if holds(self.least):
            return 0.0
        if not holds(self.most):
            return None
        low, high, without, found = 0.0, self.highest, self.least, self.most
        while high - low > FINEST:
            middle = (low + high) / 2
            trial = self.select(middle).kept
            if is_same(trial, found) or (not is_same(trial, without) and holds(trial)):
                high, found = middle, trial
            else:
                low, without = middle, trial
        return high

    def measured_first(
        self,
        measure: Callable[[Proposal], float],
        ceiling: float,
        *,
        like: Callable[[Proposal], int],
        near: float,
    ) -> float | None:
        """The same for what takes long to measure, and so is measured a few times only.

        Args:
            measure: falls as more is removed, give or take what a measurement varies by.
            ceiling: what the measured value must not exceed.
            like: something quickly counted that the measured value is nearly a linear function of.
            near: stops once the value is below the ceiling by no more than this fraction of it.
        """
        low, high = (like(self.least), measure(self.least)), (like(self.most), measure(self.most))
        if low[1] <= ceiling:
            return 0.0
        if high[1] > ceiling:
            return None
        sparsity, found, without = self.highest, self.most, self.least
        for _ in range(TRIES):
            share = ((1 - near / 2) * ceiling - high[1]) / (low[1] - high[1])
            aim = high[0] + min(max(share, 0.02), 0.98) * (low[0] - high[0])
            tried = self.first(lambda proposal, aim=aim: like(proposal) <= aim)  # type: ignore[misc]
            trial = found if tried is None else self.select(tried).kept
            if tried is None or is_same(trial, found) or is_same(trial, without):
                break
            value = measure(trial)
            if value > ceiling:
                low, without = (like(trial), value), trial
                continue
            sparsity, high, found = tried, (like(trial), value), trial
            if value >= (1 - near) * ceiling:
                break
        return sparsity


def is_same(one: Proposal, other: Proposal) -> bool:
    """Whether two proposals keep the same units."""
    return all(torch.equal(one[name], other[name]) for name in one)


def unreachable(metric: str, limit: float, reached: float, dense: float, held: str) -> GoalUnreachable:
    """The error for a target that nothing reaches, with how far it can go and what stands in the way."""
    unit = METRICS[metric]
    return GoalUnreachable(
        f"the budget of {limit:,.4g} {unit} ({limit / dense:.1%} of the dense model's) cannot be reached: "
        f"with all gone that may go, {reached:,.4g} are left ({reached / dense:.1%}). {held}"
    )


def what_holds(costs: Costs, couplings: Couplings, most: Proposal) -> str:
    """Why parameters stay when all is removed that may be: the reasons, by how many they hold.

    Args:
        costs: of the model.
        couplings: with the reasons of those that did not compete.
        most: what stays of those that did.
    """
    left = costs.shapes(most)
    total = sum(map(prod, left.values()))
    seen = {member.parameter for coupling in couplings for member in coupling.members}
    held = [(UNSEEN, name, prod(shape)) for name, shape in left.items() if name not in seen]
    for coupling, count in _held(couplings, most, left).items():
        held.append((coupling.reason or "floors and rounding", coupling.name, count))
    reasons: dict[str, tuple[int, list[str]]] = {}
    for reason, name, count in held:
        before, names = reasons.get(reason, (0, []))
        reasons[reason] = before + count, [*names, name]
    told = [
        f"{count / total:.0%} {reason} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
        for reason, (count, names) in sorted(reasons.items(), key=lambda item: -item[1][0])
        if count / total >= 0.005
    ]
    return f"Of the {total:,} parameters that then stay, these are held by: {'; '.join(told)}"


def _held(couplings: Couplings, most: Proposal, left: Mapping[str, Sequence[int]]) -> dict[Coupling, int]:
    """How many parameters stay with each coupling; each counts once, where it is an output if it is any."""
    counted: dict[str, Member] = {}
    for coupling in couplings:
        for member in coupling.members:
            known = counted.setdefault(member.parameter, member)
            if ROLES.index(member.role) < ROLES.index(known.role):
                counted[member.parameter] = member
    held = dict.fromkeys(couplings, 0)
    for coupling in couplings:
        kept = int(most[coupling.name].sum()) if coupling.name in most else coupling.width
        for member in coupling.members:
            shape = left.get(member.parameter)
            if shape is not None and member.dim == counted[member.parameter].dim and shape[member.dim]:
                held[coupling] += prod(shape) * kept * member.positions.shape[1] // shape[member.dim]
    return held
