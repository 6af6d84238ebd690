"""Rank of a channel's feature map."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("hrank")
@dataclass(frozen=True)
class HRank:
    """A channel whose feature maps have a low rank says little: their mean rank (Lin et al., 2020).

    Linear layers and 1-D convolutions have no maps of two axes; there it is how often the channel is on.
    """

    normalize: ClassVar[Normalize] = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"map_rank"})
    per: ClassVar[Fineness] = "channel"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        return per_output(evidence.require("map_rank"), weight)
