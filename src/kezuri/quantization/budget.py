"""What a quantized model may cost, and what that came to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.quantization.affine import BITS
from kezuri.quantization.bits import Allocation, allocate
from kezuri.quantization.layer_losses import LayerCosts
from kezuri.quantization.scheme import Scheme
from kezuri.quantization.sensitivity import UNTOUCHED, Cost, Entry, Metric, Option, SensitivityTable

CHOICES = (8, 6, 5, 4, 3, 2)
"""Bits that a layer may get, if none are named."""


@dataclass(frozen=True)
class Budget:
    """What the quantized model may cost, and what may be done to a layer to get there.

    Give one of size, macs and latency. Of the first two, a number up to 1 is a fraction of what the model
    costs in floats; of latency, one below 1.

    Attributes:
        size: bytes of a file in which every layer has its own bits (what counts: see
            `kezuri.quantization.layer_losses`); files of the ONNX Runtime hold 8 bits for each weight,
            whatever is chosen.
        macs: multiply-accumulates for one image with weights that are not zero.
        latency: milliseconds for one image in the runtime, on one thread. As it computes in 8 bits or in
            floats, so do layers: those that lose most for the time they save stay in floats.
        bits: a layer may have, 2 to 8; 8 under a budget of latency.
        sparsities: fractions of a layer's weights that may go, those of the smallest magnitude.
    """

    size: float | None = None
    macs: float | None = None
    latency: float | None = None
    bits: tuple[int, ...] = CHOICES
    sparsities: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        given = [name for name in get_args(Metric) if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"a budget is on one of {', '.join(get_args(Metric))}, such as {{size: 0.15}}; got "
                f"{' and '.join(given) or 'none'}"
            )
        if not self.most > 0:
            raise UsageError(f"the budget on {self.metric} must be above 0, got {self.most}")
        if not self.bits or any(type(bits) is not int or bits not in BITS for bits in self.bits):
            raise UsageError(f"bits are from {BITS.start} to {BITS.stop - 1}, got {list(self.bits)}")
        if not self.sparsities or not all(0 <= sparsity < 1 for sparsity in self.sparsities):
            raise UsageError(f"sparsities are fractions in [0, 1), got {list(self.sparsities)}")
        if self.macs is not None and not any(self.sparsities):
            raise UsageError("fewer bits are no fewer macs: give sparsities to choose from, such as [0, 0.5]")
        if self.latency is not None:
            self._check_latency()

    def _check_latency(self) -> None:
        if self.bits not in (CHOICES, (8,)):
            raise UsageError(
                "the runtime computes in 8 bits or in floats, so that a budget of latency has no other bits "
                f"to choose from; got bits {list(self.bits)}"
            )
        if any(self.sparsities):
            raise UsageError(
                "the runtime takes as long for zeros as for other numbers, so that a budget of latency has "
                f"no sparsities to choose from (prune channels before); got {list(self.sparsities)}"
            )
        object.__setattr__(self, "bits", (8,))

    @property
    def metric(self) -> Metric:
        """What it is on."""
        named: tuple[Metric, ...] = get_args(Metric)
        return next(name for name in named if getattr(self, name) is not None)

    @property
    def most(self) -> float:
        """As it was given."""
        return float(getattr(self, self.metric))

    def options(self, costs: LayerCosts) -> dict[str, list[Option]]:
        """What may be done to each layer, the gentlest first; weights that are no parameters lose none."""
        found = {}
        for layer in costs.sites:
            sparsities = self.sparsities if isinstance(costs.weight(layer), nn.Parameter) else (0.0,)
            pairs = {(sparsity, -bits) for bits in self.bits for sparsity in sparsities}
            found[layer] = [Option(-bits, sparsity) for sparsity, bits in sorted(pairs)]
        return found

    def limit(self, costs: LayerCosts) -> float:
        """In bytes or multiply-accumulates, for a model.

        Raises:
            GoalUnreachable: no choice of options keeps it; nothing was measured to find out.
        """
        whole = costs.whole.of(self.metric) or 0.0
        limit = self.most * whole if self.most <= 1 else self.most
        entries = {
            layer: tuple(Entry(option, 0.0, costs.cost(layer, option)) for option in options)
            for layer, options in self.options(costs).items()
        }
        allocate(SensitivityTable(entries, fixed=costs.fixed), metric=self.metric, most=limit)
        return limit


@dataclass(frozen=True)
class Tried:
    """A choice that was made and timed as a whole.

    Attributes:
        allocation: with its latency as measured.
        floats: how many layers it leaves in floats.
    """

    allocation: Allocation
    floats: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"loss": self.allocation.loss, **asdict(self.allocation.cost), "floats": self.floats}


@dataclass(frozen=True)
class Allocated:
    """What a budget came to.

    Attributes:
        allocation: the option of each layer.
        table: what every option of every layer loses.
        limit: the budget, in bytes, multiply-accumulates or milliseconds.
        whole: what the model costs in floats.
        masks: which weights are kept, by parameter name; only of layers that lose some.
        tried: choices that were timed as a whole, under a budget of latency.
    """

    allocation: Allocation
    table: SensitivityTable
    limit: float
    whole: Cost
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    tried: tuple[Tried, ...] = ()

    def scheme(self, scheme: Scheme) -> Scheme:
        """A scheme with the bits of each layer, and the layers that stay in floats."""
        options = self.allocation.options.items()
        bits = {layer: option.bits for layer, option in options if option != UNTOUCHED}
        floats = tuple(layer for layer, option in options if option == UNTOUCHED)
        return replace(scheme, layer_bits=bits, spared=(*scheme.spared, *floats))

    def to_json(self) -> dict[str, Any]:
        """Limit, choice and what was timed as plain data."""
        timed = {"timed": [one.to_json() for one in self.tried]} if self.tried else {}
        chosen = self.allocation.to_json()
        return {"limit": self.limit, "whole": asdict(self.whole), "chosen": chosen, **timed}
