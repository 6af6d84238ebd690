import json

import pytest
import torch
from torch import nn

from kezuri.core.measurement import Measurement
from kezuri.model.coupling import couple
from kezuri.prune.masks import Masks
from kezuri.recipe.choosing import Chosen, Reached

LATENCY = Measurement("latency", 0.3, "ms", low=0.2, high=0.4, samples=30, conditions={"threads": 1})
REACHED = Reached(LATENCY, dense=0.5, limit=0.25)


def test_a_decision_is_read_back_as_it_was_written():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    couplings = couple(model, torch.zeros(2, 6))
    kept = {"0": torch.arange(8) % 3 > 0, "2": torch.ones(5, dtype=torch.bool)}
    chosen = Chosen(None, kept, 0.3, {"2": "refused: too little"}, "why", (REACHED,), LATENCY, 1.5)
    again = Chosen.from_json(json.loads(json.dumps(chosen.to_json())), couplings)
    assert set(again.kept) == {"0"} and torch.equal(again.kept["0"], kept["0"])
    for name in ("rate", "reasons", "why", "reached", "latency", "seconds"):
        assert getattr(again, name) == getattr(chosen, name)
    assert not again.is_whole and not again.met


def test_a_budget_is_met_when_all_of_it_is():
    low = Reached(Measurement("macs", 40, "count"), dense=100, limit=40)
    assert Chosen(None, {}, 0.1, reached=(low,)).met
    assert not Chosen(None, {}, 0.1, reached=(low, REACHED)).met
    assert not Chosen(None, {}, 0.1).met
    assert str(low) == "macs 40.0% of the dense model's (budget 40.0%)"
    assert str(REACHED) == "latency 0.3 ms, 60.0% of the dense model's (budget 50.0%)"


@pytest.mark.parametrize("part", [torch.tensor([True, True]), torch.tensor([True, False])])
def test_nothing_is_removed_where_all_is_kept(part):
    is_whole = bool(part.all())
    assert Chosen(None, {"a": part}, 0.1).is_whole == is_whole
    assert Chosen(Masks({"a": part}), None, 0.1).is_whole == is_whole
    assert Chosen(None, {}, 0.1).is_whole
