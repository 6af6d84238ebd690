"""Shifted images."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from kezuri.core.errors import UsageError
from kezuri.data.augmentation import Facts, augmentations


@augmentations.register("pad_crop")
@dataclass(frozen=True)
class PadCrop:
    """Shifts each image by up to `pad` pixels each way.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2.

    Attributes:
        pad: pixels.
        fill: what comes in from outside: `black`, as in most published training code, which pads before it
            normalises; or `mean`, the mean colour of the data. A trained network's batch normalisation knows
            the one it was trained with: retrained with the other it loses accuracy.
    """

    pad: int = 4
    fill: Literal["black", "mean"] = "black"

    def __post_init__(self) -> None:
        if self.fill not in ("black", "mean"):
            raise UsageError(f"pad_crop: fill is 'black' or 'mean', got {self.fill!r}")
        if self.pad < 0:
            raise UsageError(f"pad_crop: pad is a number of pixels, 0 or more; got {self.pad}")

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, facts: Facts, /
    ) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = images.shape
        corner = torch.randint(2 * self.pad + 1, (2, batch), generator=generator).to(images.device)
        rows = corner[0, :, None] + torch.arange(height, device=images.device)
        columns = corner[1, :, None] + torch.arange(width, device=images.device)
        pixels = rows[:, :, None] * (width + 2 * self.pad) + columns[:, None, :]
        padded = images.new_zeros(batch, channels, height + 2 * self.pad, width + 2 * self.pad)
        if self.fill == "black":
            padded += facts.black.to(images)[:, None, None]
        padded[:, :, self.pad : self.pad + height, self.pad : self.pad + width] = images
        cropped = padded.flatten(2).gather(2, pixels.view(batch, 1, -1).expand(-1, channels, -1))
        return cropped.view(images.shape), targets
