"""Channels of zeros in the file, where their number slows kernels down."""

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from kezuri.quantization.folding import shipped
from kezuri.quantization.parity import first_difference
from kezuri.quantization.quantize import quantize

from .nets import SIDE, Net, attention, block, branches, conv, noise, seeded

IMAGES = noise(8, 3, SIDE, SIDE, seed=5)


def chain(*widths: int, kernel: int = 3) -> nn.Module:
    """Convolution after convolution, with a head."""

    def build() -> nn.Module:
        blocks = [block(one, two, kernel) for one, two in zip((3, *widths), widths, strict=False)]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))

    return seeded(build)


def inverted(wide: int, narrow: int = 20, act: type[nn.Module] = nn.Hardswish) -> nn.Module:
    """A block of MobileNetV3, with a shortcut."""

    def run(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        deep = net.deep(net.wide(x))
        gate = torch.sigmoid(net.up(F.relu(net.down(F.adaptive_avg_pool2d(deep, 1)))))
        x = net.project(deep * gate) + x
        return net.head(x.mean((2, 3)))

    return seeded(
        lambda: Net(
            run,
            stem=block(3, narrow),
            wide=block(narrow, wide, 1, act()),
            deep=block(wide, wide, 5, act(), groups=wide),
            down=nn.Conv2d(wide, 6, 1),
            up=nn.Conv2d(6, wide, 1),
            project=nn.Sequential(conv(wide, narrow, 1, bias=False), nn.BatchNorm2d(narrow)),
            head=nn.Linear(narrow, 4),
        )
    )


def weights(quantized, folder, **options):
    """The shapes of the weights in the file, layers in order."""
    path = quantized.export(folder / "model.onnx", **options)
    graph = onnx.load(path).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    source = {node.output[0]: node.input[0] for node in graph.node}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return [shapes[source.get(node.input[1], node.input[1])] for node in layers]


@torch.no_grad()
def check_answers(quantized, images=IMAGES):
    before, after = shipped(quantized.model, aligned=False), shipped(quantized.model)
    torch.testing.assert_close(after(images), before(images), atol=1e-5, rtol=1e-5)


def test_widths_between_layers_become_multiples_of_four(tmp_path):
    quantized = quantize(chain(17, 30, 24, 37), IMAGES)
    assert weights(quantized, tmp_path) == [
        (20, 4, 3, 3),
        (32, 20, 3, 3),
        (24, 32, 3, 3),
        (40, 24, 3, 3),
        (4, 40),
    ]
    assert weights(quantized, tmp_path, aligned=False)[1] == (30, 17, 3, 3)
    check_answers(quantized)


def test_narrow_layers_become_sixteen_wide_and_the_narrowest_stay(tmp_path):
    quantized = quantize(chain(9, 8, 12, 16, 5), IMAGES)
    found = weights(quantized, tmp_path)
    assert [one[0] for one in found] == [16, 8, 16, 16, 5, 4]
    check_answers(quantized)


@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("act", [nn.Hardswish, nn.SiLU, nn.ReLU])
def test_depthwise_layers_with_their_gates_and_what_is_around(act, gates, tmp_path):
    quantized = quantize(inverted(36, 22, act), IMAGES, gates=gates)
    assert weights(quantized, tmp_path) == [
        (24, 4, 3, 3),
        (48, 24, 1, 1),
        (48, 1, 5, 5),
        (6, 48, 1, 1),
        (48, 6, 1, 1),
        (24, 48, 1, 1),
        (4, 24),
    ]
    check_answers(quantized)
    assert first_difference(quantized.model, tmp_path / "model.onnx", IMAGES) is None


@settings(max_examples=15, deadline=None)
@given(wide=st.integers(1, 50), narrow=st.integers(1, 40))
def test_any_width_answers_as_it_did(wide, narrow):
    check_answers(quantize(inverted(wide, narrow), IMAGES))


def test_layers_in_floats_follow_but_are_no_reason(tmp_path):
    quantized = quantize(chain(17, 18, 19), IMAGES, spared=("1.0",))
    assert weights(quantized, tmp_path)[1] == (18, 20, 3, 3)  # its normalisation stays, and knows 18 channels
    check_answers(quantized)
    quantized = quantize(chain(17, 18, 19), IMAGES, spared=("0.0", "1.0"))
    assert weights(quantized, tmp_path)[0] == (17, 3, 3, 3)
    check_answers(quantized)


def test_two_layers_in_floats_are_left_alone(tmp_path):
    plain = seeded(lambda: nn.Sequential(conv(3, 17), conv(17, 18), conv(18, 19)))
    quantized = quantize(plain, IMAGES, spared=("0", "1"))
    assert weights(quantized, tmp_path) == [(17, 3, 3, 3), (20, 17, 3, 3), (19, 20, 3, 3)]
    check_answers(quantized)


STAY = {
    "concatenated": lambda net, x: torch.cat([net.one(x), net.two(x)], 1),
    "split": lambda net, x: torch.cat(net.one(x).split([9, 8], 1)[::-1], 1),
    "shuffled": lambda net, x: net.one(x).flip(1),
    "summed over": lambda net, x: net.one(x) + net.two(x).mean(1, keepdim=True),
    "with a loose parameter": lambda net, x: net.one(x) * net.scale,
    "padded": lambda net, x: F.pad(net.one(x), (0, 0, 0, 0, 0, 17)),
    "laid out": lambda net, x: net.one(x).reshape(-1, 17, SIDE // 2, 2 * SIDE),
    "grouped": lambda net, x: net.grouped(net.one(x)),
    "answered": lambda net, x: net.one(x),
}


@pytest.mark.parametrize("name", STAY)
def test_where_channels_are_told_apart_they_stay(name, tmp_path):
    def build() -> nn.Module:
        net = Net(
            lambda net, x: net.last(STAY[name](net, x)),
            one=block(3, 17),
            two=block(3, 17),
            grouped=nn.Conv2d(17, 34, 3, groups=17),
            last=nn.Identity() if name == "answered" else nn.LazyConv2d(4, 3),
            scale=nn.Parameter(noise(17, 1, 1)),
        )
        net(IMAGES)
        return net

    quantized = quantize(seeded(build), IMAGES)
    outputs = {one[0] for one in weights(quantized, tmp_path)}
    assert 17 in outputs and 20 not in outputs
    check_answers(quantized)


@pytest.mark.parametrize("build", [attention, branches])
def test_networks_of_other_kinds(build):
    check_answers(quantize(build(), IMAGES))


def test_a_layer_that_is_called_twice(tmp_path):
    model = seeded(
        lambda: Net(
            lambda net, x: net.last(net.again(net.again(net.first(x)))),
            first=block(3, 18),
            again=block(18, 18),
            last=conv(18, 4),
        )
    )
    quantized = quantize(model, IMAGES)
    assert weights(quantized, tmp_path) == [(20, 4, 3, 3), (20, 20, 3, 3), (20, 20, 3, 3), (4, 20, 3, 3)]
    check_answers(quantized)


def test_one_scale_for_a_weight_and_fewer_bits():
    check_answers(quantize(inverted(36), IMAGES, per_channel=False))
    check_answers(quantize(inverted(36), IMAGES, bits=3, activation_bits=4))


def test_parity_names_the_first_layer_in_either_file(tmp_path):
    quantized = quantize(chain(17, 30, 24), IMAGES)
    for aligned in (True, False):
        path = quantized.export(tmp_path / "model.onnx", aligned=aligned)
        assert first_difference(quantized.model, path, IMAGES) is None
        proto = onnx.load(path)
        second = [one for one in proto.graph.initializer if len(one.dims) == 4][1]
        second.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(second), second.name))
        onnx.save(proto, path)
        assert str(first_difference(quantized.model, path, IMAGES)).startswith("first at conv2d_1: ")


def test_nothing_is_in_the_file_twice(tmp_path):
    quantized = quantize(chain(62, 62, 62), IMAGES)
    plain = quantized.export(tmp_path / "plain.onnx", aligned=False).stat().st_size
    aligned = quantized.export(tmp_path / "aligned.onnx").stat().st_size
    assert plain < aligned < 1.1 * plain
