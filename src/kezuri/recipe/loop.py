"""The loop of prune rounds: keeps the accuracy floor by itself, sees saturation, resumes after a kill."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kezuri.core.goal import Goal
from kezuri.core.measurement import Measurement
from kezuri.core.seeds import derive
from kezuri.recipe.choosing import Reached, choose
from kezuri.recipe.costs import Costs
from kezuri.recipe.meters import NEAR, Meters
from kezuri.recipe.rounds import Prospect, attempt, baseline, coupled, survey
from kezuri.recipe.step import ModelState, Resources
from kezuri.recipe.timing import Timing

if TYPE_CHECKING:
    from kezuri.recipe.steps.prune import Prune

FACTORS = (1.0, 0.5, 0.25)  # of the round's rate: as asked, then gentler after a roll-back

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Stop:
    """Why a loop ended.

    Attributes:
        kind: `rounds` (all done), `budget` (met), `floor`, or `saturation`.
        why: one sentence for the reader.
        missed: what of the budget is not met, in words.
    """

    kind: str
    why: str
    missed: tuple[str, ...] = ()


def _may_have_seen(measurements: Sequence[Measurement]) -> bool:
    """Whether the validation images are answered suspiciously well for images never trained on."""
    found = {m.conditions["split"]: m.value for m in measurements if m.metric == "accuracy"}
    return found["train"] > 0.98 and found["validation"] > found["train"] - 0.005


class Loop:
    """One run of the rounds.

    Args:
        plan: the prune step's settings.
        start: the model before the first round; it is not changed.
        resources: what the step may use.
        stage: the step's name; every attempt at a round is a stage of its own below it.
    """

    def __init__(self, plan: "Prune", start: ModelState, resources: Resources, stage: str) -> None:
        self.plan = plan
        self.start = start
        self.resources = resources
        self.stages = resources.stages
        self.stage = stage
        self.goal: Goal = plan.keep or resources.goal
        self.decisions: list[dict[str, Any]] = []
        self._last: str | None = (
            None  # the last accepted attempt, where the next round begins; None: the start
        )
        self._best: tuple[str, Record] | None = None  # the accepted attempt that the result comes from
        self._held: dict[str, ModelState] = {}
        self._pace: float | None = None  # seconds a round, once one was made
        self._open = ExitStack()

    def run(self) -> tuple[ModelState, Stop]:
        """The best model that keeps the floor, and why the loop ended."""
        with self._open:
            stop = self._rounds()
        if self.plan.budget and stop.kind != "budget":
            missed = self._missed()
            why = f"{stop.why}; the budget is not met: {', '.join(missed)}"
            stop = replace(stop, why=why, missed=tuple(f"the budget: {one}" for one in missed))
        self.stages.manifest.update(stop=asdict(stop))
        return self._state_of(self._best[0] if self._best else None), stop

    def _rounds(self) -> Stop:
        before = self._baseline()
        floor, size = self.goal.floor(before["accuracy"]), before["size"]
        gentleness = 0
        for round_ in range(1, self.plan.schedule.rounds + 1):
            record, gentleness = self._round(round_, floor, gentleness)
            if record["verdict"] == "rolled back":
                return Stop("floor", f"round {round_} fell below the floor even at a quarter of its rate")
            if record.get("met"):
                which = f"round {round_}" if record["verdict"] == "accepted" else "the model as it is"
                reached = ", ".join(str(Reached.from_json(one)) for one in record["reached"])
                return Stop("budget", f"{which} meets the budget: {reached}")
            if record["verdict"] == "stopped":
                return Stop("saturation", f"round {round_} found that {record['why']}")
            shrunk, size = 1 - record["size"] / size, record["size"]
            if self.plan.cuts and shrunk < self.plan.saturation:
                share = f"{shrunk:.1%} smaller, less than {self.plan.saturation:.0%}"
                return Stop("saturation", f"round {round_} made the model only {share}")
        done = f"all {self.plan.schedule.rounds} rounds are done"
        held = " and the floor holds" if self.goal.holds_accuracy else ""
        return Stop("rounds", f"{done}{held}: more rounds may shave further")

    def _missed(self) -> list[str]:
        """How far from the budget the best model is."""
        if self._best is None:
            return ["nothing was removed"]
        reached = (Reached.from_json(one) for one in self._best[1]["reached"])
        return [str(one) for one in reached if not one.holds]

    @cached_property
    def _dense(self) -> Meters | None:
        """Of the model before the first round, which a budget's fractions are of; None without one."""
        budget = self.plan.budget
        couplings = coupled(self.plan, self.start, self.resources) if budget else None
        if budget is None or couplings is None:
            return None
        costs = Costs(self.start.model, couplings, self.resources.example)
        timed = not NEAR.keys().isdisjoint(budget)
        timing = Timing(costs, self.resources.goal.runtime) if timed else None
        return Meters(costs, self._open.enter_context(timing) if timing else None)

    def _baseline(self) -> Record:
        name = f"{self.stage}.round-0"
        record = self.stages.record(name)
        if record is None:
            accuracy, size, measurements = baseline(self.plan, self.start, self.resources)
            record = {"accuracy": accuracy, "size": size}
            trained_here = self.stages.manifest.read().get("trained_here", False)
            if not trained_here and _may_have_seen(measurements):
                self.resources.listener.warn(
                    f"the model answers {accuracy:.2%} of the validation images right, as many as of those "
                    f"it trains on: it may have been trained on them before, and the floor would be kept on "
                    f"images it has memorised (data.validation_from: test takes others)"
                )
            rows = [m.under(model="round", round=0, attempt=0, accepted=True) for m in measurements]
            self.stages.finish(name, record=record, measurements=rows)
        self._tell(name, {"round": 0, "attempt": 0, "verdict": "dense", "why": ""})
        return record

    def _round(self, round_: int, floor: float, gentleness: int) -> tuple[Record, int]:
        """The record that decides a round, and how gentle it had to be; later rounds begin as gently."""
        prospect: Prospect | None = None
        record: Record = {}
        rate = self.plan.schedule.rates()[round_ - 1] * FACTORS[gentleness]
        for index in range(gentleness, len(FACTORS)):
            name = f"{self.stage}.round-{round_}.attempt-{index}"
            found = self.stages.record(name)
            if found is None:
                if prospect is None:
                    self._expect(round_)
                    seed = derive(self.resources.seed, self.stage, "evidence", round_)
                    prospect = survey(self.plan, self._state_of(self._last), self.resources, seed=seed)
                place = {"round": round_, "attempt": index, "rate": rate}
                found = self._attempt(prospect, name, place, floor)
            record = found
            self._remember(name, record)
            rate = record["rate"] / 2  # of what was removed, which a budget may have made less than asked for
            if record["verdict"] != "rolled back":
                return record, index
        return record, gentleness

    def _attempt(self, prospect: Prospect, name: str, place: dict[str, Any], floor: float) -> Record:
        """Makes one attempt; `place` is its round, its number and the rate to remove at most."""
        state, round_ = self._state_of(self._last), place["round"]
        chosen = choose(
            self.plan, state, prospect, self.resources, rate=place["rate"], stage=name, dense=self._dense
        )
        place = {**place, "rate": chosen.rate}
        budget = {"met": chosen.met, "reached": [one.to_json() for one in chosen.reached]}
        if chosen.is_whole:
            record = {**place, "verdict": "stopped", "why": chosen.why, **budget}
            self.stages.finish(name, record=record)
            return record
        timed = self.goal.objective == "fastest"
        outcome = attempt(
            self.plan, state, prospect, chosen, self.resources, round_=round_, stage=name, timed=timed
        )
        self._pace = next(m.value for m in outcome.measurements if m.metric == "seconds")
        accepted = outcome.accuracy >= floor
        record = {
            **place,
            "verdict": "accepted" if accepted else "rolled back",
            "why": f"validation accuracy {outcome.accuracy:.2%}{self.goal.relation(outcome.accuracy, floor)}",
            "accuracy": outcome.accuracy,
            "size": outcome.size,
            "latency": outcome.latency,
            "layers": outcome.layers,
            **budget,
        }
        ratio = self.plan.finetune.ratio(round_)
        rows = [
            m.under(model="round", **place, lr_ratio=ratio, accepted=accepted) for m in outcome.measurements
        ]
        self.stages.finish(name, record=record, measurements=rows, state=outcome.state if accepted else None)
        if accepted:
            self._held = {name: outcome.state}
        return record

    def _remember(self, name: str, record: Record) -> None:
        """Takes a finished attempt into account, whether it was made now or before a kill."""
        self.decisions.append(
            {key: record.get(key) for key in ("round", "attempt", "rate", "verdict", "why")}
        )
        if record["verdict"] == "accepted":
            needed = {self._last, self._best[0] if self._best else None}
            self._last = name
            if self._is_better(record):
                self._best = (name, record)
            assert self._best is not None
            for old in needed - {None, self._last, self._best[0]}:
                self.stages.forget_model(str(old))
        cuts = self._best[1]["layers"] if self._best else []
        self.stages.manifest.update(decisions=self.decisions, cuts=cuts)
        self._tell(name, self.decisions[-1])

    def _is_better(self, record: Record) -> bool:
        if self.goal.objective == "smallest" or self._best is None or record.get("met"):
            return True  # every accepted round is smaller than the one before
        return bool(record["latency"] < self._best[1]["latency"])

    def _expect(self, round_: int) -> None:
        """Says how long the rounds from this one on will take: by timed batches, then by the last round."""
        rounds = self.plan.schedule.rounds
        left = rounds - round_ + 1
        if self._pace is None:
            self._pace = self.plan.seconds(self._state_of(self._last), self.resources) / rounds
        self.resources.listener.expect(self._pace * left, left)

    def _state_of(self, name: str | None) -> ModelState:
        if name is None:
            return self.start
        if name not in self._held:
            self._held = {name: self.stages.state(name)}
        return self._held[name]

    def _tell(self, name: str, decision: Record) -> None:
        rows = [m for m in self.stages.journal.read() if m.conditions["stage"] == name]
        self.resources.listener.round_done(rows, decision)
