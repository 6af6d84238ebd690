"""Scale of the BatchNorm that follows."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("bn_scale")
@dataclass(frozen=True)
class BnScale:
    """A channel matters as much as its BatchNorm amplifies it: |γ| (Liu et al., 2017, network slimming)."""

    normalize: ClassVar[Normalize] = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"norm_scale"})
    per: ClassVar[Fineness] = "channel"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        return per_output(evidence.require("norm_scale"), weight)
