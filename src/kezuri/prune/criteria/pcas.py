"""Attention a channel gets."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("pcas")
@dataclass(frozen=True)
class Pcas:
    """A channel matters as much as a trained attention gate lets it through (Yamamoto & Maeno, 2018, PCAS).

    Attributes:
        gate: how the gate ends: `sigmoid`, each channel by itself, or `softmax`, channels of a layer compete.
        statistic: what is kept of a gate over the images.
    """

    gate: Literal["sigmoid", "softmax"] = "sigmoid"
    statistic: str = "mean"

    normalize: ClassVar[Normalize] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"gate"})
    per: ClassVar[Fineness] = "channel"

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        return per_output(evidence.require("gate"), weight)
