"""What a round is to remove: by its rate alone, or timed and to a budget, which is decided only once."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kezuri.core.measurement import Measurement
from kezuri.model.coupling import Couplings
from kezuri.prune.granularity import Channel
from kezuri.prune.masks import Masks
from kezuri.prune.select import select_masks
from kezuri.recipe.costs import Costs
from kezuri.recipe.mask_search import searched
from kezuri.recipe.meters import Meters
from kezuri.recipe.proposing import Decision, Order, Proposing
from kezuri.recipe.step import ModelState, Resources
from kezuri.recipe.timing import Timing

if TYPE_CHECKING:
    from kezuri.recipe.rounds import Prospect
    from kezuri.recipe.steps.prune import Prune

NOTHING = "nothing more may be removed"
NO_GAIN = "no cut that its rate allows would bring time or size"


@dataclass(frozen=True)
class Reached:
    """What a model comes to by one metric of a budget.

    Attributes:
        found: of the model.
        dense: of the model before the first round, in the same unit.
        limit: what the budget allows.
    """

    found: Measurement
    dense: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the budget is met."""
        return self.found.value <= self.limit

    def __str__(self) -> str:
        share, most = self.found.value / self.dense, self.limit / self.dense
        much = f" {self.found.value:.3g} ms," if self.found.metric == "latency" else ""
        return f"{self.found.metric}{much} {share:.1%} of the dense model's (budget {most:.1%})"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"found": self.found.to_json(), "dense": self.dense, "limit": self.limit}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Reached":
        """The inverse of `to_json`."""
        return cls(Measurement.from_json(record["found"]), record["dense"], record["limit"])


