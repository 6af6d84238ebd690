"""How to train: the settings of one fit."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from kezuri.core.errors import UsageError
from kezuri.data import Augment
from kezuri.train.device import Precision
from kezuri.train.lr_schedules import Cosine, LrSchedule
from kezuri.train.optimizers import SGD, Optimizer


@dataclass(frozen=True)
class Training:
    """The settings of one training.

    Attributes:
        epochs: passes over the training images; 0.5 is half of one, 0 only evaluates.
        lr: the highest learning rate; the schedule multiplies it.
        batch_size: images a step.
        optimizer: `SGD(…)`, `Adam(…)`, `AdamW(…)`.
        lr_schedule: `Constant(…)`, `Cosine(…)`, `Step(…)`.
        label_smoothing: share of each target spread over all classes, in [0, 1).
        augment: what is done to the training images, in this order.
        keep: end with the weights of the epoch best on the validation images (the later of equals), or
            with those of the last step.
        precision: the number format of the training arithmetic; "auto" is the fastest the device is good
            at. Evaluation is always in float32.
    """

    epochs: float = 10.0
    lr: float = 0.1
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=SGD)
    lr_schedule: LrSchedule = field(default_factory=Cosine)
    label_smoothing: float = 0.0
    augment: tuple[Augment, ...] = ()
    keep: Literal["best", "last"] = "best"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.epochs < math.inf:
            raise UsageError(f"epochs must be 0 or more, got {self.epochs}")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr must be above 0, got {self.lr}")
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be 1 or more, got {self.batch_size}")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if 0 < self.epochs <= self.lr_schedule.warmup:
            raise UsageError(
                f"the warmup of {self.lr_schedule.warmup:g} epochs must be shorter than the training, "
                f"which has {self.epochs:g}"
            )
        if self.keep not in ("best", "last"):
            raise UsageError(f"keep is 'best' or 'last', got {self.keep!r}")
        if self.precision not in get_args(Precision):
            raise UsageError(f"precision is one of {', '.join(get_args(Precision))}; got {self.precision!r}")
