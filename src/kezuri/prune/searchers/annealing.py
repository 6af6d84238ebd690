"""Simulated annealing: one mask wanders, at first nearly anywhere, in the end only where it gets better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.mask_operators import (
    TEMPERATURES,
    By,
    check_by,
    check_temperatures,
    neighbour,
    sample,
    temperature_of,
    varied,
)
from kezuri.prune.problem import Fitness, Problem
from kezuri.prune.searcher import Asked, check_evaluations, mask_searchers
from kezuri.prune.space import Space

Stage = Literal["draw", "probe", "move", "look again"]
STAGES: tuple[Stage, ...] = get_args(Stage)
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
        draws: masks drawn by worth at the beginning, of which the best is the start.
        temperatures: of these, in turn; 0 is the criterion's own choice.
        probes: neighbours of the start that are judged to learn what moves change.
        period: after so many moves the images change, the mask and the best so far are judged again, and the
            better of the two goes on.
        mutated: a move swaps units `everywhere`, or in `one_layer` drawn each time.
        grow: what units are taken back by: `worth`, `gradient`, or `none` (which swaps by chance alone).
        resize: where the sparsity is free, a move keeps up to this fraction more or fewer weights.
    """

    acceptance: tuple[float, float] = (0.1, 0.001)
    moves: tuple[float, float] = (0.02, 0.005)
    draws: int = 30
    temperatures: tuple[float, ...] = TEMPERATURES
    probes: int = 20
    period: int = 50
    mutated: Literal["everywhere", "one_layer"] = "everywhere"
    grow: By = "worth"
    resize: float = 0.05

    def __post_init__(self) -> None:
        check_temperatures(self.temperatures)
        check_by(self.grow)
        first, last = self.acceptance
        if not 0 < last <= first < 1:
            raise RecipeError(f"acceptance falls between 1 and 0, got {first} to {last}")
        first, last = self.moves
        if not 0 < last <= first <= 1:
            raise RecipeError(f"moves are fractions that shrink, got {first} to {last}")
        for name in ("draws", "probes", "period"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is at least 1, got {getattr(self, name)}")
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
        """Begins with draws.

        Raises:
            RecipeError: the budget does not reach beyond the draws and the probes.
        """
        check_evaluations(evaluations)
        if evaluations <= self.draws + self.probes:
            raise RecipeError(
                f"{evaluations} evaluations do not reach beyond {self.draws} draws and {self.probes} probes; "
                f"ask for more, or for fewer of these"
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
    """Where it is, where it was best, and what is being asked: draws, probes, then moves one at a time."""

    def __init__(
        self, settings: Annealing, space: Space, problem: Problem, evaluations: int, generator: Generator
    ) -> None:
        self._settings, self._space, self._problem = settings, space, problem
        self._evaluations, self._generator = evaluations, generator
        self._told = 0
        self._generation = 0
        self._moves = 0  # since the images changed
        self._scale = 0.0  # of the running mean |difference|
        self._stage: Stage = "draw"
        self._asked = [self._draw(number) for number in range(settings.draws)]
        self._here = self._best = self._asked[0]

    def ask(self) -> Asked:
        if not self._asked:
            return Asked(self._here.kept[None][:0], self._generation)
        return Asked(torch.stack([place.kept for place in self._asked]), self._generation)

    def tell(self, fitnesses: Sequence[Fitness]) -> None:
        told = [p.judged(f, self._problem) for p, f in zip(self._asked, fitnesses, strict=True)]
        if self._stage == "move":
            self._move(told[0])
        else:
            if self._stage == "probe":
                changes = [abs(p.energy - self._here.energy) for p in told if p.images == self._here.images]
                self._scale = sum(changes) / max(1, len(changes))
                told.append(self._here)
            self._moves = 0
            self._here = self._best = min(told, key=lambda place: place.order)
        self._told += len(fitnesses)
        self._go_on()

    def _go_on(self) -> None:
        """Chooses what is asked next."""
        left = self._evaluations - self._told
        if self._stage == "draw":
            self._stage = "probe"
            self._asked = [self._neighbour() for _ in range(self._settings.probes)]
        elif self._moves >= self._settings.period and left > 2:
            self._stage = "look again"
            self._generation += 1
            self._asked = [self._here] if self._here is self._best else [self._here, self._best]
        else:
            self._stage = "move"
            self._asked = [self._neighbour()] if left else []

    def _move(self, place: Place) -> None:
        self._moves += 1
        change = place.energy - self._here.energy
        self._scale += MEMORY * (abs(change) - self._scale)
        chance = float(torch.rand((), generator=self._generator))
        if change <= 0 or chance < exp(-change / self._temperature()):
            self._here = place
        if place.energy < self._best.energy:
            self._best = place

    def _draw(self, number: int) -> Place:
        sparsity = self._problem.sparsity
        if self._problem.is_free:
            sparsity = varied(sparsity, self._settings.resize, self._space, self._generator)
        temperature = temperature_of(number, self._settings.temperatures)
        return Place(sample(self._space, sparsity, temperature, self._generator), sparsity)

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
            "counts": torch.tensor([self._told, self._generation, self._moves, STAGES.index(self._stage)]),
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
        self._told, self._generation, self._moves, stage = state["counts"].tolist()
        self._stage = STAGES[stage]
        self._scale = float(state["scale"])
        self._generator.set_state(state["generator"])


def _between(first: float, last: float, progress: float) -> float:
    """From the first to the last in geometric steps."""
    return float(first * (last / first) ** progress)
