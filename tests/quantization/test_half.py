from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from kezuri.core.errors import DataError, ModelError, UsageError
from kezuri.quantization.half import store_half, to_half
from kezuri.quantization.weight_only import to_four_bit
from kezuri.runtime.export import export_onnx

FLOAT = TensorProto.FLOAT


def save(
    path: Path, nodes: Sequence[NodeProto], constants: dict[str, np.ndarray], *, width: int, opset: int = 20
) -> Path:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", FLOAT, ["rows", "columns"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def answer(path: Path, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(onnx.load(path), full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def kinds(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return export_onnx(model, (3, 8, 8), tmp_path_factory.mktemp("half") / "model.onnx")


@pytest.mark.parametrize("turn", [to_half, store_half])
def test_half_the_bytes_and_nearly_the_same_answers(network: Path, tmp_path: Path, turn) -> None:
    found = turn(network, tmp_path / "half.onnx")
    x = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    want, got = answer(network, x), answer(found.path, x)
    assert got.dtype == np.float32
    assert np.abs(got - want).max() <= 2e-3 * np.abs(want).max()
    assert found.size == found.path.stat().st_size
    assert found.size_before == network.stat().st_size
    assert found.size < 0.6 * found.size_before
    assert found.kept == ()


def test_float16_arithmetic_has_no_float32_but_at_its_ends(network: Path, tmp_path: Path) -> None:
    found = to_half(network, tmp_path / "half.onnx")
    nodes = onnx.load(found.path).graph.node
    assert [node.op_type for node in nodes].count("Cast") == 2
    assert (nodes[0].op_type, nodes[-1].op_type) == ("Cast", "Cast")
    assert FLOAT not in kinds(found.path).values()


def test_bfloat16_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    weight[0, 0] = 1e30  # beyond float16, within bfloat16
    source = save(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, width=16
    )
    found = store_half(source, tmp_path / "b.onnx", format="bfloat16")
    rounded = torch.from_numpy(weight).to(torch.bfloat16).float().numpy()
    assert np.array_equal(answer(found.path, np.eye(16, dtype=np.float32)), rounded)
    assert kinds(found.path) == {"w_bfloat16": TensorProto.BFLOAT16}


@pytest.mark.parametrize("turn", [to_half, store_half])
def test_what_does_not_fit_is_named_and_stays(tmp_path: Path, turn) -> None:
    dice = np.random.default_rng(0)
    big = dice.normal(size=(16, 32)).astype(np.float32)
    big[3, 4] = -7e4
    fine = dice.normal(size=(32, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "big"], ["h"]),
        helper.make_node("MatMul", ["h", "fine"], ["y"]),
    ]
    source = save(tmp_path / "m.onnx", nodes, {"big": big, "fine": fine}, width=16)
    found = turn(source, tmp_path / "half.onnx")
    (kept,) = found.kept
    assert kept.name == "big"
    assert "1 of 512 values are beyond 65504, up to 7e+04" in kept.reason
    assert kinds(found.path)["big"] == FLOAT
    x = np.zeros((1, 16), dtype=np.float32)
    x[0, :3] = 0.1  # so that -7e4 has no part in the answer, which float16 could not hold
    assert np.abs(answer(found.path, x) - answer(source, x)).max() < 1e-2


def test_infinity_fits_and_what_would_become_nothing_does_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Add", ["square", "tiny"], ["above"]),
        helper.make_node("Log", ["above"], ["log"]),
        helper.make_node("Max", ["log", "least"], ["y"]),
    ]
    constants = {"tiny": np.float32([1e-12]), "least": np.float32([-np.inf])}
    source = save(tmp_path / "m.onnx", nodes, constants, width=4)
    found = to_half(source, tmp_path / "half.onnx")
    assert [(kept.name, kept.reason) for kept in found.kept] == [
        ("tiny", "all its values would become 0; the largest is 1e-12")
    ]
    x = np.float32([[0, 1, 2, 3]])
    assert answer(found.path, x) == pytest.approx(answer(source, x), abs=2e-2)
    assert np.isfinite(answer(found.path, x)).all()


def test_operations_without_a_float16_form_stay(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Range", ["start", "stop", "step"], ["ramp"]),
        helper.make_node("Mul", ["x", "ramp"], ["y"]),
    ]
    constants = {"start": np.float32(0), "stop": np.float32(4), "step": np.float32(1)}
    source = save(tmp_path / "m.onnx", nodes, constants, width=4)
    found = to_half(source, tmp_path / "half.onnx")
    assert [kept.reason for kept in found.kept] == ["Range has no float16 form (T)"]
    x = np.float32([[1, 1, 2, 2]])
    assert np.array_equal(answer(found.path, x), [[0, 1, 4, 6]])


