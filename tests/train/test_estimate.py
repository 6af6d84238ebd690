from dataclasses import replace

import pytest
import torch

from kezuri.core.errors import DataError
from kezuri.train.estimate import estimate_step_seconds
from kezuri.train.training import Training


def test_leaves_model_and_random_state_alone(net, patterns, same) -> None:
    model, random = net(), torch.get_rng_state()
    assert estimate_step_seconds(model, patterns, Training(batch_size=32), "cpu") > 0
    assert same(model, net())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_one_batch_is_enough_and_none_is_not(net, patterns) -> None:
    assert estimate_step_seconds(net(), patterns, Training(batch_size=10_000), "cpu") > 0
    patterns = replace(patterns, train=patterns.train.subset([]))
    with pytest.raises(DataError, match="0 training images"):
        estimate_step_seconds(net(), patterns, Training(), "cpu")
