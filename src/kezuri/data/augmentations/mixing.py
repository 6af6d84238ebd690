"""Images mixed with others of their batch, and their targets with them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from kezuri.core.errors import UsageError
from kezuri.data.augmentation import Facts, augmentations, check_probability, distributions


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
        self, images: Tensor, targets: Tensor, generator: Generator, facts: Facts, /
    ) -> tuple[Tensor, Tensor]:
        share = _beta(self.alpha, generator)
        other = torch.randperm(len(images), generator=generator).to(images.device)
        shares = distributions(targets, facts.classes)
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
        check_probability("cutmix", self.p)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator, facts: Facts, /
    ) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        happens, row, column = torch.rand(3, generator=generator).tolist()
        side = (1.0 - _beta(self.alpha, generator)) ** 0.5
        other = torch.randperm(len(images), generator=generator).to(images.device)
        shares = distributions(targets, facts.classes)
        if happens >= self.p:
            return images.clone(), shares
        rows, columns = _span(row, side, height), _span(column, side, width)
        mixed = images.clone()
        mixed[:, :, rows, columns] = images[other][:, :, rows, columns]
        share = 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return mixed, torch.lerp(shares[other], shares, share)


def _span(centre: float, side: float, length: int) -> slice:
    """The part of a side that a box covers, clipped; `centre` and `side` are fractions."""
    middle, half = int(centre * length), int(side * length) // 2
    return slice(max(0, middle - half), min(length, middle + half))


def _beta(alpha: float, generator: Generator) -> float:
    seed = int(torch.randint(2**62, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _check_alpha(name: str, alpha: float) -> None:
    if not alpha > 0:
        raise UsageError(f"{name}: alpha must be above 0, got {alpha}")
