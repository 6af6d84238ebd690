import copy

import pytest
import torch
from torch import nn

from kezuri.core.errors import MissingEvidence
from kezuri.model.coupling import couple
from kezuri.model.families import Coupling
from kezuri.prune.gates import Gate, Gated


def generator():
    return torch.Generator().manual_seed(0)


class Net(nn.Module):
    """Convolutions, a concatenation and a flatten: every way a consumer reads channels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.c = nn.Conv2d(10, 8, 3, padding=1)
        self.linear = nn.Linear(8 * 16, 5)

    def forward(self, x):
        both = torch.cat([self.a(x), self.b(x)], 1).relu()
        return self.linear(self.c(self.norm(both)).relu().flatten(1))


def gated(form="sigmoid", model=None):
    model = model or Net().eval()
    couplings = couple(model, torch.zeros(2, 3, 4, 4)).free
    return Gated(model, couplings, form=form, reduction=4, generator=generator()), couplings


def close_all_but(gate, open_units):
    """A gate that lets the named units through unchanged and nothing else."""
    with torch.no_grad():
        gate.excite.weight.zero_()
        gate.excite.bias.fill_(-1e4)
        gate.excite.bias[open_units] = 1e4


@pytest.mark.parametrize("form", ["sigmoid", "softmax", "concrete"])
def test_factors_have_the_promised_range(form):
    gate = Gate(8, form=form, reduction=4, generator=generator()).eval()
    factors = gate(torch.randn(5, 8))
    assert factors.shape == (5, 8) and bool((factors > 0).all())
    if form == "softmax":
        torch.testing.assert_close(factors.mean(1), torch.ones(5))
    else:
        assert bool((factors < 1).all())


def test_softmax_begins_at_the_identity():
    gate = Gate(8, form="softmax", reduction=4, generator=generator())
    gate.beta = 0.0
    torch.testing.assert_close(gate(torch.randn(5, 8)), torch.ones(5, 8))


def test_concrete_throws_one_coin_a_channel_for_the_whole_batch_and_only_in_training():
    gate = Gate(64, form="concrete", reduction=4, generator=generator())
    torch.manual_seed(0)
    thrown = gate(torch.randn(5, 64))
    assert torch.equal(thrown[0], thrown[4]) and thrown[0].std() > 0.1
    quiet = gate.eval()(torch.randn(5, 64))
    torch.testing.assert_close(quiet, torch.full((5, 64), torch.sigmoid(torch.tensor(2.0)).item()))


def test_a_closed_gate_is_a_masked_channel():
    """Closing units by gates gives the answer of the model whose reading weights are zeroed."""
    model = Net().eval()
    wrapped, couplings = gated(model=model)
    names = {place: gate for place, gate in zip(wrapped.places, wrapped.gates, strict=True)}
    for gate in names.values():
        close_all_but(gate, slice(None))
    close_all_but(names["a"], [0, 2])
    close_all_but(names["c"], [1, 3, 5])
    images = torch.randn(3, 3, 4, 4)
    with wrapped.attached(), torch.no_grad():
        scaled = wrapped.eval()(images)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.c.weight[:, [1, 3, 4, 5]] = 0
        masked.linear.weight.view(5, 8, 16)[:, [0, 2, 4, 6, 7]] = 0
        torch.testing.assert_close(scaled, masked(images))
    assert {c.name for c in couplings} == {"a", "b", "c"}


def test_grouped_consumers_see_every_group():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=2)).eval()
    wrapped, _ = gated(model=model)
    (gate,) = [g for p, g in zip(wrapped.places, wrapped.gates, strict=True) if p == "0"]
    close_all_but(gate, [])
    with wrapped.attached(), torch.no_grad():
        answer = wrapped.eval()(torch.randn(2, 3, 4, 4))
    torch.testing.assert_close(answer, model[2].bias.view(1, -1, 1, 1).expand_as(answer))


def test_the_model_is_left_as_it_was():
    model = Net().train()
    model.c.eval()
    before = copy.deepcopy(model.state_dict())
    wrapped, _ = gated("concrete", model)
    with wrapped.attached():
        wrapped.train()
        wrapped(torch.randn(8, 3, 4, 4))
    assert model.training and not model.c.training and model.norm.momentum == 0.1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not model.c._forward_pre_hooks


@pytest.mark.parametrize(("form", "training"), [("concrete", True), ("sigmoid", False)])
def test_batchnorm_uses_the_batch_only_for_concrete_gates(form, training):
    wrapped, _ = gated(form)
    wrapped.train()
    assert wrapped.model.norm.training is training and not wrapped.model.a.training


def test_a_coupling_nobody_reads_has_no_place_for_a_gate():
    orphan = Coupling("lonely", 4, (), None)
    with pytest.raises(MissingEvidence, match=r"'lonely'.*list it under `ignore`"):
        Gated(Net(), [orphan], form="sigmoid", reduction=4, generator=generator())
