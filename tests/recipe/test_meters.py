import pytest
import torch
from torch import nn

from kezuri.measure.macs import count_macs, count_params
from kezuri.model.coupling import couple
from kezuri.recipe import meters as meters_file
from kezuri.recipe.costs import Costs
from kezuri.recipe.meters import Meters
from kezuri.recipe.timing import Timing

INPUTS = torch.zeros(2, 6)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(meters_file, "RACE_SECONDS", 0.05)


def costs_of(width):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3)).eval()
    return Costs(model, couple(model, INPUTS), INPUTS)


HALF = {"0": torch.arange(32) < 16}


def test_counts_need_no_runtime():
    meters = Meters(costs_of(32), None)
    small = meters.costs.build(HALF)
    assert meters.of("params", HALF).value == count_params(small)
    assert meters.of("macs", HALF).value == count_macs(small, INPUTS)
    assert meters.limit("params", 0.5) == 0.5 * count_params(meters.costs.model)
    assert meters.limit("params", 100.0) == 100.0


def test_a_proposal_is_timed_once_and_against_the_dense_model():
    costs = costs_of(32)
    with Timing(costs, "torch") as timing:
        meters = Meters(costs, timing)
        assert meters.of("size", HALF).value < meters.of("size", {}).value
        found = meters.of("latency", HALF)
        assert found.low <= found.value <= found.high and found.samples >= 30
        assert found.unit == "ms" and found.conditions["runtime"] == "torch"
        assert meters.of("latency", dict(HALF)) is found
        assert meters.limit("latency", 0.5) == 0.5 * meters.of("latency", {}).value


def test_fractions_are_of_the_model_that_is_named_as_dense():
    wide, narrow = costs_of(128), costs_of(32)
    with Timing(wide, "torch") as one, Timing(narrow, "torch") as other:
        dense = Meters(wide, one)
        meters = Meters(narrow, other, dense)
        for metric in ("params", "macs", "size"):
            assert (
                meters.limit(metric, 0.25)
                == 0.25 * dense.of(metric, {}).value
                > meters.of(metric, HALF).value
            )
        assert meters.limit("latency", 0.25) == 0.25 * dense.of("latency", {}).value
        assert meters.of("latency", {}) is not dense.of("latency", {})
