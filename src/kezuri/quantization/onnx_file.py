"""An ONNX file that is to be rewritten: its constants, who reads them, and writing it again."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import DataError, ResourceError

LARGEST = (1 << 31) - 1  # bytes of one file, a limit of the format
PASSING = ("Transpose", "Identity")


def read_onnx(path: Path) -> ModelProto:
    """The model in a file, with each constant as an initializer.

    Raises:
        DataError: no such file, no ONNX model, or one whose weights lie in other files.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"no file {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf, whose classes differ from version to version
        raise DataError(f"{path} is no ONNX model") from error
    if not model.graph.node:
        raise DataError(f"{path} is no ONNX model: it has no operations")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise DataError(f"{path} has its weights in other files; export it as one file")
    _hoist_constants_(model.graph)
    return model


def write_onnx(path: Path, model: ModelProto) -> int:
    """Writes the model, without what nothing reads any more, and gives its bytes.

    Raises:
        ResourceError: the file cannot be written, or is too large for the format.
    """
    _drop_unused_(model.graph)
    size = model.ByteSize()
    if size > LARGEST:
        raise ResourceError(f"{path} would have {size:,} bytes; one ONNX file has at most {LARGEST:,}")
    content = model.SerializeToString(deterministic=True)
    write_bytes(path, content)
    return len(content)


def inputs_of(node: NodeProto) -> Iterator[str]:
    """What an operation reads, in order, and then what the graphs inside it read."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from inputs_of(inner)
            yield from (output.name for output in graph.output)


class Constants:
    """The constants of a graph, also those that reach their reader through a transposition."""

    def __init__(self, graph: GraphProto) -> None:
        given = {value.name for value in graph.input}
        self.initializers = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
        self._passing: dict[str, NodeProto] = {}
        self._root = {name: name for name in self.initializers}
        for node in graph.node:
            if node.op_type in PASSING and node.input[0] in self._root:
                self._passing[node.output[0]] = node
                self._root[node.output[0]] = self._root[node.input[0]]

    def root(self, name: str) -> str | None:
        """The initializer that a value is made of, or None for what is no constant."""
        return self._root.get(name)

    def passes(self, node: NodeProto) -> bool:
        """Whether an operation only transposes a constant."""
        return node.output[0] in self._passing

    def kind(self, name: str) -> int | None:
        """Its element type, as ONNX numbers them."""
        root = self._root.get(name)
        return None if root is None else self.initializers[root].data_type

    def value(self, name: str) -> NDArray[np.generic]:
        """A constant, as its reader sees it."""
        node = self._passing.get(name)
        if node is None:
            array: NDArray[np.generic] = numpy_helper.to_array(self.initializers[name])
            return array
        value = self.value(node.input[0])
        if node.op_type == "Identity":
            return value
        order = next((list(item.ints) for item in node.attribute if item.name == "perm"), None)
        return value.transpose(order)


def fresh(name: str, taken: set[str]) -> str:
    """The name, or the name with a number, so that it is not among those taken; it is, afterwards."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def names_in(graph: GraphProto) -> set[str]:
    """All names of values."""
    named = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        named.update(node.output, inputs_of(node))
    return named


def replace_nodes_(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Puts other operations in the place of all there are."""
    nodes = list(nodes)  # they may come from the graph itself
    del graph.node[:]
    graph.node.extend(nodes)


def _hoist_constants_(graph: GraphProto) -> None:
    kept = []
    for node in list(graph.node):
        tensor = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type != "Constant" or tensor is None:
            kept.append(node)
            continue
        hoisted = graph.initializer.add()
        hoisted.CopyFrom(tensor)
        hoisted.name = node.output[0]
    if len(kept) < len(graph.node):
        replace_nodes_(graph, kept)


def _drop_unused_(graph: GraphProto) -> None:
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(list(graph.node)):
        if node.op_type in (*PASSING, "Cast") and used.isdisjoint(node.output):
            continue
        used.update(inputs_of(node))
        kept.append(node)
    replace_nodes_(graph, reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
