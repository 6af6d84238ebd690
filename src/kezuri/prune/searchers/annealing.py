"""Simulated annealing: one mask wanders, at first nearly anywhere, in the end only where it gets better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

import torch
from torch import Generator, Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.mask_operators import By, check_by, neighbour, sample
from kezuri.prune.problem import Fitness, Problem
from kezuri.prune.searcher import Asked, check_evaluations, mask_searchers
from kezuri.prune.space import Space

MEMORY = 0.05
"""How much the last proposal counts in the running mean of what a move changes."""


@mask_searchers.register("annealing")
@dataclass(frozen=True)
class Annealing:
    """A neighbour that is worse is taken too, with a chance that falls as the search goes on.

    After Kirkpatrick et al., "Optimization by simulated annealing" (1983). The temperature follows from what
    moves change: it is set so that a move worse by their mean |difference| is taken with the chances given
    here, in geometric steps from the first to the last; so it fits any objective and any size of move.

    Attributes:
        acceptance: that chance, at the beginning and at the end. The usual 0.8 to 0.01 needs far more than a
            thousand evaluations: among many weights nearly every move is for the worse, and they add up.
        moves: fraction of the kept units that a move swaps, at the beginning and at the end; at least one.
        start: temperature at which the first mask is drawn by worth; 0 is the criterion's own choice.
        probes: neighbours of the first mask that are judged to learn what moves change.
        period: after so many moves the images change, the mask and the best so far are judged again, and the
            better of the two goes on.
        mutated: a move swaps units `everywhere`, or in `one_layer` drawn each time.
        grow: what units are taken back by: `worth`, `gradient`, or `none` (which swaps by chance alone).
        resize: where the sparsity is free, a move keeps up to this fraction more or fewer weights.
    """

    acceptance: tuple[float, float] = (0.1, 0.001)
    moves: tuple[float, float] = (0.02, 0.005)
    start: float = 0.0
    probes: int = 20
    period: int = 50
    mutated: Literal["everywhere", "one_layer"] = "everywhere"
    grow: By = "worth"
    resize: float = 0.05

    def __post_init__(self) -> None:
        check_by(self.grow)
        first, last = self.acceptance
        if not 0 < last <= first < 1:
            raise RecipeError(f"acceptance falls between 1 and 0, got {first} to {last}")
        first, last = self.moves
        if not 0 < last <= first <= 1:
            raise RecipeError(f"moves are fractions that shrink, got {first} to {last}")
        if self.start < 0:
            raise RecipeError(f"start is a temperature from 0 to infinity, got {self.start}")
        if self.probes < 1 or self.period < 1:
            raise RecipeError(f"probes and period are at least 1, got {self.probes} and {self.period}")
        if not 0 <= self.resize <= 1:
            raise RecipeError(f"resize is a fraction from 0 to 1, got {self.resize}")
        if self.mutated not in ("everywhere", "one_layer"):
            raise RecipeError(f"mutated is 'everywhere' or 'one_layer', got {self.mutated!r}")

    @property
    def grows_by_gradient(self) -> bool:
        return self.grow == "gradient"

    def begin(
        self, space: Space, problem: Problem, *, evaluations: int, generator: Generator
    ) -> "AnnealingSearch":
        """Begins at one mask.

        Raises:
            RecipeError: the budget does not reach beyond the probes.
        """
        check_evaluations(evaluations)
        if evaluations <= 1 + self.probes:
            raise RecipeError(
                f"{evaluations} evaluations do not reach beyond a first mask and its {self.probes} probes; "
                f"ask for more, or for fewer probes"
            )
        return AnnealingSearch(self, space, problem, evaluations, generator)


@dataclass(frozen=True, eq=False)
class Place:
    """A mask, (N,) bool, the sparsity it was made at, and how bad it was on the images of the period."""

    kept: Tensor
    sparsity: float
    energy: float = 0.0
    images: int = 0

    def judged(self, fitness: Fitness, problem: Problem) -> "Place":
        """The same with what was just told of it."""
        return Place(self.kept, self.sparsity, problem.energy(fitness), fitness.images)

    @property
    def order(self) -> tuple[int, float]:
        """Sorts places, the best first: one that fell out of a race is worse than all that did not."""
        return (-self.images, self.energy)


class AnnealingSearch:
    """Where it is, where it was best, and what is being asked: first places around it, then one at a time."""

    def __init__(
        self, settings: Annealing, space: Space, problem: Problem, evaluations: int, generator: Generator
    ) -> None:
        self._settings, self._space, self._problem = settings, space, problem
        self._evaluations, self._generator = evaluations, generator
        self._told = 0
        self._generation = 0
        self._moves = 0  # since the images changed
        self._looks_again = False
        self._scale = 0.0  # of the running mean |difference|
        first = Place(sample(space, problem.sparsity, settings.start, generator), problem.sparsity)
        self._here = self._best = first
        self._asked = [first, *(self._neighbour() for _ in range(settings.probes))]

    def ask(self) -> Asked:
        if not self._asked:
            return Asked(self._here.kept[None][:0], self._generation)
        return Asked(torch.stack([place.kept for place in self._asked]), self._generation)

    def tell(self, fitnesses: Sequence[Fitness]) -> None:
        told = [p.judged(f, self._problem) for p, f in zip(self._asked, fitnesses, strict=True)]
        if self._told == 0:
            self._open(told)
        elif self._looks_again:
            self._look_again(told)
        else:
            self._move(told[0])
        self._told += len(told)
        left = self._evaluations - self._told
        self._looks_again = self._moves >= self._settings.period and left > 2
        if self._looks_again:
            self._generation += 1
            self._asked = [self._here] if self._here is self._best else [self._here, self._best]
        else:
            self._asked = [self._neighbour()] if left else []

    def _open(self, told: Sequence[Place]) -> None:
        """Learns what moves change, and begins at the best place seen."""
        first, *others = told
        changes = [abs(p.energy - first.energy) for p in others if p.images == first.images]
        self._scale = sum(changes) / max(1, len(changes))
        self._here = self._best = min(told, key=lambda place: place.order)

    def _look_again(self, told: Sequence[Place]) -> None:
        """Goes on from where other images say that it is better: a best that was luck is forgotten."""
        self._moves = 0
        self._here = self._best = min(told, key=lambda place: place.order)

    def _move(self, place: Place) -> None:
        self._moves += 1
        change = place.energy - self._here.energy
        self._scale += MEMORY * (abs(change) - self._scale)
        chance = float(torch.rand((), generator=self._generator))
        if change <= 0 or chance < exp(-change / self._temperature()):
            self._here = place
        if place.energy < self._best.energy:
            self._best = place

    def _temperature(self) -> float:
        first, last = (-1 / log(chance) for chance in self._settings.acceptance)
        return max(self._scale, 1e-12) * _between(first, last, self._progress())

    def _neighbour(self) -> Place:
        settings = self._settings
        kept, sparsity = neighbour(
            self._here.kept,
            self._here.sparsity,
            _between(*settings.moves, self._progress()),
            self._space,
            self._generator,
            by=settings.grow,
            one_layer=settings.mutated == "one_layer",
            resize=settings.resize if self._problem.is_free else 0.0,
        )
        return Place(kept, sparsity)

    def _progress(self) -> float:
        return self._told / self._evaluations

    def state(self) -> dict[str, Tensor]:
        places = [self._here, self._best, *self._asked]
        numbers = [[place.sparsity, place.energy, place.images] for place in places]
        return {
            "kept": torch.stack([place.kept for place in places]),
            "places": torch.tensor(numbers, dtype=torch.float64),
            "counts": torch.tensor([self._told, self._generation, self._moves, int(self._looks_again)]),
            "scale": torch.tensor(self._scale, dtype=torch.float64),
            "same": torch.tensor(self._here is self._best),
            "generator": self._generator.get_state(),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        numbers = [(sparsity, energy, int(images)) for sparsity, energy, images in state["places"].tolist()]
        places = [Place(kept, *rest) for kept, rest in zip(state["kept"], numbers, strict=True)]
        self._here, self._best, *self._asked = places
        if state["same"]:
            self._best = self._here
        self._told, self._generation, self._moves, looks_again = state["counts"].tolist()
        self._looks_again = bool(looks_again)
        self._scale = float(state["scale"])
        self._generator.set_state(state["generator"])


def _between(first: float, last: float, progress: float) -> float:
    """From the first to the last in geometric steps."""
    return float(first * (last / first) ** progress)
