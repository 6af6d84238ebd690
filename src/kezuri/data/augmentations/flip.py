"""Mirror images."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kezuri.data.augmentation import Facts, augmentations, check_probability


@augmentations.register("flip")
@dataclass(frozen=True)
class Flip:
    """Mirrors each image left to right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability("flip", self.p)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, _facts: Facts, /
    ) -> tuple[Tensor, Tensor]:
        mirrored = (torch.rand(len(images), generator=generator) < self.p).to(images.device)
        return torch.where(mirrored[:, None, None, None], images.flip(3), images), targets
