import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kezuri
from kezuri.core.errors import ModelError, UsageError
from kezuri.model.exporting import example_batch
from kezuri.prune.criteria.norm import L2
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Local
from kezuri.quantization.fake import quantizers_of
from kezuri.quantization.network import with_quantizers
from kezuri.quantization.scheme import Scheme

from .nets import SIDE, Net, attention, block, branches, conv, gated, noise, prepared, residual, seeded

NETS = {"residual": residual, "gated": gated, "branches": branches, "attention": attention}
X = noise(3, 3, SIDE, SIDE, seed=5)


@pytest.fixture(params=list(NETS))
def model(request):
    return NETS[request.param]()


@torch.no_grad()
def test_off_it_answers_as_the_model_does(model):
    before = copy.deepcopy(model.state_dict())
    found = prepared(model)
    assert torch.allclose(found.network(X), model(X), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(before) <= set(found.network.state_dict())


def test_it_is_in_the_models_mode_and_switches():
    model = branches().train()
    network = prepared(model).network
    assert network.training
    assert not torch.equal(network(X), network(X))  # dropout
    network.eval()
    assert torch.equal(network(X), network(X))


def test_normalisation_is_alive_in_training():
    network = prepared(residual()).network.train()
    before = network.get_buffer("norm.running_mean").clone()
    network(X).square().sum().backward()
    assert not torch.equal(network.get_buffer("norm.running_mean"), before)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_copies_are_independent():
    found = prepared(residual())
    twin = copy.deepcopy(found.network)
    with torch.no_grad():
        twin.get_parameter("head.bias").add_(1)
        assert torch.allclose(twin(X), found.network(X) + 1)
    assert quantizers_of(twin).keys() == quantizers_of(found.network).keys()


def test_bits_of_the_edges_and_of_single_layers():
    found = prepared(residual(), bits=4, activation_bits=6, layer_bits={"first.0": 3})
    bits = {site.layer: found.weight_quantizer(site).grid.bits for site in found.sites}
    assert bits == {"stem.0": 8, "first.0": 3, "second": 4, "head": 8}
    inputs = {site.layer: quantizers_of(found.network)[site.inputs].grid.bits for site in found.sites}
    assert inputs == {"stem.0": 8, "first.0": 6, "second": 6, "head": 8}


def test_spared_layers_stay():
    found = prepared(residual(), spared=("second",))
    assert [site.layer for site in found.sites] == ["stem.0", "first.0", "head"]
    assert ("second", "left in floats as asked") in [(one.name, one.reason) for one in found.floats]


@pytest.mark.parametrize("scheme", [{"spared": ("firs.0",)}, {"layer_bits": {"firs.0": 4}}])
def test_unknown_layers_are_refused_with_the_near_name(scheme):
    with pytest.raises(UsageError, match=r"'firs\.0' .*stem\.0.*did you mean 'first\.0'"):
        prepared(residual(), **scheme)


def test_activations_are_replaced_if_asked():
    assert "aten.hardswish" in prepared(gated(), swish=False).network.code
    code = prepared(gated(), replaced={"hardswish": "relu6"}).network.code
    assert "aten.hardswish" not in code and code.count("aten.hardtanh") == 2
    assert code.count("aten.hardsigmoid") == 1  # the gate's


def test_what_is_quantized_already_is_refused():
    with pytest.raises(UsageError, match="quantized already"):
        prepared(prepared(residual()).network)


def test_nothing_to_quantize_is_refused_with_the_reason():
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        prepared(seeded(nn.Flatten))
    with pytest.raises(ModelError, match="up: no runtime kernel for transposed"):
        prepared(seeded(lambda: Net(lambda net, x: net.up(x), up=nn.ConvTranspose2d(3, 3, 2))))


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match=r"does not accept an input of shape \(2, 5, 12, 12\)"):
        prepared(residual(), noise(2, 5, 12, 12))


def test_names_of_torchs_own():
    """An operation named `to`, parts named as ours and as those of torch.fx."""
    model = seeded(
        lambda: Net(lambda net, x: net.b(net.a(x.to(torch.float64).float())), a=conv(3, 4), b=conv(4, 4))
    )
    found = prepared(model)
    assert torch.allclose(found.network(X), model(X), atol=1e-6)
    for name in ("quantizers", "graph", "code"):
        model = seeded(lambda n=name: Net(lambda net, x: getattr(net, n)(x), **{n: conv(3, 4)}))
        with pytest.raises(ModelError, match=f"named '{name}'"):
            prepared(model)


def test_weights_that_are_buffers_run_in_integers():
    class Blur(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.full((3, 1, 3, 3), 1 / 9))

        def forward(self, x):
            return F.conv2d(x, self.kernel, padding=1, groups=3)

    found = prepared(seeded(lambda: nn.Sequential(Blur(), conv(3, 4))))
    assert [site.layer for site in found.sites] == ["0", "1"]
    assert found.weight(found.sites[0]).shape == (3, 1, 3, 3)


def test_shared_modules_go_by_one_name_and_keep_the_other():
    def run(net, x):
        return net.again(F.relu(net.a(x)))

    shared = block(3, 3)
    model = seeded(lambda: Net(run, a=shared, again=shared))
    found = prepared(model)
    assert [site.layer for site in found.sites] == ["a.0", "a.0"]
    assert "again.0.weight" in found.network.state_dict()
    assert torch.allclose(found.network(X), model(X), atol=1e-6)


def test_several_inputs():
    model = seeded(lambda: Net(lambda net, x, y: net.a(x) + net.b(y), a=conv(3, 4), b=conv(3, 4)))
    found = with_quantizers(model, example_batch(model, (X, X)), Scheme())
    assert torch.allclose(found.network(X, -X), model(X, -X), atol=1e-6)


@pytest.mark.parametrize("result", ["module", "program"])
def test_a_model_that_was_cut(result):
    model = residual()
    couplings = kezuri.couple(model, X, result=result)
    kept = kezuri.select_masks(
        model, 0.5, criterion=L2(), granularity=Channel(), scope=Local(), couplings=couplings
    ).kept_channels
    cut = kezuri.cut(model, couplings, kept, X).model
    network = prepared(cut).network
    with torch.no_grad():
        assert torch.allclose(network(X), cut(X), atol=1e-6)
    before = network.train().get_buffer("norm.running_mean").clone()
    network(X).sum().backward()
    assert not torch.equal(network.get_buffer("norm.running_mean"), before)


def test_learned_ranges_are_parameters_from_the_start():
    found = prepared(residual(), ranges="learned")
    learned = [name for name, _ in found.network.named_parameters() if name.endswith(".scale")]
    assert len(learned) == len(quantizers_of(found.network))
