"""Which members of a population go on, which are replaced by a copy of which, and what a copy tries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator

from kezuri.core.seeds import derive
from kezuri.prune.problem import DETAIL
from kezuri.train.training import Training

if TYPE_CHECKING:
    from kezuri.prune.population import Population


@dataclass(frozen=True)
class Task:
    """What a member is to do in one generation.

    Attributes:
        generation: counts from 0.
        member: its number.
        parent: the member of the generation before that it goes on from; None in the first.
        lr: the highest learning rate of its training.
        weight_decay: of its training.
        swap: fraction of the kept units to exchange for removed ones first.
        first, last: the training steps to make, `last` excluded.
    """

    generation: int
    member: int
    parent: int | None
    lr: float
    weight_decay: float
    swap: float
    first: int
    last: int


@dataclass(frozen=True)
class Raised:
    """How a member did in one generation.

    Attributes:
        generation, member, parent, lr, weight_decay: as in its task.
        swapped: how many units it exchanged.
        train_loss: mean loss while training, in nats.
        accuracy, loss: on the images set aside, afterwards.
        weights: how many weights it keeps.
        diverged: what was not finite, if something was; then accuracy is 0 and the losses are too.
        seconds: time spent.
    """

    generation: int
    member: int
    parent: int | None
    lr: float
    weight_decay: float
    swapped: int = 0
    train_loss: float = 0.0
    accuracy: float = 0.0
    loss: float = 0.0
    weights: int = 0
    diverged: str | None = None
    seconds: float = 0.0


def standing(one: Raised) -> tuple[float, float]:
    """Sorts members, the best last: those that diverged, then by mistakes, of equals by the loss."""
    return (0.0, 0.0) if one.diverged else (1.0, one.accuracy - DETAIL * one.loss)


@dataclass(frozen=True)
class Exploring:
    """Gives the members their tasks, which follow from the generation before and the seed.

    Attributes:
        plan: how many are replaced, and what they try.
        training: what learning rates and weight decays are drawn around.
        steps: training steps of a member in all.
        seed: of everything random.
    """

    plan: "Population"
    training: Training
    steps: int
    seed: int

    def tasks(self, generation: int, before: Sequence[Raised]) -> list[Task]:
        """What each member does in a generation, counted from 0.

        Args:
            before: how the members did in the one before, by number; not looked at for the first.
        """
        first, last = (self.steps * (generation + more) // self.plan.intervals for more in (0, 1))
        if generation == 0:
            return [
                Task(0, number, None, *self._drawn(0, number), swap=0.0, first=first, last=last)
                for number in range(self.plan.members)
            ]
        ranked = sorted(range(len(before)), key=lambda number: (standing(before[number]), -number))
        worst = {number for number in ranked if before[number].diverged} | {*ranked[: self.plan.replaced]}
        best = [number for number in ranked[-self.plan.replaced :] if number not in worst]
        tasks = []
        for number, one in enumerate(before):
            task = Task(generation, number, number, one.lr, one.weight_decay, 0.0, first, last)
            tasks.append(self._copied(task, [before[top] for top in best]) if number in worst else task)
        return tasks

    def _copied(self, task: Task, best: Sequence[Raised]) -> Task:
        """The task of a member that was replaced by one of the best."""
        chance = _chance(self.seed, "explore", task.generation, task.member)
        parent = best[int(chance() * len(best))]
        lr, decay = self._drawn(task.generation, task.member)
        return replace(
            task,
            parent=parent.member,
            lr=self._changed(parent.lr, lr, chance),
            weight_decay=self._changed(parent.weight_decay, decay, chance),
            swap=self.plan.swap_in(task.generation),
        )

    def _changed(self, value: float, drawn: float, chance: Callable[[], float]) -> float:
        anew, up = chance() < self.plan.resample, chance() < 0.5
        return drawn if anew else value * self.plan.factors[up]

    def _drawn(self, generation: int, member: int) -> tuple[float, float]:
        """A learning rate and a weight decay around the training's; of the first member, just those."""
        optimizer: Any = self.training.optimizer
        lr, decay = self.training.lr, optimizer.weight_decay if decays(self.training) else 0.0
        if generation == member == 0:
            return lr, decay
        chance = _chance(self.seed, "settings", generation, member)
        return tuple(value * self.plan.spread ** (2 * chance() - 1) for value in (lr, decay))


def of_member(training: Training, lr: float, weight_decay: float) -> Training:
    """A training with another learning rate, and another weight decay where its optimizer has one."""
    optimizer: Any = training.optimizer
    if decays(training):
        optimizer = replace(optimizer, weight_decay=weight_decay)
    return replace(training, lr=lr, optimizer=optimizer)


def decays(training: Training) -> bool:
    """Whether its optimizer has a weight decay to choose."""
    return hasattr(training.optimizer, "weight_decay")


def _chance(seed: int, *purpose: str | int) -> Callable[[], float]:
    """Uniform numbers in [0, 1)."""
    generator = Generator().manual_seed(derive(seed, *purpose))
    return lambda: float(torch.rand((), generator=generator, dtype=torch.float64))
