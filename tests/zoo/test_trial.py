"""The harness itself notices what it is there to notice."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import kezuri

from .graph import Graph, Net, block, images, pooled
from .hard import hard
from .trial import furthest, masked, try_graph, try_model

FAST = ("trains", "saves", "default", "onnx")


def plain() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.b(net.a(x))))

    torch.manual_seed(0)
    return Net(run, a=block(3, 8), b=block(8, 8), head=nn.Linear(8, 5))


GRAPH = Graph("plain", plain, images(3, 8, 8), frozenset({"a.0", "b.0"}), frozenset({"head"}))


def test_a_plain_network_passes_everything():
    outcome = try_graph(GRAPH)
    assert outcome.passed, outcome.line()
    assert outcome.layers == {"cut": 2, "blocked": 1}
    assert outcome.left is not None and outcome.left < 0.5
    assert outcome.error is not None and outcome.moved is not None and outcome.error < 1e-5 < outcome.moved


def test_what_was_expected_and_not_cut_is_named_and_so_is_what_had_to_stay():
    outcome = try_graph(replace(GRAPH, cut=frozenset({"head"}), whole=frozenset({"a.0"})), without=FAST)
    assert outcome.missed == ["head is not cut (graph output)", "a.0 is cut"]
    assert "expected" in outcome.failures and not outcome.passed


@pytest.mark.parametrize("damage", [1e-3, float("nan")])
def test_a_cut_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch, damage: float):
    honest = kezuri.cut

    def careless(*arguments, **options):
        result = honest(*arguments, **options)
        with torch.no_grad():
            result.model.head.weight[0, 0] += damage
        return result

    monkeypatch.setattr(kezuri, "cut", careless, raising=False)
    check = try_graph(GRAPH, without=FAST).checks["exact"]
    assert check.state == "failed" and "differ" in check.reason


def test_a_model_that_was_changed_on_the_way_fails(monkeypatch: pytest.MonkeyPatch):
    honest = kezuri.cut
    monkeypatch.setattr(kezuri, "cut", lambda model, *rest: honest(model, *rest, inplace=True), raising=False)
    assert try_graph(GRAPH, without=FAST).checks["cut"].state == "failed"


def test_nothing_to_cut_is_a_failure_with_the_reason():
    check = try_model("one layer", nn.Linear(4, 3), (torch.randn(2, 4),)).checks["cut"]
    assert check.state == "failed" and check.reason


def test_what_the_model_cannot_do_itself_is_not_held_against_the_cut():
    class OfTwo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.inner(x.view(2, 3, 8, 8))

    outcome = try_model("of two", OfTwo(), (torch.randn(2, 3, 8, 8),), without=("onnx", "saves", "default"))
    assert outcome.checks["batch"].state == outcome.checks["trains"].state == "unable"
    assert not outcome.failures


def test_masking_by_the_structure_zeroes_weights_and_nothing_else():
    model = plain()
    inputs = GRAPH.batch(2)
    couplings = kezuri.couple(model, inputs)
    kept = {"a.0": torch.arange(8) % 2 == 0}
    result = kezuri.cut(model, couplings, kept, inputs)
    before = copy.deepcopy(model.state_dict())
    zeroed = masked(model, result).state_dict()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    changed = {name for name, value in zeroed.items() if not torch.equal(value, before[name])}
    assert changed == {"a.0.weight", "a.1.weight", "b.0.weight"}
    assert not zeroed["a.0.weight"][1::2].any() and not zeroed["b.0.weight"][:, 1::2].any()


def test_distance_is_relative_and_infinite_where_shapes_or_numbers_are_wrong():
    ten = torch.full((2,), 10.0)
    assert furthest([ten], [ten + 1]) == pytest.approx(0.1)
    assert furthest([ten], [ten[:1]]) == float("inf")
    assert furthest([ten], [ten * float("inf")]) == float("inf")


def test_every_graph_gives_the_same_weights_twice():
    for name in ("residual", "lstm", "vision_transformer"):
        one, two = (hard[name].build().state_dict() for _ in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one)
