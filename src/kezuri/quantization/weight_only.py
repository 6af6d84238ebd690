"""Linear layers with weights of 4 bits, for runtimes that multiply by them as they are (MatMulNBits)."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from kezuri.core.errors import ShapeError, UsageError
from kezuri.core.registry import unknown
from kezuri.quantization.affine import TINY
from kezuri.quantization.blocks import Blocks, fit_blocks, round_to_blocks
from kezuri.quantization.matmul_nbits import DOMAIN, Arithmetic, product, prove, stored
from kezuri.quantization.onnx_file import (
    Constants,
    fresh,
    inputs_of,
    names_in,
    read_onnx,
    replace_nodes_,
    write_onnx,
)


@dataclass(frozen=True)
class FourBitLayer:
    """A weight that is stored in 4 bits now.

    Attributes:
        name: the model's name of the weight, if the model was given, else the file's.
        inputs, outputs: its size.
        size: bytes of codes, scales and zero points.
        error: √(Σ(w − ŵ)² / Σw²).
    """

    name: str
    inputs: int
    outputs: int
    size: int
    error: float


@dataclass(frozen=True)
class LeftAlone:
    """An operation with weights, or a matrix product, that stays as it was, and why."""

    name: str
    operation: str
    reason: str


@dataclass(frozen=True)
class FourBit:
    """What became of a file.

    Attributes:
        path: the file that was written.
        size, size_before: bytes of the two files.
        layers: the weights of 4 bits, in the order of execution.
        left: what stays float, in that order.
    """

    path: Path
    size: int
    size_before: int
    layers: tuple[FourBitLayer, ...]
    left: tuple[LeftAlone, ...]


def to_four_bit(
    source: Path | str,
    target: Path | str,
    *,
    block: int = 32,
    symmetric: bool = False,
    arithmetic: Arithmetic = "float32",
    smallest: int = 4096,
    model: nn.Module | None = None,
    rounded: Mapping[str, Blocks] | None = None,
) -> FourBit:
    """Stores the weights of linear layers in 4 bits, which ONNX Runtime multiplies by as they are.

    Faster where reading the weights is what takes the time: large layers and few rows at once. Convolutions
    have no such kernel and stay. Each layer written is run by ONNX Runtime once and compared with the float
    product by the rounded weights.

    Args:
        source: an ONNX file in float32, as `export_onnx` writes it.
        target: the file to write; may be the same.
        block: inputs that share a scale: 16, 32, 64, 128 or 256.
        symmetric: without zero points: 4.5 bits a weight of memory and file in place of 4.6 or so (block
            32), and less exact.
        arithmetic: "float32" multiplies in float32. "int8" lets the runtime round the inputs to 8 bits, row
            by row in blocks: faster still, and off by up to some percent of the largest answer.
        smallest: weights with fewer values stay float.
        model: what the file was exported from, so that layers go by its names: exporters rename weights.
        rounded: weights to take instead of the nearest values, by the result's names: from `gptq_blocks`, or
            through `already_rounded` from anywhere.

    Raises:
        DataError: the file is no ONNX model of one file, or a weight is not finite.
        UsageError: a bad option, or a name in `rounded` that is no layer.
        ShapeError: a weight in `rounded` does not fit its layer.
        ParityFailed: ONNX Runtime, as installed here, answers something else than the rounded weights give.
        ResourceError: the file cannot be written.
    """
    source, target = Path(source), Path(target)
    if arithmetic not in get_args(Arithmetic):
        raise UsageError(f"arithmetic is one of {', '.join(get_args(Arithmetic))}; got {arithmetic!r}")
    proto = read_onnx(source)
    rewrite = _Rewrite(proto.graph, arithmetic, smallest, {} if model is None else _names(model))
    rewrite.choose()
    rewrite.check(rounded or {})
    for name, weight in rewrite.weights.items():
        found = (rounded or {}).get(name)
        if found is None:
            scale, zero_point = fit_blocks(weight, block=block, symmetric=symmetric)
            found = round_to_blocks(weight, scale, zero_point, block=block)
        rewrite.store(name, found)
    rewrite.replace()
    if rewrite.layers and all(opset.domain != DOMAIN for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    before = source.stat().st_size
    size = write_onnx(target, proto)
    return FourBit(target, size, before, tuple(rewrite.layers), tuple(rewrite.left))


class _Rewrite:
    def __init__(
        self, graph: GraphProto, arithmetic: Arithmetic, smallest: int, names: Mapping[bytes, str]
    ) -> None:
        self.graph = graph
        self.arithmetic = arithmetic
        self.smallest = smallest
        self.names = names
        self.constants = Constants(graph)
        self.taken = names_in(graph)
        self.weights: dict[str, Tensor] = {}
        self.layers: list[FourBitLayer] = []
        self.left: list[LeftAlone] = []
        self._layer: dict[int, str] = {}  # position of an operation → the name of its weight
        self._inputs: dict[str, list[str]] = {}  # name of a weight → the inputs that stand for it
        self._blocks: dict[str, Blocks] = {}

    def choose(self) -> None:
        """Decides which operations are replaced, and says why the others are not."""
        readers = self._readers()
        for position, node in enumerate(self.graph.node):
            if self.constants.passes(node) or not self._has_weight(node):
                continue
            reason = self._reason(node, readers)
            if reason is not None:
                self.left.append(LeftAlone(node.name or node.output[0], node.op_type, reason))
                continue
            weight = self._weight(node)
            name = self.names.get(_print_of(weight)) or self.constants.root(node.input[1]) or ""
            if name in self.weights and not torch.equal(self.weights[name], weight):
                name = fresh(name, self.taken)  # one constant, multiplied by upright and transposed
            self.weights[name] = weight
            self._layer[position] = name

    def check(self, rounded: Mapping[str, Blocks]) -> None:
        """Refuses rounded weights that belong to no layer."""
        for name, blocks in rounded.items():
            if name not in self.weights:
                raise unknown("4-bit layer", name, list(self.weights))
            wanted, got = tuple(self.weights[name].shape), tuple(blocks.values().shape)
            if wanted != got:
                raise ShapeError(f"the rounded weight of {name} is {got}, the layer's is {wanted}")

    def store(self, name: str, blocks: Blocks) -> None:
        """Puts the packed weight of a layer into the graph, once it is proved to be understood."""
        tensors = stored(blocks)
        prove(name, blocks, tensors, self.arithmetic)
        for tensor in tensors:
            tensor.name = fresh(f"{name}.{tensor.name}", self.taken)
        self.graph.initializer.extend(tensors)
        self._inputs[name] = [tensor.name for tensor in tensors]
        self._blocks[name] = blocks
        weight = self.weights[name]
        error = (weight - blocks.values()).norm() / weight.norm().clamp(min=TINY)
        size = sum(len(tensor.raw_data) for tensor in tensors)
        self.layers.append(FourBitLayer(name, weight.shape[1], weight.shape[0], size, float(error)))

    def replace(self) -> None:
        """Puts the new operations in the place of those chosen."""
        nodes: list[NodeProto] = []
        for position, node in enumerate(self.graph.node):
            name = self._layer.get(position)
            nodes += [node] if name is None else self._replacement(node, name)
        replace_nodes_(self.graph, nodes)

    def _replacement(self, node: NodeProto, name: str) -> list[NodeProto]:
        inputs = [node.input[0], *self._inputs[name]]
        bias = node.input[2] if len(node.input) > 2 else ""
        answer = fresh(f"{node.output[0]}_product", self.taken) if bias else node.output[0]
        multiply = product(self._blocks[name], inputs, answer, name=node.name, arithmetic=self.arithmetic)
        if not bias:
            return [multiply]
        return [multiply, helper.make_node("Add", [answer, bias], [node.output[0]], name=f"{node.name}_bias")]

    def _readers(self) -> dict[str, list[str]]:
        """Initializer → what reads it, `graph` for the graph's own outputs."""
        readers: dict[str, list[str]] = {}
        for node in self.graph.node:
            if self.constants.passes(node):
                continue
            for place, name in enumerate(inputs_of(node)):
                if (root := self.constants.root(name)) is not None:
                    multiplied = node.op_type in ("MatMul", "Gemm") and place == 1
                    readers.setdefault(root, []).append("" if multiplied else node.op_type)
        for output in self.graph.output:
            if (root := self.constants.root(output.name)) is not None:
                readers.setdefault(root, []).append("graph")
        return readers

    def _has_weight(self, node: NodeProto) -> bool:
        """Whether an operation is worth a word: a matrix product, or one with a large constant matrix."""
        if node.op_type in ("MatMul", "Gemm"):
            return True
        for name in node.input:
            if self.constants.kind(name) == TensorProto.FLOAT:
                shape = self.constants.value(name).shape
                if len(shape) > 1 and np.prod(shape) >= self.smallest:
                    return True
        return False

    def _reason(self, node: NodeProto, readers: Mapping[str, list[str]]) -> str | None:
        """Why an operation stays as it is; None if it need not."""
        if node.op_type not in ("MatMul", "Gemm"):
            return f"{node.op_type} has no kernel for weights of 4 bits"
        root = self.constants.root(node.input[1])
        if root is None:
            first = self.constants.root(node.input[0]) is not None
            return "its constant comes first" if first else "it has no constant weight"
        if self.constants.kind(node.input[1]) != TensorProto.FLOAT:
            return "its weight is not float32"
        shape = self.constants.value(node.input[1]).shape
        if len(shape) != 2:
            return f"its weight has {len(shape)} dimensions"
        if np.prod(shape) < self.smallest:
            return f"small: {np.prod(shape)} values of {self.smallest} or more"
        others = sorted({reader for reader in readers[root] if reader})
        if others:
            return f"its weight is read by {', '.join(others)} as well"
        return self._gemm_reason(node)

    def _gemm_reason(self, node: NodeProto) -> str | None:
        if node.op_type == "MatMul":
            return None
        options = _options(node)
        if options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0 or options.get("transA", 0):
            return "it scales, or transposes its input"
        return None

    def _weight(self, node: NodeProto) -> Tensor:
        """As (outputs, inputs)."""
        value = torch.from_numpy(np.array(self.constants.value(node.input[1]), dtype=np.float32))
        upright = node.op_type == "Gemm" and _options(node).get("transB", 0)
        return value if upright else value.T.contiguous()


def _options(node: NodeProto) -> dict[str, float | int]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _names(model: nn.Module) -> dict[bytes, str]:
    """Names of the weights of linear layers, by what is in them."""
    return {
        _print_of(module.weight): f"{name}.weight" if name else "weight"
        for name, module in reversed(list(model.named_modules()))
        if isinstance(module, nn.Linear)
    }


def _print_of(weight: Tensor) -> bytes:
    values = weight.detach().cpu().to(torch.float32).contiguous()
    return sha256(str(tuple(values.shape)).encode() + values.numpy().tobytes()).digest()
