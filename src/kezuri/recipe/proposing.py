"""Deciding which channels go: by sparsity or to a budget, and what of that pays off."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from kezuri.core.errors import GoalUnreachable, ModelError, ProofFailed
from kezuri.core.measurement import Measurement
from kezuri.model.coupling import Couplings
from kezuri.model.proof import Cut, cut
from kezuri.prune.allocation import Allocation
from kezuri.prune.criterion import Criterion, criteria
from kezuri.prune.evidence import Evidence
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Scope
from kezuri.prune.select import UNIFORM, contest, has_evidence
from kezuri.prune.units import judges
from kezuri.recipe.budget import MOST, Nested, unreachable, what_holds
from kezuri.recipe.costs import Costs, Proposal
from kezuri.recipe.meters import NEAR, Meters
from kezuri.recipe.payoff import Payoff, PayoffCheck
from kezuri.recipe.timing import Timing

SHOWN = 5


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Attributes:
        criterion, scope, allocation: as in `select_masks`.
        channel: the granularity.
        roundings: numbers to round channels to instead, which the pay-off check may choose.
        sparsity: fraction to remove, in [0, 1).
        budget: ceilings that count instead, by metric.
        seconds: for the pay-off check; 0 for none.
        capped: whether no more than `sparsity` goes for the budget either, met or not.
    """

    criterion: Criterion
    scope: Scope
    channel: Channel
    roundings: tuple[int, ...]
    sparsity: float
    budget: Mapping[str, float] | None
    seconds: float
    allocation: Allocation = UNIFORM
    capped: bool = False

    @property
    def is_timed(self) -> bool:
        """Whether it takes measurements in the runtime."""
        return self.seconds > 0 or not NEAR.keys().isdisjoint(self.budget or {})


@dataclass(frozen=True)
class Decision:
    """What goes.

    Attributes:
        proposal: what stays, of every coupling that competed last.
        sparsity: the fraction it removes, as the scope counts; below that of the order where a budget needs
            less.
        couplings: with the reason of those that did not compete.
        shortfall: fraction that floors hold.
        payoff: where it was checked.
    """

    proposal: Proposal
    sparsity: float
    couplings: Couplings
    shortfall: float
    payoff: Payoff | None


@dataclass(frozen=True)
class _Fit:
    """What an order comes to: what is kept at which sparsity, and the fraction that floors hold."""

    kept: Proposal
    sparsity: float
    shortfall: float

    @property
    def is_whole(self) -> bool:
        """Whether nothing goes."""
        return all(bool(kept.all()) for kept in self.kept.values())


