"""The work of the step `quantize`: calibrated, chosen, spared or trained until the floor holds."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kezuri.artifact.atomic import write_json
from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.core.measurement import Measurement
from kezuri.core.seeds import derive
from kezuri.measure.accuracy import accuracy_measurement
from kezuri.prune.masks import Masks
from kezuri.quantization.allocation import Allocated, allocate_layers, without
from kezuri.quantization.bits import front_to_json
from kezuri.quantization.post_training import calibration_batches, keeping, post_training
from kezuri.quantization.qat import ScalesUndecayed
from kezuri.quantization.quantized import Quantized
from kezuri.recipe.step import ModelState, Resources
from kezuri.recipe.teaching import objective_of
from kezuri.train import evaluate, fit

if TYPE_CHECKING:
    from kezuri.recipe.steps.quantize import Quantize

POINTS = 100  # of a front, to draw
TABLE = "sensitivity.json"


class Quantizing:
    """One run of the step.

    Args:
        plan: the step.
        state: the model before it, left as it is.
        resources: of the run.
        stage: the step's name among the run's finished work.

    Raises:
        UsageError: the model is quantized already.
    """

    def __init__(self, plan: "Quantize", state: ModelState, resources: Resources, stage: str) -> None:
        if state.quantization is not None:
            raise UsageError("the model is quantized already: quantize once, with the bits it shall have")
        self.plan, self.resources, self.stage = plan, resources, stage
        self.state, self.model, self.masks = state, state.model, state.masks
        self.scheme, self.method = plan.scheme(), plan.method()
        self.batches = calibration_batches(
            state.model, resources.data, self.method, seed=derive(resources.seed, stage)
        )
        self.measured: list[Measurement] = []
        self.found: dict[int, tuple[float, str]] = {}
        goal = plan.keep or resources.goal
        start = resources.dense if plan.keep is None and resources.dense is not None else state
        before = evaluate(start.model, resources.data.validation, device=resources.device)
        self.floor = goal.floor(before.accuracy)

    def run(self) -> ModelState:
        """The quantized model; what led to it is remembered."""
        listener, stages = self.resources.listener, self.resources.stages
        chosen = None if self.plan.budget is None else self._allocated()
        result, accuracy, how = self._best()
        for line in str(result.report).splitlines():
            listener.say(line)
        if accuracy < self.floor:
            listener.warn(f"validation accuracy {accuracy:.2%} is below the floor {self.floor:.2%}")
        ended = replace(self.state, model=result.model, masks=self.masks, quantization=result.prepared.scheme)
        record = {
            "accuracy": accuracy,
            "floor": self.floor,
            "spared": list(result.report.spared),
            "how": how,
            "bits": {row.name: row.bits for row in result.report.rows if row.bits is not None},
            "allocation": None if chosen is None else chosen.to_json(),
        }
        measured = [*self.measured, *_measurements(result, chosen)]
        stages.finish(self.stage, record=record, measurements=measured, state=ended)
        return ended

    def _allocated(self) -> Allocated:
        """What the budget came to; from here on layers have these bits, and zeros."""
        assert self.plan.budget is not None
        resources = self.resources
        folder = resources.stages.folder
        metric = self.plan.budget.metric
        found = allocate_layers(
            self.model,
            self.batches,
            self.scheme,
            self.method,
            self.plan.budget,
            journal=folder.stage(self.stage) / TABLE,
            progress=resources.listener,
        )
        content = front_to_json(found.table, metric=metric, chosen=found.allocation, points=POINTS)
        write_json(folder.allocation, {"stage": self.stage, **found.to_json(), **content})
        self.scheme = replace(self.scheme, layer_bits=found.layer_bits)
        self.masks = _joined(self.masks, found.masks)
        self.model = without(self.model, found.masks)
        cost, whole = found.allocation.cost.of(metric) or 0.0, found.whole.of(metric) or 1.0
        bits = [option.bits for option in found.allocation.options.values()]
        resources.listener.say(
            f"layers get {min(bits)} to {max(bits)} bits: {metric} is {cost:,.0f}, {cost / whole:.1%} of "
            f"that in floats (asked for: {found.limit:,.0f} at most)"
        )
        return found

    def _best(self) -> tuple[Quantized, float, str]:
        """The best of what the plan allows to try, its validation accuracy, and how it came about."""
        plan, how = self.plan, "after calibration"
        result = self._calibrated()
        accuracy = self._told(result, how)
        if plan.train != "always":
            if accuracy >= self.floor:
                return result, accuracy, how
            if plan.budget is None and (kept := self._kept()) is not None:
                how = "some layers in floats"
                return kept, self._told(kept, how), how
            if plan.train == "never":
                return result, accuracy, how
        self._train(result)
        trained = self._told(result, "after training")
        if trained >= accuracy:
            return result, trained, "after training"
        return self._calibrated(), accuracy, "after calibration, as training did not help"

    def _calibrated(self) -> Quantized:
        result = post_training(self.model, self.batches, self.scheme, self.method, self.resources.listener)
        self._hold(result.model)
        return result

    def _kept(self) -> Quantized | None:
        """With as few layers in floats as hold the floor; None if no choice of layers does."""
        try:
            kept = keeping(
                self.model,
                self.batches,
                self.scheme,
                self.method,
                accuracy=self._accuracy,
                floor=self.floor,
                progress=self.resources.listener,
            )
        except GoalUnreachable as error:
            self.resources.listener.warn(str(error))
            return None
        self._hold(kept.model)
        return kept

    def _train(self, result: Quantized) -> None:
        """The quantized model, trained."""
        plan, resources = self.plan, self.resources
        held = () if self.masks is None else (self.masks.hold(),)
        fit(
            result.model,
            resources.data,
            plan.finetune.training(1),
            seed=derive(resources.seed, self.stage, "finetune"),
            device=resources.device,
            checkpoint=resources.stages.checkpoint(self.stage),
            progress=resources.listener,
            hooks=(*held, ScalesUndecayed()),
            frozen_batchnorm=plan.finetune.freeze_norms,
            objective=objective_of(plan.finetune.distill, resources),
        )

    def _hold(self, model: nn.Module) -> None:
        """Masked weights at zero, which some roundings move."""
        if self.masks is not None:
            self.masks.apply_(model)

    def _told(self, result: Quantized, how: str) -> float:
        found = evaluate(result.model, self.resources.data.validation, device=self.resources.device)
        correct = int((found.predictions == found.labels).sum())
        row = accuracy_measurement(correct, len(found.labels), split="validation")
        self.measured.append(row.under(model="quantized", moment=how))
        self.resources.listener.say(f"quantized, {how}: validation accuracy {found.accuracy:.2%}")
        return found.accuracy

    def _accuracy(self, model: nn.Module) -> float:
        """Of a quantized model, which is held to the masks."""
        self._hold(model)
        return evaluate(model, self.resources.data.validation, device=self.resources.device).accuracy


def _joined(masks: Masks | None, more: Mapping[str, Tensor]) -> Masks | None:
    """What both keep."""
    if not more:
        return masks
    before = {} if masks is None else dict(masks)
    return Masks(before | {name: kept & before.get(name, kept) for name, kept in more.items()})


def _measurements(result: Quantized, chosen: Allocated | None) -> list[Measurement]:
    rows = [Measurement("integer_share", result.report.integer_share, "fraction")]
    for row in result.report.rows:
        if row.bits is not None:
            said: dict[str, Any] = {"model": "quantized", "layer": row.name}
            rows.append(Measurement("bits", row.bits, "count", conditions=said))
    if chosen is not None:
        for metric, value in asdict(chosen.allocation.cost).items():
            if value is not None:
                unit = "bytes" if metric == "size" else "count"
                said = {"model": "quantized", "format": "packed"}
                rows.append(Measurement(metric, value, unit, conditions=said))
    return rows
