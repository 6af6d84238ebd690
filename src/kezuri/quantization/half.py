"""Numbers of 16 bits: a file half the size, and the arithmetic of it where a device has it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from kezuri.core.errors import ModelError, UsageError
from kezuri.quantization.onnx_file import fresh, inputs_of, names_in, read_onnx, replace_nodes_, write_onnx

HalfFormat = Literal["float16", "bfloat16"]

KINDS: Mapping[HalfFormat, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
DTYPES: Mapping[HalfFormat, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FLOAT16 = "tensor(float16)"
STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class KeptFloat:
    """A constant, or an operation, that stays float32, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Half:
    """What became of a file.

    Attributes:
        path: the file that was written.
        size, size_before: bytes of the two files.
        kept: what stays float32, in order: constants that do not fit, operations that have no 16-bit form.
    """

    path: Path
    size: int
    size_before: int
    kept: tuple[KeptFloat, ...]


def store_half(
    source: Path | str, target: Path | str, *, format: HalfFormat = "float16", smallest: int = 256
) -> Half:
    """Stores weights in 16 bits; what is computed stays float32, and so do inputs and outputs.

    Half the file and no other gain: a runtime turns the weights back into float32 when it loads them. float16
    has 11 bits of precision and nothing above 65,504, bfloat16 8 bits and float32's range. On a CPU this is
    as small as `to_half`, as fast, and no step of the arithmetic can overflow.

    Args:
        source: an ONNX file in float32.
        target: the file to write; may be the same.
        format: "float16" or "bfloat16".
        smallest: constants with fewer values stay as they are: turning them back takes bytes as well.

    Raises:
        DataError: the source is no ONNX model of one file.
        UsageError: there is no such format.
        ResourceError: the file cannot be written.
    """
    source, target = Path(source), Path(target)
    if format not in get_args(HalfFormat):
        raise UsageError(f"format is one of {', '.join(get_args(HalfFormat))}; got {format!r}")
    proto = read_onnx(source)
    graph, taken, casts, kept = proto.graph, names_in(proto.graph), [], []
    given = {value.name for value in graph.input}
    for tensor in graph.initializer:
        values = _floats(tensor)
        if values is None or tensor.name in given or values.size < smallest:
            continue
        reason = _misfit(values, format)
        if reason is not None:
            kept.append(KeptFloat(tensor.name, reason))
            continue
        name = tensor.name
        tensor.CopyFrom(_half(values, fresh(f"{name}_{format}", taken), format))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    replace_nodes_(graph, [*casts, *graph.node])
    before = source.stat().st_size
    return Half(target, write_onnx(target, proto), before, tuple(kept))


def to_half(source: Path | str, target: Path | str, *, keep: Collection[str] = ()) -> Half:
    """Turns a model into float16 arithmetic and weights; its inputs and outputs stay float32.

    For devices that compute in float16, such as GPUs. On a CPU, ONNX Runtime computes in float32 all the
    same, no faster, and only the file is smaller. Only constants are checked here: whether what a layer
    answers stays below 65,504 shows when the file is run.

    Args:
        source: an ONNX file in float32, of standard operations.
        target: the file to write; may be the same.
        keep: names of operations, or kinds of them (`Softmax`), to leave in float32.

    Raises:
        DataError: the source is no ONNX model of one file.
        ModelError: it has operations that are not ONNX's own.
        UsageError: `keep` names what is not there.
        ResourceError: the file cannot be written.
    """
    source, target = Path(source), Path(target)
    proto = read_onnx(source)
    graph = proto.graph
    for node in graph.node:
        if node.domain not in STANDARD:
            raise ModelError(
                f"only ONNX's own operations can be made float16; {node.op_type} is {node.domain}'s"
            )
    unknown = set(keep) - {node.op_type for node in graph.node} - {node.name for node in graph.node}
    if unknown:
        raise UsageError(f"keep names {', '.join(sorted(unknown))}, which the model has not")
    opset = next(item.version for item in proto.opset_import if item.domain in STANDARD)
    rewrite = _Rewrite(graph, _float_values(proto), opset, keep)
    replace_nodes_(graph, rewrite.nodes())
    graph.initializer.extend(rewrite.constants)
    del graph.value_info[:]
    before = source.stat().st_size
    return Half(target, write_onnx(target, proto), before, tuple(rewrite.kept))


