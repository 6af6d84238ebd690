"""Size of a weight times that of what it multiplies."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kezuri.core.errors import ShapeError
from kezuri.prune.criterion import Fineness, Normalize, criteria
from kezuri.prune.evidence import Evidence


@criteria.register("wanda")
@dataclass(frozen=True)
class Wanda:
    """A weight matters as much as it and its input are large: |w|·‖x‖₂ (Sun et al., 2023).

    Its authors let only the weights of one output compete; here that is the scope's question.
    """

    normalize: ClassVar[Normalize] = "mean"
    needs: ClassVar[frozenset[str]] = frozenset({"input_norm"})
    per: ClassVar[Fineness] = "weight"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        norm = evidence.require("input_norm")
        if norm.shape != weight.shape[:2]:
            raise ShapeError(
                f"input norms {tuple(norm.shape)} do not fit a weight of {tuple(weight.shape)}; "
                f"they are (outputs, inputs), {tuple(weight.shape[:2])}"
            )
        return weight.abs() * norm.view(*norm.shape, *[1] * (weight.dim() - 2))
