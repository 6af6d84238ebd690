"""Laws of every optimizer."""

from typing import Any

import pytest
import torch
from torch.nn import Parameter

from kezuri.core.errors import UsageError
from kezuri.train.optimizers import SGD, AdamW, optimizers

names = pytest.mark.parametrize("name", sorted(optimizers))


def descend(name: str, steps: int, *, lr: float = 0.05, **settings: Any) -> Parameter:
    parameter = Parameter(torch.tensor([3.0, -2.0]))
    optimizer = optimizers[name](**settings)([parameter], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()
    return parameter.detach()


@names
def test_goes_downhill(name: str) -> None:
    assert descend(name, 300).abs().max() < 0.2


@names
def test_uses_the_learning_rate_given(name: str) -> None:
    built = optimizers[name]()([Parameter(torch.zeros(2))], 0.123)
    assert [group["lr"] for group in built.param_groups] == [0.123]
    assert torch.equal(descend(name, 1, lr=0.0), torch.tensor([3.0, -2.0]))


@names
def test_is_repeatable(name: str) -> None:
    assert torch.equal(descend(name, 20), descend(name, 20))


@names
def test_equal_settings_are_equal(name: str) -> None:
    assert optimizers[name]() == optimizers[name]()
    assert optimizers[name](weight_decay=0.25) != optimizers[name]()


@names
def test_weight_decay_shrinks_weights_without_a_gradient(name: str) -> None:
    parameter = Parameter(torch.ones(2))
    optimizer = optimizers[name](weight_decay=0.1)([parameter], 0.1)
    parameter.grad = torch.zeros(2)
    optimizer.step()
    assert (parameter < 1).all()


@names
def test_refuses_a_negative_weight_decay(name: str) -> None:
    with pytest.raises(UsageError, match=r"weight_decay.*-0.5"):
        optimizers[name](weight_decay=-0.5)


def test_refuses_momentum_and_betas_out_of_range() -> None:
    with pytest.raises(UsageError, match="momentum"):
        SGD(momentum=1.0)
    with pytest.raises(UsageError, match="nesterov"):
        SGD(momentum=0.0)
    with pytest.raises(UsageError, match=r"betas\[1\]"):
        AdamW(betas=(0.9, 1.5))
