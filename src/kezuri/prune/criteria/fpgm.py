"""Distance to the other filters."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("fpgm")
@dataclass(frozen=True)
class Fpgm:
    """A filter near all the others is redundant: Σ_j ‖W_c - W_j‖₂ (He et al., 2019, geometric median)."""

    normalize: ClassVar[Normalize] = "mean"
    needs: ClassVar[frozenset[str]] = frozenset()
    per: ClassVar[Fineness] = "channel"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:  # noqa: ARG002 (the role's)
        filters = weight.flatten(1)
        # Distances by matrix product lose the small ones, which are those that decide.
        distances = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist")
        return per_output(distances.sum(1), weight)
