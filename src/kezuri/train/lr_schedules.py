"""Learning-rate schedule: by what factor the learning rate is multiplied as training goes on."""

import math
from dataclasses import dataclass
from typing import Protocol

from kezuri.core.errors import UsageError
from kezuri.core.registry import Registry


class LrSchedule(Protocol):
    """Maps progress to a factor in [0, 1]; both arguments are in epochs, `progress` from 0 to `total`.

    `warmup` is the number of epochs in which the factor grows in proportion from 0.
    """

    @property
    def warmup(self) -> float: ...

    def __call__(self, progress: float, total: float) -> float: ...


lr_schedules: Registry[type[LrSchedule]] = Registry("learning-rate schedule")


@lr_schedules.register("constant")
@dataclass(frozen=True)
class Constant:
    """The same learning rate from the end of the warmup on."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)

    def __call__(self, progress: float, total: float) -> float:  # noqa: ARG002 (the role's signature)
        return _warm(progress, self.warmup)


@lr_schedules.register("cosine")
@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 at the end of the warmup to 0 at the end (Loshchilov and Hutter, 2017)."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)

    def __call__(self, progress: float, total: float) -> float:
        if progress < self.warmup or total <= self.warmup:
            return _warm(progress, self.warmup)
        along = (progress - self.warmup) / (total - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(along, 1.0)))


@lr_schedules.register("step")
@dataclass(frozen=True)
class Step:
    """The factor is multiplied by `factor` at each milestone (in epochs; one past the end is not reached)."""

    milestones: tuple[float, ...]
    factor: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)
        if not 0 < self.factor <= 1:
            raise UsageError(f"factor must be in (0, 1], got {self.factor}")
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        if not self.milestones or not rising or self.milestones[0] <= 0:
            raise UsageError(f"milestones are epochs above 0, each after the last, got {self.milestones}")

    def __call__(self, progress: float, total: float) -> float:  # noqa: ARG002 (the role's signature)
        passed = sum(progress >= milestone for milestone in self.milestones)
        return _warm(progress, self.warmup) * self.factor**passed


def _warm(progress: float, warmup: float) -> float:
    return progress / warmup if progress < warmup else 1.0


def _check_warmup(warmup: float) -> None:
    if not 0 <= warmup < math.inf:
        raise UsageError(f"warmup is a number of epochs, 0 or more, got {warmup}")
