"""Population-based training of masks: many sparse models train, the best are copied and changed."""

import copy
import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from torch import Tensor, nn

from kezuri.artifact.atomic import read_json, write_json
from kezuri.core.errors import DataError, Interrupted, TrainingDiverged, UsageError
from kezuri.core.executor import Executor, Inline
from kezuri.core.progress import NullProgress, Progress
from kezuri.core.seeds import derive
from kezuri.data import Data, batch_count
from kezuri.data.splits import set_aside
from kezuri.prune.exploring import Exploring, Raised, standing
from kezuri.prune.masks import Masks
from kezuri.prune.member import weights_in
from kezuri.prune.raising import Raising
from kezuri.prune.select import check_sparsity
from kezuri.prune.space import Space
from kezuri.train.device import Device, choose_device
from kezuri.train.hooks import Hook
from kezuri.train.objective import Objective
from kezuri.train.state import described, load_weights_
from kezuri.train.training import Training

HISTORY = "history.json"
INLINE = Inline()


@dataclass(frozen=True)
class Population:
    """How a population is kept (Jaderberg et al., "Population based training of neural networks", 2017).

    Every member has a mask, weights, an optimizer, a learning rate and a weight decay. After each interval
    of training the worst members are replaced by copies of the best, which then exchange some of the units
    they keep for removed ones and try other settings.

    Attributes:
        sparsity: fraction of the weights to remove, in [0, 1); alike for all members at all times.
        members: how many there are.
        intervals: into how many parts the training is divided.
        quantile: fraction of the members that is replaced after each interval, and that is copied.
        swap: fraction of its kept units that a copy exchanges at first; it falls to 0 along half a cosine, as
            weights that come late cannot be trained any more (Evci et al., 2020).
        grow: units come back by what they promise (`gradient`), or by what they were worth in the dense
            model (`worth`); either way with chance, and from zero, with zero momentum.
        temperatures: how much chance is in the members' first masks, in turn: 0 is what the criterion alone
            would keep, infinity a draw that takes no notice of it.
        factors: what learning rate and weight decay of a copy are multiplied by, either with equal chance.
        resample: the chance that either is drawn anew instead.
        spread: members' first settings, and those drawn anew, are up to so many times more or less than the
            training's; of the first member, just those.
        aside: training images that members are compared on and not trained on: a fraction, or a number.
    """

    sparsity: float = 0.9
    members: int = 8
    intervals: int = 10
    quantile: float = 0.25
    swap: float = 0.1
    grow: Literal["gradient", "worth"] = "gradient"
    temperatures: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    factors: tuple[float, float] = (0.8, 1.2)
    resample: float = 0.25
    spread: float = 2.0
    aside: float | int = 0.1

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        most = 1.0 if isinstance(self.aside, float) else math.inf
        for name, allowed, is_right in (
            ("members", "2 or more", self.members >= 2),
            ("intervals", "1 or more", self.intervals >= 1),
            ("quantile", "a fraction in (0, 0.5]", 0 < self.quantile <= 0.5),
            ("swap", "a fraction in [0, 1]", 0 <= self.swap <= 1),
            ("resample", "a fraction in [0, 1]", 0 <= self.resample <= 1),
            ("grow", "'gradient' or 'worth'", self.grow in ("gradient", "worth")),
            ("temperatures", "a list of numbers of 0 or more", min(self.temperatures, default=-1) >= 0),
            ("factors", "two numbers above 0", all(0 < one < math.inf for one in self.factors)),
            ("spread", "1 or more", 1 <= self.spread < math.inf),
            ("aside", "a fraction in (0, 1) or a number of images", 0 < self.aside < most),
        ):
            if not is_right:
                raise UsageError(f"{name} is {allowed}, got {getattr(self, name)!r}")

    @property
    def replaced(self) -> int:
        """How many members are replaced after each interval."""
        return min(self.members // 2, math.ceil(round(self.quantile * self.members, 6)))

    def steps(self, images: int, training: Training) -> int:
        """How many training steps a member makes.

        Args:
            images: that members are trained on.
            training: of a member, over all intervals.

        Raises:
            UsageError: they are fewer than the intervals.
        """
        steps = round(training.epochs * batch_count(images, training.batch_size, training=True))
        if steps < self.intervals:
            raise UsageError(
                f"{self.intervals} intervals are more than the {steps} training steps of a member: take "
                f"fewer, or train for more epochs"
            )
        return steps

    def swap_in(self, generation: int) -> float:
        """The fraction of its kept units that a copy exchanges before a generation, counted from 0."""
        return self.swap * 0.5 * (1 + math.cos(math.pi * generation / self.intervals))


@dataclass(frozen=True, eq=False)
class Populated:
    """What came of a population.

    Attributes:
        kept: flags of the units of the best member, (N,) bool.
        masks: the same as masks of the weights.
        best: how it did.
        history: how every member did in each generation, by its number.
        seconds: compute spent on all members, over all resumes.
    """

    kept: Tensor
    masks: Masks
    best: Raised
    history: tuple[tuple[Raised, ...], ...]

    @property
    def seconds(self) -> float:
        return sum(one.seconds for generation in self.history for one in generation)


def train_population(
    model: nn.Module,
    data: Data,
    training: Training,
    population: Population,
    space: Space,
    *,
    seed: int,
    device: Device = "auto",
    executor: Executor = INLINE,
    hooks: Sequence[Hook] = (),
    objective: Objective | None = None,
    frozen_batchnorm: bool = False,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Populated:
    """Trains a population of sparse models from a dense one, which ends as the best of them, in place.

    The same arguments give the same weights and masks, bit for bit, whatever the executor: each member trains
    on one thread. Validation images are not looked at: members are compared on training images set aside.

    Args:
        model: where all members begin, each with a mask of its own.
        data: its training part is divided.
        training: of each member, from the first interval to the last; a member's learning rate is the
            schedule's times the member's own. `keep` says whether the best member of any interval is the
            result, or of the last. Epochs count passes over the images that are not set aside.
        population: how members are compared and changed.
        space: the masks of the model, from `mask_space`.
        seed: decides everything random.
        executor: where members train.
        hooks: called at fixed moments of each step.
        objective: what is made small; by default the cross-entropy with the training's label smoothing.
        frozen_batchnorm: BatchNorm layers use their running statistics and leave them as they are.
        checkpoint: a folder of this population's own; a later call with the same arguments goes on from it,
            or returns at once when it was finished.
        progress: told of every member and interval.

    Raises:
        UsageError: more intervals than training steps, or the checkpoint is of another population.
        DataError: too few training images.
        TrainingDiverged: of all members; one that diverges alone is replaced.
        Interrupted: Ctrl-C; what was done is in the checkpoint.
    """
    kept, aside = set_aside(
        data.train.labels, population.aside, seed=derive(seed, "aside"), purpose="validation"
    )
    with ExitStack() as stack:
        if checkpoint is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="kezuri-")))
        else:
            folder = checkpoint
        raising = Raising(
            model=copy.deepcopy(model).cpu(),
            space=replace(space, weights={n: w.detach().cpu().abs() for n, w in space.weights.items()}),
            train=data.train.subset(kept),
            judged=data.train.subset(aside),
            training=training,
            sparsity=population.sparsity,
            temperatures=population.temperatures,
            growth=population.grow == "gradient",
            hooks=tuple(hooks),
            objective=objective,
            frozen_batchnorm=frozen_batchnorm,
            seed=seed,
            device=str(choose_device(device)),
            folder=folder,
        )
        run = _Run(raising, population, _identity(raising, population, data.fingerprint))
        best = run.run(executor, progress or NullProgress())
        weights, flags = run.found(best)
        load_weights_(model, weights)
        return Populated(flags, space.masks(flags), best, tuple(map(tuple, run.history)))


