"""Hidden squares."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kezuri.core.errors import UsageError
from kezuri.data.augmentation import Facts, augmentations, check_probability


@augmentations.register("cutout")
@dataclass(frozen=True)
class Cutout:
    """Sets a square of `size` pixels to zero with probability `p`; it may hang over the edge.

    Source: DeVries and Taylor, "Improved Regularization of CNNs with Cutout", 2017: size 16 for CIFAR-10,
    8 for CIFAR-100, centre uniform over the image, after normalisation.
    """

    size: int = 16
    p: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"cutout: size is a number of pixels, 1 or more; got {self.size}")
        check_probability("cutout", self.p)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, _facts: Facts, /
    ) -> tuple[Tensor, Tensor]:
        batch, _, height, width = images.shape
        row, column = torch.rand(2, batch, generator=generator)
        cut = torch.rand(batch, generator=generator) < self.p
        inside = self._covers(row, height)[:, :, None] & self._covers(column, width)[:, None, :]
        hidden = (inside & cut[:, None, None])[:, None].to(images.device)
        return images.masked_fill(hidden, 0.0), targets

    def _covers(self, centre: Tensor, length: int) -> Tensor:
        """Which of `length` positions lie in the square, (B, length); `centre` is in [0, 1)."""
        first = (centre * length).long() - self.size // 2
        position = torch.arange(length)
        return (position >= first[:, None]) & (position < first[:, None] + self.size)
