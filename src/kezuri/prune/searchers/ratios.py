"""A search over how much each layer keeps: few numbers, and the criterion chooses within the layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import log
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from kezuri.core.errors import RecipeError, UsageError
from kezuri.prune.mask_operators import shared
from kezuri.prune.problem import Fitness, Problem
from kezuri.prune.scope import Global, Local
from kezuri.prune.searcher import Asked, check_evaluations, mask_searchers
from kezuri.prune.space import Space

SIGMA = 0.3
"""How far the first points of cmaes spread, of a range from -1 to 1."""


@mask_searchers.register("ratios")
@dataclass(frozen=True)
class Ratios:
    """How much each layer keeps is searched, not which weights: those worth most stay.

    A candidate says how many times more or less each group keeps than the criterion alone would; the shares
    are then scaled until the sparsity is met, or taken as they are where it is free. With a handful of
    numbers to find this needs fewer evaluations than a search for single weights, and can reach less.

    Attributes:
        sampler: `cmaes` adapts a normal distribution to what was best in each generation (Hansen and
            Ostermeier, "Completely derandomized self-adaptation in evolution strategies", 2001); `nsga2`
            breeds the front of mistakes against weights (Deb et al., "A fast and elitist multiobjective
            genetic algorithm", 2002), for which all candidates are judged on the same images.
        population: candidates a generation; null for 4 + 3·ln(groups) with `cmaes`, and 24 with `nsga2`.
        reach: a group keeps up to this many times more or less than the criterion alone would.
    """

    sampler: Literal["cmaes", "nsga2"] = "cmaes"
    population: int | None = None
    reach: float = 8.0

    grows_by_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.sampler not in ("cmaes", "nsga2"):
            raise RecipeError(f"sampler is 'cmaes' or 'nsga2', got {self.sampler!r}")
        if self.population is not None and self.population < 4:
            raise RecipeError(f"population is at least 4, got {self.population}")
        if self.reach <= 1:
            raise RecipeError(f"reach is more than 1, got {self.reach}")

    def begin(
        self, space: Space, problem: Problem, *, evaluations: int, generator: Generator
    ) -> "RatiosSearch":
        """Begins around the criterion's own division.

        Raises:
            RecipeError: the scope leaves nothing to divide, there is one group only, or the budget does not
                reach beyond the first population.
            UsageError: the sampler's package is not installed.
        """
        check_evaluations(evaluations)
        if not isinstance(space.scope, Global | Local):
            raise RecipeError("ratios divides what is kept among layers; use the scope 'global' or 'local'")
        if len(space.groups) < 2:
            raise RecipeError("ratios divides what is kept among layers, and there is only one")
        search = RatiosSearch(self, space, problem, evaluations, generator)
        if evaluations <= search.population:
            raise RecipeError(
                f"{evaluations} evaluations do not reach beyond a first population of {search.population}; "
                f"ask for more, or for a smaller population"
            )
        return search


class RatiosSearch:
    """Points, (P, groups) in [-1, 1], that a sampler draws; what it was told is all that has to be kept."""

    def __init__(
        self, settings: Ratios, space: Space, problem: Problem, evaluations: int, generator: Generator
    ) -> None:
        self._settings, self._space, self._problem = settings, space, problem
        self._evaluations = evaluations
        groups = len(space.groups)
        default = 4 + int(3 * log(groups)) if settings.sampler == "cmaes" else 24
        self.population = settings.population or default
        self._seed = int(torch.randint(2**31, (), generator=generator))
        best = space.split(space.best(problem.sparsity)).values()
        self._usual = torch.stack([(kept.sum() + 0.5) / (len(kept) + 0.5) for kept in best]).double()
        self._sizes = torch.stack([group.sizes.sum() for group in space.groups]).double()
        self._values = torch.zeros(0, self._objectives, dtype=torch.float64)
        self._start()

    def ask(self) -> Asked:
        kept = [self._mask(point) for point in self._points]
        if kept and not len(self._values):
            kept.insert(0, self._mask(torch.zeros(len(self._usual))))
        generation = len(self._values) // self.population if self._settings.sampler == "cmaes" else 0
        units = self._space.units
        return Asked(torch.stack(kept) if kept else torch.zeros(0, units, dtype=torch.bool), generation)

    def tell(self, fitnesses: Sequence[Fitness]) -> None:
        own = fitnesses[-len(self._points) :]
        self._values = torch.cat([self._values, self._valued(own)])
        if len(own) == self.population:
            self._sampler.tell(self._values[-self.population :])
        self._draw()

    def state(self) -> dict[str, Tensor]:
        return {"seed": torch.tensor(self._seed), "values": self._values}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Tells an equally seeded sampler the same again, so that it goes on as the other would have."""
        self._seed, self._values = int(state["seed"]), state["values"]
        self._start()

    @property
    def _objectives(self) -> int:
        return 2 if self._problem.is_free and self._settings.sampler == "nsga2" else 1

    def _start(self) -> None:
        begin = _Cmaes if self._settings.sampler == "cmaes" else _Nsga2
        self._sampler = begin(len(self._usual), self.population, self._objectives, self._seed)
        for values in torch.split(self._values, self.population) if len(self._values) else ():
            self._sampler.ask(len(values))
            if len(values) == self.population:
                self._sampler.tell(values)
        self._draw()

    def _draw(self) -> None:
        told = len(self._values) + 1  # the usual division is judged beside the first points
        self._points = self._sampler.ask(max(0, min(self.population, self._evaluations - told)))

    def _mask(self, point: Tensor) -> Tensor:
        densities = self._usual * self._settings.reach**point
        sparsity = self._problem.sparsity
        if self._problem.is_free:
            kept = (densities.clamp(max=1) * self._sizes).sum() / self._sizes.sum()
            sparsity = min(1 - float(kept), 1 - 1 / self._space.units)
        return shared(self._space, densities, max(0.0, sparsity))

    def _valued(self, fitnesses: Sequence[Fitness]) -> Tensor:
        """What a generation was worth, (P, objectives), the best lowest."""
        most = max(one.images for one in fitnesses)
        if self._settings.sampler == "nsga2":
            # Mistakes on fewer images cannot be compared; a race drops only what is worse.
            rows = [(one.error + (one.images < most), one.weights) for one in fitnesses]
            return torch.tensor(rows, dtype=torch.float64)[:, : self._objectives]
        keys = [self._problem.key(one) for one in fitnesses]
        order = sorted(set(keys), reverse=True)
        return torch.tensor([[order.index(key)] for key in keys], dtype=torch.float64)


class _Cmaes:
    """CMA-ES in [-1, 1]^groups, from the middle outwards."""

    def __init__(self, groups: int, population: int, objectives: int, seed: int) -> None:  # noqa: ARG002 (one)
        cmaes = _package("cmaes")
        middle, bounds = torch.zeros(groups).numpy(), torch.tensor([[-1.0, 1.0]] * groups).numpy()
        self._cma = cmaes.CMA(middle, SIGMA, bounds=bounds, seed=seed, population_size=population)
        self._asked: list[Any] = []

    def ask(self, count: int) -> Tensor:
        self._asked = [self._cma.ask() for _ in range(count)]
        return torch.tensor([point.tolist() for point in self._asked], dtype=torch.float64)

    def tell(self, values: Tensor) -> None:
        self._cma.tell(list(zip(self._asked, values[:, 0].tolist(), strict=True)))


class _Nsga2:
    """NSGA-II in [-1, 1]^groups, from evenly drawn points."""

    def __init__(self, groups: int, population: int, objectives: int, seed: int) -> None:
        optuna = _package("optuna")
        said = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
        self._study = optuna.create_study(sampler=sampler, directions=["minimize"] * objectives)
        optuna.logging.set_verbosity(said)
        range_ = optuna.distributions.FloatDistribution(-1, 1)
        self._ranges = {f"group {number}": range_ for number in range(groups)}
        self._asked: list[Any] = []

    def ask(self, count: int) -> Tensor:
        self._asked = [self._study.ask(self._ranges) for _ in range(count)]
        points = [[trial.params[name] for name in self._ranges] for trial in self._asked]
        return torch.tensor(points, dtype=torch.float64)

    def tell(self, values: Tensor) -> None:
        for trial, row in zip(self._asked, values.tolist(), strict=True):
            self._study.tell(trial, row)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"the searcher 'ratios' needs the package {name}: pip install 'kezuri[search]'"
        ) from error
