import copy

import pytest
import torch
from torch import nn

from kezuri.core.errors import DataError, RecipeError, ShapeError
from kezuri.data.parts import TensorPart
from kezuri.model.sites import prunable_weights
from kezuri.prune.criteria.norm import L1
from kezuri.prune.fitness import MaskFitness
from kezuri.prune.granularity import Weight
from kezuri.prune.problem import FewestWeights, FixedSparsity
from kezuri.prune.scope import Global
from kezuri.prune.searcher import Asked
from kezuri.prune.select import contest
from kezuri.prune.space import Space
from kezuri.train.batchnorm import reestimate_batchnorm_
from kezuri.train.evaluate import evaluate

PROBLEM = FixedSparsity(0.5)


class Net(nn.Module):
    """Two convolutions, a norm, a skip and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.norm(self.conv1(x)).relu()
        x = (x + self.conv2(x)).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net()
    model(torch.randn(64, 1, 6, 6))
    return model.eval()


@pytest.fixture(scope="module")
def part(net):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(90, 1, 6, 6, generator=generator)
    labels = net(images).argmax(1)
    labels[::3] = torch.randint(3, (30,), generator=generator)
    return TensorPart(images, labels, classes=3)


def space_of(model):
    field = contest(model, criterion=L1(), granularity=Weight())
    return Space.of(field, prunable_weights(model), scope=Global())


def some(space, count, sparsity=0.5, seed=2):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(count, space.units, generator=generator, dtype=torch.float64)
    return torch.stack([space.project(one, sparsity) for one in keys])


def by_hand(model, space, kept, part):
    twin = copy.deepcopy(model)
    space.masks(kept).apply_(twin)
    return evaluate(twin, part, device="cpu")


def begin(net, part, *, seed=0, problem=PROBLEM, **settings):
    settings = {"how": "plain", **settings}
    return MaskFitness(**settings).begin(net, space_of(net), part, problem=problem, seed=seed, device="cpu")


@pytest.mark.parametrize("how", ["stages", "vmap", "plain", "auto"])
def test_fully_is_what_evaluating_the_masked_model_says(net, part, how):
    space = space_of(net)
    kept = some(space, 5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for one, found in zip(kept, begin(net, part, how=how).fully(kept), strict=True):
        truth = by_hand(net, space, one, part)
        assert found.accuracy == truth.accuracy
        assert found.loss == pytest.approx(truth.loss, rel=1e-5)
        assert (found.images, found.weights) == (90, int(one.sum()))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training


def test_images_turn_with_the_generation_and_are_the_same_within_it(net, part):
    kept = some(space_of(net), 3)
    judge = begin(net, part, images=30, race=())
    first, second = judge.judge(Asked(kept, 0)), judge.judge(Asked(kept, 1))
    assert first != second
    assert judge.judge(Asked(kept.flip(0), 0))[::-1] == first
    assert begin(net, part, images=30, race=()).judge(Asked(kept, 1)) == second
    assert begin(net, part, images=30, race=(), seed=1).judge(Asked(kept, 0)) != first
    still = begin(net, part, images=30, race=(), rotate=False)
    assert still.judge(Asked(kept, 0)) == still.judge(Asked(kept, 1)) == first


def test_a_race_counts_on_where_it_stopped(net, part):
    kept = some(space_of(net), 8)
    raced = begin(net, part, images=60, race=(12, 30), survivors=0.5).judge(Asked(kept, 3))
    assert sorted(one.images for one in raced) == [12] * 4 + [30] * 2 + [60] * 2
    for images in (12, 30, 60):
        alone = begin(net, part, images=images, race=()).judge(Asked(kept, 3))
        for place, one in enumerate(raced):
            if one.images == images:
                assert one.accuracy == alone[place].accuracy
                assert one.loss == pytest.approx(alone[place].loss, rel=1e-5)
    first = begin(net, part, images=12, race=()).judge(Asked(kept, 3))
    ahead = sorted(range(8), key=lambda place: PROBLEM.key(first[place]))[4:]
    assert {place for place in range(8) if raced[place].images > 12} == set(ahead)


def test_the_problem_says_who_is_ahead(net, part):
    space = space_of(net)
    kept = torch.cat([some(space, 1, sparsity) for sparsity in (0.1, 0.3, 0.6, 0.9)])
    problem = FewestWeights(floor=1e-3, sparsity=0.5, total=space.units)
    raced = begin(net, part, problem=problem, race=(20,), survivors=0.25).judge(Asked(kept, 0))
    assert [one.images for one in raced] == [20, 20, 20, 90]


def test_a_mask_alone_sees_all_and_none_gives_none(net, part):
    space = space_of(net)
    judge = begin(net, part, images=None, race=(10, 20))
    assert judge.judge(Asked(some(space, 1), 0))[0].images == 90
    assert judge.judge(Asked(torch.zeros(0, space.units, dtype=torch.bool), 0)) == []


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_the_batch_size_changes_nothing_but_rounding(net, part, batch_size):
    kept = some(space_of(net), 3)
    usual = begin(net, part, race=()).judge(Asked(kept, 0))
    for one, other in zip(
        usual, begin(net, part, race=(), batch_size=batch_size).judge(Asked(kept, 0)), strict=True
    ):
        assert one.accuracy == other.accuracy
        assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_answers_that_are_no_numbers_are_wrong_and_bad(net, part):
    space = space_of(net)
    broken = Net().eval()
    with torch.no_grad():
        broken.head.bias[0] = float("nan")
    found = (
        MaskFitness().begin(broken, space, part, problem=PROBLEM, seed=0, device="cpu").fully(some(space, 1))
    )
    assert (found[0].accuracy, found[0].loss) == (0, 1e4)


@pytest.mark.parametrize("how", ["stages", "plain"])
def test_norms_are_measured_under_each_mask(net, part, how):
    kept = some(space_of(net), 3, sparsity=0.8)
    found = begin(net, part, how=how, reestimate_norms=True, race=()).judge(Asked(kept, 0))
    for one, fitness in zip(kept, found, strict=True):
        twin = copy.deepcopy(net)
        space_of(net).masks(one).apply_(twin)
        reestimate_batchnorm_(twin, part, seed=0, batch_size=90, device="cpu")
        assert fitness.accuracy == evaluate(twin, part, device="cpu").accuracy
        assert fitness.loss == pytest.approx(evaluate(twin, part, device="cpu").loss, rel=1e-4)
    assert found != begin(net, part, how=how, race=()).judge(Asked(kept, 0))


def test_norms_are_measured_on_the_same_images_all_along(net, part):
    kept = some(space_of(net), 2)
    many = TensorPart(part.images.repeat(12, 1, 1, 1), part.labels.repeat(12), classes=3)
    judge = begin(net, many, images=60, race=(), rotate=False, reestimate_norms=True)
    assert judge.judge(Asked(kept, 0)) == judge.judge(Asked(kept, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"images": 0},
        {"batch_size": 0},
        {"race": (0,)},
        {"race": (5, 5)},
        {"survivors": 0},
        {"how": "fast"},
        {"how": "vmap", "reestimate_norms": True},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(RecipeError, match="got"):
        MaskFitness(**settings)


def test_a_space_of_another_model_and_no_images_are_told(net, part):
    space = space_of(nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(ShapeError, match="no such parameter"):
        MaskFitness().begin(net, space, part, problem=PROBLEM, seed=0)
    with pytest.raises(DataError, match="no images"):
        begin(net, part.subset([]))
