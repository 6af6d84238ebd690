"""Deciding which channels go: by sparsity or to a budget, and what of that pays off."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from kezuri.core.errors import GoalUnreachable, ModelError, ProofFailed
from kezuri.model.coupling import Couplings
from kezuri.model.proof import cut
from kezuri.prune.criterion import Criterion, criteria
from kezuri.prune.evidence import Evidence
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Choice, Scope
from kezuri.prune.select import UNIFORM, contest, has_evidence
from kezuri.prune.units import judges
from kezuri.recipe.budget import Nested, smallest, unreachable, what_holds
from kezuri.recipe.costs import Costs, Proposal
from kezuri.recipe.payoff import Payoff, PayoffCheck
from kezuri.recipe.timing import Timing

NEAR = {"size": 0.002, "latency": 0.03}
"""How far below its ceiling a measured value may stay, as a fraction of it."""
RACE_SECONDS = 3.0
SHOWN = 5


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Attributes:
        criterion, scope: as in `select_masks`.
        channel: the granularity.
        roundings: numbers to round channels to instead, which the pay-off check may choose.
        sparsity: fraction to remove, in [0, 1).
        budget: ceilings that count instead, by metric.
        seconds: for the pay-off check; 0 for none.
    """

    criterion: Criterion
    scope: Scope
    channel: Channel
    roundings: tuple[int, ...]
    sparsity: float
    budget: Mapping[str, float] | None
    seconds: float

    @property
    def is_timed(self) -> bool:
        """Whether it takes measurements in the runtime."""
        return self.seconds > 0 or not NEAR.keys().isdisjoint(self.budget or {})


@dataclass(frozen=True)
class Decision:
    """What goes.

    Attributes:
        proposal: what stays, of every coupling that competed last.
        couplings: with the reason of those that did not compete.
        shortfall: fraction that floors hold.
        payoff: where it was checked.
    """

    proposal: Proposal
    couplings: Couplings
    shortfall: float
    payoff: Payoff | None


