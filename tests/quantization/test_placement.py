import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from kezuri.quantization.placement import NO_KERNEL
from kezuri.quantization.quantize import quantize

from .nets import (
    SIDE,
    Net,
    attention,
    block,
    branches,
    conv,
    gated,
    noise,
    prepared,
    residual,
    rounded,
    seeded,
)

IMAGE = noise(2, 8, 6, 6)


def placed(run, inputs=IMAGE, scheme=None, **parts):
    return prepared(seeded(lambda: Net(run, **parts)), inputs, **(scheme or {}))


def layers(found):
    return [site.layer for site in found.sites]


def reasons(found):
    """Of what could be in integers."""
    return {one.name: one.reason for one in found.floats if one.reason != NO_KERNEL}


def without_kernel(found):
    return [one.kind for one in found.floats if one.reason == NO_KERNEL]


def test_both_inputs_of_a_residual_sum_and_its_end_are_rounded():
    found = prepared(residual())
    assert layers(found) == ["stem.0", "first.0", "second", "head"]
    # the ReLU is behind normalisation or sum, so it is what is rounded
    assert rounded(found) == ["input", "relu", "relu", "batch_norm", "relu", "adaptive_avg_pool2d", "flatten"]
    assert not found.floats


def test_what_only_moves_is_on_the_grid_it_was_on():
    found = prepared(residual())
    names = [
        n.target
        for n in found.network.graph.nodes
        if n.op == "call_module" and n.target.startswith("quantizers")
    ]
    pool, flat = (name for name in names if "pool" in name), names[-2]
    assert next(pool) == flat


def test_clips_are_absorbed_and_other_activations_are_not():
    for clip, name in ((nn.ReLU(), "relu"), (nn.ReLU6(), "hardtanh"), (nn.Hardtanh(), "hardtanh")):
        found = placed(lambda net, x: net.b(net.a(x)), a=block(8, 8, act=clip), b=conv(8, 8))
        assert rounded(found) == ["input", name, "conv2d"]
    found = placed(lambda net, x: net.b(F.hardswish(net.a(x))), a=conv(8, 8), b=conv(8, 8))
    assert rounded(found) == ["input", "conv2d", "hardsigmoid", "mul", "conv2d"]


def test_a_gate_stays_in_floats_on_request_with_the_reason():
    found = prepared(gated(), gates=False)
    assert reasons(found) == {"down": "squeeze-and-excite gate", "up": "squeeze-and-excite gate"}
    assert layers(found) == ["wide.0", "deep.0", "project.0", "head"]
    assert layers(prepared(gated())) == ["wide.0", "deep.0", "down", "up", "project.0", "head"]


def test_pools_and_concatenation():
    found = prepared(branches())
    ops = rounded(found)
    assert ops[:3] == ["input", "relu", "max_pool2d"] and "cat" in ops and "avg_pool2d" in ops
    nodes = [node for node in found.network.graph.nodes if node.op == "call_module" and node.args]
    quantizers = {str(node.args[0]): node.target for node in nodes}
    assert quantizers["max_pool2d"] == quantizers["relu"]  # its numbers are among those that went in


def test_attention_in_integers_or_fused():
    ops = rounded(prepared(attention()))
    assert ops.count("softmax") == 1
    found = prepared(attention(), attention=False)
    assert [*reasons(found).values()] == ["attention is left fused"]
    assert "softmax" not in rounded(found)


def test_a_linear_layer_over_many_rows():
    found = placed(
        lambda net, x: net.b(F.gelu(net.a(x))), noise(2, 5, 8), a=nn.Linear(8, 4), b=nn.Linear(4, 2)
    )
    assert rounded(found) == ["input", "gelu"]  # linear layers answer in floats
    assert [site.macs for site in found.sites] == [5 * 8 * 4, 5 * 4 * 2]


def test_one_layer_called_twice_has_a_site_for_each_call():
    found = placed(lambda net, x: net.a(F.relu(net.a(x))), a=conv(8, 8))
    assert layers(found) == ["a", "a"]
    assert len({site.quantizer for site in found.sites}) == 2
    assert len({site.weight for site in found.sites}) == 1


def test_tied_weights_of_an_embedding():
    def run(net, tokens):
        return F.linear(net.words(tokens).mean(1), net.words.weight)

    found = placed(run, torch.arange(6).view(2, 3), words=nn.Embedding(9, 4))
    assert layers(found) == ["words"] and found.sites[0].macs == 4 * 9


def test_convolutions_of_every_kind():
    found = placed(
        lambda net, x: net.d(net.c(net.b(net.a(x)))),
        a=nn.Conv2d(8, 8, 3, padding="same"),
        b=conv(8, 8, groups=8),
        c=conv(8, 8, groups=2),
        d=nn.Conv2d(8, 4, 3, dilation=2, stride=2),
    )
    assert layers(found) == ["a", "b", "c", "d"]
    assert [site.macs for site in found.sites] == [36 * 8 * 8 * 9, 36 * 8 * 9, 36 * 8 * 4 * 9, 4 * 8 * 9]
    one = placed(lambda net, x: net.a(x), noise(2, 3, 9), a=nn.Conv1d(3, 4, 3))
    three = placed(lambda net, x: net.a(x), noise(2, 3, 4, 4, 4), a=nn.Conv3d(3, 4, 3))
    assert rounded(one) == ["input", "conv1d"] and rounded(three) == ["input", "conv3d"]


