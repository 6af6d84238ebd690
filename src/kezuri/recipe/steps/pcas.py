"""The PCAS loop with the knobs of the tool it is known from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import ClassVar, Literal

from kezuri.core.errors import UsageError
from kezuri.core.goal import Goal
from kezuri.data.augment import Augment
from kezuri.prune.criteria.pcas import Pcas as PcasCriterion
from kezuri.prune.criterion import Criterion
from kezuri.prune.granularity import Channel
from kezuri.prune.schedule import Iterative
from kezuri.prune.scope import Global
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.steps.prune import Prune
from kezuri.recipe.teaching import Teaching


@steps.register("pcas")
@dataclass(frozen=True)
class PcasLoop:
    """Cuts channels in rounds by attention statistics, retraining after each (arXiv 1806.05382).

    A front for the `prune` step: every knob here is one of its settings under the name the field knows.

    Attributes:
        rate: fraction of the remaining channels to cut in a round; one number, or one a round.
        rounds: how many rounds at most.
        epochs: retraining epochs after each cut.
        lr: the learning rate the dense model was trained with.
        lr_ratio: the retraining's learning rate as a fraction of `lr`, in (0, 1]; one number, or one a round.
        batch_size: images a step.
        attention_epochs: epochs the attention gates are trained in each round, with the model frozen.
        criterion: which statistic of the gates; any other criterion may stand here for comparison.
        keep: the accuracy to keep, when it is not the recipe's goal.
        label_smoothing, augment: of the retraining, as in training.
        distill: has a teacher take part in the retraining, by default the dense model.
        residual: whether channels that several layers add into may go as well; the paper leaves them whole.
        floor: channels every layer keeps at least.
        round_to: the number of channels kept is a multiple of this, except where nothing is removed; 8 suits
            the kernels of ONNX Runtime.
        narrow: what that means for layers of less than 4·round_to channels: `same`, or `finer` for the
            largest power of two that goes into them four times.
        saturation: stop when a round makes the model smaller by less than this fraction.
        ignore: layers to leave alone, by name or pattern.
        payoff: seconds to time what each round would cut, before it is retrained; layers whose cut brings
            neither time nor size stay whole in that round. 0 times nothing.
        budget: ceilings to end at, such as `{latency: 0.5}`: of `params`, `macs`, `size` and `latency`, as
            fractions of what the model was before the first round, or numbers from 1 on.
    """

    compresses: ClassVar[bool] = True

    rate: float | tuple[float, ...] = 0.3
    rounds: int = 5
    epochs: float = 10.0
    lr: float = 0.1
    lr_ratio: float | tuple[float, ...] = 0.5
    batch_size: int = 128
    attention_epochs: float = 1.0
    criterion: Criterion = field(default_factory=PcasCriterion)
    keep: Goal | None = None
    label_smoothing: float = 0.0
    augment: tuple[Augment, ...] = ()
    distill: Teaching | None = None
    residual: bool = False
    floor: int = 2
    round_to: int = 1
    narrow: Literal["same", "finer"] = "same"
    saturation: float = 0.02
    ignore: tuple[str, ...] = ()
    payoff: float = 0.0
    budget: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.attention_epochs < inf:
            raise UsageError(f"attention_epochs must be a number above 0, got {self.attention_epochs}")
        self.as_prune()

    def as_prune(self) -> Prune:
        """The same loop, spelled out."""
        criterion = self.criterion
        if isinstance(criterion, PcasCriterion):
            criterion = replace(criterion, epochs=self.attention_epochs)
        return Prune(
            criterion=criterion,
            granularity=Channel(
                floor=self.floor,
                round_to=self.round_to,
                narrow=self.narrow,
                producers="mean",
                residual=self.residual,
            ),
            scope=Global(count="units"),
            schedule=Iterative(rounds=self.rounds, rate=self.rate),
            finetune=Finetune(
                epochs=self.epochs,
                lr=self.lr,
                lr_ratio=self.lr_ratio,
                batch_size=self.batch_size,
                label_smoothing=self.label_smoothing,
                augment=self.augment,
                distill=self.distill,
            ),
            keep=self.keep,
            saturation=self.saturation,
            ignore=self.ignore,
            payoff=self.payoff,
            budget=self.budget,
        )

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Runs the loop."""
        return self.as_prune().apply(state, resources, stage=stage)

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """An estimate for all rounds, none of them retried."""
        return self.as_prune().seconds(state, resources)

    def warnings(self) -> list[str]:
        """Settings known to fail, with the reason."""
        return self.as_prune().warnings()
