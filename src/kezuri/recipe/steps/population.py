"""The step that trains a population of sparse models and goes on with the best."""

import copy
from dataclasses import asdict, dataclass, field, fields, replace
from typing import ClassVar

from kezuri.core.errors import UsageError
from kezuri.core.executor import Executor, Inline
from kezuri.core.measurement import Measurement
from kezuri.core.seeds import derive
from kezuri.data.splits import set_aside
from kezuri.measure.accuracy import accuracy_measurement
from kezuri.measure.sparsity import sparsity
from kezuri.prune.allocation import Allocation, Uniform
from kezuri.prune.criteria.norm import L1
from kezuri.prune.criterion import Criterion
from kezuri.prune.gather import gather
from kezuri.prune.granularity import Granularity, Weight, granularities
from kezuri.prune.mask_space import mask_space
from kezuri.prune.masks import Masks
from kezuri.prune.population import Populated, Population, train_population
from kezuri.prune.scope import Global, Scope
from kezuri.prune.space import Space
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.teaching import objective_of
from kezuri.train import estimate_step_seconds, evaluate

SHORT = 0.2  # passes over the images between two comparisons
STATE = 3  # sizes of the weights that a member takes, with its optimizer's


@steps.register("population")
@dataclass(frozen=True)
class PopulationTraining(Population):
    """Trains many sparse models, copies the best and changes the copies (Jaderberg et al., 2017).

    The members are compared on training images set aside, and the model goes on as the best of them, with
    its removed weights at zero. The sparsity is given; the accuracy that comes of it is told.

    Attributes:
        criterion: what a weight of the model before is worth: where masks begin.
        granularity: what is removed together; nothing is cut out, so not channels.
        scope: who competes.
        allocation: how the sparsity is shared among layers when they do not compete.
        ignore: layers to leave alone, by name or pattern.
        finetune: the training of every member, from the first interval to the last. `lr_ratio` times `lr` is
            what learning rates are drawn around.
        executor: where members train: `inline`, one after the other, or `processes`, side by side, which
            takes as much more memory. Either gives the same result.
    """

    compresses: ClassVar[bool] = True

    criterion: Criterion = field(default_factory=L1)
    granularity: Granularity = field(default_factory=Weight)
    scope: Scope = field(default_factory=Global)
    allocation: Allocation = field(default_factory=Uniform)
    ignore: tuple[str, ...] = ()
    finetune: Finetune = field(default_factory=Finetune)
    executor: Executor = field(default_factory=Inline)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity.coupled:
            raise UsageError(
                f"granularity {granularities.name_of(self.granularity)!r} is cut out, and members of a "
                f"population are only masked: use 'weight', 'block' or 'filter', or the step prune"
            )

    @property
    def batch_size(self) -> int:
        """Images a training step of a member."""
        return self.finetune.batch_size

    @property
    def at_once(self) -> int:
        """How many members train side by side."""
        return min(self.members, getattr(self.executor, "count", 1))

    @property
    def copies(self) -> int:
        """Copies of the weights on disk at most: two states of every member, in three generations."""
        return 3 * 2 * self.members * STATE

    def population(self) -> Population:
        """How the population is kept, alone."""
        return Population(**{one.name: getattr(self, one.name) for one in fields(Population)})

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Trains the population, or returns what an earlier run left."""
        stages = resources.stages
        if stages.record(stage) is not None:
            return stages.state(stage)
        if state.quantization is not None:
            raise UsageError("the model is quantized already: prune first, then quantize")
        model = copy.deepcopy(state.model)  # what came before is still compared with
        found = train_population(
            model,
            resources.data,
            self.finetune.training(1),
            self.population(),
            self._space(state, resources, stage),
            seed=derive(resources.seed, stage),
            device=resources.device,
            executor=self.executor,
            hooks=state.hooks(),
            objective=objective_of(self.finetune.distill, resources),
            checkpoint=stages.checkpoint(stage),
            progress=resources.listener,
        )
        after = replace(state, model=model, masks=Masks({**(state.masks or {}), **found.masks}))
        self._finish(after, found, resources, stage)
        return after

    def check(self, resources: Resources) -> None:
        """Looks whether there are steps enough for the intervals.

        Raises:
            UsageError: there are fewer.
        """
        kept, _ = set_aside(resources.data.train.labels, self.aside, seed=0, purpose="validation")
        self.steps(len(kept), self.finetune.training(1))

    def _space(self, state: ModelState, resources: Resources, stage: str) -> Space:
        evidence = gather(
            state.model,
            self.criterion,
            resources.data,
            batch_size=self.finetune.batch_size,
            seed=derive(resources.seed, stage, "evidence"),
            device=resources.device,
            progress=resources.listener,
        )
        return mask_space(
            state.model,
            criterion=self.criterion,
            granularity=self.granularity,
            scope=self.scope,
            allocation=self.allocation,
            evidence=evidence,
            ignore=self.ignore,
            masks=state.masks,
        )

    def _finish(self, after: ModelState, found: Populated, resources: Resources, stage: str) -> None:
        """Tells and remembers how it went."""
        seen = evaluate(after.model, resources.data.validation, device=resources.device)
        correct = int((seen.predictions == seen.labels).sum())
        best = found.best
        resources.listener.say(
            f"population of {self.members} trained in {found.seconds:.0f} s of compute: member {best.member} "
            f"is best after interval {best.generation + 1}; sparsity {found.masks.sparsity:.2%}, validation "
            f"accuracy {seen.accuracy:.2%}"
        )
        measured = [
            accuracy_measurement(correct, len(seen.labels), split="validation"),
            Measurement("seconds", found.seconds, "s"),
            *sparsity(after.model),
        ]
        for number, row in enumerate(found.history, start=1):
            values = [one.accuracy for one in row]
            top = Measurement(
                "population_accuracy", max(values), "fraction", min(values), max(values), len(row)
            )
            measured.append(top.under(interval=number))
        rows = [row.under(model="population") for row in measured]
        record = {
            "accuracy": seen.accuracy,
            "best": asdict(best),
            "history": [[asdict(one) for one in row] for row in found.history],
        }
        resources.stages.finish(stage, record=record, measurements=rows, state=after)

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """Members times epochs times a timed batch of the model as it is, over those that train at once."""
        images = len(resources.data.train)
        trained = images * (1 - self.aside) if isinstance(self.aside, float) else max(0, images - self.aside)
        step = estimate_step_seconds(
            state.model,
            resources.data,
            self.finetune.training(1),
            device=resources.device,
            objective=objective_of(self.finetune.distill, resources),
        )
        return self.members / self.at_once * self.finetune.epochs * trained / self.finetune.batch_size * step

    def warnings(self) -> list[str]:
        """Settings known to fail, with the reason."""
        said = []
        if self.intervals == 1:
            said.append("intervals 1 never copies the best: its members only train beside each other")
        elif self.finetune.epochs / self.intervals < SHORT:
            said.append(
                f"{self.intervals} intervals of {self.finetune.epochs:g} epochs compare members before what "
                f"they changed shows; half an epoch an interval, or more, is usual"
            )
        if self.members < 4:
            said.append(f"{self.members} members leave little to choose from (8 to 32 are usual)")
        if self.swap > 0.3:
            said.append(f"swap {self.swap:g} changes most of what a copy has learnt (0.02 to 0.2 is usual)")
        if self.finetune.batch_size < 16:
            said.append(
                f"batch_size {self.finetune.batch_size} makes BatchNorm statistics noisy (32 to 256 is usual)"
            )
        return said
