import pytest
import torch
from torch.nn.functional import cross_entropy

from kezuri.calibrate.collectors.gradient import TaylorChannel, TaylorWeight
from kezuri.calibrate.run import Sample, collect
from kezuri.core.seeds import derive


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
