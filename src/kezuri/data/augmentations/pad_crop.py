"""Shifted images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from kezuri.core.errors import UsageError
from kezuri.data.augmentation import augmentations


@augmentations.register("pad_crop")
@dataclass(frozen=True)
class PadCrop:
    """Shifts each image by up to `pad` pixels each way; what comes in from outside is zero (the mean colour).

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2.
    """

    pad: int = 4

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise UsageError(f"pad_crop: pad is a number of pixels, 0 or more; got {self.pad}")

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, _classes: int, /
    ) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = images.shape
        corner = torch.randint(2 * self.pad + 1, (2, batch), generator=generator).to(images.device)
        rows = corner[0, :, None] + torch.arange(height, device=images.device)
        columns = corner[1, :, None] + torch.arange(width, device=images.device)
        pixels = rows[:, :, None] * (width + 2 * self.pad) + columns[:, None, :]
        padded = F.pad(images, (self.pad,) * 4).flatten(2)
        cropped = padded.gather(2, pixels.view(batch, 1, -1).expand(-1, channels, -1))
        return cropped.view(images.shape), targets
