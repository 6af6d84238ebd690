"""The step that leaves out residual blocks, retraining after each round."""

from dataclasses import dataclass, field
from typing import ClassVar

from kezuri.calibrate.run import Sample
from kezuri.core.errors import UsageError
from kezuri.core.goal import Goal
from kezuri.prune.depth import BlockCriterion, Similarity
from kezuri.recipe.block_rounds import BlockRounds
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.teaching import objective_of
from kezuri.train import estimate_step_seconds


@steps.register("prune_blocks")
@dataclass(frozen=True)
class PruneBlocks:
    """Drops the residual blocks a criterion values least, a few a round, and keeps the accuracy floor.

    A round that falls below the floor is undone and ends the step. Channels may be cut before and after.

    Attributes:
        drop: blocks a round: a number, or a fraction of those that may go.
        rounds: how many rounds at most.
        criterion: what a block is worth.
        finetune: the retraining after each round.
        sample: how many images the criterion looks at.
        keep: the accuracy to keep, when it is not the recipe's goal.
        ignore: blocks and layers to leave alone, by name or pattern.
    """

    compresses: ClassVar[bool] = True

    drop: int | float = 1
    rounds: int = 1
    criterion: BlockCriterion = field(default_factory=Similarity)
    finetune: Finetune = field(default_factory=Finetune)
    sample: Sample = field(default_factory=Sample)
    keep: Goal | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"rounds is 1 or more, got {self.rounds}")
        if not (self.drop >= 1 if isinstance(self.drop, int) else 0 < self.drop <= 1):
            raise UsageError(
                f"drop is a number of blocks (1, 2, …) or a fraction in (0, 1], got {self.drop!r}"
            )

    @property
    def batch_size(self) -> int:
        """Images a training step takes."""
        return self.finetune.batch_size

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Runs the rounds, or returns what an earlier run of them left."""
        if resources.stages.record(stage) is not None:
            return resources.stages.state(stage)
        result, stop = BlockRounds(self, state, resources, stage).run()
        resources.listener.say(f"stopped: {stop.why}")
        resources.stages.finish(stage, record={"stop": stop.kind, "why": stop.why}, state=result)
        return result

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """Rounds times epochs times a timed batch of the model as it is: an upper bound, since it shrinks."""
        batches = -(-len(resources.data.train) // self.finetune.batch_size)
        training = self.finetune.training(1)
        step = estimate_step_seconds(
            state.model,
            resources.data,
            training,
            device=resources.device,
            objective=objective_of(self.finetune.distill, resources),
        )
        return self.rounds * self.finetune.epochs * batches * step

    def warnings(self) -> list[str]:
        """Settings known to fail, with the reason."""
        if self.finetune.epochs < 1:
            return [
                f"{self.finetune.epochs:g} retraining epochs are seldom enough to recover from a lost block"
            ]
        return []
