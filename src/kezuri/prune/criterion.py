"""The role of a criterion: what is a weight worth?

A criterion gives every weight a score, and higher is kept longer (the literature calls it saliency or
importance). It sees one weight tensor and the evidence calibration collected about it, nothing else: what
is removed together, who competes with whom and when are the questions of granularity, scope and schedule.
"""

from typing import ClassVar, Literal, Protocol

from torch import Tensor

from kezuri.core.errors import ShapeError
from kezuri.core.registry import Registry
from kezuri.prune.evidence import Evidence

Fineness = Literal["weight", "channel"]
"""What can be told apart: single weights, or output channels only."""

Normalize = Literal["none", "mean", "rank"]
"""What makes scores of different layers comparable: nothing, dividing by the mean, taking ranks."""


class Criterion(Protocol):
    """Scores each weight by what the model would lose without it."""

    normalize: ClassVar[Normalize]
    """What a ranking across layers does to them; "none" when they are on one scale already."""

    @property
    def needs(self) -> frozenset[str]:
        """The parts of `Evidence` it reads."""
        ...

    @property
    def per(self) -> Fineness:
        """The finest thing it tells apart: single weights, or output channels only."""
        ...

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:
        """Scores of the weight's shape, finite; the weight stays as it is."""
        ...


criteria: Registry[type[Criterion]] = Registry("criterion")


def per_output(values: Tensor, weight: Tensor) -> Tensor:
    """One value per output channel, (outputs,), as scores of the weight's shape.

    Raises:
        ShapeError: the number of values is not the number of outputs.
    """
    if values.shape != weight.shape[:1]:
        raise ShapeError(f"{tuple(values.shape)} values do not fit {weight.shape[0]} output channels")
    return values.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
