"""The loop that drops blocks: a few a round, retrained, until the floor or the last round; it resumes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from kezuri.core.measurement import Measurement
from kezuri.core.seeds import derive
from kezuri.measure.accuracy import accuracy_measurement
from kezuri.measure.macs import cost
from kezuri.measure.size import weights_size
from kezuri.measure.sparsity import sparsity
from kezuri.model.depth import Blocks, drop_blocks, find_blocks
from kezuri.model.sites import PRUNABLE
from kezuri.prune.depth import count_blocks, least_blocks
from kezuri.prune.masks import Masks
from kezuri.recipe.prune_blocks import score_blocks
from kezuri.recipe.rounds import check_trained
from kezuri.recipe.step import ModelState, Resources
from kezuri.recipe.teaching import objective_of
from kezuri.train import evaluate, fit

if TYPE_CHECKING:
    from kezuri.recipe.steps.prune_blocks import PruneBlocks

Record = Mapping[str, Any]


@dataclass(frozen=True)
class BlockStop:
    """Why the rounds ended: `kind` is "rounds", "floor" or "saturation", `why` a sentence."""

    kind: str
    why: str


@dataclass(frozen=True)
class _Shorter:
    """A model without some more blocks, not yet retrained."""

    state: ModelState
    names: tuple[str, ...]
    rows: list[Measurement]


class BlockRounds:
    """One run of the rounds.

    Args:
        plan: the step's settings.
        start: the model before the first round; it is not changed.
        resources: what the step may use.
        stage: the step's name; every round is a stage of its own below it.
    """

    def __init__(self, plan: "PruneBlocks", start: ModelState, resources: Resources, stage: str) -> None:
        self.plan, self.resources, self.stage = plan, resources, stage
        self.stages = resources.stages
        self.goal = plan.keep or resources.goal
        self._start = start
        self._last: str | None = None  # the last accepted round, where the next begins; None: the start
        self._held: dict[str, ModelState] = {}
        self._pace: float | None = None

    def run(self) -> tuple[ModelState, BlockStop]:
        """The shallowest model that keeps the floor, and why the rounds ended.

        Raises:
            UsageError: the model is not trained, or has fewer blocks that may go than a round asks for.
        """
        before = self._baseline()
        floor = self.goal.floor(before["accuracy"])
        held = " and the floor holds" if self.goal.holds_accuracy else ""
        stop = BlockStop("rounds", f"all {self.plan.rounds} rounds are done{held}")
        for turn in range(1, self.plan.rounds + 1):
            number = before["earlier"] + turn
            name = f"{self.stage}.round-{number}"
            record = self.stages.record(name) or self._round(name, turn, number, floor)
            self._remember(name, record)
            if record["verdict"] != "accepted":
                kind = "floor" if record["verdict"] == "rolled back" else "saturation"
                stop = BlockStop(kind, f"round {number}: {record['why']}")
                break
        self.stages.manifest.update(stop={"kind": stop.kind, "why": stop.why})
        return self._state(), stop

    def _baseline(self) -> Record:
        """What the model is before the first round, and how many rounds earlier steps made."""
        name = f"{self.stage}.round-0"
        record = self.stages.record(name)
        if record is None:
            count_blocks(self._blocks(self._start), self.plan.drop)
            accuracy, rows = self._described(self._start)
            check_trained(accuracy, self.resources.data.validation.labels)
            earlier = max((m.conditions.get("round", -1) for m in self.stages.journal.read()), default=-1)
            record = {"accuracy": accuracy, "earlier": max(earlier, 0)}
            said = [m.under(model="round", round=0, attempt=0, accepted=True) for m in rows]
            self.stages.finish(name, record=record, measurements=said if earlier < 0 else [])
        if not record["earlier"]:
            self._tell(name, {"round": 0, "attempt": 0, "verdict": "dense", "why": ""})
        return record

    def _round(self, name: str, turn: int, number: int, floor: float) -> Record:
        begin = perf_counter()
        self._expect(turn)
        place = {"round": number, "attempt": 0}
        shorter = self._shorter(name)
        if shorter is None:
            record: Record = {**place, "verdict": "stopped", "why": "no more blocks may be dropped"}
            self.stages.finish(name, record=record)
            return record
        removing = perf_counter() - begin
        fitted = fit(
            shorter.state.model,
            self.resources.data,
            self.plan.finetune.training(turn),
            seed=derive(self.resources.seed, name, "finetune"),
            device=self.resources.device,
            checkpoint=self.stages.checkpoint(name),
            progress=self.resources.listener,
            hooks=() if shorter.state.masks is None else (shorter.state.masks.hold(),),
            frozen_batchnorm=self.plan.finetune.freeze_norms,
            objective=objective_of(self.plan.finetune.distill, self.resources),
        )
        accuracy, rows = self._described(shorter.state)
        self._pace = perf_counter() - begin
        phases = {"scores, cut and proof": removing, "finetune": fitted.seconds}
        rows += [*shorter.rows, Measurement("seconds", self._pace, "s")]
        rows += [Measurement("phase_seconds", s, "s", conditions={"phase": p}) for p, s in phases.items()]
        record = {**place, **self._judged(shorter, accuracy, floor)}
        accepted = record["verdict"] == "accepted"
        said = {**place, "lr_ratio": self.plan.finetune.ratio(turn), "accepted": accepted}
        self.stages.finish(
            name,
            record=record,
            measurements=[m.under(model="round", **said) for m in rows],
            state=shorter.state if accepted else None,
        )
        if accepted:
            self._held = {name: shorter.state}
        return record

    def _judged(self, shorter: _Shorter, accuracy: float, floor: float) -> Record:
        accepted = accuracy >= floor
        why = f"without {', '.join(shorter.names)} validation accuracy {accuracy:.2%}"
        return {
            "verdict": "accepted" if accepted else "rolled back",
            "why": f"{why}{self.goal.relation(accuracy, floor)}",
            "dropped": list(shorter.names),
            "accuracy": accuracy,
            "layers": self._layers(shorter.state),
        }

    def _shorter(self, name: str) -> _Shorter | None:
        """Without the blocks that are worth least; None where fewer are left than a round asks for."""
        state, resources = self._state(), self.resources
        blocks = self._blocks(state)
        if not blocks.free or self.plan.drop > max(1, len(blocks.free)):
            return None
        count = count_blocks(blocks, self.plan.drop)
        seed = derive(resources.seed, name, "scores")
        scores = score_blocks(
            state.model, blocks, self.plan.criterion, resources.data, sample=self.plan.sample, seed=seed
        )
        done = drop_blocks(state.model, blocks, least_blocks(scores, count), resources.example)
        for block, why in done.rejected.items():
            resources.listener.warn(f"{block} stays, the proof failed without it: {why}")
        gone = done.structure.dropped
        if not gone:
            return None
        structure = state.structure.then(done.structure)
        shorter = replace(state, model=done.model, structure=structure, masks=_left(state.masks, gone))
        found = evaluate(done.model, resources.data.validation, device=resources.device)
        rows = [
            Measurement("accuracy_after_cut", found.accuracy, "fraction", samples=len(found.labels)),
            Measurement("proof_error", done.proof.error, "relative", samples=done.proof.inputs),
            Measurement("blocks", len(blocks.free) - len(gone), "count"),
        ]
        return _Shorter(shorter, gone, rows)

    def _blocks(self, state: ModelState) -> Blocks:
        return find_blocks(state.model, self.resources.example, protect=self.plan.ignore)

    def _state(self) -> ModelState:
        """The model of the last accepted round, read back if it was made before a kill."""
        if self._last is None:
            return self._start
        if self._last not in self._held:
            self._held = {self._last: self.stages.state(self._last)}
        return self._held[self._last]

    def _remember(self, name: str, record: Record) -> None:
        """Takes a finished round into account, whether it was made now or before a kill."""
        if record["verdict"] == "accepted":
            if self._last is not None:
                self.stages.forget_model(self._last)
            self._last = name
        known = self.stages.manifest.read()
        decision = {key: record.get(key) for key in ("round", "attempt", "rate", "verdict", "why")}
        others = [one for one in known.get("decisions", []) if one["round"] != record["round"]]
        self.stages.manifest.update(decisions=[*others, decision])
        if record["verdict"] == "accepted":
            self.stages.manifest.update(cuts=record["layers"])
        self._tell(name, decision)

    def _layers(self, state: ModelState) -> list[dict[str, Any]]:
        """Each layer's channels before the recipe began and now; none in a block that was dropped."""
        known = {entry["layer"]: entry for entry in self.stages.manifest.read().get("cuts", [])}
        now = dict(state.model.named_modules())
        rows = []
        for name, module in self.resources.fresh(state.spec).named_modules():
            if isinstance(module, PRUNABLE):
                before, left = _width(module), _width(now[name]) if name in now else 0
                reason = known.get(name, {}).get("reason") if left else "its block was dropped"
                state_ = "cut" if left < before else known.get(name, {}).get("state", "kept")
                rows.append(
                    {"layer": name, "before": before, "after": left, "state": state_, "reason": reason}
                )
        return rows

    def _described(self, state: ModelState) -> tuple[float, list[Measurement]]:
        """Validation accuracy, and what a model is measured by in every round."""
        data, rows = self.resources.data, list[Measurement]()
        some = data.train.subset(min(len(data.train), len(data.validation)))
        for split, part in (("validation", data.validation), ("train", some)):
            found = evaluate(state.model, part, device=self.resources.device)
            correct = int((found.predictions == found.labels).sum())
            rows.append(accuracy_measurement(correct, len(found.labels), split=split))
        accuracy = rows[0].value
        rows += [*cost(state.model, data.image_shape), weights_size(state.model)]
        return accuracy, rows if state.masks is None else [*rows, *sparsity(state.model)]

    def _expect(self, turn: int) -> None:
        """Says how long the rounds from this one on will take: by timed batches, then by the last round."""
        if self._pace is None:
            self._pace = self.plan.seconds(self._state(), self.resources) / self.plan.rounds
        left = self.plan.rounds - turn + 1
        self.resources.listener.expect(self._pace * left, left)

    def _tell(self, name: str, decision: Record) -> None:
        rows = [m for m in self.stages.journal.read() if m.conditions["stage"] == name]
        self.resources.listener.round_done(rows, decision)


def _left(masks: Masks | None, gone: tuple[str, ...]) -> Masks | None:
    """The masks of weights that are still there."""
    inside = tuple(f"{name}." for name in gone)
    return None if masks is None else Masks({n: m for n, m in masks.items() if not n.startswith(inside)})


def _width(module: Any) -> int:
    return int(getattr(module, "out_channels", 0) or module.out_features)
