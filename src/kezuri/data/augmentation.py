"""The role of an augmentation: a random change to training batches, all chance from one generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kezuri.core.errors import UsageError
from kezuri.core.registry import Registry


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of the data that a batch is from.

    Attributes:
        classes: how many there are.
        black: what a pixel that was zero in every channel is after normalising, (C,) float32.
    """

    classes: int
    black: Tensor

    @classmethod
    def of(cls, classes: int, mean: Sequence[float], std: Sequence[float]) -> "Facts":
        """Of data that is normalised by mean and standard deviation of each channel."""
        black = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        return cls(classes, black.float())


class Augment(Protocol):
    """Changes a batch; the tensors it was given stay as they are."""

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, facts: Facts, /
    ) -> tuple[Tensor, Tensor]:
        """A new batch.

        Args:
            images: (B, C, H, W) float, normalised: zero is the mean colour of the data.
            targets: (B,) int64 labels, or (B, classes) float distributions.
            generator: on the CPU; all chance comes from it.
            facts: of the data.

        Returns:
            images of the same shape and type; targets as given, or as distributions where images were mixed.
        """


augmentations: Registry[type[Augment]] = Registry("augmentation")


def distributions(targets: Tensor, classes: int) -> Tensor:
    """Labels (B,) as one-hot float32 (B, classes); targets that are distributions already, as they are."""
    return targets if targets.is_floating_point() else F.one_hot(targets, classes).float()


def check_probability(name: str, p: float) -> None:
    """UsageError unless `p` is a probability; `name` is whose."""
    if not 0 <= p <= 1:
        raise UsageError(f"{name}: p is a probability from 0 to 1, got {p}")