@dataclass(frozen=True)
class Chosen:
    """What stays after a round.

    Attributes:
        masks: of the weights; None where it was decided which channels are cut.
        kept: flags of the channels of each coupling, (width,) bool, by name; None where nothing is cut.
        rate: the fraction removed of what was left; below the round's where a budget needs less.
        reasons: why couplings were left whole, by name.
        why: what to say where nothing is removed.
        reached: what the model comes to by each metric of the budget, if there is one.
        latency: in milliseconds an image, as expected after the round, where it was timed.
        seconds: how long it took.
    """

    masks: Masks | None
    kept: Mapping[str, Tensor] | None
    rate: float
    reasons: Mapping[str, str] = field(default_factory=dict)
    why: str = NOTHING
    reached: tuple[Reached, ...] = ()
    latency: Measurement | None = None
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is removed."""
        parts = self.masks or {} if self.kept is None else self.kept
        return all(bool(part.all()) for part in parts.values())

    @property
    def met(self) -> bool:
        """Whether there is a budget and the model is within it."""
        return bool(self.reached) and all(one.holds for one in self.reached)

    def to_json(self) -> dict[str, Any]:
        """Plain data of a decision about channels."""
        cut = {name: kept for name, kept in (self.kept or {}).items() if not kept.all()}
        return {
            "kept": {name: kept.nonzero().flatten().tolist() for name, kept in cut.items()},
            "rate": self.rate,
            "reasons": dict(self.reasons),
            "why": self.why,
            "reached": [one.to_json() for one in self.reached],
            "latency": None if self.latency is None else self.latency.to_json(),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], couplings: Couplings) -> "Chosen":
        """The inverse of `to_json`; `couplings` of the model it is about."""
        kept = {}
        for name, positions in record["kept"].items():
            kept[name] = torch.zeros(couplings.named(name).width, dtype=torch.bool)
            kept[name][positions] = True
        latency = record["latency"]
        return cls(
            masks=None,
            kept=kept,
            rate=record["rate"],
            reasons=record["reasons"],
            why=record["why"],
            reached=tuple(Reached.from_json(one) for one in record["reached"]),
            latency=None if latency is None else Measurement.from_json(latency),
            seconds=record["seconds"],
        )


def choose(
    plan: "Prune",
    state: ModelState,
    prospect: "Prospect",
    resources: Resources,
    *,
    rate: float,
    stage: str,
    dense: Meters | None = None,
) -> Chosen:
    """What one attempt at a round is to remove: `rate` of what is left, or what its budget needs of that.

    What is timed comes out differently the next time. So the decision is a stage of its own, and a run that
    is killed in the retraining goes on with the same cut.

    Args:
        plan: the step's settings.
        state: the model; left as it is.
        prospect: of the model.
        resources: what the step may use.
        rate: the fraction to remove at most, in (0, 1).
        stage: the attempt's name.
        dense: the meters of the model before the first round, where there is a budget.
    """
    begin, couplings = perf_counter(), prospect.couplings
    masked = 0.0 if state.masks is None else state.masks.sparsity
    sparsity = 1 - (1 - masked) * (1 - rate)
    if plan.search is not None:
        found = searched(plan, state, prospect, resources, sparsity=sparsity, stage=stage)
        kept = found.kept_channels if plan.cuts else None
        return Chosen(found.masks, kept, rate, seconds=perf_counter() - begin)
    if couplings is None or not (plan.payoff or plan.budget):
        selection = select_masks(
            state.model,
            sparsity,
            criterion=plan.criterion,
            granularity=plan.granularity,
            scope=plan.scope,
            allocation=plan.allocation,
            evidence=prospect.evidence,
            couplings=couplings,
            ignore=() if plan.cuts else plan.ignore,  # couplings know them already, as protected
        )
        return Chosen(selection.masks, selection.kept_channels, rate, seconds=perf_counter() - begin)
    name = f"{stage}.choice"
    record = resources.stages.record(name)
    if record is None:
        assert isinstance(plan.granularity, Channel)
        order = Order(
            criterion=plan.criterion,
            scope=plan.scope,
            channel=plan.granularity,
            roundings=(),
            sparsity=rate,
            budget=plan.budget,
            seconds=plan.payoff,
            allocation=plan.allocation,
            capped=True,
        )
        chosen = _decided(order, state, prospect, couplings, resources, dense)
        record = replace(chosen, seconds=perf_counter() - begin).to_json()
        resources.stages.finish(name, record=record)
    return Chosen.from_json(record, couplings)


def _decided(
    order: Order,
    state: ModelState,
    prospect: "Prospect",
    couplings: Couplings,
    resources: Resources,
    dense: Meters | None,
) -> Chosen:
    """Proposes, times, refuses and proves; says what is expected."""
    costs = Costs(state.model, couplings, resources.example)
    with Timing(costs, resources.goal.runtime) if order.is_timed else nullcontext() as timing:
        proposing = Proposing(order, state.model, costs, prospect.evidence, timing, dense)
        decision, _ = proposing.proved()
        reached = _reached(proposing, decision)
    payoff = decision.payoff
    refused = {} if payoff is None else payoff.refused
    for name, why in proposing.rejected.items():
        resources.listener.warn(f"{name} is left whole, the proof failed with it: {why}")
    for line in [] if payoff is None else str(payoff).split("\n"):
        resources.listener.say(f"       expected: {line}")
    if reached:
        resources.listener.say(f"       expected: {', '.join(map(str, reached))}")
    timed = [one.found for one in reached if one.found.metric == "latency"]
    latency = next(iter([*timed, *([] if payoff is None else [payoff.after])]), None)
    return Chosen(
        masks=None,
        kept=decision.proposal,
        rate=decision.sparsity,
        reasons={n: str(decision.couplings.named(n).reason) for n in (*refused, *proposing.rejected)},
        why=NO_GAIN if refused else NOTHING,
        reached=reached,
        latency=latency,
    )


def _reached(proposing: Proposing, decision: Decision) -> tuple[Reached, ...]:
    meters = proposing.meters
    return tuple(
        Reached(
            meters.of(metric, decision.proposal),
            meters.dense.of(metric, {}).value,
            meters.limit(metric, ceiling),
        )
        for metric, ceiling in (proposing.order.budget or {}).items()
    )
