"""The step that turns the model into integers, with or without training it."""

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal, get_args

from torch import nn

from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.core.goal import Goal
from kezuri.core.measurement import Measurement
from kezuri.core.seeds import derive
from kezuri.measure.accuracy import accuracy_measurement
from kezuri.quantize.observer import Observer
from kezuri.quantize.observers.min_max import MinMax
from kezuri.quantize.post_training import calibration_batches, keeping, post_training
from kezuri.quantize.ptq import PostTraining
from kezuri.quantize.qat import ScalesUndecayed
from kezuri.quantize.quantized import Quantized
from kezuri.quantize.rounding import Rounding
from kezuri.quantize.roundings.nearest import Nearest
from kezuri.quantize.scheme import Scheme
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.teaching import objective_of
from kezuri.train import estimate_step_seconds, evaluate, fit

Train = Literal["never", "if_needed", "always"]


@steps.register("quantize")
@dataclass(frozen=True)
class Quantize(Scheme):
    """Integers of 8 bits or less for weights and activations, after training or with training.

    Ranges come from a few training images. If accuracy then is below the floor, layers are left in floats,
    those that suffer most first; if no choice of layers holds it, the quantized model is trained. What came
    out best is kept in any case.

    Attributes:
        observer, weight_observer: how ranges are found.
        rounding: to which neighbour on the grid each weight goes.
        equalize: whether to even out the ranges of channels between layers first.
        correct_bias: whether to take the mean error of each output out of its bias.
        reestimate_norms: whether batch normalisation gets its statistics from the rounded layers.
        images: of the training images, for all that.
        train: whether the quantized model is trained: "never", "if_needed" for the floor, "always".
        finetune: that training. Batch normalisation is alive in it, and folded when the file is written.
        keep: the accuracy to keep, when it is not the recipe's goal.
    """

    compresses: ClassVar[bool] = True

    observer: Observer = field(default_factory=MinMax)
    weight_observer: Observer = field(default_factory=MinMax)
    rounding: Rounding = field(default_factory=Nearest)
    equalize: bool = False
    correct_bias: bool = False
    reestimate_norms: bool = False
    images: int = 256
    train: Train = "if_needed"
    finetune: Finetune = field(default_factory=lambda: Finetune(epochs=2, lr=0.01, lr_ratio=1.0))
    keep: Goal | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train not in get_args(Train):
            raise UsageError(f"train is one of {', '.join(get_args(Train))}; got {self.train!r}")
        if self.replaced and self.train == "never":
            raise UsageError("replaced activations need training: use train: always, or replace none")
        self.method()

    def scheme(self) -> Scheme:
        """Bits and places alone."""
        return Scheme(**{one.name: getattr(self, one.name) for one in fields(Scheme)})

    def method(self) -> PostTraining:
        """How ranges are found."""
        return PostTraining(
            observer=self.observer,
            weight_observer=self.weight_observer,
            rounding=self.rounding,
            equalize=self.equalize,
            correct_bias=self.correct_bias,
            reestimate_norms=self.reestimate_norms,
            images=self.images,
        )

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Quantizes, or returns what an earlier run left."""
        stages, listener = resources.stages, resources.listener
        if stages.record(stage) is not None:
            return stages.state(stage)
        work = _Work(self, state, resources, stage)
        result, accuracy = work.run()
        for line in str(result.report).splitlines():
            listener.say(line)
        if accuracy < work.floor:
            listener.warn(f"validation accuracy {accuracy:.2%} is below the floor {work.floor:.2%}")
        ended = replace(state, model=result.model, quantization=result.prepared.scheme)
        share = Measurement("integer_share", result.report.integer_share, "fraction")
        stages.finish(
            stage,
            record={
                "accuracy": accuracy,
                "floor": work.floor,
                "spared": list(result.report.spared),
                "how": work.how,
            },
            measurements=[*work.measured, share],
            state=ended,
        )
        return ended

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """A timed training step for every batch of the training, if there is one; calibration is quick."""
        if self.train != "always":
            return 10.0
        batches = -(-len(resources.data.train) // self.finetune.batch_size)
        training = self.finetune.training(1)
        step = estimate_step_seconds(state.model, resources.data, training, device=resources.device)
        return 1.5 * self.finetune.epochs * batches * step

    def warnings(self) -> list[str]:
        """Settings known to fail, with the reason."""
        low = min([self.bits, self.activation_bits, *self.layer_bits.values()])
        if low < 4 and self.train == "never":
            return [f"{low} bits without training lose most of the accuracy (train: always, ranges: learned)"]
        return []


class _Work:
    """One run of the step."""

    def __init__(self, plan: Quantize, state: ModelState, resources: Resources, stage: str) -> None:
        if state.quantization is not None:
            raise UsageError("the model is quantized already: quantize once, with the bits it shall have")
        self.plan, self.state, self.resources, self.stage = plan, state, resources, stage
        self.measured: list[Measurement] = []
        self.how = ""
        goal = plan.keep or resources.goal
        start = resources.dense if plan.keep is None and resources.dense is not None else state
        self.floor = goal.floor(
            evaluate(start.model, resources.data.validation, device=resources.device).accuracy
        )

    def run(self) -> tuple[Quantized, float]:
        """The result, and its validation accuracy."""
        plan, model, resources = self.plan, self.state.model, self.resources
        seed = derive(resources.seed, self.stage)
        batches = calibration_batches(model, resources.data, plan.method(), seed=seed)
        scheme, method = plan.scheme(), plan.method()
        result = post_training(model, batches, scheme, method, resources.listener)
        found = self._told(result, "after calibration")
        if plan.train == "always":
            return self._trained(result)
        if found >= self.floor:
            return result, found
        try:
            kept = keeping(
                model,
                batches,
                scheme,
                method,
                accuracy=self._accuracy,
                floor=self.floor,
                progress=resources.listener,
            )
            return kept, self._told(kept, "some layers in floats")
        except GoalUnreachable as error:
            resources.listener.warn(str(error))
        if plan.train == "never":
            return result, found
        trained, reached = self._trained(result)
        if reached >= found:
            return trained, reached
        again = post_training(model, batches, scheme, method, resources.listener)
        return again, self._told(again, "as before training, which did not help")

    def _trained(self, result: Quantized) -> tuple[Quantized, float]:
        """The same one, trained."""
        plan, resources = self.plan, self.resources
        if plan.ranges == "learned":
            result.train_ranges("learned")
        held = () if self.state.masks is None else (self.state.masks.hold(),)
        fit(
            result.model,
            resources.data,
            plan.finetune.training(1),
            seed=derive(resources.seed, self.stage, "finetune"),
            device=resources.device,
            checkpoint=resources.stages.checkpoint(self.stage),
            progress=resources.listener,
            hooks=(*held, ScalesUndecayed()),
            objective=objective_of(plan.finetune.distill, resources),
        )
        return result, self._told(result, "after training")

    def _told(self, result: Quantized, how: str) -> float:
        self.how = how
        found = evaluate(result.model, self.resources.data.validation, device=self.resources.device)
        correct = int((found.predictions == found.labels).sum())
        row = accuracy_measurement(correct, len(found.labels), split="validation")
        self.measured.append(row.under(model="quantized", moment=how))
        self.resources.listener.say(f"quantized, {how}: validation accuracy {found.accuracy:.2%}")
        return found.accuracy

    def _accuracy(self, model: nn.Module) -> float:
        return evaluate(model, self.resources.data.validation, device=self.resources.device).accuracy
