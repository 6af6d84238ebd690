import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import RecipeError, ShapeError
from kezuri.prune.criteria.bn_scale import BnScale
from kezuri.prune.criteria.fpgm import Fpgm
from kezuri.prune.criteria.norm import L1, L2
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.criteria.random import Random
from kezuri.prune.criteria.taylor import Taylor
from kezuri.prune.evidence import Evidence

WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 1.0]])


def test_norms_score_each_weight_by_its_size():
    assert L1()(WEIGHT, Evidence()).tolist() == [[3, 4], [0, 1]]
    assert L2()(WEIGHT, Evidence()).tolist() == [[9, 16], [0, 1]]


@pytest.mark.parametrize(
    ("criterion", "part"), [(BnScale(), "norm_scale"), (Pcas(), "gate"), (Taylor(), "taylor_channel")]
)
def test_a_score_of_a_channel_is_that_of_all_its_weights(criterion, part):
    values = torch.tensor([0.5, 2.0])
    assert criterion(torch.ones(2, 3, 1, 1), Evidence(**{part: values})).flatten(1).tolist() == [
        [0.5] * 3,
        [2] * 3,
    ]
    with pytest.raises(ShapeError, match=r"\(2,\) values do not fit 5 output channels"):
        criterion(torch.ones(5, 2), Evidence(**{part: values}))


def test_taylor_per_weight_takes_the_evidence_as_it_is():
    evidence = Evidence(taylor_weight=WEIGHT.square())
    assert torch.equal(Taylor(per="weight")(WEIGHT, evidence), WEIGHT.square())
    assert Taylor(per="weight").needs == {"taylor_weight"}
    with pytest.raises(RecipeError, match="'layer'"):
        Taylor(per="layer")


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
