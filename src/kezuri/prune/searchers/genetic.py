"""A genetic search: masks that do well have children that differ a little."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.mask_operators import (
    TEMPERATURES,
    By,
    check_by,
    check_temperatures,
    crossover,
    neighbour,
    sample,
    temperature_of,
    varied,
)
from kezuri.prune.problem import Fitness, Problem
from kezuri.prune.searcher import Asked, check_evaluations, mask_searchers
from kezuri.prune.space import Space

SPREAD = 1.0
"""Where the sparsity is free, the first masks keep from half to twice as many weights as where it begins."""


@mask_searchers.register("genetic")
@dataclass(frozen=True)
class Genetic:
    """Tournaments choose parents, children mix them and swap a few units; the best live on.

    After Holland, "Adaptation in Natural and Artificial Systems" (1975), with operators that keep the
    sparsity. The best of a generation are asked again in the next, since its images may be others.

    Attributes:
        population: masks a generation.
        elites: how many of the best live on unchanged.
        tournament: how many are drawn for the place of a parent, which the best of them gets.
        crossover: the chance that a child has two parents.
        exchange: what parents give: single `units`, or whole `layers`.
        mutation: fraction of the kept units that a child swaps, on average; at least one is swapped.
        mutated: units `everywhere` are swapped, or those of `one_layer` drawn for each child, so that what
            comes before it need not be computed again.
        grow: what units are taken back by: `worth`, `gradient`, or `none` (which swaps by chance alone).
        resize: where the sparsity is free, a child keeps up to this fraction more or fewer weights.
        temperatures: of the first population, in turn; 0 is the criterion's own choice.
    """

    population: int = 32
    elites: int = 2
    tournament: int = 5
    crossover: float = 1.0
    exchange: Literal["units", "layers"] = "units"
    mutation: float = 0.005
    mutated: Literal["everywhere", "one_layer"] = "everywhere"
    grow: By = "worth"
    resize: float = 0.05
    temperatures: tuple[float, ...] = TEMPERATURES

    def __post_init__(self) -> None:
        check_temperatures(self.temperatures)
        check_by(self.grow)
        if not 0 <= self.elites < self.population:
            raise RecipeError(f"elites are fewer than the population of {self.population}, got {self.elites}")
        if self.tournament < 1:
            raise RecipeError(f"tournament is at least 1, got {self.tournament}")
        for name in ("crossover", "mutation", "resize"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is a fraction from 0 to 1, got {getattr(self, name)}")
        if self.exchange not in ("units", "layers"):
            raise RecipeError(f"exchange is 'units' or 'layers', got {self.exchange!r}")
        if self.mutated not in ("everywhere", "one_layer"):
            raise RecipeError(f"mutated is 'everywhere' or 'one_layer', got {self.mutated!r}")

    @property
    def grows_by_gradient(self) -> bool:
        return self.grow == "gradient"

    def begin(
        self, space: Space, problem: Problem, *, evaluations: int, generator: Generator
    ) -> "GeneticSearch":
        """Begins with a first population.

        Raises:
            RecipeError: the budget does not reach beyond it.
        """
        check_evaluations(evaluations)
        if evaluations <= self.population:
            raise RecipeError(
                f"{evaluations} evaluations do not reach beyond a first population of {self.population}; "
                f"ask for more, or for a smaller population"
            )
        return GeneticSearch(self, space, problem, evaluations, generator)


class GeneticSearch:
    """A population: masks, (P, N) bool, and the sparsity each was made at, (P,) float64."""

    def __init__(
        self, settings: Genetic, space: Space, problem: Problem, evaluations: int, generator: Generator
    ) -> None:
        self._settings = settings
        self._space = space
        self._problem = problem
        self._left = evaluations
        self._generator = generator
        self._generation = 0
        sparsities = [self._first_sparsity() for _ in range(settings.population)]
        drawn = [
            sample(space, sparsity, temperature_of(number, settings.temperatures), generator)
            for number, sparsity in enumerate(sparsities)
        ]
        self._kept, self._sparsities = torch.stack(drawn), torch.tensor(sparsities, dtype=torch.float64)

    def ask(self) -> Asked:
        return Asked(self._kept, self._generation)

    def tell(self, fitnesses: Sequence[Fitness]) -> None:
        self._left -= len(fitnesses)
        self._generation += 1
        ranking = sorted(range(len(fitnesses)), key=lambda at: self._problem.key(fitnesses[at]), reverse=True)
        size = min(self._settings.population, self._left)
        if size <= self._settings.elites:
            self._kept, self._sparsities = self._kept[:0], self._sparsities[:0]
            return
        elites = ranking[: self._settings.elites]
        kept, sparsities = list(self._kept[elites]), self._sparsities[elites].tolist()
        while len(kept) < size:
            child, sparsity = self._child(ranking)
            kept.append(child)
            sparsities.append(sparsity)
        self._kept, self._sparsities = torch.stack(kept), torch.tensor(sparsities, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        return {
            "kept": self._kept,
            "sparsities": self._sparsities,
            "left": torch.tensor(self._left),
            "generation": torch.tensor(self._generation),
            "generator": self._generator.get_state(),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._kept, self._sparsities = state["kept"], state["sparsities"]
        self._left, self._generation = int(state["left"]), int(state["generation"])
        self._generator.set_state(state["generator"])

    def _first_sparsity(self) -> float:
        if not self._problem.is_free:
            return self._problem.sparsity
        return varied(self._problem.sparsity, SPREAD, self._space, self._generator)

    def _child(self, ranking: Sequence[int]) -> tuple[Tensor, float]:
        """A new mask and its sparsity, from a ranking of the population, best first."""
        parent = self._parent(ranking)
        child, sparsity = self._kept[parent], float(self._sparsities[parent])
        space, generator, settings = self._space, self._generator, self._settings
        if self._chance() < settings.crossover:
            other = self._parent(ranking)
            share = self._chance()
            sparsity += share * (float(self._sparsities[other]) - sparsity)
            child = crossover(
                child, self._kept[other], space, sparsity, generator, layers=settings.exchange == "layers"
            )
        return neighbour(
            child,
            sparsity,
            2 * self._chance() * settings.mutation,
            space,
            generator,
            by=settings.grow,
            one_layer=settings.mutated == "one_layer",
            resize=settings.resize if self._problem.is_free else 0.0,
        )

    def _parent(self, ranking: Sequence[int]) -> int:
        drawn = torch.randint(len(ranking), (self._settings.tournament,), generator=self._generator)
        return ranking[int(drawn.min())]

    def _chance(self) -> float:
        return float(torch.rand((), generator=self._generator))
