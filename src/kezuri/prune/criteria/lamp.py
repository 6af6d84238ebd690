"""Size of a weight among those of its layer that would outlive it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kezuri.core.errors import RecipeError
from kezuri.prune.criterion import Fineness, Normalize, criteria, per_output
from kezuri.prune.evidence import Evidence


@criteria.register("lamp")
@dataclass(frozen=True)
class Lamp:
    """w² as a share of all w'² of the layer that are at least as large (Lee et al., 2021).

    Made for one ranking of all layers: the largest weight of every layer scores 1, so none is emptied.

    Attributes:
        per: `weight` as published; `channel` does the same with the squared ℓ2 norms of output channels.
    """

    per: Fineness = "weight"

    normalize: ClassVar[Normalize] = "none"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.per not in ("channel", "weight"):
            raise RecipeError(f"lamp is per 'channel' or 'weight', got {self.per!r}")

    def __call__(self, weight: Tensor, evidence: Evidence) -> Tensor:  # noqa: ARG002 (the role's)
        squares = weight.double().square()
        if self.per == "channel":
            return per_output(among_survivors(squares.flatten(1).sum(1)), weight)
        return among_survivors(squares.flatten()).view(weight.shape)


def among_survivors(sizes: Tensor) -> Tensor:
    """Each size, (n,), over the sum of those at least as large, equal ones among them; 0 of 0 is 0."""
    ascending, order = sizes.sort()
    at_least = ascending.flip(0).cumsum(0).flip(0)
    first = torch.searchsorted(ascending, ascending)  # of its equals
    shares = ascending / at_least[first].clamp(min=torch.finfo(sizes.dtype).tiny)
    return torch.empty_like(sizes).scatter(0, order, shares)
