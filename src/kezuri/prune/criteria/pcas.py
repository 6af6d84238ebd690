"""Attention a channel gets."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("pcas")
@dataclass(frozen=True)
class Pcas:
    """A channel matters as much as a trained attention gate lets it through (Yamamoto & Maeno, 2018, PCAS).

    Attributes:
        gate: how a gate ends. `sigmoid`: each channel by itself, the paper's form. `softmax`: the channels of
            a layer compete. `concrete`: gates decide between all and nothing under a budget, so that they
            learn what is lost without a channel; ranks channels better (see benchmarks/pcas_forms.py).
        epochs: passes over the training images that the gates are trained for, with the model frozen.
        lr: Adam's learning rate for the gates.
        reduction: a gate's hidden layer has width / reduction units.
        budget: share of the channels that concrete gates may keep open.
        pull: how hard the budget is enforced, against the task's loss.
    """

    gate: Literal["sigmoid", "softmax", "concrete"] = "sigmoid"
    epochs: float = 1.0
    lr: float = 0.02
    reduction: int = 4
    budget: float = 0.5
    pull: float = 20.0

    normalize: ClassVar[Normalize] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"gate"})
    per: ClassVar[Fineness] = "channel"

    def __post_init__(self) -> None:
        if self.gate not in ("sigmoid", "softmax", "concrete"):
            raise RecipeError(f"gate is 'sigmoid', 'softmax' or 'concrete', got {self.gate!r}")
        if self.epochs <= 0 or self.lr <= 0 or self.pull < 0:
            raise RecipeError(
                f"epochs and lr must be above 0 and pull at least 0, "
                f"got {self.epochs}, {self.lr}, {self.pull}"
            )
        if self.reduction < 1 or not 0 < self.budget < 1:
            raise RecipeError(
                f"reduction is at least 1 and budget in (0, 1), got {self.reduction}, {self.budget}"
            )

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        return per_output(evidence.require("gate"), weight)
