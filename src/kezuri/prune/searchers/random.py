"""Chance: the baseline that a search must beat at the same budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.mask_operators import TEMPERATURES, check_temperatures, sample, temperature_of, varied
from kezuri.prune.problem import Fitness, Problem
from kezuri.prune.searcher import Asked, check_evaluations, mask_searchers
from kezuri.prune.space import Space


@mask_searchers.register("random")
@dataclass(frozen=True)
class RandomSearch:
    """Masks drawn more or less by worth; all are judged on the same images, and the best is it.

    Attributes:
        temperatures: of the draws, in turn: 0 is the criterion's own choice (asked once), infinity pays no
            heed to worth. By default those of the first population of `genetic`.
        batch: how many are judged together.
    """

    temperatures: tuple[float, ...] = TEMPERATURES
    batch: int = 32

    grows_by_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_temperatures(self.temperatures)
        if self.batch < 1:
            raise RecipeError(f"batch is at least 1, got {self.batch}")

    def begin(
        self, space: Space, problem: Problem, *, evaluations: int, generator: Generator
    ) -> "RandomSearchUnderWay":
        check_evaluations(evaluations)
        return RandomSearchUnderWay(self, space, problem, evaluations, generator)


class RandomSearchUnderWay:
    """Draws a batch at a time; keeps nothing of what it is told."""

    def __init__(
        self, settings: RandomSearch, space: Space, problem: Problem, evaluations: int, generator: Generator
    ) -> None:
        self._settings = settings
        self._space = space
        self._problem = problem
        self._evaluations = evaluations
        self._generator = generator
        self._drawn = 0
        self._kept = self._draw()

    def ask(self) -> Asked:
        return Asked(self._kept, 0)

    def tell(self, fitnesses: Sequence[Fitness]) -> None:
        self._drawn += len(fitnesses)
        self._kept = self._draw()

    def state(self) -> dict[str, Tensor]:
        return {
            "kept": self._kept,
            "drawn": torch.tensor(self._drawn),
            "generator": self._generator.get_state(),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._kept = state["kept"]
        self._drawn = int(state["drawn"])
        self._generator.set_state(state["generator"])

    def _draw(self) -> Tensor:
        count = min(self._settings.batch, self._evaluations - self._drawn)
        if count < 1:
            return torch.zeros(0, self._space.units, dtype=torch.bool)
        return torch.stack([self._one(self._drawn + number) for number in range(count)])

    def _one(self, number: int) -> Tensor:
        sparsity = self._problem.sparsity
        if self._problem.is_free:
            sparsity = varied(sparsity, 1.0, self._space, self._generator)
        temperature = temperature_of(number, self._settings.temperatures)
        return sample(self._space, sparsity, temperature, self._generator)
