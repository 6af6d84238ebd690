"""What every scope must do, and that every combination of choices works or says why not."""

import pytest
import torch
from torch import nn

from kezuri.calibrate.sites import scored_weights
from kezuri.core.errors import RecipeError, ShapeError
from kezuri.model.coupling import couple
from kezuri.model.zoo import zoo
from kezuri.prune.allocation import Uniform, allocations
from kezuri.prune.criteria.taylor import Taylor
from kezuri.prune.criterion import criteria
from kezuri.prune.evidence import Evidence
from kezuri.prune.granularity import granularities
from kezuri.prune.scope import Contest, scopes
from kezuri.prune.select import select_masks

CRITERIA = {**{name: criteria[name]() for name in sorted(criteria)}, "taylor_weight": Taylor(per="weight")}


class Residual(nn.Module):
    """A convolution, BatchNorm and a residual sum; every width is a multiple of 4."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.norm1 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.outer, self.norm2 = nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.norm2(self.outer(self.norm1(self.inner(x)).relu()))
        return self.head(x.relu().mean((2, 3)))


NETS = {
    "residual": (Residual, (2, 4, 8, 8)),
    "lenet5": (lambda: zoo["lenet5"](classes=10, channels=1), (2, 1, 28, 28)),
}


OF_CHANNELS = ("taylor_channel", "taylor_gate", "fisher_channel", "norm_scale", "map_rank", "gate")


@pytest.fixture(scope="module", params=NETS)
def net(request):
    """A model, its couplings, and evidence of every kind."""
    build, shape = NETS[request.param]
    torch.manual_seed(0)
    model = build().eval()
    evidence = {
        name: Evidence(
            taylor_weight=torch.rand(weight.shape),
            fisher_weight=torch.rand(weight.shape),
            input_norm=torch.rand(weight.shape[:2]),
            **{part: torch.rand(weight.shape[0]) for part in OF_CHANNELS},
        )
        for name, weight in scored_weights(model).items()
    }
    return model, couple(model, torch.zeros(shape)), evidence


def refusal(model, criterion, granularity, scope, allocation):
    """Why a combination is refused, or None: the whole list of what does not go together."""
    if granularity.finest == "weight" and criterion.per == "channel":
        return RecipeError, "one score an output channel"
    if not isinstance(allocation, Uniform) and scopes.name_of(scope) != "local":
        return RecipeError, "no say in the scope"
    if allocations.name_of(allocation) == "erk" and granularity.coupled:
        return RecipeError, "coupled channels span several"
    if scopes.name_of(scope) == "n_of_m" and not isinstance(model, Residual):
        return ShapeError, "list it under `ignore`"
    return None


@pytest.mark.parametrize("scope", sorted(scopes))
@pytest.mark.parametrize("granularity", sorted(granularities))
@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_every_combination_works_or_says_why_not(net, criterion, granularity, scope):
    model, couplings, evidence = net
    granularity, scope = granularities[granularity](), scopes[scope]()
    for allocation in (allocations[name]() for name in sorted(allocations)):
        settings = {
            "criterion": criterion,
            "granularity": granularity,
            "scope": scope,
            "allocation": allocation,
            "evidence": evidence,
            "couplings": couplings,
        }
        why = refusal(model, criterion, granularity, scope, allocation)
        if why is not None:
            with pytest.raises(why[0], match=why[1]):
                select_masks(model, 0.5, **settings)
            continue
        selection = select_masks(model, 0.5, **settings)
        assert selection.sparsity >= 0.5 - 1e-9
        assert selection.shortfall == 0
        assert (selection.kept_channels is not None) == granularity.coupled
        assert all(mask.any() for mask in selection.masks.values())


@pytest.fixture(params=sorted(scopes))
def scope(request):
    return scopes[request.param]()


def contest(net):
    model, _, _ = net
    weights = {n: w for n, w in scored_weights(model).items() if w.shape[1] % 4 == 0}
    groups = granularities["weight"]().groups(weights, None)
    return Contest(groups, {group.name: group.pool(weights) ** 2 for group in groups})


def test_removes_what_is_asked_to_the_weight(net, scope):
    field = contest(net)
    choice = scope.select(field, 0.5, Uniform())
    gone = sum(int((~kept).sum()) for kept in choice.kept.values())
    assert gone == sum(len(kept) for kept in choice.kept.values()) / 2


def test_answers_for_every_group_and_every_unit(net, scope):
    field = contest(net)
    kept = scope.select(field, 0.5, Uniform()).kept
    assert [(name, len(flags)) for name, flags in kept.items()] == [
        (g.name, len(g.sizes)) for g in field.groups
    ]
    assert all(flags.dtype == torch.bool for flags in kept.values())


def test_the_same_scores_give_the_same_choice(net, scope):
    field = contest(net)
    ties = Contest(field.groups, {name: scores.round(decimals=2) for name, scores in field.scores.items()})
    first, again = (scope.select(ties, 0.5, Uniform()).kept for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_scores_are_not_touched(net, scope):
    field = contest(net)
    before = {name: scores.clone() for name, scores in field.scores.items()}
    scope.select(field, 0.5, Uniform())
    assert all(torch.equal(scores, before[name]) for name, scores in field.scores.items())
