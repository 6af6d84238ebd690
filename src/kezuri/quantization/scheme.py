"""How a model is turned into integers, as plain data that is kept with the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from kezuri.core.errors import UsageError
from kezuri.quantization.affine import BITS
from kezuri.quantization.fake import Ranges

Replacement = Literal["relu", "relu6"]
FUSING = ("openvino",)
"""Runtimes that compute SiLU along with the layer before it, faster than as a product of integers."""


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
        gates: whether the layers of squeeze-and-excite gates do.
        swish: whether SiLU and hard-swish do, as products with a sigmoid. None leaves it to where the model
            ships: ONNX Runtime gains by it, OpenVINO computes them along with the layer before.
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
    gates: bool = True
    swish: bool | None = None
    ranges: Ranges = "fixed"
    replaced: Mapping[str, Replacement] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bits", "activation_bits", "edge_bits"):
            _check_bits(name, getattr(self, name))
        if not isinstance(self.layer_bits, Mapping):
            raise UsageError(f"layer_bits are bits by name of the layer, got {self.layer_bits!r}")
        for layer, bits in self.layer_bits.items():
            _check_bits(f"layer_bits of {layer!r}", bits)
        if not isinstance(self.spared, tuple) or not all(isinstance(name, str) for name in self.spared):
            raise UsageError(f"spared are names of layers, got {self.spared!r}")
        for name in ("per_channel", "attention", "gates", "swish"):
            value = getattr(self, name)
            if not isinstance(value, bool) and (name, value) != ("swish", None):
                raise UsageError(f"{name} is true or false, got {value!r}")
        check_ranges(self.ranges)
        if not isinstance(self.replaced, Mapping):
            raise UsageError(
                f"replaced says what becomes what, such as {{'gelu': 'relu'}}; got {self.replaced!r}"
            )
        for name, other in self.replaced.items():
            if name not in REPLACEABLE or other not in REPLACEMENTS:
                raise UsageError(
                    f"replaced: {', '.join(REPLACEABLE)} can become {' or '.join(REPLACEMENTS)}; "
                    f"got {name!r}: {other!r}"
                )

    def suited(self, runtime: str) -> "Scheme":
        """With what is left to the runtime decided, by the runner's name."""
        return self if self.swish is not None else replace(self, swish=runtime not in FUSING)


def _check_bits(what: str, bits: object) -> None:
    if type(bits) is not int or bits not in BITS:
        raise UsageError(f"{what}: bits are from {BITS.start} to {BITS.stop - 1}, got {bits!r}")


def check_ranges(ranges: object) -> None:
    """That there is such a way to train ranges.

    Raises:
        UsageError: there is not.
    """
    if ranges not in get_args(Ranges):
        raise UsageError(f"ranges is one of {', '.join(get_args(Ranges))}; got {ranges!r}")


REPLACEMENTS = get_args(Replacement)
REPLACEABLE = ("relu6", "hardswish", "silu", "gelu", "leaky_relu", "elu")
