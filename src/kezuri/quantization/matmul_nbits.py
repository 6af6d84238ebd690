"""The operation that multiplies by weights of 4 bits in ONNX Runtime, and the proof that it does."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from kezuri.core.errors import ParityFailed
from kezuri.quantization.affine import TINY
from kezuri.quantization.blocks import Blocks
from kezuri.runtime.runners.onnxruntime import ONLY_FATAL

Arithmetic = Literal["float32", "int8"]

DOMAIN = "com.microsoft"
LEVEL: Mapping[Arithmetic, int] = {"float32": 1, "int8": 4}  # what the operation calls accuracy_level
# of the largest answer: float32 sums in another order; inputs that were rounded to 8 bits, block by block
TOLERANCE: Mapping[Arithmetic, float] = {"float32": 1e-4, "int8": 5e-2}
ROWS = 4


def stored(blocks: Blocks) -> list[TensorProto]:
    """What a file holds of a weight: `codes`, `scale` and, unless it is symmetric, `zero_point`."""
    tensors = {"codes": blocks.packed(), "scale": blocks.scale.numpy()}
    if not blocks.symmetric:
        tensors["zero_point"] = blocks.packed_zero_points()
    return [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in tensors.items()]


def product(
    blocks: Blocks, inputs: Sequence[str], output: str, *, name: str, arithmetic: Arithmetic
) -> NodeProto:
    """The operation that multiplies `inputs[0]`, (…, inputs), by the weight that the other inputs hold."""
    return helper.make_node(
        "MatMulNBits",
        inputs,
        [output],
        name=name,
        domain=DOMAIN,
        K=blocks.inputs,
        N=blocks.codes.shape[0],
        bits=4,
        block_size=blocks.block,
        accuracy_level=LEVEL[arithmetic],
    )


def prove(name: str, blocks: Blocks, tensors: Sequence[TensorProto], arithmetic: Arithmetic) -> None:
    """Runs one layer, as `stored`, in ONNX Runtime and compares it with the float product by its weight.

    Raises:
        ParityFailed: they differ by more than 1e-4 of the largest answer (5e-2 for int8 arithmetic).
    """
    rows = np.random.default_rng(0).uniform(-1, 1, (ROWS, blocks.inputs)).astype(np.float32)
    node = product(
        blocks, ["rows", *(tensor.name for tensor in tensors)], "answer", name=name, arithmetic=arithmetic
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, rows.shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, (ROWS, blocks.codes.shape[0]))],
        tensors,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    alone = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = ONLY_FATAL
    try:
        session = ort.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])
        answer = session.run(None, {"rows": rows})[0]
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ParityFailed(f"ONNX Runtime cannot run the 4-bit weight of {name}: {reason}") from error
    wanted = rows.astype(np.float64) @ blocks.values().numpy().astype(np.float64).T
    off = float(np.abs(answer - wanted).max() / max(np.abs(wanted).max(), TINY))
    if not off <= TOLERANCE[arithmetic]:
        raise ParityFailed(
            f"ONNX Runtime multiplies by the 4-bit weight of {name} with a relative error of {off:.2g} "
            f"({TOLERANCE[arithmetic]:g} is allowed)"
        )
