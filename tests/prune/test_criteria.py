import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import RecipeError, ShapeError
from kezuri.prune.criteria.bn_scale import BnScale
from kezuri.prune.criteria.fisher import Fisher
from kezuri.prune.criteria.fpgm import Fpgm
from kezuri.prune.criteria.hrank import HRank
from kezuri.prune.criteria.lamp import Lamp
from kezuri.prune.criteria.norm import L1, L2
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.criteria.random import Random
from kezuri.prune.criteria.taylor import Taylor
from kezuri.prune.criteria.wanda import Wanda
from kezuri.prune.evidence import Evidence

WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 1.0]])


def test_norms_score_each_weight_by_its_size():
    assert L1()(WEIGHT, Evidence()).tolist() == [[3, 4], [0, 1]]
    assert L2()(WEIGHT, Evidence()).tolist() == [[9, 16], [0, 1]]


@pytest.mark.parametrize(
    ("criterion", "part"),
    [
        (BnScale(), "norm_scale"),
        (HRank(), "map_rank"),
        (Pcas(), "gate"),
        (Taylor(), "taylor_gate"),
        (Taylor(gate="weights"), "taylor_channel"),
        (Fisher(), "fisher_channel"),
    ],
)
def test_a_score_of_a_channel_is_that_of_all_its_weights(criterion, part):
    values = torch.tensor([0.5, 2.0])
    assert criterion(torch.ones(2, 3, 1, 1), Evidence(**{part: values})).flatten(1).tolist() == [
        [0.5] * 3,
        [2] * 3,
    ]
    with pytest.raises(ShapeError, match=r"\(2,\) values do not fit 5 output channels"):
        criterion(torch.ones(5, 2), Evidence(**{part: values}))


@pytest.mark.parametrize(("kind", "part"), [(Taylor, "taylor_weight"), (Fisher, "fisher_weight")])
def test_per_weight_takes_the_evidence_as_it_is(kind, part):
    evidence = Evidence(**{part: WEIGHT.square()})
    assert torch.equal(kind(per="weight")(WEIGHT, evidence), WEIGHT.square())
    assert kind(per="weight").needs == {part}


@pytest.mark.parametrize("kind", [Taylor, Fisher, Lamp])
def test_what_is_told_apart_is_a_weight_or_a_channel(kind):
    with pytest.raises(RecipeError, match="'layer'"):
        kind(per="layer")


def test_a_gate_of_taylor_is_behind_the_norm_or_on_the_weights():
    with pytest.raises(RecipeError, match="'norm' or on the 'weights', got 'relu'"):
        Taylor(gate="relu")


def test_wanda_multiplies_each_weight_by_the_norm_of_its_input():
    norm = torch.tensor([[2.0, 0.5], [2.0, 0.5]])
    assert Wanda()(WEIGHT, Evidence(input_norm=norm)).tolist() == [[6, 2], [0, 0.5]]
    kernel = WEIGHT.view(2, 2, 1, 1).expand(2, 2, 1, 3)
    assert Wanda()(kernel, Evidence(input_norm=norm))[0, 0].tolist() == [[6, 6, 6]]
    with pytest.raises(ShapeError, match=r"\(2, 2\) do not fit a weight of \(2, 3\)"):
        Wanda()(torch.ones(2, 3), Evidence(input_norm=norm))


def test_lamp_of_a_layer_known_by_heart():
    weight = torch.tensor([[1.0, -2.0], [2.0, 0.0]])
    assert Lamp()(weight, Evidence()).tolist() == [[1 / 9, 4 / 8], [4 / 8, 0]]
    assert Lamp(per="channel")(weight, Evidence()).tolist() == [[1, 1], [4 / 9, 4 / 9]]
    assert Lamp()(torch.zeros(2, 2), Evidence()).tolist() == [[0, 0], [0, 0]]


@settings(deadline=None)
@given(st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0, 7.0]), min_size=1, max_size=12))
def test_lamp_is_the_share_among_those_at_least_as_large(values):
    expected = [
        v**2 / sum(other**2 for other in values if abs(other) >= abs(v)) if v else 0.0 for v in values
    ]
    assert Lamp()(torch.tensor([values]), Evidence())[0].tolist() == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=1, max_size=6))
def test_fpgm_sums_the_distances_to_the_other_filters(rows):
    weight = torch.tensor(rows)
    expected = [sum(float((row - other).norm()) for other in weight) for row in weight]
    assert Fpgm()(weight, Evidence())[:, 0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_fpgm_finds_a_duplicate_among_large_filters():
    filters = torch.tensor([[1e4, 0.0], [1e4, 0.0], [1e4, 1e-2]])
    assert Fpgm()(filters, Evidence())[:, 0].argmax() == 2


def test_random_follows_from_seed_and_name_alone():
    def draw(seed, name):
        torch.manual_seed(len(name))
        return Random(seed)(torch.zeros(4, 5), Evidence(name=name))

    assert torch.equal(draw(1, "conv1"), draw(1, "conv1"))
    assert not torch.equal(draw(1, "conv1"), draw(2, "conv1"))
    assert not torch.equal(draw(1, "conv1"), draw(1, "conv2"))
