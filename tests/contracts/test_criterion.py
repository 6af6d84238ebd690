"""What every criterion must do. A new one is covered by being registered."""

from dataclasses import fields

import pytest
import torch

import kezuri.prune
from kezuri.core.errors import MissingEvidence
from kezuri.prune.criteria.fisher import Fisher
from kezuri.prune.criteria.lamp import Lamp
from kezuri.prune.criteria.taylor import Taylor
from kezuri.prune.criterion import criteria
from kezuri.prune.evidence import Evidence

PARTS = {field.name for field in fields(Evidence)} - {"name"}
DIMENSIONS = {"taylor_weight": None, "fisher_weight": None, "input_norm": 2}  # of the weight; None: all
CRITERIA = {
    **{name: criteria[name]() for name in sorted(criteria)},
    "taylor_weight": Taylor(per="weight"),
    "taylor_on_weights": Taylor(gate="weights"),
    "fisher_weight": Fisher(per="weight"),
    "lamp_channel": Lamp(per="channel"),
}
WEIGHTS = {
    "convolution": (6, 3, 3, 3),
    "depthwise": (6, 1, 3, 3),
    "linear": (6, 5),
    "sequence": (6, 4, 3),
    "volume": (6, 2, 3, 2, 2),
    "one output": (1, 8),
}


@pytest.fixture(params=CRITERIA.values(), ids=CRITERIA)
def criterion(request):
    return request.param


@pytest.fixture(params=WEIGHTS.values(), ids=WEIGHTS)
def weight(request):
    return torch.randn(request.param, generator=torch.Generator().manual_seed(0))


def known(weight, parts):
    """Evidence of these parts and no other."""
    generator = torch.Generator().manual_seed(1)
    shapes = {part: weight.shape[: DIMENSIONS.get(part, 1)] for part in sorted(parts)}
    return Evidence(
        name="w", **{part: torch.rand(shape, generator=generator) for part, shape in shapes.items()}
    )


def test_there_are_criteria_to_test():
    assert len(criteria) >= 11
    assert kezuri.prune.criteria is not None


def test_scores_have_the_weight_s_shape_and_are_finite(criterion, weight):
    scores = criterion(weight, known(weight, PARTS))
    assert scores.shape == weight.shape
    assert scores.isfinite().all()
    assert not scores.isneginf().any()


def test_does_not_touch_the_weight(criterion, weight):
    before = weight.clone()
    criterion(weight, known(weight, PARTS))
    assert torch.equal(weight, before)


def test_the_same_weight_and_evidence_give_the_same_scores(criterion, weight):
    first = criterion(weight, known(weight, PARTS))
    torch.rand(3)
    assert torch.equal(first, criterion(weight, known(weight, PARTS)))


def test_uses_only_the_evidence_it_says_it_needs(criterion, weight):
    assert criterion.needs <= PARTS
    full = criterion(weight, known(weight, PARTS))
    needed = known(weight, PARTS)
    needed = Evidence(name="w", **{part: getattr(needed, part) for part in criterion.needs})
    assert torch.equal(full, criterion(weight, needed))
    if criterion.needs:
        with pytest.raises(MissingEvidence):
            criterion(weight, Evidence(name="w"))


def test_a_criterion_of_channels_has_one_score_a_channel(criterion, weight):
    assert criterion.per in ("weight", "channel")
    rows = criterion(weight, known(weight, PARTS)).flatten(1)
    if criterion.per == "channel":
        assert torch.equal(rows, rows[:, :1].expand_as(rows))
    else:
        assert (rows != rows[:, :1]).any()


def test_says_how_its_scores_are_compared_across_layers(criterion):
    assert criterion.normalize in ("none", "mean", "rank")


def test_a_weight_of_zeros_has_finite_scores(criterion):
    zeros = torch.zeros(4, 3)
    assert criterion(zeros, known(zeros, PARTS)).isfinite().all()
