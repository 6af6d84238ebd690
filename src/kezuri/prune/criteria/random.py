"""Chance: the baseline every other criterion must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.core.seeds import derive
from kezuri.prune.criterion import Fineness, Normalize, criteria
from kezuri.prune.evidence import Evidence


@criteria.register("random")
@dataclass(frozen=True)
class Random:
    """Scores drawn evenly from [0, 1), from the seed and the weight's name alone.

    They are compared by rank: the mean of many draws is near ½, so a large unit would never go first.

    Attributes:
        seed: another seed, another draw.
    """

    seed: int = 0

    normalize: ClassVar[Normalize] = "rank"
    needs: ClassVar[frozenset[str]] = frozenset()
    per: ClassVar[Fineness] = "weight"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        generator = torch.Generator().manual_seed(derive(self.seed, "random criterion", evidence.name))
        return torch.rand(weight.shape, generator=generator).to(weight.device)
