"""Random changes to training batches: whole batches at once, all chance from one generator."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
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


@augmentations.register("flip")
@dataclass(frozen=True)
class Flip:
    """Mirrors each image left to right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_probability("flip", self.p)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, _classes: int, /
    ) -> tuple[Tensor, Tensor]:
        mirrored = (torch.rand(len(images), generator=generator) < self.p).to(images.device)
        return torch.where(mirrored[:, None, None, None], images.flip(3), images), targets


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
        _check_probability("cutout", self.p)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, _classes: int, /
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


@augmentations.register("mixup")
@dataclass(frozen=True)
class Mixup:
    """Blends each image and its target with another of the batch, by a share drawn from Beta(alpha, alpha).

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; one share and one permutation a
    batch, as in the authors' code.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        _check_alpha("mixup", self.alpha)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, classes: int, /
    ) -> tuple[Tensor, Tensor]:
        share = _beta(self.alpha, generator)
        other = torch.randperm(len(images), generator=generator).to(images.device)
        shares = distributions(targets, classes)
        return torch.lerp(images[other], images, share), torch.lerp(shares[other], shares, share)


@augmentations.register("cutmix")
@dataclass(frozen=True)
class CutMix:
    """Pastes a box of another image of the batch into each, and mixes targets by area, with probability `p`.

    Source: Yun et al., "CutMix", 2019: box side √(1 − λ), λ from Beta(alpha, alpha), centre uniform, λ
    recomputed from the box as clipped; p 0.5 for CIFAR, 1 for ImageNet; one box and one permutation a batch.
    """

    alpha: float = 1.0
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_alpha("cutmix", self.alpha)
        _check_probability("cutmix", self.p)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, classes: int, /
    ) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        happens, row, column = torch.rand(3, generator=generator).tolist()
        side = (1.0 - _beta(self.alpha, generator)) ** 0.5
        other = torch.randperm(len(images), generator=generator).to(images.device)
        shares = distributions(targets, classes)
        if happens >= self.p:
            return images.clone(), shares
        rows, columns = _span(row, side, height), _span(column, side, width)
        mixed = images.clone()
        mixed[:, :, rows, columns] = images[other][:, :, rows, columns]
        share = 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return mixed, torch.lerp(shares[other], shares, share)


def distributions(targets: Tensor, classes: int) -> Tensor:
    """Labels (B,) as one-hot float32 (B, classes); targets that are distributions already, as they are."""
    return targets if targets.is_floating_point() else F.one_hot(targets, classes).float()


def _span(centre: float, side: float, length: int) -> slice:
    """The part of a side that a box covers, clipped; `centre` and `side` are fractions."""
    middle, half = int(centre * length), int(side * length) // 2
    return slice(max(0, middle - half), min(length, middle + half))


def _beta(alpha: float, generator: Generator) -> float:
    seed = int(torch.randint(2**62, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise UsageError(f"{name}: p is a probability from 0 to 1, got {p}")


def _check_alpha(name: str, alpha: float) -> None:
    if not alpha > 0:
        raise UsageError(f"{name}: alpha must be above 0, got {alpha}")
