"""What every regularizer must do. A new one is covered by being registered."""

import copy
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import kezuri.prune
from kezuri.core.errors import Interrupted, UsageError
from kezuri.data import from_tensors
from kezuri.model.coupling import couple
from kezuri.prune.regularizer import regularizers
from kezuri.train import NullProgress, Training, fit

STRONG = {"strength": 0.01}
TRAINING = Training(epochs=4, batch_size=32, lr=0.05, keep="last")


@pytest.fixture(params=sorted(regularizers))
def regularizer(request):
    return regularizers[request.param](**STRONG)


def fresh(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 4),
        )


@pytest.fixture(scope="module")
def couplings():
    return couple(fresh(), torch.zeros(2, 1, 8, 8))


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(7)
    labels = torch.arange(240) % 4
    images = torch.randn(4, 1, 8, 8, generator=draw)[labels] + torch.randn(240, 1, 8, 8, generator=draw)
    return from_tensors((images, labels), validation=40)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def after_backward(regularizer, couplings, model, step=0):
    """The gradients of a model with the regularizer's part, by name."""
    model(torch.ones(2, 1, 8, 8)).square().sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    regularizer.hook(model, couplings).after_backward(model, optimizer, step)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_there_are_regularizers_to_test():
    assert len(regularizers) >= 2
    assert kezuri.prune.regularizers is not None


def test_its_settings_have_defaults_and_are_checked(regularizer):
    name = regularizers.name_of(regularizer)
    assert regularizers[name]() == regularizers[name]()
    assert "strength" in {field.name for field in fields(regularizer)}
    for wrong in (0, -1e-4, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"strength must be above 0, got {wrong}"):
            replace(regularizer, strength=wrong)


def test_changes_gradients_and_nothing_else(regularizer, couplings):
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    hook = regularizer.hook(model, couplings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    bare = fresh()
    bare(torch.ones(2, 1, 8, 8)).square().sum().backward()
    found = after_backward(regularizer, couplings, model)
    changed = {name for name, p in bare.named_parameters() if not torch.equal(p.grad, found[name])}
    assert changed and "1.weight" in changed
    kept = {name: value for name, value in before.items() if "running" not in name and "batches" not in name}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())
    assert hook.penalty(model) is None


def test_does_the_same_at_every_step(regularizer, couplings):
    first, later = (after_backward(regularizer, couplings, fresh(), step) for step in (0, 999))
    assert all(torch.equal(first[name], later[name]) for name in first)


def test_leaves_frozen_parameters_alone(regularizer, couplings):
    model = fresh()
    for module in (model[0], model[1]):
        module.requires_grad_(False)
    found = after_backward(regularizer, couplings, model)
    assert all(found[name] is None for name in ("0.weight", "0.bias", "1.weight", "1.bias"))


def test_a_training_with_it_ends_the_same_when_interrupted(regularizer, couplings, data, tmp_path):
    class Stops(NullProgress):
        steps = 0

        def advance(self, steps, figures):
            self.steps += steps
            if self.steps == 9:
                raise KeyboardInterrupt

    settings = {"seed": 3, "device": "cpu"}
    whole, resumed, plain = fresh(), fresh(), fresh()
    fit(whole, data, TRAINING, hooks=[regularizer.hook(whole, couplings)], **settings)
    with pytest.raises(Interrupted, match="after 9 of"):
        hooks = [regularizer.hook(resumed, couplings)]
        fit(resumed, data, TRAINING, hooks=hooks, checkpoint=tmp_path, progress=Stops(), **settings)
    resumed = fresh(seed=5)
    fit(
        resumed,
        data,
        TRAINING,
        hooks=[regularizer.hook(resumed, couplings)],
        checkpoint=tmp_path,
        **settings,
    )
    fit(plain, data, TRAINING, **settings)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert not torch.equal(plain[1].weight, whole[1].weight)


def test_channels_fade_that_would_not_without_it(regularizer, couplings, data):
    """The weaker half of the channels is a smaller part of the whole, and the model still learns."""
    plain, faded, long = fresh(), fresh(), replace(TRAINING, epochs=20, lr=0.1)
    fit(plain, data, long, seed=3, device="cpu")
    fitted = fit(faded, data, long, seed=3, device="cpu", hooks=[regularizer.hook(faded, couplings)])
    assert fitted.best_accuracy >= 0.9
    assert weaker_half(faded) < 0.7 * weaker_half(plain)


def weaker_half(model):
    """What share of the channels' size the smaller half of them has: 0.5 if all are alike."""
    sizes = torch.cat([model[at].weight.detach().abs() for at in (1, 4)]).sort().values
    return float(sizes[:8].sum() / sizes.sum())