class _Run:
    def __init__(self, raising: Raising, plan: Population, identity: Mapping[str, Any]) -> None:
        self.raising, self.plan, self.identity = raising, plan, identity
        self.history: list[list[Raised]] = []
        self.file = raising.folder / HISTORY
        if raising.epoch_steps == 0:
            raise DataError(f"{len(raising.train)} training images are too few to train on")
        steps = plan.steps(len(raising.train), raising.training)
        self.exploring = Exploring(plan, raising.training, steps, raising.seed)

    def run(self, executor: Executor, progress: Progress) -> Raised:
        """The best member."""
        self._resume()
        members, intervals = self.plan.members, self.plan.intervals
        if len(self.history) < intervals:
            progress.start("members", total=intervals * members, done=len(self.history) * members)
            try:
                with executor.staying() as workers:
                    while len(self.history) < intervals:
                        self._generation(workers, progress)
            except KeyboardInterrupt as error:
                raise Interrupted(
                    f"the population was interrupted after {len(self.history)} of {intervals} intervals"
                ) from error
            finally:
                progress.done()
        return self._best()

    def found(self, member: Raised) -> tuple[dict[str, Tensor], Tensor]:
        """The weights of a member, and the units it keeps."""
        return weights_in(self.raising.kept_of(member.generation, member.member))

    def _generation(self, workers: Executor, progress: Progress) -> None:
        number = len(self.history)
        tasks = self.exploring.tasks(number, self.history[-1] if number else ())
        found: dict[int, Raised] = {}
        for place, raised in workers.completed(self.raising, tasks):
            found[place] = raised
            best = max(found.values(), key=standing)
            progress.advance(1, {"accuracy": best.accuracy, "loss": best.loss})
        if all(one.diverged for one in found.values()):
            raise TrainingDiverged(f"every member of the population: {found[0].diverged}")
        self.history.append([found[place] for place in range(len(tasks))])
        rows = [[asdict(one) for one in row] for row in self.history]
        write_json(self.file, {"identity": self.identity, "generations": rows})
        self._tidy()

    def _best(self) -> Raised:
        rows = self.history if self.raising.training.keep == "best" else self.history[-1:]
        members = [one for row in rows for one in row]
        return max(members, key=lambda one: (standing(one), one.generation, -one.member))

    def _tidy(self) -> None:
        """Leaves the last generation, and the one that the best member is of."""
        numbers = (len(self.history) - 1, self._best().generation)
        needed = {self.raising.generation(number) for number in numbers}
        for folder in self.raising.folder.glob("generation-*"):
            if folder not in needed:
                shutil.rmtree(folder)

    def _resume(self) -> None:
        if not self.file.exists():
            return
        record = read_json(self.file)
        different = sorted(key for key in self.identity if record["identity"].get(key) != self.identity[key])
        if different:
            raise UsageError(
                f"{self.raising.folder} holds a different population (not the same: {', '.join(different)}); "
                f"use another folder, or remove this one"
            )
        self.history = [[Raised(**one) for one in row] for row in record["generations"]]


def _identity(raising: Raising, plan: Population, fingerprint: str) -> dict[str, Any]:
    """What must be equal for a checkpoint to belong to a population, as plain data."""
    space = raising.space
    worth = hashlib.sha256(space.worth.numpy().tobytes())
    worth.update(b"" if space.alive is None else space.alive.numpy().tobytes())
    return {
        "population": described(plan),
        "training": described(raising.training),
        "seed": raising.seed,
        "data": fingerprint,
        "model": described(raising.model),
        "space": [worth.hexdigest(), space.lengths, described(space.scope), described(space.allocation)],
        "hooks": [described(hook)["is"] for hook in raising.hooks],
        "objective": described(raising.objective),
        "frozen_batchnorm": raising.frozen_batchnorm,
    }