class _Rewrite:
    """A value has its own name as float32 and another as float16; what is not there when needed is cast."""

    def __init__(self, graph: GraphProto, floats: set[str], opset: int, keep: Collection[str]) -> None:
        self.graph = graph
        self.floats = floats
        self.opset = opset
        self.keep = keep
        self.constants: list[TensorProto] = []
        self.kept: list[KeptFloat] = []
        self._taken = names_in(graph)
        self._half: dict[str, str] = {}  # float32 name → float16 name, of those that exist
        given = {value.name for value in graph.input}
        self._full = given | {tensor.name for tensor in graph.initializer}  # those there are as float32
        self._misfits: dict[str, str] = {}
        for tensor in graph.initializer:
            values = _floats(tensor)
            if values is None or tensor.name in given:
                continue
            reason = _misfit(values, "float16")
            if reason is not None:
                self._misfits[tensor.name] = reason
                self.kept.append(KeptFloat(tensor.name, reason))
                continue
            self._half[tensor.name] = fresh(f"{tensor.name}_float16", self._taken)
            self.constants.append(_half(values, self._half[tensor.name], "float16"))

    def nodes(self) -> Iterator[NodeProto]:
        """The operations of the float16 graph, in order."""
        for node in self.graph.node:
            yield from self._turned(node)
        for output in self.graph.output:
            yield from self._cast(output.name, half=False)

    def _turned(self, node: NodeProto) -> Iterator[NodeProto]:
        before = NodeProto()
        before.CopyFrom(node)
        halves = self._halves(node)
        for place, name in enumerate(before.input):
            if name in self.floats:
                half = self._variable(node, place) in halves
                yield from self._cast(name, half=half)
                node.input[place] = self._half[name] if half else name
        for name in list(inputs_of(before))[len(before.input) :]:
            if name in self.floats and (name in self._half or name in self._full):
                yield from self._cast(name, half=False)
        for place, name in enumerate(before.output):
            if name in self.floats and self._variable(node, place, output=True) in halves:
                self._half[name] = fresh(f"{name}_float16", self._taken)
                node.output[place] = self._half[name]
            elif name:
                self._full.add(name)
        yield node

    def _halves(self, node: NodeProto) -> set[str]:
        """The type variables of an operation that become float16."""
        bound: dict[str, list[str]] = {}
        for place, name in enumerate(node.input):
            if name in self.floats:
                bound.setdefault(self._variable(node, place), []).append(name)
        if node.name in self.keep or node.op_type in self.keep:
            self.kept.append(KeptFloat(node.name or node.output[0], "it was asked for"))
            return set()
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
        # what holds tensors inside, a graph or a sequence, keeps the format that it was written for
        opaque = any(item.HasField("g") or item.graphs for item in node.attribute) or any(
            not any(kind.startswith("tensor(") for kind in kinds) for kinds in allowed.values()
        )
        able = {name for name in bound if FLOAT16 in allowed.get(name, ()) and not opaque}
        for variable in sorted(bound.keys() & allowed.keys() - able):
            reason = f"{node.op_type} has no float16 form ({variable})"
            self.kept.append(KeptFloat(node.name or node.output[0], reason))
        return {name for name in able if self._misfits.keys().isdisjoint(bound[name])}

    def _variable(self, node: NodeProto, place: int, *, output: bool = False) -> str:
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        formals = schema.outputs if output else schema.inputs
        return str(formals[min(place, len(formals) - 1)].type_str)

    def _cast(self, name: str, *, half: bool) -> Iterator[NodeProto]:
        """What makes a value available in a format, if it is not yet."""
        if half and name not in self._half:
            self._half[name] = fresh(f"{name}_float16", self._taken)
            yield helper.make_node("Cast", [name], [self._half[name]], to=TensorProto.FLOAT16)
        elif not half and name not in self._full:
            self._full.add(name)
            yield helper.make_node("Cast", [self._half[name]], [name], to=TensorProto.FLOAT)


def _float_values(proto: onnx.ModelProto) -> set[str]:
    """The names of all float32 values."""
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _floats(tensor: TensorProto) -> NDArray[np.float32] | None:
    if tensor.data_type != TensorProto.FLOAT:
        return None
    values: NDArray[np.float32] = numpy_helper.to_array(tensor)
    return values


def _misfit(values: NDArray[np.float32], format: HalfFormat) -> str | None:
    """Why constants cannot be stored in 16 bits; None if they can."""
    full = torch.from_numpy(values.copy())
    half = full.to(DTYPES[format])
    beyond = half.isinf() & ~full.isinf()
    if bool(beyond.any()):
        largest = float(full[beyond].abs().max())
        limit = torch.finfo(DTYPES[format]).max
        return f"{int(beyond.sum())} of {full.numel()} values are beyond {limit:.5g}, up to {largest:.3g}"
    if bool(full.any()) and not bool(half.any()):
        return f"all its values would become 0; the largest is {float(full.abs().max()):.3g}"
    return None


def _half(values: NDArray[np.float32], name: str, format: HalfFormat) -> TensorProto:
    bits = torch.from_numpy(values.copy()).to(DTYPES[format]).view(torch.int16).numpy()
    return helper.make_tensor(name, KINDS[format], values.shape, bits.tobytes(), raw=True)
