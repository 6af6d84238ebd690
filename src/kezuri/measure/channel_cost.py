"""What one channel of a coupling costs the whole model: parameters, and multiply-accumulates of an image."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kezuri.measure.macs import UNKNOWN, count_macs
from kezuri.model.families import Coupling, Couplings
from kezuri.model.modes import device_of, evaluating, fused_attention_off
from kezuri.model.program import Blueprint
from kezuri.model.shrink import shrink_, structure_of
from kezuri.model.sites import tensors_of


@dataclass(frozen=True)
class ChannelCosts:
    """Costs of one image, by parameter and by coupling.

    Attributes:
        total: MACs of the model.
        weights: by parameter, the MACs it multiplies in; those of two activations are in none.
        numels: by parameter, how many numbers it holds.
        params: by coupling name, the parameters that one of its units takes with it.
        macs: by coupling name, the MACs that the model loses with one of its units.
    """

    total: int
    weights: Mapping[str, int]
    numels: Mapping[str, int]
    params: Mapping[str, int]
    macs: Mapping[str, int]


def channel_costs(model: nn.Module, couplings: Couplings, image_shape: tuple[int, int, int]) -> ChannelCosts:
    """What a unit of each coupling costs: exact for those that may go, as a cut and counted model shows.

    The weights that get narrower say how many MACs go. Cutting a unit of every free coupling out of a copy
    shows whether anything else gets smaller with them (the products of attention, say); what does is found
    by halving, and such couplings are cut one by one and counted. A blocked coupling cannot be cut, so that
    its cost is that of its weights alone.

    Args:
        model: left as it is.
        couplings: of this model.
        image_shape: (channels, height, width).
    """
    counter = _Counter(model, couplings, image_shape)
    macs = {coupling.name: _lost([coupling], couplings.shapes, counter.weights) for coupling in couplings}
    for needs_program in (False, True):
        macs |= counter.exact([one for one in couplings.free if (one.rewrite is not None) is needs_program])
    numels = {name: parameter.numel() for name, parameter in model.named_parameters()}
    params = {coupling.name: _lost([coupling], couplings.shapes, numels) for coupling in couplings}
    return ChannelCosts(counter.total, counter.weights, numels, params, macs)


class Cutter:
    """Cuts copies of one model, again and again; programs, where it takes one, share one export."""

    def __init__(self, model: nn.Module, couplings: Couplings, image_shape: tuple[int, int, int]) -> None:
        self.model, self.couplings = model, couplings
        self.example = (torch.zeros(2, *image_shape, device=device_of(model)),)

    def cut(self, kept: Mapping[str, Tensor]) -> nn.Module:
        """A copy without the units that `kept` marks False; it is not proved.

        Raises:
            UsageError: a coupling is unknown or blocked, a mask has the wrong shape or keeps nothing.
            ModelError: torch.export cannot follow the model.
        """
        structure = structure_of(self.couplings, kept)
        if any(self.couplings.named(name).rewrite is not None for name in kept):
            return self._blueprint.build(structure)
        small = copy.deepcopy(self.model)
        shrink_(small, structure)
        return small

    @cached_property
    def _blueprint(self) -> Blueprint:
        return Blueprint.of(self.model, self.example, self.couplings.choices)


class _Counter:
    """Counts what really goes with units, by cutting copies."""

    def __init__(self, model: nn.Module, couplings: Couplings, image_shape: tuple[int, int, int]) -> None:
        self.couplings, self.image_shape = couplings, image_shape
        self.cutter = Cutter(model, couplings, image_shape)
        self.total = count_macs(model, image_shape)
        self.weights = _by_weight(model, image_shape)
        self.abstract = self._count_abstractly(copy.deepcopy(model)) == self.total

    def exact(self, free: Sequence[Coupling]) -> dict[str, int]:
        """By name: the MACs that go with one unit, for those of which the weights do not tell all."""
        if not free:
            return {}
        counted = self._counted(free)
        if counted == _lost(free, self.couplings.shapes, self.weights):
            return {}
        if len(free) == 1:
            return {free[0].name: counted}
        middle = len(free) // 2
        return self.exact(free[:middle]) | self.exact(free[middle:])

    def _counted(self, free: Sequence[Coupling]) -> int:
        kept = {coupling.name: torch.arange(coupling.width) > 0 for coupling in free}
        left = self._count_abstractly(self.cutter.cut(kept)) if self.abstract else None
        return self.total - (count_macs(self.cutter.cut(kept), self.image_shape) if left is None else left)

    def _count_abstractly(self, model: nn.Module) -> int | None:
        """Counted without computing, as large models take long; None where the model's code needs numbers."""
        try:
            return count_macs(model.to("meta"), self.image_shape)
        except Exception:  # whatever the user's code does with a tensor that holds nothing
            return None


def _lost(
    couplings: Iterable[Coupling], shapes: Mapping[str, tuple[int, ...]], amounts: Mapping[str, int]
) -> int:
    """What goes of amounts that are proportional to their tensors, when a unit of each coupling goes."""
    gone: dict[str, dict[int, int]] = {}
    for coupling in couplings:
        for member in coupling.members:
            dims = gone.setdefault(member.parameter, {})
            dims[member.dim] = dims.get(member.dim, 0) + member.positions.shape[1]
    lost = 0
    for name, dims in gone.items():
        kept = prod(size - dims.get(dim, 0) for dim, size in enumerate(shapes[name]))
        # an amount is a whole multiple of the number of values, so this divides evenly
        lost += amounts.get(name, 0) * (prod(shapes[name]) - kept) // prod(shapes[name])
    return lost


def _by_weight(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """MACs of one image by the parameters they multiply with, where those are used whole."""
    products = _Products(model)
    image = torch.zeros(1, *image_shape, device=device_of(model))
    with evaluating(model), torch.no_grad(), fused_attention_off(), products:
        model(image)
    return products.macs


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at every product of tensors that is computed, and adds it to the weights it multiplies with."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: dict[str, int] = {}
        self.formulas = FlopCounterMode(display=False, custom_mapping=UNKNOWN).flop_registry
        self.owners = {
            tensor.untyped_storage().data_ptr(): (name, tensor.numel())
            for name, tensor in tensors_of(model).items()
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(getattr(func, "_overloadpacket", func))
        if formula is None and isinstance(func, torch._ops.OpOverload):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            weights = self._weights(args)
            values = sum(weights.values())
            for name, numel in weights.items():
                share = int(formula(*args, **kwargs, out_val=out)) // 2 * numel // values
                self.macs[name] = self.macs.get(name, 0) + share
        return out

    def _weights(self, args: Iterable[Any]) -> dict[str, int]:
        """The parameters among the factors, with how many values each has."""
        found: dict[str, int] = {}
        for value in args:
            if isinstance(value, Tensor) and value.dim() > 1:
                owner = self.owners.get(value.untyped_storage().data_ptr())
                if owner is not None and owner[1] == value.numel():
                    found[owner[0]] = owner[1]
        return found
