"""The role of a mask searcher: which masks are tried, and what is learnt from how they did.

A searcher proposes whole masks and is told their fitness, a generation at a time. It takes the place of
criterion and scope: what a criterion says a unit is worth is where a search begins, not where it ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Generator, Tensor

from kezuri.core.errors import RecipeError
from kezuri.core.registry import Registry
from kezuri.prune.problem import Fitness, Problem
from kezuri.prune.space import Space


@dataclass(frozen=True, eq=False)
class Asked:
    """Masks to be judged on the same images.

    Attributes:
        kept: flags of the units of each, (candidates, N) bool; none where the search has ended.
        generation: candidates of different generations may be judged on different images, so that their
            fitness cannot be compared.
    """

    kept: Tensor
    generation: int


class Search(Protocol):
    """A search under way. Everything it does follows from its settings, its generator and what it is told."""

    def ask(self) -> Asked:
        """The next masks to judge; the same again until they are told."""
        ...

    def tell(self, fitnesses: Sequence[Fitness]) -> None:
        """How the masks of the last `ask` did, in their order."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All it knows, generator included, between a `tell` and the next `ask`."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from such a state, exactly as the search it is from would have."""
        ...


class MaskSearcher(Protocol):
    """A way to search; a frozen dataclass whose fields are its settings."""

    @property
    def grows_by_gradient(self) -> bool:
        """Whether it wants `Space.growth`."""
        ...

    def begin(self, space: Space, problem: Problem, *, evaluations: int, generator: Generator) -> Search:
        """Begins a search that is to end after about so many candidates were judged.

        Raises:
            RecipeError: the settings do not go with the problem or the budget.
        """
        ...


mask_searchers: Registry[type[MaskSearcher]] = Registry("mask searcher")


def check_evaluations(evaluations: int) -> None:
    """Raises RecipeError unless a search may judge something."""
    if evaluations < 1:
        raise RecipeError(f"evaluations are at least 1, got {evaluations}")
