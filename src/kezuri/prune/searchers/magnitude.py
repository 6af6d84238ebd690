"""No search: what the criterion alone would keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from kezuri.prune.problem import Fitness, Problem
from kezuri.prune.searcher import Asked, mask_searchers
from kezuri.prune.space import Space


@mask_searchers.register("magnitude")
@dataclass(frozen=True)
class Magnitude:
    """The criterion's own choice, judged once: what every search has to beat."""

    grows_by_gradient: ClassVar[bool] = False

    def begin(
        self,
        space: Space,
        problem: Problem,
        *,
        evaluations: int,  # noqa: ARG002 (the role's)
        generator: Generator,  # noqa: ARG002
    ) -> "MagnitudeSearch":
        return MagnitudeSearch(space.best(problem.sparsity))


class MagnitudeSearch:
    """Asks for one mask, (N,) bool, once."""

    def __init__(self, best: Tensor) -> None:
        self._left = best[None]

    def ask(self) -> Asked:
        return Asked(self._left, 0)

    def tell(self, fitnesses: Sequence[Fitness]) -> None:  # noqa: ARG002 (there is nothing to learn)
        self._left = self._left[:0]

    def state(self) -> dict[str, Tensor]:
        return {"left": torch.tensor(len(self._left))}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._left = self._left[: int(state["left"])]