def test_normalisation_before_a_convolution_is_not_folded():
    found = placed(lambda net, x: x + net.a(F.relu(net.n(x))), n=nn.BatchNorm2d(8), a=conv(8, 8))
    assert found.sites[0].norm is None
    assert rounded(found) == ["input", "relu", "conv2d", "add"]


def test_normalisation_that_others_read_past_is_not_folded():
    found = placed(lambda net, x: (y := net.a(x)) + net.n(y), n=nn.BatchNorm2d(8), a=conv(8, 8))
    assert found.sites[0].norm is None


@pytest.mark.parametrize(
    ("parts", "run", "reason"),
    [
        (
            {"a": nn.ConvTranspose2d(8, 8, 2)},
            lambda net, x: net.b(net.a(x)),
            "no runtime kernel for transposed",
        ),
        ({"a": weight_norm(nn.Conv2d(8, 8, 1))}, lambda net, x: net.b(net.a(x)), "its weight is computed"),
    ],
)
def test_what_stays_in_floats_is_named(parts, run, reason):
    found = placed(run, b=conv(8, 8), **parts)
    assert layers(found) == ["b"]
    assert reason in found.floats[0].reason


def test_what_is_written_in_place_is_not_rounded_before():
    def run(net, x):
        y = net.a(x)
        y[:, :2] = 0
        return net.b(y)

    found = placed(run, a=conv(8, 8), b=conv(8, 8))
    assert layers(found) == ["a"]
    assert reasons(found) == {"b": "what it reads is written in place"}


def test_dead_branches_are_no_layers():
    def run(net, x):
        net.b(x)
        return net.a(x)

    assert layers(placed(run, a=conv(8, 8), b=conv(8, 8))) == ["a"]


def test_dropout_only_moves():
    found = placed(lambda net, x: net.b(net.drop(net.a(x))), a=conv(8, 8), drop=nn.Dropout(), b=conv(8, 8))
    names = [
        str(n.target) for n in found.network.graph.nodes if n.op == "call_module" and "weight" not in n.target
    ]
    assert names.count("quantizers.conv2d") == 2


def test_sums_of_other_shapes_stay():
    found = placed(
        lambda net, x: net.a(x) + net.scale, a=conv(8, 8), scale=nn.Parameter(torch.ones(1, 8, 1, 1))
    )
    assert rounded(found) == ["input", "conv2d"]


def test_what_stays_in_floats_is_named_whatever_it_is():
    assert without_kernel(prepared(gated())) == []
    assert without_kernel(prepared(gated(), gates=False)) == ["hardsigmoid"]
    kinds = ["hardswish", "hardswish", "adaptive_avg_pool2d", "hardsigmoid", "mul"]
    assert without_kernel(prepared(gated(), swish=False, gates=False)) == kinds
    found = placed(lambda net, x: net.b(F.silu(net.a(x)) * 2), a=conv(8, 8), b=conv(8, 8))
    assert without_kernel(found) == ["mul"]
    found = placed(lambda net, x: net.b(net.a(x)), a=block(8, 8), b=conv(8, 8))
    assert without_kernel(found) == []


def test_multiply_accumulates_of_everything():
    """Of one example, counted by hand."""
    turned = nn.ConvTranspose2d(8, 4, 2, stride=2)
    found = placed(lambda net, x: net.turned(net.a(x)), a=conv(8, 8), turned=turned)
    (site,), (floats,) = found.sites, found.floats
    assert floats.macs == site.macs * (4 * 2 * 2) // (8 * 3 * 3)
    fused = prepared(attention(), attention=False)
    products = prepared(attention()).products
    (whole,) = (one.macs for one in fused.floats if one.reason == "attention is left fused")
    assert whole == sum(products.values()) and len(products) == 2
    assert fused.macs == prepared(attention()).macs


def test_a_normalisation_without_statistics_is_not_folded(tmp_path):
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    model = Net(lambda net, x: net.b(net.norm(net.a(x))), a=conv(3, 8), norm=norm, b=conv(8, 8)).eval()
    found = quantize(model, torch.randn(8, 3, SIDE, SIDE), reestimate_norms=True)
    assert "1 batch_norm in floats" in str(found.report)
    assert found.export(tmp_path / "model.onnx").exists()


def test_what_splits_hands_on_the_grid():
    """As in detectors whose blocks keep a half of their channels as it is."""

    def run(net, x):
        kept, given = net.a(x).chunk(2, 1)
        first, second = torch.split(net.b(given), [1, 3], 1)
        return net.c(torch.cat([kept, first, second], 1))

    found = placed(run, a=block(8, 8), b=block(4, 4), c=conv(8, 8))
    sharing: dict[str, list[str]] = {}
    for node in found.network.graph.nodes:
        if node.op == "call_module" and node.args and "weight" not in node.target:
            sharing.setdefault(node.target, []).append(str(node.args[0]))
    assert len(sharing) == 5  # input, both blocks, concatenation, answer
    assert sorted(map(len, sharing.values())) == [1, 1, 1, 3, 3]
    assert without_kernel(found) == []
