"""What every collector must do. A new one is covered by being registered."""

from dataclasses import fields

import pytest
import torch
from torch import nn

import kezuri.calibrate
from kezuri.calibrate.collector import collectors
from kezuri.calibrate.run import Sample, collect
from kezuri.calibrate.sites import scored_weights
from kezuri.data import TensorPart
from kezuri.prune.evidence import Evidence


@pytest.fixture(params=sorted(collectors))
def collector(request):
    return collectors[request.param]()


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, 5),
    ]
    model = nn.Sequential(*layers)
    model[1].eval()
    model[5].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    return model


@pytest.fixture
def part():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 3, 6, 6, generator=generator)
    return TensorPart(images, torch.randint(5, (12,), generator=generator), classes=5)


def condition(model):
    """Everything of a model that a pass over data could change."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()],
        "frozen": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
    }


def test_there_are_collectors_to_test():
    assert len(collectors) >= 8
    assert kezuri.calibrate.collectors is not None


def test_leaves_the_model_as_it_was(collector, model, part):
    before, random = condition(model), torch.get_rng_state()
    collect(model, part, [collector], sample=Sample(batch_size=4))
    after = condition(model)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_gives_finite_evidence_of_prunable_weights(collector, model, part):
    learnt = collect(model, part, [collector], sample=Sample(batch_size=4))
    weights = scored_weights(model)
    name = collectors.name_of(collector)
    assert learnt.keys() == weights.keys()
    assert learnt["0.weight"].keys() == {name}
    for weight, parts in learnt.items():
        for value in parts.values():
            assert value.isfinite().all()
            assert value.shape in [weights[weight].shape[:dims] for dims in (1, 2, None)]
            assert not value.requires_grad


def test_outputs_come_first_whatever_the_layer(collector):
    torch.manual_seed(0)
    layers = [
        nn.ConvTranspose2d(4, 6, 2, groups=2),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 6, 3, groups=3),
        nn.Flatten(2),
        nn.Conv1d(6, 3, 2),
        nn.Unflatten(2, (2, 1, 4)),
        nn.Conv3d(3, 5, 1),
        nn.Flatten(),
        nn.Linear(40, 5),
    ]
    images = torch.randn(4, 4, 4, 4)
    part = TensorPart(images, torch.arange(4), classes=5)
    model = nn.Sequential(*layers).eval()
    learnt = collect(model, part, [collector], sample=Sample(batch_size=2))
    rows = {"0.weight": (3, 4, 2, 2), "2.weight": (6, 2, 3, 3), "8.weight": (5, 40)}
    name = collectors.name_of(collector)
    assert {weight for weight, parts in learnt.items() if parts} >= (
        {*rows} if name != "norm_scale" else set()
    )
    for weight, shape in rows.items():
        for value in learnt[weight].values():
            assert value.shape in [shape[:dims] for dims in (1, 2, None)]


def test_the_same_sample_gives_the_same_evidence(collector, model, part):
    first = collect(model, part, [collector], sample=Sample(batch_size=4, seed=3))
    torch.manual_seed(9)
    again = collect(model, part, [collector], sample=Sample(batch_size=4, seed=3))
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_is_registered_under_the_part_of_the_evidence_it_gives(collector):
    assert collectors.name_of(collector) in {field.name for field in fields(Evidence)}
