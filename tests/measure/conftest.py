from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flatten and one matrix of 1,000 x 4,000 float32: 16 MB of zeros and one."""
    weight = np.zeros((1000, 4000), dtype=np.float32)
    weight[0, 0] = 1
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "wide",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 10, 10, 10])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4000])],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = tmp_path_factory.mktemp("measured") / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path
