"""What a mask search looks for: the best at one sparsity, or the fewest weights that are good enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.select import check_sparsity

DETAIL = 1e-3
"""What a nat of loss counts beside a mistake: it decides between masks that make equally many."""


@dataclass(frozen=True)
class Fitness:
    """What a mask was worth, on training images.

    Attributes:
        accuracy: fraction of the images that are answered rightly.
        loss: mean cross-entropy, in nats.
        images: how many were looked at; fewer than others of its generation where it fell out of the race.
        weights: how many of the masked weights it keeps.
    """

    accuracy: float
    loss: float
    images: int
    weights: int

    @property
    def error(self) -> float:
        """Mistakes a image, with a trace of the loss."""
        return 1 - self.accuracy + DETAIL * self.loss


class Problem(Protocol):
    """Says which of two masks is better."""

    @property
    def sparsity(self) -> float:
        """Fraction of the weights to remove, in [0, 1); where it is free, where to begin."""
        ...

    @property
    def is_free(self) -> bool:
        """Whether a search may choose the sparsity."""
        ...

    def key(self, fitness: Fitness) -> tuple[float, ...]:
        """Sorts fitnesses of one generation, the best last."""
        ...

    def energy(self, fitness: Fitness) -> float:
        """The same as one number, the best lowest, for methods that weigh differences."""
        ...


@dataclass(frozen=True)
class FixedSparsity:
    """The highest accuracy at one sparsity; of equals, the lower loss.

    Attributes:
        sparsity: fraction of the weights to remove, in [0, 1).
    """

    sparsity: float
    is_free: bool = False

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    def key(self, fitness: Fitness) -> tuple[float, ...]:
        return (fitness.images, -fitness.error)

    def energy(self, fitness: Fitness) -> float:
        return fitness.error


@dataclass(frozen=True)
class FewestWeights:
    """The fewest weights whose accuracy is at or above a floor.

    A mask that reaches the floor beats one that does not; of two that do, the one with fewer weights wins; of
    two that do not, the one that lacks less (Deb, "An efficient constraint handling method for genetic
    algorithms", 2000).

    Attributes:
        floor: the least accuracy, in (0, 1], on the training images that fitness is measured on.
        sparsity: where the search begins.
        total: how many weights there are.
    """

    floor: float
    sparsity: float
    total: int
    is_free: bool = True

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if not 0 < self.floor <= 1:
            raise RecipeError(f"the accuracy to keep is a fraction in (0, 1], got {self.floor}")

    def key(self, fitness: Fitness) -> tuple[float, ...]:
        if fitness.accuracy >= self.floor:
            return (fitness.images, 1, -fitness.weights, -fitness.error)
        return (fitness.images, 0, -fitness.error, 0)

    def energy(self, fitness: Fitness) -> float:
        lacking = max(0.0, self.floor - fitness.accuracy)
        return fitness.weights / self.total + 10 * lacking


def pareto(fitnesses: Sequence[Fitness]) -> Tensor:
    """Which of them no other beats in both accuracy and weights, (n,) bool; of equals the first."""
    front = torch.zeros(len(fitnesses), dtype=torch.bool)
    most = -1.0
    order = sorted(range(len(fitnesses)), key=lambda at: (fitnesses[at].weights, -fitnesses[at].accuracy, at))
    for place in order:
        if fitnesses[place].accuracy > most:
            front[place], most = True, fitnesses[place].accuracy
    return front