def test_scales_that_must_be_float32_are(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2.0), nn.Conv2d(4, 2, 1), nn.Flatten())
    source = export_onnx(model, (3, 4, 4), tmp_path / "m.onnx")
    assert "Resize" in {node.op_type for node in onnx.load(source).graph.node}
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    found = to_half(source, tmp_path / "half.onnx")
    assert answer(found.path, x) == pytest.approx(answer(source, x), abs=1e-2)


def test_graphs_inside_operations_read_float32(tmp_path: Path) -> None:
    def branch(name: str, operation: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", FLOAT, ["rows", "columns"])
        return helper.make_graph([helper.make_node(operation, ["doubled"], [f"{name}_out"])], name, [], [out])

    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["z"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg")
        ),
        helper.make_node("Add", ["z", "doubled"], ["y"]),
    ]
    source = save(tmp_path / "m.onnx", nodes, {"zero": np.float32(0)}, width=3)
    found = to_half(source, tmp_path / "half.onnx")
    for x in (np.float32([[1, 2, -3]]), np.float32([[-1, -2, -3]])):
        assert np.array_equal(answer(found.path, x), answer(source, x))


def test_sequences_of_tensors_stay_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["minus"]),
        helper.make_node("SequenceConstruct", ["x", "minus"], ["both"]),
        helper.make_node("SequenceAt", ["both", "place"], ["picked"]),
        helper.make_node("Add", ["picked", "minus"], ["y"]),
    ]
    source = save(tmp_path / "m.onnx", nodes, {"place": np.int64(1)}, width=3)
    found = to_half(source, tmp_path / "half.onnx")
    assert [kept.reason for kept in found.kept] == ["SequenceConstruct has no float16 form (T)"]
    x = np.float32([[1, 2, -3]])
    assert np.array_equal(answer(found.path, x), -2 * x)


def test_operations_that_were_asked_for_stay(network: Path, tmp_path: Path) -> None:
    found = to_half(network, tmp_path / "half.onnx", keep=["Gemm"])
    assert [kept.reason for kept in found.kept] == ["it was asked for"]
    nodes = [node.op_type for node in onnx.load(found.path).graph.node]
    assert nodes[-1] == "Gemm"
    with pytest.raises(UsageError, match="keep names Gem, which the model has not"):
        to_half(network, tmp_path / "half.onnx", keep=["Gem"])


def test_constants_in_operations_are_weights_too(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    source = save(tmp_path / "m.onnx", nodes, {}, width=16)
    found = store_half(source, tmp_path / "half.onnx")
    assert kinds(found.path) == {"w_float16": TensorProto.FLOAT16}
    assert answer(found.path, np.eye(16, dtype=np.float32)) == pytest.approx(weight, rel=1e-3)


def test_a_file_of_four_bits_gets_smaller_still_but_computes_in_float32(tmp_path: Path) -> None:
    source = export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(256, 64)), (1, 16, 16), tmp_path / "m.onnx")
    four = to_four_bit(source, tmp_path / "four.onnx").path
    found = store_half(four, tmp_path / "half.onnx")
    assert found.size < found.size_before
    x = np.random.default_rng(0).normal(size=(3, 1, 16, 16)).astype(np.float32)
    assert answer(found.path, x) == pytest.approx(answer(four, x), abs=5e-3)
    with pytest.raises(ModelError, match=r"only ONNX's own .*MatMulNBits is com\.microsoft's"):
        to_half(four, tmp_path / "no.onnx")


def test_mistakes_are_answered_before_any_work(network: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float16, bfloat16; got 'fp16'"):
        store_half(network, tmp_path / "h.onnx", format="fp16")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no file"):
        to_half(tmp_path / "none.onnx", tmp_path / "h.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x00not a model\xff" * 20)
    with pytest.raises(DataError, match="is no ONNX model"):
        to_half(tmp_path / "bad.onnx", tmp_path / "h.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(DataError, match="is no ONNX model: it has no operations"):
        store_half(tmp_path / "empty.onnx", tmp_path / "h.onnx")
    assert not (tmp_path / "h.onnx").exists()
