"""ONNX files of many cuts of a model for one export: its weights are sliced where a cut slices them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import torch
from onnx import numpy_helper
from torch import nn

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import ModelError
from kezuri.model.shrink import Structure
from kezuri.runtime.export import _fault, _silence, exported


class SliceableExport:
    """A model as ONNX before anything of it was folded, so that every weight still has its own name.

    What `write` gives is what exporting the cut model would, where no size is written into the graph (as a
    flattening to 512 values is); so compare the answers before you trust a file.
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
        """Exports once, which takes seconds.

        Args:
            model: on any device, in any mode; left as it is.
            image_shape: (channels, height, width).

        Raises:
            ModelError: the model cannot be exported; the operation at fault is named.
        """
        program = exported(model, image_shape, optimize=False)
        self._proto = program.model_proto
        self._origin = program.exported_program
        # the sizes between the layers are those of the whole model, and folding would rely on them
        del self._proto.graph.value_info[:]

    def write(self, structure: Structure, path: Path) -> Path:
        """Writes the model with the weights that `structure` keeps, folded as `export_onnx` folds them.

        Raises:
            ModelError: the sizes no longer fit each other.
            ResourceError: the file cannot be written.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        for tensor in proto.graph.initializer:
            if tensor.name in structure.kept:
                tensor.CopyFrom(_sliced(tensor, structure.kept[tensor.name]))
        with _silence():
            try:
                program = torch.onnx.ONNXProgram(onnx_ir.from_proto(proto), self._origin)
                program.optimize()
                content = program.model_proto.SerializeToString(deterministic=True)
            except Exception as error:
                raise ModelError(f"the cut model cannot be put together: {_fault(error)}") from error
        write_bytes(path, content)
        return path


def _sliced(tensor: onnx.TensorProto, dims: Mapping[int, tuple[int, ...]]) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    for dim, positions in dims.items():
        values = values.take(positions, axis=dim)
    return numpy_helper.from_array(np.ascontiguousarray(values), tensor.name)
