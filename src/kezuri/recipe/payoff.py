"""The pay-off check: what a proposal brings in the user's runtime, before anything is trained."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from time import monotonic

import torch
from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.core.measurement import Measurement, runtime_title
from kezuri.model.coupling import Couplings
from kezuri.model.shrink import structure_of
from kezuri.prune.units import likeness
from kezuri.recipe.costs import Costs, Proposal
from kezuri.recipe.timing import Timing

SECONDS = 20.0


@dataclass(frozen=True)
class Payoff:
    """What cutting brings, measured on the shapes alone; training does not change it.

    Attributes:
        before, after: milliseconds for one example, dense and cut: median, 10th and 90th percentile.
        speedup: how many times faster, taken turn by turn.
        size_before, size_after: bytes of the files.
        rounding: which of the proposals it is, by the number that channels were rounded to; None if only one
            was given.
        tried: the speedup of each proposal that was timed.
        refused: by coupling name, why it was left whole.
        untried: what there was no time for.
        seconds: wall time it all took.
    """

    before: Measurement
    after: Measurement
    speedup: Measurement
    size_before: Measurement
    size_after: Measurement
    rounding: int | None = None
    tried: Mapping[int, Measurement] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    untried: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        ratio, after = self.speedup, self.after
        where = f"{runtime_title(after.conditions['runtime'])}, threads {after.conditions['threads']}"
        lines = [
            f"{_spread(self.before, 'ms')} → {_spread(after, 'ms')}, {_spread(ratio, 'times')} faster "
            f"({where}); {self.size_before.value / 1e6:.3g} → {self.size_after.value / 1e6:.3g} MB"
        ]
        if len(self.tried) > 1:
            each = ", ".join(f"{number}: {speedup.value:.3g}" for number, speedup in self.tried.items())
            lines.append(f"channels in multiples of {self.rounding} (times faster, by rounding: {each})")
        lines += [f"{name} left whole: {why}" for name, why in self.refused.items()]
        lines += [f"not tried, as time ran out: {', '.join(self.untried)}"] if self.untried else []
        return "\n".join(lines)


def check_payoff(
    model: nn.Module,
    couplings: Couplings,
    kept: Mapping[str, Tensor],
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    runtime: str = "onnxruntime",
    seconds: float = SECONDS,
) -> Payoff:
    """Times a proposed cut in a runtime, and names the couplings whose cut brings neither time nor size.

    Couplings of equal shape are judged together. What is refused brings, all in all, less than 1 % of the
    dense model's time and less than 0.5 % of its parameters. Nothing is trained or proved.

    Args:
        model: the dense model, left as it is; it takes one batch of floating point numbers.
        couplings: of this model.
        kept: by coupling name, (width,) bool, True = kept; couplings not named stay whole.
        example_inputs: a batch such as the model takes; its first example is timed.
        runtime: the name of a runner; timed on one thread.
        seconds: for everything, exports included. The proposal is timed in any case, two seconds at least;
            what time remains goes into the couplings, those with the fewest parameters first.

    Returns:
        the figures of the proposal with the couplings in `refused` left whole.

    Raises:
        UsageError: the model takes something else, or `kept` names what cannot be removed.
        ModelError: the model cannot be exported.
    """
    if not seconds > 0:
        raise UsageError(f"the pay-off check needs more than 0 seconds, got {seconds}")
    structure_of(couplings, kept)  # which checks them
    costs = Costs(model, couplings, example_inputs)
    with Timing(costs, runtime) as timing:
        return PayoffCheck(timing, seconds).judge(kept)


class PayoffCheck:
    """The parts of a pay-off check, which share exports and a deadline.

    Args:
        timing: of the model.
        seconds: for all of it.
        least_time: cuts that bring less than this of the dense model's time …
        least_params: … and less than this of its parameters are not worth it.
    """

    def __init__(
        self, timing: Timing, seconds: float, *, least_time: float = 0.01, least_params: float = 0.005
    ) -> None:
        self.timing, self.costs = timing, timing.costs
        self.began, self.seconds = monotonic(), seconds
        self.least_time, self.least_params = least_time, least_params
        self.untried: list[str] = []

    def best(self, proposals: Mapping[int, Proposal]) -> tuple[int, dict[int, Measurement]]:
        """The rounding of the fastest proposal (the first, unless beaten by 1 %), and the speedups timed."""
        shapes: dict[tuple[int, ...], int] = {}
        for rounding, proposal in proposals.items():
            shapes.setdefault(tuple(int(kept.sum()) for kept in proposal.values()), rounding)
        ready: dict[str, Proposal] = {"dense": {}}
        for rounding in shapes.values():
            if len(ready) > 1 and self._left() < self.seconds / 2:
                self.untried.append(f"multiples of {rounding}")
                continue
            self.timing.prepared(proposals[rounding])
            ready[str(rounding)] = proposals[rounding]
        found = self.timing.compare(ready, seconds=max(1.0, self._left() / 4)).speedups
        tried = {int(name): found[name] for name in ready if name != "dense"}
        first = next(iter(tried))
        fastest = max(tried, key=lambda rounding: tried[rounding].value)
        return (
            fastest if tried[fastest].value > (1 + self.least_time) * tried[first].value else first
        ), tried

    def refusals(self, proposal: Proposal) -> dict[str, str]:
        """The couplings whose cut brings neither time nor size, each and all together, with why."""
        small = self._small(proposal)
        whole = {name: self._without(proposal, names) for name, names in small.items()}
        ready: dict[str, Proposal] = {"": proposal, "dense": {}}
        for name, other in whole.items():
            if self._left() < self.seconds / 4:
                self.untried.append(f"leaving {name} whole")
                continue
            self.timing.prepared(other)
            ready[name] = other
        if len(ready) == 2:
            return {}
        faster = self.timing.compare(ready, seconds=max(1.0, self._left() / 2)).speedups
        # both are the proposal's time over another's
        saved = {n: (1 / faster[n].value - 1) * faster["dense"].value for n in whole if n in ready}
        refused: dict[str, str] = {}
        time = size = 0.0
        for name in sorted(saved, key=lambda name: saved[name]):
            share = (self.costs.params(whole[name]) - self.costs.params(proposal)) / self.costs.params({})
            time, size = time + max(0.0, saved[name]), size + share
            if time < self.least_time and size < self.least_params:
                why = f"cutting it saves {saved[name]:.1%} of the time and {share:.2%} of the parameters"
                refused |= dict.fromkeys(small[name], why)
        return refused

    def judge(self, proposal: Proposal) -> Payoff:
        """The proposal without what is not worth it, timed."""
        refused = self.refusals(proposal)
        return self.measured(self._without(proposal, list(refused)), refused=refused)

    def measured(self, proposal: Proposal, **facts: object) -> Payoff:
        """The proposal against the dense model."""
        dense, cut = self.timing.prepared({}), self.timing.prepared(proposal)
        found = self.timing.compare({"dense": {}, "cut": proposal}, seconds=max(2.0, min(5.0, self._left())))
        return Payoff(
            before=found.latencies["dense"],
            after=found.latencies["cut"],
            speedup=found.speedups["cut"],
            size_before=dense.size,
            size_after=cut.size,
            untried=tuple(self.untried),
            seconds=monotonic() - self.began,
            **facts,  # type: ignore[arg-type]
        )

    def _small(self, proposal: Proposal) -> dict[str, list[str]]:
        """The cut couplings of equal shape that hold few parameters, by the first of them; smallest first."""
        alike: dict[Hashable, list[str]] = {}
        for coupling in self.costs.couplings:
            if coupling.name in proposal and not proposal[coupling.name].all():
                alike.setdefault(likeness(coupling, self.costs.couplings.shapes), []).append(coupling.name)
        dense, cut = self.costs.params({}), self.costs.params(proposal)
        saved = {
            names[0]: self.costs.params(self._without(proposal, names)) - cut for names in alike.values()
        }
        small = [names for names in alike.values() if saved[names[0]] < self.least_params * dense]
        return {names[0]: names for names in sorted(small, key=lambda names: saved[names[0]])}

    def _without(self, proposal: Proposal, names: list[str]) -> Proposal:
        """The proposal with these couplings left whole."""
        return {name: torch.ones_like(kept) if name in names else kept for name, kept in proposal.items()}

    def _left(self) -> float:
        return self.seconds - (monotonic() - self.began)


def _spread(found: Measurement, unit: str) -> str:
    return f"{found.value:.3g} {unit} ({found.low:.3g} to {found.high:.3g})"
