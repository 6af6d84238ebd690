"""The step that removes weights or channels in rounds, retraining after each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from kezuri.core.errors import UsageError
from kezuri.core.goal import Goal
from kezuri.model.coupling import Coupling, Couplings
from kezuri.prune.allocation import Allocation, Uniform
from kezuri.prune.criterion import Criterion
from kezuri.prune.granularity import Channel, Granularity, granularities
from kezuri.prune.schedule import Iterative, Schedule
from kezuri.prune.scope import Global, Scope
from kezuri.recipe.budget import check_budget
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.loop import Loop
from kezuri.recipe.mask_search import MaskSearch
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.teaching import objective_of
from kezuri.train import estimate_step_seconds

FORWARD = 0.3  # of a training step


@steps.register("prune")
@dataclass(frozen=True)
class Prune:
    """Removes what a criterion values least, round after round, and keeps the accuracy floor by itself.

    A round that falls below the floor is rolled back and tried again at half its rate, then at a quarter;
    then the loop ends with the best model. It also ends when a round no longer makes the model smaller, and
    as soon as a budget is met, of which the last round removes no more than that takes.

    Attributes:
        criterion: what a weight is worth.
        granularity: what is removed together. Channels are cut out, anything finer is masked.
        scope: who competes.
        allocation: how the sparsity is shared among layers when they do not compete.
        schedule: how many rounds, and how much each removes of what is left.
        finetune: the retraining after each round.
        keep: the accuracy to keep, when it is not the recipe's goal.
        saturation: end when a round of cutting makes the model smaller by less than this fraction.
        ignore: layers to leave alone, by name or pattern.
        payoff: seconds to time what each round would cut, in the goal's runtime and before it is retrained;
            layers whose cut brings neither time nor size stay whole in that round. 0 times nothing.
        search: tries whole masks instead of removing what the criterion ranks lowest, round after round:
            search, retrain, search. The criterion is where it begins; weights that went stay gone.
        budget: ceilings to end at: of `params`, `macs`, `size` (bytes of the ONNX file) and `latency`
            (milliseconds an image in the goal's runtime, one thread). Numbers below 1 are fractions of what
            the model was before the first round. Rates are then the most that a round removes.
    """

    compresses: ClassVar[bool] = True

    criterion: Criterion
    granularity: Granularity = field(default_factory=Channel)
    scope: Scope = field(default_factory=Global)
    allocation: Allocation = field(default_factory=Uniform)
    schedule: Schedule = field(default_factory=Iterative)
    finetune: Finetune = field(default_factory=Finetune)
    keep: Goal | None = None
    saturation: float = 0.02
    ignore: tuple[str, ...] = ()
    payoff: float = 0.0
    budget: Mapping[str, float] | None = None
    search: MaskSearch | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.saturation < 1:
            raise UsageError(f"saturation is a fraction in [0, 1), got {self.saturation}")
        if not 0 <= self.payoff < math.inf:
            raise UsageError(f"payoff is a number of seconds, 0 for none, got {self.payoff}")
        if self.budget is not None:
            object.__setattr__(self, "budget", check_budget(self.budget))
        if self.search is not None and (self.payoff or self.budget):
            raise UsageError("a search goes by sparsity: it cannot be combined with payoff or budget")
        for name in ("payoff", "budget"):
            if getattr(self, name) and not self.cuts:
                raise UsageError(
                    f"{name} is about channels that are cut out: it needs the granularity 'channel', got "
                    f"{granularities.name_of(self.granularity)!r}, which only sets weights to zero"
                )

    @property
    def cuts(self) -> bool:
        """Whether weights are removed from the file, not only set to zero."""
        return isinstance(self.granularity, Channel)

    def candidates(self, couplings: Couplings | None) -> tuple[Coupling, ...]:
        """The couplings that may lose channels."""
        if couplings is None or not isinstance(self.granularity, Channel):
            return ()
        return self.granularity.candidates(couplings)

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Runs the rounds, or returns what an earlier run of them left."""
        if resources.stages.record(stage) is not None:
            return resources.stages.state(stage)
        result, stop = Loop(self, state, resources, stage).run()
        resources.listener.say(f"stopped: {stop.why}")
        resources.stages.finish(stage, record={"stop": stop.kind, "why": stop.why}, state=result)
        return result

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """Rounds times epochs times a timed batch of the model as it is: an upper bound, since it shrinks.

        The pay-off check of each round comes on top.
        """
        training = self.finetune.training(1)
        batches = -(-len(resources.data.train) // self.finetune.batch_size)
        step = estimate_step_seconds(
            state.model,
            resources.data,
            training,
            device=resources.device,
            objective=objective_of(self.finetune.distill, resources),
        )
        epochs = self.finetune.epochs + self.criterion_epochs()
        searching = 0.0
        if self.search is not None:
            searching = FORWARD * step * self.search.image_passes / self.finetune.batch_size
        return self.schedule.rounds * (epochs * batches * step + self.payoff + searching)

    def criterion_epochs(self) -> float:
        """Passes over the training images that gathering the criterion's evidence takes in a round."""
        return float(getattr(self.criterion, "epochs", 0.0))

    def warnings(self) -> list[str]:
        """Settings known to fail, with the reason."""
        said = []
        rates = self.schedule.rates()
        if self.cuts and max(rates) > 0.5:
            said.append(
                f"rate {max(rates):g} removes more than half of the channels in one round; retraining seldom "
                f"recovers from that (more rounds at 0.1 to 0.3 reach the same size at a higher accuracy)"
            )
        ratios = [self.finetune.ratio(round_) for round_ in range(1, self.schedule.rounds + 1)]
        if self.cuts and max(ratios) > 0.8:
            said.append(
                f"lr_ratio {max(ratios):g} retrains nearly as hot as the first training and undoes what was "
                f"learnt; size stops falling after a few rounds (0.1 to 0.5 is usual)"
            )
        if self.finetune.epochs < 1:
            said.append(f"{self.finetune.epochs:g} retraining epochs are seldom enough to recover from a cut")
        if self.finetune.batch_size < 16:
            said.append(
                f"batch_size {self.finetune.batch_size} makes BatchNorm statistics noisy (32 to 256 is usual)"
            )
        return said
