"""Searching for masks: a searcher proposes, training images judge, and the best is found at the end."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from kezuri.core.errors import Interrupted, UsageError
from kezuri.core.interruption import held_back
from kezuri.core.progress import NullProgress, Progress
from kezuri.core.seeds import derive
from kezuri.data import Part
from kezuri.prune.fitness import MaskFitness
from kezuri.prune.masks import Masks
from kezuri.prune.problem import Fitness, Problem, pareto
from kezuri.prune.searcher import Asked, MaskSearcher
from kezuri.prune.space import Space
from kezuri.train.checkpoint import Cadence, Checkpoints, Snapshot
from kezuri.train.device import Device

FITNESS = MaskFitness()
FINALISTS = 12
FRONT = 48


@dataclass(frozen=True)
class Generation:
    """How one generation of a search did.

    Attributes:
        number: the searcher's.
        evaluations: masks judged so far.
        images: image evaluations so far, as a race judges most masks on few.
        best, mean: accuracy on the training images of the generation, of those judged on all of them.
        weights: how many the best of them keeps.
    """

    number: int
    evaluations: int
    images: int
    best: float
    mean: float
    weights: int


@dataclass(frozen=True, eq=False)
class Found:
    """A mask and what it was worth on all images of the search.

    Attributes:
        kept: flags of the units, (N,) bool.
        fitness: on all images.
    """

    kept: Tensor
    fitness: Fitness


@dataclass(frozen=True, eq=False)
class Searched:
    """What a search found.

    Attributes:
        space: what was searched.
        best: the best mask by the problem.
        archive: the masks that no other beats in both accuracy and weights, the fewest weights first.
        history: one row a generation.
        evaluations: masks judged, each once a generation.
        seconds: time spent, over all resumes.
    """

    space: Space
    best: Found
    archive: tuple[Found, ...]
    history: tuple[Generation, ...]
    evaluations: int
    seconds: float

    @property
    def masks(self) -> Masks:
        """Of the best."""
        return self.space.masks(self.best.kept)

    @property
    def kept_channels(self) -> Mapping[str, Tensor]:
        """Flags of each group's units, (units,) bool, of the best; of channels, ready to be cut."""
        return self.space.split(self.best.kept)

    @property
    def sparsity(self) -> float:
        """Fraction of the masked weights that the best removes."""
        return self.space.sparsity(self.best.kept)


