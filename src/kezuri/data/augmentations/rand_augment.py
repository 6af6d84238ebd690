"""A few operations drawn at random for each image."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kezuri.core.errors import UsageError
from kezuri.data.augmentation import Facts, augmentations, check_probability
from kezuri.data.distortions import DISTORTIONS, Tones

STRONGEST = 10.0


@augmentations.register("rand_augment")
@dataclass(frozen=True)
class RandAugment:
    """Puts each image through `operations` random distortions of strength `magnitude`, one after the other.

    Drawn from 14, each as likely (what they mean for normalised images: `kezuri.data.distortions`): nothing;
    stretching or equalising the shades of each image; rotation by up to 30 degrees; shear by up to 0.3 pixels
    a row or column; shifts by up to 0.3 of a side; inversion of bright shades; 4 to 8 bits of shades; more or
    less brightness, contrast, colour, sharpness by a factor of up to 1 ± 0.9. Directions are drawn, too.
    Shades are relative to the lowest and highest value that the batch has in each channel; what comes in from
    outside is zero, the mean colour; pixels are moved to the nearest place, never interpolated.

    Source: Cubuk et al., "RandAugment", 2020, section 3; ranges of rotation, shear, shift, inversion and bits
    as in Sohn et al., "FixMatch", 2020.

    Attributes:
        operations: N of the paper.
        magnitude: M of the paper: 0 does next to nothing, 10 is the strongest.
        varied: draw each magnitude evenly between 0 and `magnitude`, as FixMatch does (in whole numbers).
        p: probability of each operation to happen at all; FixMatch takes 0.5.
    """

    operations: int = 2
    magnitude: float = 9.0
    varied: bool = False
    p: float = 1.0

    def __post_init__(self) -> None:
        if self.operations < 1:
            raise UsageError(f"rand_augment: operations is 1 or more, got {self.operations}")
        if not 0 <= self.magnitude <= STRONGEST:
            raise UsageError(
                f"rand_augment: magnitude is from 0 to {STRONGEST:g}, the strongest; got {self.magnitude}"
            )
        check_probability("rand_augment", self.p)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, _facts: Facts, /
    ) -> tuple[Tensor, Tensor]:
        shape = (self.operations, len(images))
        choices = torch.randint(len(DISTORTIONS), shape, generator=generator)
        share, direction, chance = torch.rand(3, *shape, generator=generator)
        strength = (share if self.varied else torch.ones(shape)) * (self.magnitude / STRONGEST)
        strength = torch.where(direction < 0.5, -strength, strength).to(images)
        choices = choices.masked_fill(chance >= self.p, 0)
        tones = Tones.of(images)
        changed = images.clone()
        for number in range(self.operations):
            for kind in range(1, len(DISTORTIONS)):  # the first does nothing
                places = (choices[number] == kind).nonzero().squeeze(1).to(images.device)
                if len(places):
                    changed[places] = DISTORTIONS[kind](changed[places], strength[number, places], tones)
        return changed, targets
