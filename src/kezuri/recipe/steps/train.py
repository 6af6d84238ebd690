"""The step that trains the dense model."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

from kezuri.core.errors import UsageError
from kezuri.core.seeds import derive
from kezuri.model.coupling import couple
from kezuri.prune.regularizer import Regularizer
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.teaching import Teaching, objective_of
from kezuri.train import Hook, Training, estimate_step_seconds, evaluate, fit


@steps.register("train")
@dataclass(frozen=True)
class Train(Training):
    """Trains all weights of the model; of a quantized one, to live with its steps.

    Attributes:
        unless_accuracy: skip the training when the model already has this validation accuracy.
        regularizer: makes channels fade meanwhile, for a later step that cuts them.
        distill: has a teacher take part; one must be named where nothing was compressed before.
    """

    unless_accuracy: float | None = None
    regularizer: Regularizer | None = None
    distill: Teaching | None = None
    compresses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unless_accuracy is not None and not 0 < self.unless_accuracy < 1:
            raise UsageError(f"unless_accuracy is a fraction in (0, 1), got {self.unless_accuracy}")

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Trains, or skips; either is remembered."""
        stages, listener = resources.stages, resources.listener
        record = stages.record(stage)
        if record is not None:
            return state if record["skipped"] else stages.state(stage)
        if self.unless_accuracy is not None:
            found = evaluate(state.model, resources.data.validation, device=resources.device).accuracy
            if found >= self.unless_accuracy:
                listener.say(f"training skipped: validation accuracy is {found:.2%} already")
                stages.finish(stage, record={"skipped": True, "accuracy": found})
                return state
        model = copy.deepcopy(state.model)  # what came before is still compared with
        fitted = fit(
            model,
            resources.data,
            self,
            seed=derive(resources.seed, stage),
            device=resources.device,
            checkpoint=stages.checkpoint(stage),
            progress=listener,
            hooks=self._hooks(replace(state, model=model), resources),
            objective=objective_of(self.distill, resources),
        )
        listener.say(
            f"trained {self.epochs:g} epochs in {fitted.seconds:.0f} s: "
            f"validation accuracy {fitted.best_accuracy:.2%}"
        )
        trained = replace(state, model=model)
        record = {"skipped": False, "accuracy": fitted.best_accuracy, "seconds": fitted.seconds}
        stages.finish(stage, record=record, state=trained)
        stages.manifest.update(trained_here=True)
        return trained

    def _hooks(self, state: ModelState, resources: Resources) -> list[Hook]:
        """What else happens in each step."""
        hooks = state.hooks()
        if self.regularizer is not None:
            couplings = couple(state.model, resources.example) if self.regularizer.coupled else None
            hooks.append(self.regularizer.hook(state.model, couplings))
        return hooks

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """Steps times a timed step."""
        batches = -(-len(resources.data.train) // self.batch_size)
        objective = objective_of(self.distill, resources)
        step = estimate_step_seconds(
            state.model, resources.data, self, device=resources.device, objective=objective
        )
        return self.epochs * batches * step

    def warnings(self) -> list[str]:
        """None are known."""
        return []