def search_masks(
    model: nn.Module,
    part: Part,
    *,
    problem: Problem,
    searcher: MaskSearcher,
    space: Space,
    fitness: MaskFitness = FITNESS,
    evaluations: int = 1000,
    seed: int = 0,
    device: Device = "auto",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Searched:
    """Looks for the best mask of a trained model; the model stays as it is.

    The same arguments find the same mask. Those that did best in their generations are judged on all images
    of the part at the end, and the best of these wins.

    Args:
        part: training images; never those that a result is reported on.
        problem: what is looked for.
        searcher: what is proposed.
        space: the masks of the model, from `mask_space`.
        fitness: how a mask is judged.
        evaluations: how many masks are judged, at most one generation more.
        seed: decides what is drawn and on which images.
        checkpoint: a folder of this search's own; a later call with the same arguments goes on from there.
        progress: told of every generation.

    Raises:
        UsageError: fewer than one evaluation, or the checkpoint is of another search.
        RecipeError: the searcher's settings do not go with the problem.
        Interrupted: Ctrl-C; what was found is in the checkpoint.
    """
    if evaluations < 1:
        raise UsageError(f"a search needs at least one evaluation, got {evaluations}")
    run = _Run(
        model,
        part,
        problem=problem,
        searcher=searcher,
        space=space,
        fitness=fitness,
        evaluations=evaluations,
        seed=seed,
        device=device,
    )
    return run.run(None if checkpoint is None else Checkpoints(checkpoint), progress or NullProgress())


@dataclass
class _State:
    """What a search knows beside what its searcher does."""

    finalists: list[Found] = field(default_factory=list)
    history: list[Generation] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def evaluations(self) -> int:
        return self.history[-1].evaluations if self.history else 0

    def note(self, asked: Asked, fitnesses: list[Fitness], problem: Problem) -> None:
        """Adds a generation, and keeps what may win in the end."""
        most = max(one.images for one in fitnesses)
        seen = [Found(kept, one) for kept, one in zip(asked.kept, fitnesses, strict=True)]
        seen = [one for one in seen if one.fitness.images == most]
        best = max(seen, key=lambda one: problem.key(one.fitness)).fitness
        images = self.history[-1].images if self.history else 0
        row = Generation(
            number=asked.generation,
            evaluations=self.evaluations + len(fitnesses),
            images=images + sum(one.images for one in fitnesses),
            best=best.accuracy,
            mean=sum(one.fitness.accuracy for one in seen) / len(seen),
            weights=best.weights,
        )
        self.history.append(row)
        self.finalists = _thinned(_distinct([*self.finalists, *seen]), problem)


class _Run:
    def __init__(
        self,
        model: nn.Module,
        part: Part,
        *,
        problem: Problem,
        searcher: MaskSearcher,
        space: Space,
        fitness: MaskFitness,
        evaluations: int,
        seed: int,
        device: Device,
    ) -> None:
        self.problem, self.space, self.evaluations = problem, space, evaluations
        self.judge = fitness.begin(
            model, space, part, problem=problem, seed=derive(seed, "fitness"), device=device
        )
        generator = Generator().manual_seed(derive(seed, "searcher"))
        self.search = searcher.begin(space, problem, evaluations=evaluations, generator=generator)
        worth = hashlib.sha256(space.worth.numpy().tobytes()).hexdigest()
        self.identity = {
            "problem": repr(problem),
            "searcher": repr(searcher),
            "fitness": repr(fitness),
            "evaluations": evaluations,
            "seed": seed,
            "weights": worth,
            "images": part.digest(),
        }
        self.state = _State()
        self.cadence = Cadence()

    def run(self, checkpoints: Checkpoints | None, progress: Progress) -> Searched:
        if checkpoints is not None and (snapshot := checkpoints.read()) is not None:
            self._unpack(snapshot, checkpoints.folder)
        progress.start("search", total=self.evaluations, done=min(self.state.evaluations, self.evaluations))
        try:
            with held_back() as interrupted:
                self._search(checkpoints, progress, interrupted)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"the search was interrupted after {self.state.evaluations} of {self.evaluations} evaluations"
            ) from error
        finally:
            progress.done()
        return self._ended()

    def _search(
        self, checkpoints: Checkpoints | None, progress: Progress, interrupted: Callable[[], bool]
    ) -> None:
        clock = time.monotonic()
        while self.state.evaluations < self.evaluations:
            asked = self.search.ask()
            if not len(asked.kept):
                break
            fitnesses = self.judge.judge(asked)
            self.search.tell(fitnesses)
            self.state.note(asked, fitnesses, self.problem)
            self.state.seconds, clock = self.state.seconds + time.monotonic() - clock, time.monotonic()
            progress.advance(len(fitnesses), {"accuracy": self.state.history[-1].best})
            stopping = interrupted()
            if checkpoints is not None and (stopping or self.cadence.due(epoch_ended=False)):
                self._save(checkpoints)
            if stopping:
                raise KeyboardInterrupt
        if checkpoints is not None:
            self._save(checkpoints)

    def _ended(self) -> Searched:
        found = self.judge.fully(torch.stack([one.kept for one in self.state.finalists]))
        ranked = [Found(one.kept, fit) for one, fit in zip(self.state.finalists, found, strict=True)]
        best = max(ranked, key=lambda one: self.problem.key(one.fitness))
        front = [one for one, first in zip(ranked, pareto(found).tolist(), strict=True) if first]
        return Searched(
            self.space,
            best,
            tuple(sorted(front, key=lambda one: one.fitness.weights)),
            tuple(self.state.history),
            self.state.evaluations,
            self.state.seconds,
        )

    def _save(self, checkpoints: Checkpoints) -> None:
        began = time.monotonic()
        tensors = {f"search.{name}": tensor for name, tensor in self.search.state().items()}
        tensors["finalists"] = torch.stack([one.kept for one in self.state.finalists])
        about = {
            "identity": self.identity,
            "fitnesses": [asdict(one.fitness) for one in self.state.finalists],
            "history": [asdict(row) for row in self.state.history],
            "seconds": self.state.seconds,
        }
        checkpoints.write(tensors, about)
        self.cadence.wrote(time.monotonic() - began)

    def _unpack(self, snapshot: Snapshot, folder: Path) -> None:
        about: Mapping[str, Any] = snapshot.about
        different = sorted(key for key in self.identity if about["identity"].get(key) != self.identity[key])
        if different:
            raise UsageError(
                f"{folder} holds a different search (not the same: {', '.join(different)}); use another "
                f"folder, or remove this one"
            )
        prefix = "search."
        self.search.load(
            {
                name.removeprefix(prefix): tensor
                for name, tensor in snapshot.tensors.items()
                if name.startswith(prefix)
            }
        )
        fitnesses = [Fitness(**one) for one in about["fitnesses"]]
        finalists = zip(snapshot.tensors["finalists"], fitnesses, strict=True)
        self.state = _State(
            [Found(kept, one) for kept, one in finalists],
            [Generation(**row) for row in about["history"]],
            about["seconds"],
        )


def _distinct(found: list[Found]) -> list[Found]:
    """Each mask once, with what was last said of it."""
    return list({one.kept.numpy().tobytes(): one for one in found}.values())


def _thinned(found: list[Found], problem: Problem) -> list[Found]:
    """Those that may win: the best by the problem, and where sparsity is free, a spread of the front."""
    ranked = sorted(found, key=lambda one: problem.key(one.fitness), reverse=True)
    if not problem.is_free:
        return ranked[:FINALISTS]
    front = [
        one for one, first in zip(found, pareto([f.fitness for f in found]).tolist(), strict=True) if first
    ]
    front.sort(key=lambda one: one.fitness.weights)
    spread = [front[at * len(front) // FRONT] for at in range(FRONT)] if len(front) > FRONT else front
    return _distinct([*ranked[:FINALISTS], *spread])
