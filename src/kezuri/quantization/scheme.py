"""How a model is turned into integers, as plain data that is kept with the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from kezuri.core.errors import UsageError
from kezuri.quantization.affine import BITS
from kezuri.quantization.fake import Ranges

Replacement = Literal["relu", "relu6"]


@dataclass(frozen=True)
class Scheme:
    """Bits and places.

    Attributes:
        bits: of weights.
        activation_bits: of what flows between layers.
        edge_bits: of weights and inputs of the first and the last layer, at least.
        layer_bits: of the weights of single layers, by name; counts before the others.
        spared: names of layers that stay in floats.
        per_channel: whether weights have a scale for each output; the runtime is as fast with them.
        attention: whether attention's products go to integers; if not, attention stays fused.
        gates: whether squeeze-and-excite gates do.
        ranges: what training does to the ranges of activations: "fixed" as calibrated, "moving" along with
            what passes, "learned" (LSQ; the scales of weights too). Scales of weights follow the weights
            otherwise.
        replaced: activations to replace, such as `{"hardswish": "relu"}`, as the runtime has no integer
            kernel for them; the model must then be trained again.
    """

    bits: int = 8
    activation_bits: int = 8
    edge_bits: int = 8
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    spared: tuple[str, ...] = ()
    per_channel: bool = True
    attention: bool = True
    gates: bool = False
    ranges: Ranges = "fixed"
    replaced: Mapping[str, Replacement] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {"bits": self.bits, "activation_bits": self.activation_bits, "edge_bits": self.edge_bits}
        for name, bits in (*named.items(), *self.layer_bits.items()):
            if type(bits) is not int or bits not in BITS:
                raise UsageError(f"{name}: bits are from {BITS.start} to {BITS.stop - 1}, got {bits}")
        if isinstance(self.spared, str) or not all(isinstance(name, str) for name in self.spared):
            raise UsageError(f"spared are names of layers, got {self.spared!r}")
        for name in ("per_channel", "attention", "gates"):
            if not isinstance(value := getattr(self, name), bool):
                raise UsageError(f"{name} is true or false, got {value!r}")
        if self.ranges not in get_args(Ranges):
            raise UsageError(f"ranges is one of {', '.join(get_args(Ranges))}; got {self.ranges!r}")
        for name, other in self.replaced.items():
            if name not in REPLACEABLE or other not in REPLACEMENTS:
                raise UsageError(
                    f"replaced: {', '.join(REPLACEABLE)} can become {' or '.join(REPLACEMENTS)}; "
                    f"got {name!r}: {other!r}"
                )


REPLACEMENTS = get_args(Replacement)
REPLACEABLE = ("relu6", "hardswish", "silu", "gelu", "leaky_relu", "elu")
