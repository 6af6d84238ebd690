import numpy as np
import pytest
import torch
from torch import nn

from kezuri.core.errors import UsageError
from kezuri.model.families import Coupling, Member
from kezuri.prune.regularizers.bn_scale import BnScaleSparsity
from kezuri.prune.regularizers.group import GroupSparsity


def added(regularizer, model, couplings=None):
    """What the regularizer adds to gradients of zero, by parameter name."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    regularizer.hook(model, couplings).after_backward(model, optimizer, 0)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_bn_scale_adds_the_sign_of_every_scale(residual):
    with torch.no_grad():
        residual.norm.weight.copy_(torch.tensor([2.0, -0.1, 0.0, 1e-9]))
    found = added(BnScaleSparsity(strength=0.25), residual)
    assert found["norm.weight"].tolist() == [0.25, -0.25, 0, 0.25]
    assert found["norm1.weight"].tolist() == [0.25] * 6
    others = {name: grad for name, grad in found.items() if "norm" not in name or "bias" in name}
    assert len(others) >= 5 and all(not grad.any() for grad in others.values())


def test_bn_scale_needs_scales():
    bare = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False))
    with pytest.raises(UsageError, match="has none; use the regularizer 'group'"):
        BnScaleSparsity().hook(bare)


def test_group_decays_a_channel_as_a_whole_and_the_weakest_most(residual, couplings):
    with torch.no_grad():
        for parameter in residual.parameters():
            parameter.mul_(torch.rand_like(parameter))
    p = {name: parameter.detach() for name, parameter in residual.named_parameters()}
    found = added(GroupSparsity(strength=0.5, alpha=3.0), residual, couplings)
    # the coupling `conv1` by hand: rows of conv1, its norm's scale, columns of conv2
    norms = (
        p["conv1.weight"].square().sum((1, 2, 3))
        + p["norm1.weight"].square()
        + p["conv2.weight"].square().sum((0, 2, 3))
    ).sqrt()
    factors = 0.5 * 2 ** (3 * (norms.max() - norms) / (norms.max() - norms.min()))
    assert float(factors.min()) == pytest.approx(0.5) and float(factors.max()) == pytest.approx(4)
    torch.testing.assert_close(found["norm1.weight"], factors * p["norm1.weight"])
    # conv1 also reads the coupling `stem`, along its inputs
    stem = stream_factors(p)
    rows, columns = factors.view(-1, 1, 1, 1), stem.view(1, -1, 1, 1)
    torch.testing.assert_close(found["conv1.weight"], (rows + columns) * p["conv1.weight"])
    # the head reads every channel four times, and its own outputs are blocked
    torch.testing.assert_close(found["head.weight"], stem.repeat_interleave(4) * p["head.weight"])
    assert not found["head.bias"].any()


def stream_factors(p):
    norms = (
        p["stem.weight"].square().sum((1, 2, 3))
        + p["norm.weight"].square()
        + p["conv1.weight"].square().sum((0, 2, 3))
        + p["conv2.weight"].square().sum((1, 2, 3))
        + p["norm2.weight"].square()
        + p["head.weight"].square().sum(0).view(4, 4).sum(1)
    ).sqrt()
    return 0.5 * 2 ** (3 * (norms.max() - norms) / (norms.max() - norms.min()))


def test_group_draws_equal_channels_equally():
    model = nn.Linear(3, 4, bias=False)
    nn.init.ones_(model.weight)
    whole = Coupling("weight", 4, (Member("weight", 0, np.arange(4)[:, None], "output"),), None)
    assert added(GroupSparsity(strength=0.5), model, [whole])["weight"].tolist() == [[0.5] * 3] * 4
    nn.init.zeros_(model.weight)
    assert not added(GroupSparsity(strength=0.5), model, [whole])["weight"].any()


def test_group_needs_couplings_that_may_be_cut(residual, couplings):
    with pytest.raises(UsageError, match=r"couplings=couple\(model, example_inputs\)"):
        GroupSparsity().hook(residual)
    with pytest.raises(UsageError, match="no channel of this model may be removed"):
        GroupSparsity().hook(residual, [couplings.named("head")])
    with pytest.raises(UsageError, match="alpha is from 0 to 32, got 40"):
        GroupSparsity(alpha=40)
