"""Size of the weights themselves."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kezuri.prune.criterion import Fineness, Normalize, criteria
from kezuri.prune.evidence import Evidence


@criteria.register("l1")
@dataclass(frozen=True)
class L1:
    """Small weights matter least; channels by their ℓ1 norm (Han et al., 2015; Li et al., 2017)."""

    normalize: ClassVar[Normalize] = "mean"
    needs: ClassVar[frozenset[str]] = frozenset()
    per: ClassVar[Fineness] = "weight"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:  # noqa: ARG002 (the role's)
        return weight.abs()


@criteria.register("l2")
@dataclass(frozen=True)
class L2:
    """Small weights matter least; channels by their squared ℓ2 norm (He et al., 2018)."""

    normalize: ClassVar[Normalize] = "mean"
    needs: ClassVar[frozenset[str]] = frozenset()
    per: ClassVar[Fineness] = "weight"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:  # noqa: ARG002 (the role's)
        return weight.square()
