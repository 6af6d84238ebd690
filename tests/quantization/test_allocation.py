"""Quantizing to a budget, from a table that is measured once."""

import pytest
import torch
from torch import nn

from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.quantization.allocation import Budget, quantize_to
from kezuri.quantization.bits import Allocation
from kezuri.quantization.ptq import PostTraining
from kezuri.quantization.roundings.gptq import Gptq
from kezuri.quantization.sensitivity import Option


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
        ).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_budget_is_kept_and_the_table_serves_the_next(model, images, tmp_path):
    table = tmp_path / "table.json"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made, chosen, front = quantize_to(model, images, {"size": 0.25, "bits": [8, 4, 2]}, table=table)
    content = table.read_bytes()
    whole = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert isinstance(chosen, Allocation) and chosen.cost.size <= 0.25 * whole
    assert {row.name: row.bits for row in made.report.rows} == {
        layer: option.bits for layer, option in chosen.options.items()
    }
    assert [one.cost.size for one in front] == sorted(one.cost.size for one in front)
    assert min(one.loss for one in front if one.cost.size <= 0.25 * whole) == pytest.approx(chosen.loss)
    assert made.model(images).shape == (24, 5)
    tighter = quantize_to(model, images, Budget(size=chosen.cost.size - 1, bits=(8, 4, 2)), table=table)[1]
    assert tighter.cost.size < chosen.cost.size and tighter.loss >= chosen.loss
    assert table.read_bytes() == content
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("rounding", [None, Gptq()])
def test_zeros_are_chosen_too_and_stay(model, images, rounding):
    method = None if rounding is None else PostTraining(rounding=rounding)
    budget = Budget(macs=0.5, bits=(4,), sparsities=(0.0, 0.6))
    made, chosen, _ = quantize_to(model, images, budget, method=method)
    thinned = [layer for layer, option in chosen.options.items() if option == Option(4, 0.6)]
    assert thinned
    for layer in thinned:
        weight = made.model.get_parameter(f"{layer}.weight")
        assert int((weight == 0).sum()) >= round(0.6 * weight.numel())


def test_what_cannot_be_kept_or_makes_no_sense_is_refused(model, images, tmp_path):
    with pytest.raises(GoalUnreachable, match=r"size down to .*the lowest"):
        quantize_to(model, images, {"size": 0.01}, table=tmp_path / "table.json")
    assert not (tmp_path / "table.json").exists()
    for budget, said in (
        ({"accuracy": 0.9}, "a budget has size or macs, bits and sparsities"),
        ({"latency": 1.0}, "no budget on latency"),
        ({}, "got none"),
        ({"size": 0.2, "bits": []}, "bits are from 2 to 8"),
        ({"macs": 0.5}, "give sparsities to choose from"),
    ):
        with pytest.raises(UsageError, match=said):
            quantize_to(model, images, budget)
