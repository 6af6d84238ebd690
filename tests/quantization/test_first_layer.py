"""Convolutions of images read a multiple of four channels in the file, and give what they gave."""

from collections import Counter
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from kezuri.quantization import folding
from kezuri.quantization.folding import shipped
from kezuri.quantization.parity import first_difference
from kezuri.quantization.quantize import quantize
from kezuri.runtime.runner import runners

from .nets import Net, noise, seeded


def one(channels=3, outputs=16, kernel=3, **options):
    return seeded(lambda: nn.Sequential(nn.Conv2d(channels, outputs, kernel, **options)))


def as_it_was(quantized):
    with mock.patch.object(folding, "widen_first_layers_"):
        return shipped(quantized.model)


def kinds(network):
    return Counter(
        str(node.target).split(".")[1] for node in network.graph.nodes if node.op == "call_function"
    )


BLOCKS = {
    "3x3": ((224, 224), {"stride": 2, "padding": 1}),
    "7x7": ((32, 32), {"kernel": 7, "stride": 2, "padding": 3}),
    "patches": ((32, 32), {"kernel": 4, "stride": 4}),
    "gaps": ((32, 32), {"kernel": 2, "stride": 4}),
    "points": ((8, 8), {"kernel": 1, "stride": 2}),
    "gray": ((16, 16), {"channels": 1, "kernel": 5, "stride": 2, "padding": 2}),
    "not square": ((12, 20), {"kernel": (3, 5), "stride": 2, "padding": (0, 2)}),
    "few outputs": ((16, 16), {"outputs": 5, "stride": 2, "padding": 1}),
    "no bias": ((16, 16), {"bias": False, "stride": 2}),
}
ZEROS = {
    "stride 1": ((12, 12), {"padding": 1}),
    "same": ((12, 12), {"kernel": 4, "padding": "same"}),
    "odd side": ((13, 12), {"stride": 2, "padding": 1}),
    "two strides": ((12, 12), {"stride": (2, 1), "padding": 1}),
    "dilated": ((12, 12), {"stride": 2, "dilation": 2, "padding": 2}),
    "blocks of 27": ((12, 12), {"stride": 3, "padding": 1}),
    "two channels": ((12, 12), {"channels": 2, "kernel": 5}),
}
LEFT = {
    "few outputs": ((12, 12), {"outputs": 15, "padding": 1}),
    "grouped": ((12, 12), {"groups": 3, "outputs": 18, "stride": 2}),
    "four channels": ((12, 12), {"channels": 4, "stride": 2}),
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("sides", "options", "how"),
    [
        *(pytest.param(*case, "space_to_depth", id=f"blocks: {name}") for name, case in BLOCKS.items()),
        *(pytest.param(*case, "constant_pad_nd", id=f"zeros: {name}") for name, case in ZEROS.items()),
        *(pytest.param(*case, None, id=f"left: {name}") for name, case in LEFT.items()),
    ],
)
def test_the_file_answers_as_it_did(sides, options, how, tmp_path):
    images = noise(4, options.get("channels", 3), *sides)
    quantized = quantize(one(**options), images)
    before, after = as_it_was(quantized), shipped(quantized.model)
    assert (kinds(after) - kinds(before)).keys() == ({how} if how else set())
    torch.testing.assert_close(after(images), before(images), atol=1e-5, rtol=0)
    session = runners["onnxruntime"]().prepare(quantized.export(tmp_path / "one.onnx"))
    torch.testing.assert_close(
        torch.from_numpy(np.asarray(session.run(images.numpy()))), before(images), atol=1e-5, rtol=0
    )


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    channels_and_block=st.sampled_from([(1, 2), (3, 2), (2, 4), (3, 4)]),
    blocks=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_blocks_are_exact_for_every_kernel_and_padding(channels_and_block, blocks, kernel, padding):
    channels, block = channels_and_block
    sides = [block * count for count in blocks]
    assume(all(side + 2 * zeros >= k for side, zeros, k in zip(sides, padding, kernel, strict=True)))
    images = noise(2, channels, *sides)
    quantized = quantize(one(channels, 16, kernel, stride=block, padding=padding), images)
    before, after = as_it_was(quantized), shipped(quantized.model)
    assert "space_to_depth" in kinds(after)
    torch.testing.assert_close(after(images), before(images), atol=1e-5, rtol=0)


def test_onnxruntime_reads_four_channels_at_a_step(tmp_path):
    """What all this is for: the kernel of integers reads blocks, and nothing is left in floats but the moves."""
    quantized = quantize(one(outputs=32, stride=2, padding=1), noise(2, 3, 16, 16))
    path = quantized.export(tmp_path / "one.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    (conv,) = [node for node in graph.node if node.op_type == "QLinearConv"]
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    assert shapes[conv.input[3]] == [32, 12, 2, 2]
    assert "SpaceToDepth" in {node.op_type for node in graph.node}


@torch.no_grad()
@pytest.mark.parametrize(
    ("run", "widened"),
    [
        pytest.param(lambda net, x: net.first(x) + net.second(x), False, id="two readers"),
        pytest.param(lambda net, x: net.second(net.few(x)), False, id="few channels inside"),
        pytest.param(lambda net, x: net.first((x - 0.5) / 0.25), True, id="normalised before"),
    ],
)
def test_only_what_comes_in_as_floats(run, widened):
    images = noise(4, 3, 12, 12)
    parts = {name: nn.Conv2d(3, 16, 3, padding=1) for name in ("first", "second")}
    quantized = quantize(seeded(lambda: Net(run, few=nn.Conv2d(3, 3, 1), **parts)), images)
    before, after = as_it_was(quantized), shipped(quantized.model)
    assert bool(kinds(after) - kinds(before)) == widened
    torch.testing.assert_close(after(images), before(images), atol=1e-4, rtol=0)


def test_a_first_layer_in_floats_stays():
    images = noise(4, 3, 12, 12)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)))
    quantized = quantize(model, images, spared=("0",))
    assert kinds(shipped(quantized.model)) == kinds(as_it_was(quantized))


@pytest.mark.parametrize("stride", [1, 2])
def test_parity_still_names_it(stride, tmp_path):
    images = noise(16, 3, 12, 12)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 16, 3, stride), nn.ReLU(), nn.Conv2d(16, 16, 3)))
    quantized = quantize(model, images)
    path = quantized.export(tmp_path / "two.onnx")
    assert first_difference(quantized.model, path, images) is None
    proto = onnx.load(path)
    first = next(one for one in proto.graph.initializer if len(one.dims) == 4)
    turned = numpy_helper.from_array(-numpy_helper.to_array(first), first.name)
    first.CopyFrom(turned)
    onnx.save(proto, path)
    assert str(first_difference(quantized.model, path, images)).startswith("first at conv2d: ")
