"""The role of an augmentation: a random change to training batches, all chance from one generator."""

from typing import Protocol

import torch.nn.functional as F
from torch import Generator, Tensor

from kezuri.core.errors import UsageError
from kezuri.core.registry import Registry


class Augment(Protocol):
    """Changes a batch; the tensors it was given stay as they are."""

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, classes: int, /
    ) -> tuple[Tensor, Tensor]:
        """A new batch.

        Args:
            images: (B, C, H, W) float, normalised: zero is the mean colour of the data.
            targets: (B,) int64 labels, or (B, classes) float distributions.
            generator: on the CPU; all chance comes from it.
            classes: how many there are.

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
