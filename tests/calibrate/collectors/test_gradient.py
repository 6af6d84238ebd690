import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from kezuri.calibrate.collectors.gradient import (
    FisherChannel,
    FisherWeight,
    TaylorChannel,
    TaylorGate,
    TaylorWeight,
)
from kezuri.calibrate.run import Sample, collect
from kezuri.core.seeds import derive
from kezuri.data import TensorPart


def by_hand(net, part, batch_size):
    """(w·∂w) of every batch, and how many images it had."""
    net.eval()
    weight = net[0].weight
    for batch in part.batches(batch_size, seed=derive(0, "calibrate")):
        (gradient,) = torch.autograd.grad(cross_entropy(net(batch.images), batch.targets), weight)
        yield (weight * gradient).detach().double(), len(batch.images)


@pytest.mark.parametrize("batch_size", [5, 8])  # 8 leaves a last batch of 4 images
def test_squares_each_batch_before_it_averages(net, part, batch_size):
    changes = list(by_hand(net, part, batch_size))
    learnt = collect(net, part, [TaylorWeight(), TaylorChannel()], sample=Sample(batch_size=batch_size))
    images = sum(count for _, count in changes)
    assert images == 20
    weight = sum(change.square() * count for change, count in changes) / images
    channel = sum(change.flatten(1).sum(1).square() * count for change, count in changes) / images
    torch.testing.assert_close(learnt["0.weight"]["taylor_weight"], weight)
    torch.testing.assert_close(learnt["0.weight"]["taylor_channel"], channel)
    square_of_sum = (sum(change * count for change, count in changes) / images).square()
    assert (square_of_sum < weight).any()
    assert weight.dtype == torch.float64


def test_the_channel_sum_is_the_gradient_of_a_gate_on_the_channel(net, part):
    learnt = collect(net, part, [TaylorChannel()], sample=Sample(batch_size=20))
    net.eval()
    (batch,) = part.batches(20, seed=derive(0, "calibrate"))
    gate = torch.ones(4, requires_grad=True)
    gated = net[1:](net[0](batch.images) * gate.view(1, 4, 1, 1))
    (gradient,) = torch.autograd.grad(cross_entropy(gated, batch.targets), gate)
    torch.testing.assert_close(
        learnt["0.weight"]["taylor_channel"], gradient.square().double(), rtol=1e-4, atol=1e-12
    )


def gate_gradient(net, part, before):
    """∂L/∂g of a gate of ones behind the first `before` layers of a sequence, on all images at once."""
    net.eval()
    (batch,) = part.batches(20, seed=derive(0, "calibrate"))
    inner = net[:before](batch.images)
    gate = torch.ones(inner.shape[1], requires_grad=True)
    gated = inner * gate.view(1, -1, *[1] * (inner.dim() - 2))
    (gradient,) = torch.autograd.grad(cross_entropy(net[before:](gated), batch.targets), gate)
    return gradient.double().square()


def test_a_gate_is_behind_the_norm_or_else_behind_the_bias(net, part):
    with torch.no_grad():
        net[1].bias.uniform_(-1, 1)
        net[1].weight.uniform_(0.5, 2)
        net[1].running_mean.uniform_(-1, 1)
    learnt = collect(net, part, [TaylorGate(), TaylorChannel()], sample=Sample(batch_size=20))
    for name, before in (("0.weight", 2), ("3.weight", 4), ("7.weight", 8)):
        expected = gate_gradient(net, part, before)
        torch.testing.assert_close(learnt[name]["taylor_gate"], expected, rtol=1e-4, atol=1e-12)
        assert not torch.allclose(learnt[name]["taylor_channel"], expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_gate_on_each_position_of_a_transposed_convolution(groups):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 2, groups=groups), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(96, 3)
    ).eval()
    part = TensorPart(torch.randn(20, 4, 3, 3), torch.arange(20) % 3, classes=3)
    learnt = collect(model, part, [TaylorGate()], sample=Sample(batch_size=20))["0.weight"]["taylor_gate"]
    (batch,) = part.batches(20, seed=derive(0, "calibrate"))
    gate = torch.ones(6 // groups, requires_grad=True)
    gated = model[1](model[0](batch.images)) * gate.repeat(groups).view(1, 6, 1, 1)
    (gradient,) = torch.autograd.grad(cross_entropy(model[2:](gated), batch.targets), gate)
    torch.testing.assert_close(learnt, gradient.double().square(), rtol=1e-4, atol=1e-12)


def test_fisher_squares_each_image_s_own_gradient(net, part):
    each = torch.stack(list(by_hand_singly(net, part)))
    learnt = collect(net, part, [FisherWeight(), FisherChannel()], sample=Sample(batch_size=7))["0.weight"]
    torch.testing.assert_close(learnt["fisher_weight"], each.square().mean(0), rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(learnt["fisher_channel"], gates_singly(net, part), rtol=1e-4, atol=1e-12)
    batchwise = collect(net, part, [TaylorWeight()], sample=Sample(batch_size=20))["0.weight"]
    assert batchwise["taylor_weight"].sum() < 0.5 * learnt["fisher_weight"].sum()


def by_hand_singly(net, part):
    """(w·∂w) of every image, in the order that calibration sees them."""
    net.eval()
    for batch in part.batches(20, seed=derive(0, "calibrate")):
        for at in range(len(batch.images)):
            loss = cross_entropy(net(batch.images[at : at + 1]), batch.targets[at : at + 1])
            (gradient,) = torch.autograd.grad(loss, net[0].weight)
            yield (net[0].weight * gradient).detach().double()


def gates_singly(net, part):
    """Mean over images of (∂L/∂g)² of a gate behind the first norm."""
    net.eval()
    (batch,) = part.batches(20, seed=derive(0, "calibrate"))
    gate = torch.ones(20, 4, requires_grad=True)
    logits = net[2:](net[:2](batch.images) * gate.view(20, 4, 1, 1))
    (gradient,) = torch.autograd.grad(cross_entropy(logits, batch.targets, reduction="sum"), gate)
    return gradient.double().square().mean(0)


def test_fisher_looks_at_as_many_images_as_it_is_told(net, part):
    each = torch.stack(list(by_hand_singly(net, part)))
    few = collect(net, part, [FisherWeight()], sample=Sample(batch_size=20, single=3))["0.weight"]
    torch.testing.assert_close(few["fisher_weight"], each[:3].square().mean(0), rtol=1e-4, atol=1e-12)


def test_weights_that_are_no_layer_s_are_learnt_about_when_named(part):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.head = nn.GRU(18, 4, batch_first=True), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.gru(x.flatten(2))[0][:, -1])

    torch.manual_seed(0)
    model = Recurrent()
    images = torch.randn(8, 3, 3, 6)
    part = TensorPart(images, torch.arange(8) % 5, classes=5)
    plain = collect(model, part, [TaylorChannel()])
    named = collect(model, part, [TaylorChannel()], others={"gru.weight_ih_l0": 0})
    assert plain.keys() == {"head.weight"} and named.keys() == {"head.weight", "gru.weight_ih_l0"}
    assert named["gru.weight_ih_l0"]["taylor_channel"].shape == (12,)