class Proposing:
    """Makes proposals for one model.

    Args:
        order: what was asked for.
        model: to cut.
        costs: of the model.
        evidence: what the criterion needs.
        timing: of the model, where the order takes measurements.
        dense: the meters of the model that fractions of a budget are of; None for the one to cut.
    """

    def __init__(
        self,
        order: Order,
        model: nn.Module,
        costs: Costs,
        evidence: Mapping[str, Evidence],
        timing: Timing | None,
        dense: Meters | None = None,
    ) -> None:
        self.order, self.model, self.costs, self.evidence, self.timing = order, model, costs, evidence, timing
        self.meters = Meters(costs, timing, dense)
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

    def proved(self) -> tuple[Decision, Cut]:
        """What goes, and the model without it; what cannot be proved is left whole, and the others give more.

        Raises:
            GoalUnreachable: the budget cannot be met.
            ModelError: nothing is left that may go.
            UsageError, MissingEvidence: as `select_masks`.
        """
        while True:
            decision = self.decide()
            done = cut(self.model, decision.couplings, decision.proposal, self.costs.inputs)
            if not done.rejected:
                return decision, done
            self.reject(done.rejected)

    def meets(self, proposal: Proposal) -> bool:
        """Whether there is a budget and the proposal is within it."""
        budget = self.order.budget
        return budget is not None and all(
            self.meters.of(metric, proposal).value <= self.meters.limit(metric, ceiling)
            for metric, ceiling in budget.items()
        )

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Chooses without these couplings from now on."""
        self.rejected |= reasons
        self.couplings = blocked(self.couplings, {name: f"rejected: {why}" for name, why in reasons.items()})
        check_any_free(self.couplings)

    def _decide(self) -> Decision:
        rounding = self.order.channel.round_to
        chosen = self._fitting(rounding)
        if not self.order.seconds or self.timing is None or chosen.is_whole:
            return Decision(chosen.kept, chosen.sparsity, self.couplings, chosen.shortfall, None)
        check = PayoffCheck(self.timing, self.order.seconds)
        tried: Mapping[int, Measurement] = {}
        if self.order.roundings:
            choices = {rounding: chosen, **self._rounded()}
            rounding, tried = check.best({number: each.kept for number, each in choices.items()})
            chosen = choices[rounding]
        refused: Mapping[str, str] = check.refusals(chosen.kept)
        if refused:
            chosen, refused = self._refusing(refused, chosen, rounding)
        named = rounding if tried else None
        payoff = check.measured(chosen.kept, rounding=named, tried=tried, refused=refused)
        return Decision(chosen.kept, chosen.sparsity, self.couplings, chosen.shortfall, payoff)

    def _rounded(self) -> dict[int, _Fit]:
        """The choices that other roundings lead to, where they lead to the target."""
        found = {}
        for number in self.order.roundings:
            try:
                found[number] = self._fitting(number)
            except GoalUnreachable:
                continue
        return found

    def _refusing(
        self, refused: Mapping[str, str], chosen: _Fit, rounding: int
    ) -> tuple[_Fit, Mapping[str, str]]:
        """The choice among the others, and what is refused; nothing where the others cannot do without."""
        before = self.couplings
        self.couplings = blocked(before, {name: f"refused: {why}" for name, why in refused.items()})
        if set(refused) >= {name for name, kept in chosen.kept.items() if not kept.all()}:
            return replace(chosen, kept={}), refused
        try:
            others = self._fitting(rounding)
            if not self.order.capped or self.meets(others.kept) or not self.meets(chosen.kept):
                return others, refused
        except GoalUnreachable:
            pass
        self.couplings = before
        return chosen, {}

    def _nested(self, channel: Channel) -> Nested:
        field = contest(
            self.model,
            criterion=self.order.criterion,
            granularity=channel,
            evidence=self.evidence,
            couplings=self.couplings,
        )
        return Nested(
            lambda sparsity: self.order.scope.select(field, sparsity, self.order.allocation),
            highest=self.order.sparsity if self.order.capped else MOST,
        )

    def _fitting(self, rounding: int) -> _Fit:
        """The choice that meets the order with channels in multiples of `rounding`."""
        nested = self._nested(replace(self.order.channel, round_to=rounding))
        if self.order.budget is None:
            choice = nested.select(self.order.sparsity)
            return _Fit(choice.kept, self.order.sparsity, choice.shortfall)
        ceilings = self.order.budget.items()
        sparsity = max(self._within(nested, metric, ceiling) for metric, ceiling in ceilings)
        return _Fit(nested.select(sparsity).kept, sparsity, 0.0)

    def _within(self, nested: Nested, metric: str, ceiling: float) -> float:
        """The sparsity of the proposal that removes least of those that meet one ceiling."""
        limit = self.meters.limit(metric, ceiling)

        def value(proposal: Proposal) -> float:
            return self.meters.of(metric, proposal).value

        if metric in NEAR:
            like = self.costs.params if metric == "size" else self.costs.macs
            found = nested.measured_first(value, limit, like=like, near=NEAR[metric])
        else:
            found = nested.first(lambda proposal: value(proposal) <= limit)
        if found is not None:
            return found
        if self.order.capped:
            return nested.highest
        held = what_holds(self.costs, self.couplings, nested.most)
        raise unreachable(metric, limit, value(nested.most), self.meters.dense.of(metric, {}).value, held)


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
