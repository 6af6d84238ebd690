"""First-order change of the loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("taylor")
@dataclass(frozen=True)
class Taylor:
    """What the loss would change by, to first order, squared (Molchanov et al., 2019).

    Attributes:
        per: `channel` squares the sum of w·∂L/∂w over an output channel, as a gate on it would see it;
            `weight` squares each w·∂L/∂w, for units smaller than a channel.
    """

    per: Fineness = "channel"

    normalize: ClassVar[Normalize] = "none"

    def __post_init__(self) -> None:
        if self.per not in ("channel", "weight"):
            raise RecipeError(f"taylor is per 'channel' or 'weight', got {self.per!r}")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"taylor_{self.per}"})

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        if self.per == "channel":
            return per_output(evidence.require("taylor_channel"), weight)
        return evidence.require("taylor_weight")
