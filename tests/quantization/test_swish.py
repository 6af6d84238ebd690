"""Products with a sigmoid (SiLU, hard-swish, gates) in integers."""

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.folding import shipped
from kezuri.quantization.parity import first_difference
from kezuri.quantization.quantize import quantize

from .nets import SIDE, Net, block, conv, gated, noise, prepared, rounded, seeded

IMAGES = noise(16, 3, SIDE, SIDE, seed=5)
ACTIVATIONS = {"silu": nn.SiLU, "hardswish": nn.Hardswish}


def activated(name, inplace=False):
    act = ACTIVATIONS[name](inplace=inplace)
    return seeded(lambda: nn.Sequential(block(3, 16, act=act), block(16, 16, act=act), conv(16, 4)))


def kernels_of(path, folder):
    """What ONNX Runtime makes of a file."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("name", "kernels"),
    [("silu", {"QLinearSigmoid", "QLinearMul"}), ("hardswish", {"QLinearAdd", "QLinearMul"})],
)
def test_onnxruntime_has_kernels_of_integers_for_both_parts(name, inplace, kernels, tmp_path):
    quantized = quantize(activated(name, inplace), IMAGES)
    assert not quantized.report.__str__().count("in floats")
    path = quantized.export(tmp_path / "model.onnx")
    found = kernels_of(path, tmp_path)
    assert kernels < set(found) and found.count("QLinearMul") == 2
    assert not {"Sigmoid", "HardSigmoid", "Mul", "Add", "Conv", "QuickGelu"} & set(found)
    assert first_difference(quantized.model, path, IMAGES) is None


@torch.no_grad()
@pytest.mark.parametrize("name", [*ACTIVATIONS])
def test_it_answers_nearly_as_in_floats(name):
    model = activated(name)
    expected = model(IMAGES)
    found = quantize(model, IMAGES).model.eval()(IMAGES)
    assert (found - expected).square().mean() < 2e-3 * expected.var()  # 27 dB


def test_on_request_they_stay_whole_and_in_floats():
    found = prepared(activated("silu"), swish=False)
    assert rounded(found) == ["input", "batch_norm", "silu", "batch_norm", "silu", "conv2d"]
    assert [one.kind for one in found.floats] == ["silu", "silu"]
    assert rounded(prepared(activated("silu")))[1:4] == ["batch_norm", "sigmoid", "mul"]


def test_behind_floats_they_stay_in_floats():
    found = prepared(activated("hardswish"), spared=("0.0",))
    assert [one.kind for one in found.floats][:3] == ["conv2d", "hardsigmoid", "mul"]
    assert [one.name for one in found.floats][1:3] == ["hardswish_sigmoid", "hardswish_product"]


def test_a_gate_opens_and_shuts_integers():
    """Its layers may stay in floats; the maps that it is multiplied with do not leave integers."""
    found = prepared(gated(), gates=False)
    assert sum(name.startswith("mul") for name in rounded(found)) == 3
    assert "adaptive_avg_pool2d" in rounded(found)
    assert [one.kind for one in found.floats] == ["conv2d", "conv2d", "hardsigmoid"]
    assert not prepared(gated()).floats


@pytest.mark.parametrize("gates", [False, True])
def test_gates_in_the_file(gates, tmp_path):
    quantized = quantize(gated(), IMAGES, gates=gates)
    path = quantized.export(tmp_path / "model.onnx")
    found = kernels_of(path, tmp_path)
    assert found.count("QLinearMul") == 3 and "Mul" not in found
    assert ("Conv" in found) != gates
    assert first_difference(quantized.model, path, IMAGES) is None


@pytest.mark.parametrize("ranges", ["moving", "learned"])
def test_training_keeps_the_range_that_the_sum_is_clipped_to(ranges, tmp_path):
    """A range beyond 1 would have the runtime clip in floats."""
    quantized = quantize(activated("hardswish"), IMAGES)
    quantized.train_ranges(ranges)
    network = quantized.model.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        (-network(10 * IMAGES).square().mean()).backward()
        optimizer.step()
    network.eval()
    (one, two) = [one for name, one in quantizers_of(network).items() if "sigmoid" in name]
    assert max(float(each.step) * 255 for each in (one, two)) <= 1 + 1e-6
    assert shipped(network).code.count("kezuri.hard_sigmoid") == 2
    assert "HardSigmoid" not in kernels_of(quantized.export(tmp_path / "model.onnx"), tmp_path)


def test_products_that_are_no_maps_stay(tmp_path):
    def run(net, x):
        rows = F.relu(net.first(x)).flatten(2).mean(-1)
        return net.head(rows * torch.sigmoid(net.gate(rows)))

    model = seeded(lambda: Net(run, first=conv(3, 8), gate=nn.Linear(8, 8), head=nn.Linear(8, 4)))
    quantized = quantize(model, IMAGES)
    assert {"mul", "sigmoid"} <= {row.kind for row in quantized.report.rows if row.bits is None}
    assert first_difference(quantized.model, quantized.export(tmp_path / "model.onnx"), IMAGES) is None
