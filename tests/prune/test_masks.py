import pytest
import torch
from torch import nn

from kezuri.core.errors import ShapeError
from kezuri.prune.masks import Masks
from kezuri.train.hooks import Hook


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def half(model):
    generator = torch.Generator().manual_seed(1)
    return Masks(
        {
            name: torch.rand(weight.shape, generator=generator) < 0.5
            for name, weight in model.named_parameters()
            if name.endswith("weight")
        }
    )


def test_counts():
    masks = Masks({"a": torch.tensor([True, False]), "b": torch.tensor([[False, False]])})
    assert (masks.total, masks.removed, masks.sparsity) == (4, 3, 0.75)
    assert Masks({}).sparsity == 0
    assert list(masks) == ["a", "b"]


def test_apply_zeroes_what_is_removed_and_nothing_else():
    model = net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    masks = half(model)
    masks.apply_(model)
    for name, p in model.named_parameters():
        mask = masks.get(name, torch.ones_like(p, dtype=torch.bool))
        assert torch.equal(p[mask], before[name][mask])
        assert not p[~mask].any()


def test_masks_must_be_boolean_and_fit_the_model():
    with pytest.raises(ShapeError, match=r"boolean.*float32"):
        Masks({"a": torch.ones(2)})
    with pytest.raises(ShapeError, match="no such parameter"):
        Masks({"a": torch.ones(2, dtype=torch.bool)}).apply_(net())
    with pytest.raises(ShapeError, match=r"\(2,\), the weight \(8, 6\)"):
        Masks({"0.weight": torch.ones(2, dtype=torch.bool)}).apply_(net())


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
}


def train(model, optimizer, hook, steps, after_step=lambda: None):
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        hook.before_forward(model, step)
        images, labels = torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        hook.after_backward(model, optimizer, step)
        optimizer.step()
        hook.after_step(model, optimizer, step)
        after_step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_nothing_revives_a_removed_weight(make):
    model = net()
    optimizer = make(model.parameters())
    train(model, optimizer, Hook(), 5)  # momentum from before the pruning is the one that revives
    masks = half(model)
    masks.apply_(model)
    kept_before = model[0].weight[masks["0.weight"]].clone()

    def check():
        for name, mask in masks.items():
            p = model.get_parameter(name)
            state = [s for s in optimizer.state[p].values() if s.shape == p.shape]
            assert state
            assert not any(tensor[~mask].any() for tensor in (p, p.grad, *state))

    train(model, optimizer, masks.hold(), 10, check)
    assert not torch.equal(model[0].weight[masks["0.weight"]], kept_before)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_without_holding_they_do_come_back(make):
    model = net()
    masks = half(model)
    masks.apply_(model)
    train(model, make(model.parameters()), Hook(), 2)
    assert any(model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_a_removed_weight_that_is_not_a_number_is_zero_again():
    model = net()
    masks = half(model)
    with torch.no_grad():
        model[0].weight[~masks["0.weight"]] = float("nan")
    masks.hold().before_forward(model, 0)
    assert model[0].weight.isfinite().all()
