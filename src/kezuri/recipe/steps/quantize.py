"""The step that turns the model into integers, with or without training it."""

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, get_args

from kezuri.core.errors import UsageError
from kezuri.core.goal import Goal
from kezuri.model.sites import prunable_weights
from kezuri.quantization.budget import Budget
from kezuri.quantization.observer import Observer, observers
from kezuri.quantization.ptq import PostTraining
from kezuri.quantization.quantize import check_scales, usual_observer
from kezuri.quantization.rounding import Rounding
from kezuri.quantization.roundings.nearest import Nearest
from kezuri.quantization.scheme import Scheme
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.quantizing import Quantizing
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.teaching import objective_of
from kezuri.train import estimate_step_seconds

Train = Literal["never", "if_needed", "always"]

SLOWER = 1.5  # a training step with quantizers
FORWARD = 0.3  # of a training step


@steps.register("quantize")
@dataclass(frozen=True)
class Quantize(Scheme):
    """Integers of 8 bits or less for weights and activations, after training or with training.

    Ranges come from a few training images. If accuracy then is below the floor, layers are left in floats,
    those that suffer most first; if no choice of layers holds it, the quantized model is trained. Under a
    budget each layer has the bits that were chosen for it, and no more are left in floats. What came out best
    is kept in any case.

    Attributes:
        observer, weight_observer: how ranges of activations and of weights are found; "min_max" for 8 bits
            and "mse" for less, if none is named.
        rounding: to which neighbour on the grid each weight goes.
        equalize: whether to even out the ranges of channels between layers first; ReLU6 becomes ReLU for it.
        correct_bias: whether to take the mean error of each output out of its bias.
        reestimate_norms: whether batch normalisation gets its statistics from the rounded layers.
        images: of the training images, for all that.
        train: whether the quantized model is trained: "never", "if_needed" for the floor, "always".
        finetune: that training. Batch normalisation is alive in it, and folded when the file is written.
        keep: the accuracy to keep, when it is not the recipe's goal.
        budget: what the model may cost, such as `{size: 0.15}` of the model as this step finds it; each
            layer gets the bits (and sparsity) that lose least, chosen from the budget's `bits` and
            `sparsities`. Under `{latency: 0.5}`, of the time in floats and in the goal's runtime, layers that
            lose most for the time they save stay in floats. What each layer loses is measured once and kept
            in the run.
    """

    compresses: ClassVar[bool] = True

    observer: Observer | None = None
    weight_observer: Observer | None = None
    rounding: Rounding = field(default_factory=Nearest)
    equalize: bool = False
    correct_bias: bool = False
    reestimate_norms: bool = False
    images: int = 256
    train: Train = "if_needed"
    finetune: Finetune = field(default_factory=lambda: Finetune(epochs=2.0, lr=0.01, lr_ratio=1.0))
    keep: Goal | None = None
    budget: Budget | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train not in get_args(Train):
            raise UsageError(f"train is one of {', '.join(get_args(Train))}; got {self.train!r}")
        if self.replaced and self.train == "never":
            raise UsageError("replaced activations need training: use train: always, or replace none")
        if self.budget is not None and (self.layer_bits or self.bits != 8):
            given = "layer_bits" if self.layer_bits else f"bits {self.bits}"
            raise UsageError(
                f"{given} and a budget cannot both be: a budget chooses the bits of each layer; say in "
                "budget.bits from which"
            )
        check_scales(self, self.method())

    @property
    def lowest(self) -> int:
        """The fewest bits that a weight may get."""
        chosen = () if self.budget is None else self.budget.bits
        return min([self.bits, *self.layer_bits.values(), *chosen])

    def scheme(self) -> Scheme:
        """Bits and places alone."""
        return Scheme(**{one.name: getattr(self, one.name) for one in fields(Scheme)})

    def method(self) -> PostTraining:
        """How ranges are found."""
        return PostTraining(
            observer=self.observer or observers[usual_observer(self.activation_bits)](),
            weight_observer=self.weight_observer or observers[usual_observer(self.lowest)](),
            rounding=self.rounding,
            equalize=self.equalize,
            correct_bias=self.correct_bias,
            reestimate_norms=self.reestimate_norms,
            images=self.images,
        )

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Quantizes, or returns what an earlier run left."""
        if resources.stages.record(stage) is not None:
            return resources.stages.state(stage)
        return Quantizing(self, state, resources, stage).run()

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """From a timed training step: the training, if there is one, and the trials for a budget."""
        batches = -(-len(resources.data.train) // self.finetune.batch_size)
        training = self.finetune.training(1)
        objective = None if self.train != "always" else objective_of(self.finetune.distill, resources)
        step = estimate_step_seconds(
            state.model, resources.data, training, device=resources.device, objective=objective
        )
        total = 10.0
        if self.train == "always":
            total += SLOWER * self.finetune.epochs * batches * step
        if self.budget is not None:
            tries = len(prunable_weights(state.model)) * len(self.budget.bits) * len(self.budget.sparsities)
            total += tries * FORWARD * step * self.images / self.finetune.batch_size
        return total

    def warnings(self) -> list[str]:
        """Settings known to fail, with the reason."""
        low = min(self.lowest, self.activation_bits)
        if low < 4 and self.train == "never" and self.budget is None:
            return [f"{low} bits without training lose most of the accuracy (train: always, ranges: learned)"]
        return []
