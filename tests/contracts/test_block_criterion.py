"""What every block criterion must do. A new one is covered by being registered."""

import copy

import pytest
import torch
from torch import nn

from kezuri.calibrate.run import Sample
from kezuri.data import from_tensors
from kezuri.prune.depth import block_criteria

SAMPLE = Sample(batches=3, batch_size=16)


class Step(nn.Module):
    """x + scale · tanh(conv(x)), with a tanh done in place."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.conv, self.norm, self.scale = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), scale

    def forward(self, x):
        y = self.norm(self.conv(x)).tanh_().mul(self.scale)
        return x + y


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(Step(0.01), Step(1.0), nn.ReLU(inplace=True), Step(0.0), Step(0.3))
        return nn.Sequential(nn.Conv2d(1, 2, 1), body, nn.Flatten(), nn.Linear(72, 3))


NAMES = ["1.0", "1.1", "1.3", "1.4"]


@pytest.fixture(scope="module")
def part():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    images = torch.randn(3, 1, 6, 6, generator=draw)[labels] + torch.randn(90, 1, 6, 6, generator=draw)
    return from_tensors((images, labels), validation=30).train


@pytest.fixture(params=sorted(block_criteria))
def criterion(request):
    return block_criteria[request.param]()


def test_there_are_criteria_to_test():
    assert set(block_criteria) >= {"similarity", "taylor", "loss"}


def test_scores_every_block_with_a_finite_number(criterion, part):
    scores = criterion(network(), NAMES, part, SAMPLE)
    assert list(scores) == NAMES
    assert all(isinstance(score, float) and abs(score) < float("inf") for score in scores.values())
    assert criterion(network(), [], part, SAMPLE) == {}


def test_a_block_that_does_nothing_is_worth_nothing_and_one_that_does_much_is_worth_more(criterion, part):
    scores = criterion(network(), NAMES, part, SAMPLE)
    assert scores["1.3"] == pytest.approx(0, abs=1e-6)
    assert abs(scores["1.0"]) < abs(scores["1.1"])


def test_the_model_is_left_as_it_was(criterion, part):
    model = network().train()
    model(torch.randn(4, 1, 6, 6)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    modules = list(model.modules())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    criterion(model, NAMES, part, SAMPLE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert list(model.modules()) == modules and all(module.training for module in modules)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_the_same_sample_gives_the_same_scores(criterion, part):
    first = criterion(network(), NAMES, part, SAMPLE)
    torch.rand(3)
    assert criterion(network(), NAMES, part, SAMPLE) == first
    assert criterion(network(), NAMES, part, Sample(batches=3, batch_size=16, seed=1)) != first


def test_frozen_models_can_be_scored(criterion, part):
    model = network().requires_grad_(False)
    assert criterion(model, NAMES, part, SAMPLE)["1.1"] == criterion(network(), NAMES, part, SAMPLE)["1.1"]
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_says_whether_it_must_see_other_images_than_training(criterion):
    assert isinstance(criterion.held_out, bool)
