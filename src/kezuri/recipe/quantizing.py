"""The work of the step `quantize`: calibrated, chosen, spared or trained until the floor holds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kezuri.artifact.atomic import write_json
from kezuri.core.errors import UsageError
from kezuri.core.measurement import Measurement
from kezuri.core.seeds import derive
from kezuri.measure.accuracy import accuracy_measurement
from kezuri.prune.masks import Masks
from kezuri.quantization.allocation import allocate_layers, without
from kezuri.quantization.bits import front_to_json
from kezuri.quantization.budget import Allocated
from kezuri.quantization.post_training import calibration_batches, post_training
from kezuri.quantization.quantized import Quantized
from kezuri.quantization.sensitivity import UNTOUCHED, Metric
from kezuri.quantization.sparing import keeping, unkept
from kezuri.recipe.step import ModelState, Resources
from kezuri.recipe.teaching import objective_of
from kezuri.recipe.timing import FileRace
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
        self.scheme, self.method = plan.scheme().suited(resources.goal.runtime), plan.method()
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
        ended = self._ended(result)
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
        folder, metric = resources.stages.folder, self.plan.budget.metric
        found = allocate_layers(
            self.model,
            self.batches,
            self.scheme,
            self.method,
            self.plan.budget,
            race=FileRace(resources.goal.runtime) if metric == "latency" else None,
            journal=folder.stage(self.stage) / TABLE,
            progress=resources.listener,
        )
        content = front_to_json(found.table, metric=metric, chosen=found.allocation, points=POINTS)
        write_json(folder.allocation, {"stage": self.stage, **content, **found.to_json()})
        self.scheme = found.scheme(self.scheme)
        self.masks = _joined(self.masks, found.masks)
        self.model = without(self.model, found.masks)
        resources.listener.say(_outcome(found, metric))
        return found

    def _best(self) -> tuple[Quantized, float, str]:
        """The best of what the plan allows to try, its validation accuracy, and how it came about.

        Ways are tried until one holds the floor. Of a training and what went before it, the more accurate is
        kept.
        """
        plan, floats = self.plan, self._spared if self.plan.budget is None else None
        tried = [self._calibrated()]
        if plan.train == "always":
            tried.append(self._trained())
        if floats is not None and all(accuracy < self.floor for _, accuracy, _ in tried):
            tried.append(floats())
            if tried[-1][1] >= self.floor:
                return tried[-1]
        if plan.train == "if_needed" and all(accuracy < self.floor for _, accuracy, _ in tried):
            tried.append(self._trained())
        return max(reversed(tried), key=lambda one: one[1])

    def _calibrated(self) -> tuple[Quantized, float, str]:
        return self._told(self._quantized(), "after calibration")

    def _quantized(self) -> Quantized:
        result = post_training(self.model, self.batches, self.scheme, self.method, self.resources.listener)
        self._hold(result.model)
        return result

    def _spared(self) -> tuple[Quantized, float, str]:
        """With as few layers in floats as hold the floor; the most accurate if no choice of layers does."""
        found = keeping(
            self.model,
            self.batches,
            self.scheme,
            self.method,
            accuracy=self._accuracy,
            floor=self.floor,
            progress=self.resources.listener,
        )
        if not found.kept:
            self.resources.listener.warn(str(unkept(found, self.floor)))
        self._hold(found.best.model)
        return self._told(found.best, "some layers in floats")

    def _trained(self) -> tuple[Quantized, float, str]:
        result = self._quantized()
        self._train(result)
        return self._told(result, "after training")

    def _train(self, result: Quantized) -> None:
        """The quantized model, trained."""
        plan, resources = self.plan, self.resources
        fit(
            result.model,
            resources.data,
            plan.finetune.training(1),
            seed=derive(resources.seed, self.stage, "finetune"),
            device=resources.device,
            checkpoint=resources.stages.checkpoint(self.stage),
            progress=resources.listener,
            hooks=self._ended(result).hooks(),
            frozen_batchnorm=plan.finetune.freeze_norms,
            objective=objective_of(plan.finetune.distill, resources),
        )

    def _ended(self, result: Quantized) -> ModelState:
        return replace(self.state, model=result.model, masks=self.masks, quantization=result.prepared.scheme)

    def _hold(self, model: nn.Module) -> None:
        """Masked weights at zero, which some roundings move."""
        if self.masks is not None:
            self.masks.apply_(model)

    def _told(self, result: Quantized, how: str) -> tuple[Quantized, float, str]:
        found = evaluate(result.model, self.resources.data.validation, device=self.resources.device)
        correct = int((found.predictions == found.labels).sum())
        row = accuracy_measurement(correct, len(found.labels), split="validation")
        self.measured.append(row.under(model="quantized", moment=how))
        self.resources.listener.say(f"quantized, {how}: validation accuracy {found.accuracy:.2%}")
        return result, found.accuracy, how

    def _accuracy(self, model: nn.Module) -> float:
        """Of a quantized model, which is held to the masks."""
        self._hold(model)
        return evaluate(model, self.resources.data.validation, device=self.resources.device).accuracy


def _outcome(found: Allocated, metric: Metric) -> str:
    """What a budget came to, in a line."""
    cost, whole = found.allocation.cost.of(metric) or 0.0, found.whole.of(metric) or 1.0
    options = found.allocation.options.values()
    if metric == "latency":
        floats = sum(option == UNTOUCHED for option in options)
        return (
            f"{floats} of {len(options)} layers stay in floats: {cost:.4g} ms for one image, "
            f"{cost / whole:.1%} of that in floats (asked for: {found.limit:.4g} at most)"
        )
    bits = [option.bits for option in options]
    return (
        f"layers get {min(bits)} to {max(bits)} bits: {metric} is {cost:,.0f}, {cost / whole:.1%} of "
        f"that in floats (asked for: {found.limit:,.0f} at most)"
    )


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
        for metric in ("size", "macs"):
            said = {"model": "quantized", "format": "packed"}
            unit = "bytes" if metric == "size" else "count"
            rows.append(Measurement(metric, getattr(chosen.allocation.cost, metric), unit, conditions=said))
    return rows
