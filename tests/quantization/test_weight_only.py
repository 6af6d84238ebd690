import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from kezuri.core.errors import DataError, ParityFailed, ShapeError, UnknownName, UsageError
from kezuri.quantization.blocks import fit_blocks, round_to_blocks
from kezuri.quantization.matmul_nbits import prove, stored
from kezuri.quantization.weight_only import to_four_bit
from kezuri.runtime.export import export_onnx
from kezuri.runtime.runners.onnxruntime import OnnxRuntime

SHAPE = (3, 8, 8)


class Network(nn.Module):
    """Linear layers in each form that exporting gives them, and beside them what stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.wide = nn.Linear(288, 100)
        self.tokens = nn.Linear(100, 70, bias=False)
        self.back = nn.Linear(70, 100)
        self.small = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(self.stem(x).flatten(1)).relu()
        y = torch.stack([x, x.tanh(), -x], 1)
        y = self.back(self.tokens(y).relu())
        weights = (y @ y.transpose(1, 2)).softmax(-1)
        return self.small((weights @ y).mean(1))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def source(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(network, SHAPE, tmp_path_factory.mktemp("four") / "model.onnx")


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)


def wanted(network: Network, *, block: int, symmetric: bool) -> np.ndarray:
    """What PyTorch answers with the weights that 4 bits stand for."""
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for layer in (rounded.wide, rounded.tokens, rounded.back):
            scale, zero_point = fit_blocks(layer.weight, block=block, symmetric=symmetric)
            layer.weight.copy_(round_to_blocks(layer.weight, scale, zero_point, block=block).values())
        return rounded(torch.from_numpy(images())).numpy()


@pytest.mark.parametrize(("block", "symmetric"), [(32, False), (32, True), (16, False), (128, True)])
def test_answers_as_the_rounded_weights_do(
    network: Network, source: Path, tmp_path: Path, block: int, symmetric: bool
) -> None:
    found = to_four_bit(source, tmp_path / "four.onnx", block=block, symmetric=symmetric, model=network)
    answer = OnnxRuntime().prepare(found.path).run(images())
    want = wanted(network, block=block, symmetric=symmetric)
    assert np.abs(answer - want).max() <= 1e-4 * np.abs(want).max()
    onnx.checker.check_model(onnx.load(found.path))


def test_says_what_became_of_each_layer(network: Network, source: Path, tmp_path: Path) -> None:
    found = to_four_bit(source, tmp_path / "four.onnx", model=network)
    layers = {layer.name: layer for layer in found.layers}
    assert list(layers) == ["wide.weight", "tokens.weight", "back.weight"]
    assert (layers["back.weight"].inputs, layers["back.weight"].outputs) == (70, 100)
    # 100 outputs of 3 blocks: codes, scales, and two bytes of zero points for three blocks
    assert layers["back.weight"].size == 100 * 3 * 16 + 100 * 3 * 4 + 100 * 2
    scale, zero_point = fit_blocks(network.back.weight)
    weight = network.back.weight.detach()
    off = weight - round_to_blocks(weight, scale, zero_point).values()
    assert layers["back.weight"].error == pytest.approx(float(off.norm() / weight.norm()))
    reasons = [(left.operation, left.reason) for left in found.left]
    assert reasons == [
        ("MatMul", "it has no constant weight"),
        ("MatMul", "it has no constant weight"),
        ("Gemm", "small: 1000 values of 4096 or more"),
    ]
    assert (found.size, found.size_before) == (found.path.stat().st_size, source.stat().st_size)
    saved = 4 * (288 * 100 + 2 * 70 * 100) - sum(layer.size for layer in found.layers)
    assert found.size_before - found.size == pytest.approx(saved, abs=1500)


def test_convolutions_are_named_when_they_are_large(source: Path, tmp_path: Path) -> None:
    found = to_four_bit(source, tmp_path / "four.onnx", smallest=100)
    assert len(found.layers) == 4
    assert found.left[0].reason == "Conv has no kernel for weights of 4 bits"
    assert found.layers[0].name == "wide.weight"


def test_rounded_weights_are_taken(network: Network, source: Path, tmp_path: Path) -> None:
    scale, zero_point = fit_blocks(network.back.weight, block=64)
    down = network.back.weight.detach() - scale.repeat_interleave(64, 1)[:, :70] / 2
    floor = round_to_blocks(down, scale, zero_point, block=64)
    found = to_four_bit(source, tmp_path / "four.onnx", model=network, rounded={"back.weight": floor})
    stored = {tensor.name: tensor for tensor in onnx.load(found.path).graph.initializer}
    assert np.array_equal(numpy_helper.to_array(stored["back.weight.codes"]), floor.packed())
    with pytest.raises(UnknownName, match=r"no 4-bit layer named 'bac\.weight'.*did you mean 'back\.weight'"):
        to_four_bit(source, tmp_path / "no.onnx", model=network, rounded={"bac.weight": floor})
    with pytest.raises(ShapeError, match=r"wide\.weight is \(100, 70\), the layer's is \(100, 288\)"):
        to_four_bit(source, tmp_path / "no.onnx", model=network, rounded={"wide.weight": floor})
    assert not (tmp_path / "no.onnx").exists()


def test_inputs_of_eight_bits_are_nearly_as_exact(network: Network, source: Path, tmp_path: Path) -> None:
    found = to_four_bit(source, tmp_path / "four.onnx", arithmetic="int8")
    answer = OnnxRuntime().prepare(found.path).run(images())
    want = wanted(network, block=32, symmetric=False)
    assert 1e-6 < np.abs(answer - want).max() / np.abs(want).max() < 0.1
    with pytest.raises(UsageError, match="arithmetic is one of float32, int8; got 'int4'"):
        to_four_bit(source, tmp_path / "four.onnx", arithmetic="int4")  # type: ignore[arg-type]


def test_a_weight_that_others_read_stays(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    transposed = helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0])
    nodes = [
        transposed,
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "t"], ["b"], name="second"),
        helper.make_node("MatMul", ["u", "b"], ["c"], name="left"),
        helper.make_node("Gemm", ["c", "v"], ["d"], name="scaled", alpha=2.0),
        helper.make_node("MatMul", ["d", "u"], ["y"], name="shared"),
    ]
    constants = {"w": weight, "u": weight[:, ::-1].copy(), "v": 2 * weight}
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    source = tmp_path / "tied.onnx"
    source.write_bytes(model.SerializeToString())
    found = to_four_bit(source, tmp_path / "four.onnx")
    # one constant, upright and transposed: two weights with blocks of their own
    assert [layer.name for layer in found.layers] == ["w", "w_2"]
    assert {left.name: left.reason for left in found.left} == {
        "left": "its constant comes first",
        "scaled": "it scales, or transposes its input",
        "shared": "its weight is read by MatMul as well",
    }
    left = onnx.load(found.path).graph
    assert "w" not in {tensor.name for tensor in left.initializer}
    assert "Transpose" not in {node.op_type for node in left.node}
    x = 0.01 * np.eye(64, dtype=np.float32)
    answer, want = (OnnxRuntime().prepare(path).run(x) for path in (found.path, source))
    assert np.linalg.norm(answer - want) < 0.3 * np.linalg.norm(want)


def test_a_runtime_that_answers_something_else_is_caught() -> None:
    scale, zero_point = fit_blocks(weight := torch.randn(8, 64, generator=torch.Generator().manual_seed(0)))
    blocks = round_to_blocks(weight, scale, zero_point)
    codes, *others = stored(blocks)
    prove("layer", blocks, [codes, *others], "float32")
    values = numpy_helper.to_array(codes)
    swapped = numpy_helper.from_array((values >> 4) | (values << 4), "codes")
    with pytest.raises(ParityFailed, match="4-bit weight of layer with a relative error of"):
        prove("layer", blocks, [swapped, *others], "float32")
    with pytest.raises(ParityFailed, match="cannot run the 4-bit weight of layer"):
        prove("layer", blocks, [codes], "float32")


def test_a_file_may_be_rewritten_in_place_and_twice(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(source.read_bytes())
    first = to_four_bit(path, path)
    assert first.size == path.stat().st_size < first.size_before
    second = to_four_bit(path, path)
    assert second.layers == ()
    assert OnnxRuntime().prepare(path).run(images()).shape == (5, 10)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        to_four_bit(tmp_path / "none.onnx", tmp_path / "four.onnx")
