"""The role of an allocation: how much must each layer give?

For a scope in which every layer is pruned by itself, an allocation turns the sparsity asked of the whole
model into one for each group of units: the same for all, by the layer's shape, or as the user says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

from kezuri.core.errors import RecipeError
from kezuri.core.registry import Registry
from kezuri.prune.patterns import matching
from kezuri.prune.units import UnitGroup


class Allocation(Protocol):
    """Splits the sparsity of a model over its groups."""

    def __call__(self, groups: Sequence[UnitGroup], sparsity: float) -> dict[str, float]:
        """The sparsity of each group, in [0, 1), by its name."""
        ...


allocations: Registry[type[Allocation]] = Registry("allocation")


@allocations.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """The same for every layer."""

    def __call__(self, groups: Sequence[UnitGroup], sparsity: float) -> dict[str, float]:
        return {group.name: sparsity for group in groups}


@allocations.register("erk")
@dataclass(frozen=True)
class Erk:
    """Large layers give more: Erdős-Rényi-Kernel (Evci et al., 2020, RigL)."""

    def __call__(self, groups: Sequence[UnitGroup], sparsity: float) -> dict[str, float]:
        """The sparsity of each group from the shape of its weight.

        Raises:
            RecipeError: a group spans several weights, as coupled channels do.
        """
        shapes = {group.name: group.shape for group in groups if group.shape is not None}
        if len(shapes) < len(groups):
            raise RecipeError(
                "erk goes by the shape of one layer, and coupled channels span several; "
                "use the allocation 'uniform' or 'given', or the granularity 'filter'"
            )
        return {name: 1 - density for name, density in erk_densities(shapes, sparsity).items()}


def erk_densities(shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, float]:
    """Density ε·Σdims/Πdims of each layer, with ε such that `sparsity` of all weights go.

    A layer that would be more than dense is dense, and ε is solved again for the others.

    Args:
        shapes: of each weight, in any order of its dimensions.
        sparsity: of all weights together, in [0, 1).
    """
    dense: set[str] = set()
    while True:
        free = {name: shape for name, shape in shapes.items() if name not in dense}
        budget = (1 - sparsity) * sum(map(prod, shapes.values())) - sum(prod(shapes[name]) for name in dense)
        epsilon = budget / sum(map(sum, free.values())) if free else 0.0
        densities = {name: epsilon * sum(shape) / prod(shape) for name, shape in free.items()}
        over = {name for name, density in densities.items() if density > 1}
        if not over:
            return {name: densities.get(name, 1.0) for name in shapes}
        dense |= over


@allocations.register("given")
@dataclass(frozen=True)
class Given:
    """What the user says, by layer; the others give what is asked of the model.

    Attributes:
        sparsities: sparsity in [0, 1) by layer name, with `*` and `?`; the first pattern that fits holds.
    """

    sparsities: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pattern, sparsity in self.sparsities.items():
            if not 0 <= sparsity < 1:
                raise RecipeError(f"the sparsity of {pattern!r} must be in [0, 1), got {sparsity}")

    def __call__(self, groups: Sequence[UnitGroup], sparsity: float) -> dict[str, float]:
        """The sparsity of each group.

        Raises:
            RecipeError: a pattern fits no group.
        """
        names = [group.name for group in groups]
        shares: dict[str, float] = {}
        for pattern, share in self.sparsities.items():
            for name in matching(pattern, names):
                shares.setdefault(name, share)
        return {name: shares.get(name, sparsity) for name in names}
