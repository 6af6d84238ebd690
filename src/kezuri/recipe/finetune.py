"""Retraining after a cut."""

from dataclasses import dataclass, field

from kezuri.core.errors import UsageError
from kezuri.data.augment import Augment
from kezuri.recipe.teaching import Teaching
from kezuri.train import Training
from kezuri.train.lr_schedules import Cosine, LrSchedule
from kezuri.train.optimizers import SGD, Optimizer


@dataclass(frozen=True)
class Finetune:
    """How the model is retrained after each cut, with fresh optimizer state.

    Attributes:
        epochs: passes over the training images.
        lr: the learning rate the dense model was trained with.
        lr_ratio: fraction of `lr` to begin with, in (0, 1]; one number, or one a round (the last repeats).
        batch_size, optimizer, lr_schedule, label_smoothing, augment: as in training.
        distill: has a teacher take part, by default the dense model that was cut.
        freeze_norms: whether batch normalisation keeps its statistics: for very few images, or for a model
            whose statistics are from images unlike these.
    """

    epochs: float = 10.0
    lr: float = 0.1
    lr_ratio: float | tuple[float, ...] = 0.5
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=SGD)
    lr_schedule: LrSchedule = field(default_factory=Cosine)
    label_smoothing: float = 0.0
    augment: tuple[Augment, ...] = ()
    distill: Teaching | None = None
    freeze_norms: bool = False

    def __post_init__(self) -> None:
        ratios = self.lr_ratio if isinstance(self.lr_ratio, tuple) else (self.lr_ratio,)
        if not ratios or not all(0 < ratio <= 1 for ratio in ratios):
            raise UsageError(
                f"lr_ratio is a fraction of lr in (0, 1], or a list of them; got {self.lr_ratio}"
            )
        if not self.lr > 0:
            raise UsageError(f"lr must be above 0, got {self.lr}")
        self.training(1)

    def ratio(self, round_: int) -> float:
        """lr_ratio in a round, counted from 1."""
        if isinstance(self.lr_ratio, tuple):
            return self.lr_ratio[min(round_, len(self.lr_ratio)) - 1]
        return self.lr_ratio

    def training(self, round_: int) -> Training:
        """The training of a round, counted from 1."""
        return Training(
            epochs=self.epochs,
            lr=self.lr * self.ratio(round_),
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr_schedule=self.lr_schedule,
            label_smoothing=self.label_smoothing,
            augment=self.augment,
        )
