"""Quantizing to a budget, from a table that is measured once."""

import json

import onnx
import pytest
import torch
from torch import nn

from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.quantization.bits import Allocation
from kezuri.quantization.budget import Budget
from kezuri.quantization.ptq import PostTraining
from kezuri.quantization.roundings.gptq import Gptq
from kezuri.quantization.sensitivity import INTEGERS, UNTOUCHED, Option
from kezuri.recipe.quantize_to import quantize_to
from kezuri.recipe.timing import FileRace


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
        ({"accuracy": 0.9}, "a budget has size, macs or latency, bits and sparsities"),
        ({"latency": 0.5, "bits": [4]}, "in 8 bits or in floats, .* got bits .4."),
        ({"latency": 0.5, "sparsities": [0, 0.5]}, "as long for zeros as for other numbers"),
        ({}, "got none"),
        ({"size": 0.2, "bits": []}, "bits are from 2 to 8"),
        ({"macs": 0.5}, "give sparsities to choose from"),
    ):
        with pytest.raises(UsageError, match=said):
            quantize_to(model, images, budget)


@pytest.fixture(scope="module")
def heavy():
    """Large enough that integers save time that can be told."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()] * 3
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)).eval()


@pytest.fixture(scope="module")
def views():
    return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_budget_of_time_leaves_in_floats_what_it_can_afford(heavy, views, tmp_path):
    """Not how fast it is: what was measured of each choice, and that the choice follows from it."""
    table = tmp_path / "table.json"
    made, chosen, front = quantize_to(heavy, views, {"latency": 0.9}, table=table)
    spared = {layer for layer, option in chosen.options.items() if option == UNTOUCHED}
    assert {row.name for row in made.report.rows if row.bits is not None} == chosen.options.keys() - spared
    assert INTEGERS in chosen.options.values() and {*chosen.options.values()} <= {INTEGERS, UNTOUCHED}
    known = json.loads((tmp_path / "table.latencies.json").read_text())["latencies"]
    key = "integers" + "".join(f" -{layer}" for layer in chosen.options if layer in spared)
    assert known[key] == chosen.cost.latency <= 0.9 * known["floats"]
    losses = [one.loss for one in front]
    assert losses == sorted(losses, reverse=True)
    assert made.export(tmp_path / "model.onnx").stat().st_size > 0
    before = table.read_bytes(), (tmp_path / "table.latencies.json").read_bytes()
    again = quantize_to(heavy, views, {"latency": 0.9}, table=table)[1]
    assert again == chosen  # nothing is timed twice
    assert before == (table.read_bytes(), (tmp_path / "table.latencies.json").read_bytes())


def test_times_of_layers_are_those_of_the_layers_alone(heavy, views, tmp_path):
    """Every make is timed once, and costs more numbers than none."""
    from kezuri.quantization.layer_times import LayerTimes
    from kezuri.quantization.quantize import quantize

    raced = []

    class Counting(FileRace):
        def __call__(self, files, shape):
            raced.append((sorted(files), shape))
            return super().__call__(files, shape)

    prepared = quantize(heavy, views).prepared
    times = LayerTimes(prepared, (views[:1],), Counting(seconds=0.05), tmp_path)
    found = [times.of(site) for site in prepared.sites]
    assert all(floats > 0 and integers >= 0 for floats, integers in found)
    assert found[1] == found[2] == found[3]
    assert raced == [
        (["integers", "plain"], (1, 3, 32, 32)),
        ([""], (1, 16)),
        ([""], (1, 100_000)),
        (["integers", "plain"], (1, 64, 32, 32)),
        (["integers", "plain"], (1, 64)),
    ]


def test_layers_are_timed_as_wide_as_the_file_has_them(views, tmp_path):
    from kezuri.quantization.layer_times import LayerTimes
    from kezuri.quantization.quantize import quantize

    shapes = []

    class Noting(FileRace):
        def __call__(self, files, shape):
            if "integers" in files:
                graph = onnx.load(files["integers"]).graph
                weights = [tuple(one.dims) for one in graph.initializer if len(one.dims) == 4]
                shapes.append((shape[1], *weights))
            return dict.fromkeys(files, 1.0)

    layers = [
        nn.Conv2d(3, 30, 3),
        nn.Conv2d(30, 30, 3, groups=30),
        nn.Conv2d(30, 5, 1),
        nn.Conv2d(5, 5, 1, groups=5),
    ]
    prepared = quantize(nn.Sequential(*layers), views).prepared
    times = LayerTimes(prepared, (views[:1],), Noting(), tmp_path)
    for site in prepared.sites:
        times.of(site)
    assert shapes == [(3, (32, 4, 3, 3)), (32, (32, 1, 3, 3)), (32, (5, 32, 1, 1)), (5, (5, 1, 1, 1))]


def test_a_budget_of_time_that_nothing_keeps_says_how_fast_it_gets(heavy, views):
    with pytest.raises(
        GoalUnreachable, match=r"\(1.0% of the .* ms in floats\) cannot be reached: the fastest"
    ):
        quantize_to(heavy, views, {"latency": 0.01})


def test_a_table_of_another_runtime_is_refused(heavy, views, tmp_path):
    table = tmp_path / "table.json"
    quantize_to(heavy, views, {"latency": 0.9}, table=table)
    with pytest.raises(UsageError, match="openvino"):
        quantize_to(heavy, views, {"latency": 0.9}, table=table, runtime="openvino")
    with pytest.raises(UsageError, match="torch does not run"):
        quantize_to(heavy, views, {"latency": 0.9}, runtime="torch")
