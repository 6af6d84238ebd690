import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from torch import nn

from kezuri.quantization.export import export_quantized
from kezuri.quantization.ptq import PostTraining, calibrate_
from kezuri.runtime.export import export_onnx

from .nets import SIDE, attention, block, branches, conv, gated, noise, prepared, residual, seeded

X = noise(32, 3, SIDE, SIDE, seed=5)
SHAPE = (3, SIDE, SIDE)
INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)


def exported(model, path, **scheme):
    found = prepared(model, X[:2], **scheme)
    calibrate_(found, [(X,)], PostTraining())
    return found.network.eval(), export_quantized(found.network, SHAPE, path / "model.onnx")


def optimized(file, folder):
    """What ONNX Runtime makes of a file, and its answers."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(["logits"], {"images": X.numpy()})
    proto = onnx.load(folder / "optimized.onnx")
    return [node.op_type for node in proto.graph.node], torch.from_numpy(answer)


@torch.no_grad()
@pytest.mark.parametrize("build", [residual, gated, branches, attention])
def test_the_file_runs_in_integers_and_agrees(build, tmp_path):
    network, file = exported(build(), tmp_path)
    kinds, answer = optimized(file, tmp_path)
    assert "QLinearConv" in kinds
    assert "Conv" not in kinds
    assert "Gemm" not in kinds and "BatchNormalization" not in kinds
    if build is not attention:
        assert kinds.count("MatMul") == 0
    if build is residual:
        assert "QLinearAdd" in kinds and "Relu" not in kinds and kinds.count("DequantizeLinear") <= 1
    if build is branches:
        assert "QLinearConcat" in kinds and {"MaxPool", "NhwcMaxPool"} & set(kinds)
    expected = network(X)
    assert (answer - expected).norm() < 0.02 * expected.norm()


def test_weights_are_bytes(tmp_path):
    model = seeded(
        lambda: nn.Sequential(block(3, 64), block(64, 64), nn.Flatten(), nn.Linear(64 * SIDE**2, 4))
    )
    _, file = exported(model, tmp_path)
    large = [one for one in onnx.load(file).graph.initializer if len(one.dims) > 1]
    assert len(large) == 3 and all(one.data_type == TensorProto.INT8 for one in large)
    plain = export_onnx(model, SHAPE, tmp_path / "plain.onnx")
    assert 0.24 < file.stat().st_size / plain.stat().st_size < 0.3


def test_masked_and_empty_weights_stay_zero(tmp_path):
    model = residual()
    with torch.no_grad():
        model.second.weight[:, 1::2] = 0
        model.second.weight[3] = 0
        model.norm.weight[5] = 0
    _, file = exported(model, tmp_path)
    initializers = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}
    integers = [one for one in initializers.values() if one.dtype == "int8" and one.ndim == 4]
    second = integers[-1]
    assert not second[:, 1::2].any() and not second[3].any() and not second[5].any() and second.any()


@torch.no_grad()
def test_one_scale_fewer_bits_and_training_mode(tmp_path):
    model = residual().train()
    found = prepared(model, X[:2], per_channel=False, activation_bits=6, bits=5)
    calibrate_(found, [(X,)], PostTraining())
    assert found.network.training
    file = export_quantized(found.network, SHAPE, tmp_path / "model.onnx")
    assert found.network.training
    _, answer = optimized(file, tmp_path)
    expected = found.network.eval()(X)
    assert (answer - expected).norm() < 0.05 * expected.norm()


@torch.no_grad()
def test_convolutions_of_every_kind_run_in_integers(tmp_path):
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding="same"),
            nn.Hardswish(),
            conv(8, 8, groups=2),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, dilation=2, stride=2, padding=2),
            nn.SiLU(),
            conv(8, 16, groups=8),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    )
    network, file = exported(model, tmp_path)
    kinds, answer = optimized(file, tmp_path)
    assert kinds.count("QLinearConv") == 4 and "Conv" not in kinds
    expected = network(X)
    assert (answer - expected).norm() < 0.03 * expected.norm()


def test_the_same_network_gives_the_same_file(tmp_path):
    network, file = exported(seeded(lambda: nn.Sequential(block(3, 4), nn.Flatten())), tmp_path)
    before = file.read_bytes()
    assert export_quantized(network, SHAPE, file).read_bytes() == before
    assert set(before) and b"tests" not in before
