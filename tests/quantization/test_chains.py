import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kezuri.model.portable import read_model
from kezuri.quantization.chains import chains_of, equalize_network_
from kezuri.quantization.ptq import PostTraining, calibrate_
from kezuri.quantization.quantize import quantize

from .nets import SIDE, Net, block, conv, noise, prepared, residual, seeded

X = noise(8, 3, SIDE, SIDE, seed=5)


def names(found):
    return [tuple(site.layer for site in chain) for chain in chains_of(found)]


def plain():
    """Depthwise in the middle, and a head over flattened maps."""
    return seeded(
        lambda: nn.Sequential(
            block(3, 8), block(8, 8, groups=8), block(8, 6, groups=2), nn.Flatten(), nn.Linear(6 * SIDE**2, 4)
        )
    )


@torch.no_grad()
def rescaled(model):
    """Channels between two layers as different as a hundred thousand to one; the function stays."""
    factor = torch.logspace(-2.5, 2.5, 8)
    model[0][1].weight.mul_(factor)
    model[0][1].bias.mul_(factor)
    model[1][0].weight.div_(factor.view(-1, 1, 1, 1))
    return model


def test_chains_are_followed_through_relu_flattening_and_depthwise():
    assert names(prepared(plain())) == [("0.0", "1.0", "2.0", "4")]


def test_a_sum_or_another_reader_ends_a_chain():
    assert names(prepared(residual())) == [("first.0", "second")]
    hard = seeded(lambda: nn.Sequential(conv(3, 4), nn.Hardswish(), conv(4, 4), nn.ReLU6(), conv(4, 4)))
    assert names(prepared(hard)) == []


def test_shared_layers_are_left_alone():
    found = prepared(seeded(lambda: Net(lambda net, x: net.a(F.relu(net.a(x))), a=conv(3, 3))))
    assert names(found) == []


@torch.no_grad()
def test_equalization_keeps_the_function():
    model = rescaled(plain())
    found = prepared(model)
    assert equalize_network_(found) == [("0.0", "1.0", "2.0", "4")]
    assert torch.allclose(found.network(X), model(X), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_equalization_helps_where_channels_were_rescaled():
    errors = []
    for equalize in (False, True):
        model = rescaled(plain())
        found = prepared(model, per_channel=False)
        calibrate_(found, [(X,)], PostTraining(equalize=equalize))
        errors.append(float((found.network(X) - model(X)).square().mean()))
    assert errors[1] < errors[0] / 10


@torch.no_grad()
@pytest.mark.parametrize(
    ("run", "parts"),
    [
        (lambda net, x: net.b(F.relu(net.a(x)).flatten(2)), {"b": nn.Linear(SIDE**2, 6)}),
        (lambda net, x: net.b(F.relu(net.a(x))), {"b": nn.Linear(SIDE, 6)}),
        (lambda net, x: net.b(F.relu(net.a(x)).transpose(1, 3)), {"b": nn.Linear(4, 6)}),
        (
            lambda net, x: net.c(net.b(F.relu(net.a(x)).flatten(2))),
            {"b": nn.Linear(SIDE**2, 4), "c": nn.Conv1d(4, 6, 1)},
        ),
    ],
)
def test_what_reads_something_else_than_channels_is_no_follower(run, parts):
    model = Net(run, a=conv(3, 4), **parts).eval()
    model.a.weight.mul_(torch.tensor([1.0, 10.0, 0.1, 1.0]).view(-1, 1, 1, 1))
    found = prepared(model)
    x = noise(8, 3, SIDE, SIDE)
    expected = model(x)
    equalize_network_(found)
    torch.testing.assert_close(found.network.eval()(x), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_clippings_at_six_become_relus_and_it_is_said(tmp_path):
    """Each channel would need a ceiling of its own once it is scaled."""

    def build():
        model = seeded(lambda: nn.Sequential(block(3, 8, act=nn.ReLU6()), conv(8, 4))).eval()
        uneven = torch.logspace(-2, 0, 8)
        model[0][1].weight.mul_(uneven)
        model[0][1].bias.mul_(uneven)
        model[1].weight.div_(uneven.view(1, -1, 1, 1))
        return model

    model = build()
    made = quantize(model, X, per_channel=False, equalize=True)
    assert "1 ReLU6 became ReLU" in str(made.report) and "became" not in str(quantize(model, X).report)
    assert made.prepared.scheme.replaced == {"relu6": "relu"}
    plain = quantize(model, X, per_channel=False, replaced={"relu6": "relu"})
    apart = [float((one.model(X) - model(X)).abs().mean()) for one in (made, plain)]
    assert apart[0] < apart[1] / 3
    made.save(tmp_path)
    assert torch.equal(read_model(tmp_path, build=build).model(X), made.model(X))
