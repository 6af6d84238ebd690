"""Second-order change of the loss, by the diagonal of the Fisher information."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("fisher")
@dataclass(frozen=True)
class Fisher:
    """What the loss grows by at a minimum: w²·E[(∂L/∂w)²], one gradient an image (LeCun et al., 1989, OBD).

    The mean square of single images' gradients (the empirical Fisher information) stands for the Hessian's
    diagonal, and the factor ½ is left out. `taylor` squares whole batches' mean gradients instead, which
    near a minimum are little more than the noise of the batch.

    Attributes:
        per: `weight` scores each weight by itself; `channel` has the gradient of a gate behind the channel's
            BatchNorm in place of w·∂L/∂w (Theis et al., 2018), so that what its weights do together counts.
    """

    per: Fineness = "channel"

    normalize: ClassVar[Normalize] = "none"

    def __post_init__(self) -> None:
        if self.per not in ("channel", "weight"):
            raise RecipeError(f"fisher is per 'channel' or 'weight', got {self.per!r}")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"fisher_{self.per}"})

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        if self.per == "channel":
            return per_output(evidence.require("fisher_channel"), weight)
        return evidence.require("fisher_weight")
