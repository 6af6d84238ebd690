"""Zeros beside a tensor become padding in the file, which every runtime reads rightly."""

from collections import Counter
from importlib.util import find_spec

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kezuri.core.errors import ParityFailed
from kezuri.data import TensorPart
from kezuri.model.zoo import zoo
from kezuri.quantization import folding
from kezuri.quantization.export import export_quantized
from kezuri.quantization.folding import shipped
from kezuri.quantization.graph import calls, kind
from kezuri.quantization.parity import check_quantized_parity
from kezuri.quantization.quantize import quantize
from kezuri.runtime.runner import runners

from .nets import SIDE, Net, block, noise, seeded

X = noise(16, 3, SIDE, SIDE, seed=5)
EIGHT = torch.zeros(8, 1, 1)


def joined(join, **buffers: Tensor) -> nn.Module:
    """A convolution, what `join` makes of it, and another convolution."""

    def build() -> nn.Module:
        net = Net(
            lambda net, x: net.last(join(net, net.first(x))).mean((2, 3)),
            first=block(3, 8),
            last=nn.LazyConv2d(4, 1),
        )
        for name, value in buffers.items():
            net.register_buffer(name, value)
        net(X[:2])
        return net

    return seeded(build)


def spread(zeros: Tensor, x: Tensor) -> Tensor:
    return zeros.expand(len(x) if isinstance(x.shape[0], int) else x.shape[0], -1, *x.shape[2:])


PADDED = {
    "before": lambda net, x: torch.cat([spread(net.zeros, x), x], 1),
    "on both sides": lambda net, x: torch.cat([spread(net.zeros, x), x, spread(net.zeros, x)], 1),
    "made when called": lambda net, x: torch.cat([x, x.new_zeros(x.shape[0], 3, *x.shape[2:])], dim=-3),
    "rows": lambda net, x: torch.cat([torch.zeros_like(x[:, :, :2]), x, torch.zeros_like(x[:, :, :1])], 2),
}
LEFT = {
    "two tensors": lambda net, x: torch.cat([x, spread(net.zeros, x), F.max_pool2d(x, 3, 1, 1)], 1),
    "not all zero": lambda net, x: torch.cat([spread(net.one, x), x], 1),
    "nothing but zeros": lambda net, x: (
        x + torch.cat([spread(net.zeros[:3], x), spread(net.zeros[3:], x)], 1)
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", [*PADDED, *LEFT])
def test_zeros_beside_one_tensor_become_padding(name):
    one = EIGHT.clone()
    one[3] = 1
    model = joined({**PADDED, **LEFT}[name], zeros=EIGHT, one=one)
    network = quantize(model, X).model.eval()
    found = shipped(network)
    kinds = [kind(node) for node in calls(found.graph)]
    assert kinds.count("constant_pad_nd") == (name in PADDED)
    assert ("cat" in kinds) == (name in LEFT)
    for images in (X, X[:3]):  # a number on the border of two steps may go either way
        assert (found(images) - network(images)).norm() < 0.01 * network(images).norm()


def resnet(name: str):
    """A quantized ResNet whose shortcuts pad, and images."""
    part = TensorPart(noise(32, 3, 32, 32, seed=3), torch.zeros(32, dtype=torch.long), classes=10)
    return quantize(seeded(lambda: zoo[name](shortcut="A")), part.images).model, part


def test_a_resnet_that_pads_computes_no_shape(tmp_path):
    network, part = resnet("resnet8")
    file = export_quantized(network, (3, 32, 32), tmp_path / "model.onnx")
    kinds = Counter(node.op_type for node in onnx.load(file).graph.node)  # two shortcuts, and the image
    assert kinds["Pad"] == 3 and not {"Shape", "Expand", "Concat"} & set(kinds)
    check_quantized_parity(network, file, part)


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_reads_it_rightly_and_parity_tells_when_not(tmp_path, monkeypatch):
    network, part = resnet("resnet20")
    openvino = runners["openvino"]()
    file = export_quantized(network, (3, 32, 32), tmp_path / "model.onnx")
    check_quantized_parity(network, file, part, runner=openvino)
    monkeypatch.setattr(folding, "pad_with_zeros_", lambda network, graph: None)
    joined = export_quantized(network, (3, 32, 32), tmp_path / "joined.onnx")
    check_quantized_parity(network, joined, part)
    with pytest.raises(ParityFailed, match=r"in openvino: .*no layer differs by itself in ONNX Runtime"):
        check_quantized_parity(network, joined, part, runner=openvino)
