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
    """What the loss would change by, to first order, squared batch by batch (Molchanov et al., 2019).

    Attributes:
        per: `channel` squares the sum of w·∂L/∂w over an output channel, as a factor on its weights feels it;
            `weight` squares each w·∂L/∂w, for units smaller than a channel.
        gate: of channels, the squared gradient of a gate behind the BatchNorm, where their published code
            has it, and not before it: what goes with the channel's bias and shift is then counted too.
    """

    per: Fineness = "channel"
    gate: bool = False

    normalize: ClassVar[Normalize] = "none"

    def __post_init__(self) -> None:
        if self.per not in ("channel", "weight"):
            raise RecipeError(f"taylor is per 'channel' or 'weight', got {self.per!r}")
        if self.gate and self.per == "weight":
            raise RecipeError("a gate is on a channel: taylor with gate=True is per 'channel', got 'weight'")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self._part})

    @property
    def _part(self) -> str:
        return "taylor_gate" if self.gate else f"taylor_{self.per}"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        known = evidence.require(self._part)
        return known if self.per == "weight" else per_output(known, weight)
