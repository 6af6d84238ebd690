"""First-order change of the loss."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("taylor")
@dataclass(frozen=True)
class Taylor:
    """What the loss would change by, to first order, squared batch by batch (Molchanov et al., 2019).

    Attributes:
        per: `channel` squares ∂L/∂g of a gate g = 1 on an output channel; `weight` squares each w·∂L/∂w, for
            units smaller than a channel.
        gate: where a channel's gate stands. `norm`: behind its BatchNorm (or its bias, without one), as
            published, so that all that goes with the channel counts; `weights`: on its weights alone, where
            it feels the sum of w·∂L/∂w.
    """

    per: Fineness = "channel"
    gate: Literal["norm", "weights"] = "norm"

    normalize: ClassVar[Normalize] = "none"

    def __post_init__(self) -> None:
        if self.per not in ("channel", "weight"):
            raise RecipeError(f"taylor is per 'channel' or 'weight', got {self.per!r}")
        if self.gate not in ("norm", "weights"):
            raise RecipeError(f"a gate of taylor is behind the 'norm' or on the 'weights', got {self.gate!r}")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self._part})

    @property
    def _part(self) -> str:
        if self.per == "weight":
            return "taylor_weight"
        return "taylor_gate" if self.gate == "norm" else "taylor_channel"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        known = evidence.require(self._part)
        return known if self.per == "weight" else per_output(known, weight)
