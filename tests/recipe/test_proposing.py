import pytest
import torch
from torch import nn

from kezuri.core.errors import ModelError
from kezuri.model.coupling import couple
from kezuri.prune.criteria.norm import L1
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Global
from kezuri.recipe.costs import Costs
from kezuri.recipe.proposing import Order, Proposing, blocked, check_any_free

INPUTS = torch.zeros(2, 6)


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = (nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 3))
    return nn.Sequential(*layers).eval()


def order(**changes):
    usual = {"criterion": L1(), "scope": Global(), "channel": Channel(round_to=8), "roundings": ()}
    return Order(**{**usual, "sparsity": 0.5, "budget": None, "seconds": 0.0, **changes})


def proposing(model, **changes):
    costs = Costs(model, couple(model, INPUTS), INPUTS)
    return Proposing(order(**changes), model, costs, {}, None)


def test_only_what_is_measured_needs_a_runtime():
    assert not order().is_timed and not order(budget={"params": 0.5, "macs": 0.5}).is_timed
    assert order(seconds=1.0).is_timed and order(budget={"params": 0.5, "size": 0.5}).is_timed


def test_of_several_ceilings_the_hardest_decides(model):
    alone = {name: proposing(model, budget={name: 0.4}).decide().proposal for name in ("params", "macs")}
    easy = proposing(model, budget={"params": 0.9, "macs": 0.4}).decide().proposal
    assert all(torch.equal(easy[name], kept) for name, kept in alone["macs"].items())
    both = proposing(model, budget={"params": 0.4, "macs": 0.4}).decide().proposal
    assert all((both[name] <= alone[metric][name]).all() for metric in alone for name in both)


def test_what_was_rejected_is_chosen_no_more(model):
    made = proposing(model)
    assert set(made.decide().proposal) == {"0", "2"}
    made.reject({"0": "it broke"})
    decision = made.decide()
    assert set(decision.proposal) == {"2"} and int(decision.proposal["2"].sum()) == 8
    assert decision.couplings.named("0").reason == "rejected: it broke"
    with pytest.raises(ModelError, match=r"no channel of the model may be cut: 0 \(rejected: it broke\), 2"):
        made.reject({"2": "it broke too"})


def test_floors_that_hold_are_told(model):
    decision = proposing(model, sparsity=0.9, channel=Channel(floor_fraction=0.5)).decide()
    assert {name: int(kept.sum()) for name, kept in decision.proposal.items()} == {"0": 20, "2": 12}
    assert decision.shortfall > 0.1


def test_couplings_are_blocked_by_name(model):
    couplings = couple(model, INPUTS)
    changed = blocked(couplings, {"0": "why not"})
    assert [c.name for c in changed.free] == ["2"] and changed.named("0").reason == "why not"
    assert [c.name for c in couplings.free] == ["0", "2"]
    check_any_free(changed)
