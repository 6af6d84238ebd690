import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.folding import shipped
from kezuri.quantization.ptq import PostTraining, calibrate_

from .nets import SIDE, Net, attention, block, branches, conv, gated, noise, prepared, residual, seeded

X = noise(8, 3, SIDE, SIDE, seed=5)


def calibrated(model, inputs=X, **scheme):
    found = prepared(model, inputs[:2], **scheme)
    calibrate_(found, [(inputs,)], PostTraining())
    return found.network.eval()


def off(network):
    for quantizer in quantizers_of(network).values():
        quantizer.on = False
    return network


@torch.no_grad()
@pytest.mark.parametrize("build", [residual, gated, branches, attention])
def test_folding_changes_nothing_but_the_order_of_products(build):
    network = calibrated(build())
    rounded, plain = network(X), off(network)(X)
    assert torch.allclose(shipped(network)(X), plain, atol=1e-5)
    network = calibrated(build())
    found = shipped(network)(X)
    step = (rounded - plain).abs().max()  # numbers on the border of two steps go either way
    assert (found - rounded).abs().mean() < 0.25 * step
    assert (found - rounded).abs().max() < 2 * step


def test_no_normalisation_and_no_quantizer_is_left():
    result = shipped(calibrated(residual()))
    assert "batch_norm" not in result.code and not quantizers_of(result)
    assert all(
        tensor.dtype in (torch.int8, torch.int32)
        for name, tensor in result.named_buffers()
        if name.endswith(("_integers", "_bias"))
    )


def test_the_network_stays_as_it_is():
    network = calibrated(residual()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shipped(network)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("gain", [0.0, 1e-30, -1.0])
def test_gains_that_are_zero_tiny_or_negative(gain, per_channel):
    model = seeded(lambda: nn.Sequential(conv(3, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4)))
    model[1].weight[1] = gain
    model[1].bias[1] = 3.0
    network = calibrated(model, per_channel=per_channel)
    expected, found = network(X), shipped(network)(X)
    assert expected.isfinite().all() and found.isfinite().all()
    assert (expected - model(X)).abs().max() < 0.1 and (found - expected).abs().max() < 0.1


@torch.no_grad()
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_channel_of_zeros_stays_zero(per_channel):
    model = seeded(lambda: nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4)))
    model[0].weight[2] = 0
    model[0].bias[2] = 0
    model[2].weight[1, 2:] = 0
    network = calibrated(model, per_channel=per_channel)
    result = shipped(network)
    buffers = dict(result.named_buffers())
    assert (
        not buffers["quantizers.conv2d_integers"][2].any() and not buffers["quantizers.conv2d_bias"][2].any()
    )
    assert not buffers["quantizers.conv2d_1_integers"][1, 2:].any()
    assert torch.allclose(result(X), network(X), atol=0.05)


@torch.no_grad()
def test_a_bias_that_does_not_fit_gets_larger_steps():
    """A weight of nearly nothing has steps so small that its bias would be more than 32 bits."""
    model = seeded(lambda: nn.Sequential(conv(3, 2), conv(2, 2)))
    model[0].weight[0] *= 1e-9
    model[0].bias[0] = 5.0
    network = calibrated(model)
    result = shipped(network)
    whole = dict(result.named_buffers())["quantizers.conv2d_bias"]
    assert whole.abs().max() <= 2**30
    assert torch.allclose(result(X), network(X), atol=0.1)


@torch.no_grad()
def test_fewer_bits_are_a_part_of_a_byte():
    network = calibrated(residual(), activation_bits=3, edge_bits=3)
    result = shipped(network)
    assert "hardtanh" in result.code
    rounded = network(X)
    apart = (result(X) - rounded).abs()
    assert apart.mean() < 0.1 * rounded.abs().max()


@torch.no_grad()
def test_rows_in_any_order():
    """The batch comes second, as transformers of old have it."""

    def run(net, x):
        return net.b(F.relu(net.a(x.transpose(0, 1)))).transpose(0, 1)

    model = seeded(lambda: Net(run, a=nn.Linear(6, 5), b=nn.Linear(5, 4)))
    x = noise(8, 3, 6)
    network = calibrated(model, x)
    result = shipped(network)
    for count in (1, 5, 8):
        assert torch.allclose(result(x[:count]), network(x[:count]), atol=0.05)


@torch.no_grad()
def test_names_that_are_taken():
    def run(net, x):
        return F.conv2d(net.conv2d_1(x), net.conv2d_weight, net.conv2d_bias) * net.conv2d_scale

    model = seeded(
        lambda: Net(
            run,
            conv2d_1=block(3, 4),
            conv2d_weight=nn.Parameter(noise(2, 4, 1, 1)),
            conv2d_bias=nn.Parameter(noise(2)),
            conv2d_scale=nn.Parameter(noise(1)),
        )
    )
    network = calibrated(model)
    assert torch.allclose(shipped(network)(X), network(X), atol=0.1)
