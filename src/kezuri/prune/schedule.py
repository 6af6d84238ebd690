"""The role of a schedule: when does sparsity grow?

A schedule says how sparse the model should be at each moment of the work, from its start (progress 0) to its
end (progress 1). For the prune-and-tune loop it also says in how many rounds. `targets` counts against the
model before the first round, `rates` against what is left at the start of each round.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, prod
from typing import Literal

from kezuri.core.errors import RecipeError
from kezuri.core.registry import Registry


class Schedule(ABC):
    """How sparsity grows to its end."""

    rounds: int
    """How many rounds of pruning and tuning it is made for."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """The sparsity reached at `progress` in [0, 1]; never shrinks."""

    def targets(self) -> list[float]:
        """The sparsity at the end of each round, as a fraction of the model before the first."""
        return [self(done / self.rounds) for done in range(1, self.rounds + 1)]

    def rates(self) -> list[float]:
        """The fraction that each round removes of what is left when it begins."""
        reached = [0.0, *self.targets()]
        return [1 - (1 - after) / (1 - before) for before, after in pairwise(reached)]


schedules: Registry[type[Schedule]] = Registry("schedule")


@schedules.register("one_shot")
@dataclass(frozen=True)
class OneShot(Schedule):
    """All at once.

    Attributes:
        sparsity: the fraction to remove, in [0, 1).
    """

    sparsity: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise RecipeError(f"sparsity is a fraction in [0, 1), got {self.sparsity}")

    @property
    def rounds(self) -> int:  # type: ignore[override]
        return 1

    def __call__(self, progress: float) -> float:
        return self.sparsity if progress >= 1 else 0.0


@schedules.register("iterative")
@dataclass(frozen=True)
class Iterative(Schedule):
    """Round after round, each followed by tuning.

    Attributes:
        rounds: how many.
        rate: the fraction removed in each round, in (0, 1); a list gives one for each.
        rate_of: what the rate is a fraction of: of what `remaining` units there are when the round begins,
            or of the `original` ones.
    """

    rounds: int = 5
    rate: float | tuple[float, ...] = 0.3
    rate_of: Literal["remaining", "original"] = "remaining"

    def __post_init__(self) -> None:
        if isinstance(self.rate, Sequence):
            object.__setattr__(self, "rate", tuple(self.rate))
        if self.rounds < 1:
            raise RecipeError(f"there is at least one round, got rounds={self.rounds}")
        if isinstance(self.rate, tuple) and len(self.rate) != self.rounds:
            raise RecipeError(f"rate has {len(self.rate)} values for {self.rounds} rounds")
        if bad := [rate for rate in self._rates if not 0 < rate < 1]:
            raise RecipeError(f"a rate is a fraction in (0, 1), got {bad[0]}")
        if self.rate_of not in ("remaining", "original"):
            raise RecipeError(f"rate_of is 'remaining' or 'original', got {self.rate_of!r}")
        if self.rate_of == "original" and sum(self._rates) >= 1:
            raise RecipeError(
                f"rates of the original units add up to {sum(self._rates):g}, which leaves nothing; "
                f"keep the sum below 1 or use rate_of: remaining"
            )

    @property
    def _rates(self) -> tuple[float, ...]:
        return self.rate if isinstance(self.rate, tuple) else (self.rate,) * self.rounds

    def __call__(self, progress: float) -> float:
        done = self._rates[: floor(progress * self.rounds + 1e-9)]
        return sum(done) if self.rate_of == "original" else 1 - prod(1 - rate for rate in done)