class Proposing:
    """Makes proposals for one model; `timing` where the order takes measurements."""

    def __init__(
        self,
        order: Order,
        model: nn.Module,
        costs: Costs,
        evidence: Mapping[str, Evidence],
        timing: Timing | None,
    ) -> None:
        self.order, self.model, self.costs, self.evidence, self.timing = order, model, costs, evidence, timing
        self.couplings = _with_evidence(model, costs.couplings, order.criterion, evidence)
        self.rejected: dict[str, str] = {}
        check_any_free(self.couplings)

    def decide(self) -> Decision:
        """What goes.

        Raises:
            GoalUnreachable: the budget cannot be met.
            UsageError, MissingEvidence: as `select_masks`.
        """
        while True:
            try:
                return self._decide()
            except (ProofFailed, ModelError):
                # a proposal that does not run or export; the proof knows which coupling is to blame
                most = self._nested(self.order.channel).most
                rejected = cut(self.model, self.couplings, most, self.costs.inputs).rejected
                if not rejected:
                    raise
                self.reject(rejected)

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Chooses without these couplings from now on."""
        self.rejected |= reasons
        self.couplings = blocked(self.couplings, {name: f"rejected: {why}" for name, why in reasons.items()})
        check_any_free(self.couplings)

    def _decide(self) -> Decision:
        choice = self._fitting(self._nested(self.order.channel))
        if not self.order.seconds or self.timing is None:
            return Decision(choice.kept, self.couplings, choice.shortfall, None)
        check = PayoffCheck(self.timing, self.order.seconds)
        choices = {self.order.channel.round_to: choice, **self._rounded()}
        rounding, tried = check.best({number: each.kept for number, each in choices.items()})
        choice = choices[rounding]
        refused: Mapping[str, str] = check.refusals(choice.kept)
        if refused:
            choice, refused = self._refusing(refused, choice, rounding)
        payoff = check.measured(choice.kept, rounding=rounding, tried=tried, refused=refused)
        return Decision(choice.kept, self.couplings, choice.shortfall, payoff)

    def _rounded(self) -> dict[int, Choice]:
        """The choices that other roundings lead to, where they lead to the target."""
        found = {}
        for number in self.order.roundings:
            try:
                found[number] = self._fitting(self._nested(replace(self.order.channel, round_to=number)))
            except GoalUnreachable:
                continue
        return found

    def _refusing(
        self, refused: Mapping[str, str], choice: Choice, rounding: int
    ) -> tuple[Choice, Mapping[str, str]]:
        """The choice among the others, and what is refused; nothing where the others cannot do without."""
        before = self.couplings
        self.couplings = blocked(before, {name: f"refused: {why}" for name, why in refused.items()})
        if set(refused) >= {name for name, kept in choice.kept.items() if not kept.all()}:
            return Choice({}, choice.shortfall), refused
        try:
            return self._fitting(self._nested(replace(self.order.channel, round_to=rounding))), refused
        except GoalUnreachable:
            self.couplings = before
            return choice, {}

    def _nested(self, channel: Channel) -> Nested:
        field = contest(
            self.model,
            criterion=self.order.criterion,
            granularity=channel,
            evidence=self.evidence,
            couplings=self.couplings,
        )
        return Nested(lambda sparsity: self.order.scope.select(field, sparsity, UNIFORM))

    def _fitting(self, nested: Nested) -> Choice:
        if self.order.budget is None:
            return nested.select(self.order.sparsity)
        found = [self._within(nested, metric, ceiling) for metric, ceiling in self.order.budget.items()]
        return Choice(smallest(found), 0.0)

    def _within(self, nested: Nested, metric: str, ceiling: float) -> Proposal:
        """The proposal that removes least of those that meet one ceiling."""
        value = self._meter(metric)
        dense = value({})
        limit = ceiling if ceiling >= 1 else ceiling * dense
        if metric in NEAR:
            like = self.costs.params if metric == "size" else self.costs.macs
            found = nested.measured_first(value, limit, like=like, near=NEAR[metric])
        else:
            found = nested.first(lambda proposal: value(proposal) <= limit)
        if found is None:
            held = what_holds(self.costs, self.couplings, nested.most)
            raise unreachable(metric, limit, value(nested.most), dense, held)
        return found

    def _meter(self, metric: str) -> Callable[[Proposal], float]:
        """Counts or measures a proposal."""
        if metric == "params":
            return self.costs.params
        if metric == "macs":
            return self.costs.macs
        timing = self.timing
        assert timing is not None
        if metric == "size":
            return lambda proposal: timing.prepared(proposal).size.value
        alone = timing.compare({"dense": {}}, seconds=RACE_SECONDS).latencies["dense"].value

        def latency(proposal: Proposal) -> float:
            # by the ratio within a turn, which the machine's moods leave alone
            if all(kept.all() for kept in proposal.values()):
                return alone
            found = timing.compare({"dense": {}, "cut": proposal}, seconds=RACE_SECONDS)
            return alone / found.speedups["cut"].value

        return latency


def check_any_free(couplings: Couplings) -> None:
    """Raises ModelError, with the reasons, unless channels of some coupling may go."""
    if not couplings.free:
        rows = [f"{row.layer} ({row.reason})" for row in couplings.explain() if row.reason]
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        raise ModelError(
            f"no channel of the model may be cut: "
            f"{', '.join(rows[:SHOWN]) or 'it has no layer whose channels are known'}{more}"
        )


def blocked(couplings: Couplings, reasons: Mapping[str, str]) -> Couplings:
    """The couplings, those named in `reasons` blocked."""
    items = tuple(
        replace(item, reason=reasons[item.name]) if item.name in reasons else item for item in couplings
    )
    return replace(couplings, items=items)


def _with_evidence(
    model: nn.Module, couplings: Couplings, criterion: Criterion, evidence: Mapping[str, Evidence]
) -> Couplings:
    """The couplings, those blocked of which the criterion could learn nothing, unless that is all of them."""
    parameters = {name for name, _ in model.named_parameters()}
    what = criteria.name_of(criterion)
    reasons = {}
    for coupling in couplings.free:
        if criterion.needs and not coupling.producers:
            reasons[coupling.name] = f"the criterion {what!r} is about outputs, and no weight produces it"
        for member in judges(coupling):
            name = member.parameter
            if name in parameters and not has_evidence(criterion, evidence.get(name)):
                reasons[coupling.name] = f"the criterion {what!r} could learn nothing of {name}"
    return couplings if len(reasons) == len(couplings.free) else blocked(couplings, reasons)
